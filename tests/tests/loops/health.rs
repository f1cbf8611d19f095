//! Compute that ends behind the server's back.

use std::time::Duration;

use molecule_core::backend::WorkspaceBackend;
use molecule_tests::support::{Agent, create, set_status, sql_id};
use molecule_tests::{Engine, TestApp, TestAppBuilder, eventually, on_both_engines};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::rounds::{
    QUICK, assert_status, offline_events, only, set, status, wait_for_lead, wait_until_offline,
};

/// What the sweep looks at together.
const LOOK_AT_ONCE: usize = 16;

fn healthy(engine: Engine) -> TestAppBuilder {
    only(engine, |cadence| cadence.health = QUICK)
}

/// Waits until the sweep went through the whole fleet once more.
async fn a_round(app: &TestApp) {
    let before = app.backend.lists();
    eventually("a whole round of the health sweep", async || {
        app.backend.lists() >= before + 3
    })
    .await;
}

on_both_engines! {
    async fn compute_that_is_gone_takes_its_workspace_offline(engine: Engine) {
        // Given three running workspaces
        let app = healthy(engine).start().await;
        let crashed = Agent::online(&app, json!({ "name": "crashed" })).await;
        let lost = Agent::online(&app, json!({ "name": "lost" })).await;
        let fine = Agent::online(&app, json!({ "name": "fine" })).await;
        set_status(&app, engine, &lost.id, "degraded").await;

        // When one ends by itself and one is removed by hand
        app.backend.kill(&crashed.id);
        app.backend.lose(&lost.id);

        // Then both are offline, once, and the third one is not
        for agent in [&crashed, &lost] {
            wait_until_offline(&app, engine, &agent.id).await;
        }
        a_round(&app).await;
        for (agent, times) in [(&crashed, 1), (&lost, 1), (&fine, 0)] {
            assert_eq!(offline_events(&app, engine, &agent.id).await, times);
        }
        assert_eq!(status(&app, &fine.id).await, "online");
    }

    async fn a_healthy_fleet_costs_one_list_a_round(engine: Engine) {
        let app = healthy(engine).start().await;
        for number in 0..5 {
            Agent::online(&app, json!({ "name": format!("agent {number}") })).await;
        }
        let (looks, _) = app.backend.looks();
        for _ in 0..3 {
            a_round(&app).await;
        }
        assert_eq!(app.backend.looks().0, looks);
    }

    async fn a_backend_that_cannot_tell_kills_nobody(engine: Engine) {
        // Given a workspace whose compute is gone, on a backend that cannot look
        let app = healthy(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        app.backend.set_unknown(true);
        app.backend.lose(&agent.id);
        a_round(&app).await;
        assert!(app.backend.looks().0 > 0);
        assert_eq!(status(&app, &agent.id).await, "online");

        // And then one that cannot even list
        app.backend.set_list_fails(true);
        a_round(&app).await;
        app.backend.set_unknown(false);
        let (looks, _) = app.backend.looks();
        a_round(&app).await;
        assert_eq!(app.backend.looks().0, looks, "asked a backend that is down");
        assert_eq!(status(&app, &agent.id).await, "online");

        // When it can again
        app.backend.set_list_fails(false);

        // Then it is believed
        wait_until_offline(&app, engine, &agent.id).await;
    }

    async fn a_backend_that_is_slow_is_asked_a_few_things_at_once(engine: Engine) {
        // Given a fleet on a backend whose list does not say what runs
        let app = healthy(engine).start().await;
        app.backend.set_list_hides_state(true);
        let starting = (0..40).map(|number| {
            let body = json!({ "name": format!("agent {number}") });
            Agent::online(&app, body)
        });
        let agents = futures_util::future::join_all(starting).await;
        app.backend.set_latency(Duration::from_millis(30));
        let (first, last) = (&agents[0], &agents[39]);
        app.backend.lose(&first.id);
        app.backend.kill(&last.id);

        // When it is swept
        wait_until_offline(&app, engine, &first.id).await;
        wait_until_offline(&app, engine, &last.id).await;
        a_round(&app).await;

        // Then some looks ran together, and never too many
        let (looks, at_once) = app.backend.looks();
        assert!(looks >= 40, "{looks}");
        assert!((2..=LOOK_AT_ONCE).contains(&at_once), "{at_once}");
        let online = "SELECT count(*) FROM workspaces WHERE status = 'online'";
        assert_eq!(app.database.count(online).await, 38);
    }

    async fn what_is_meant_to_be_stopped_is_left_alone(engine: Engine) {
        // Given workspaces without compute that should have none
        let app = healthy(engine).start().await;
        wait_for_lead(&app).await;
        let mut kept = Vec::new();
        for name in [
            "provisioning", "offline", "failed", "paused", "hibernated", "hibernating",
            "awaiting_agent",
        ] {
            let agent = Agent::online(&app, json!({ "name": name })).await;
            set_status(&app, engine, &agent.id, name).await;
            app.backend.lose(&agent.id);
            kept.push((agent.id, name));
        }
        // An agent that runs elsewhere, and one that this platform never started
        let body = json!({ "name": "far", "external": true, "url": "https://agent.example/" });
        let far = create(&app, body).await.json()["id"].as_str().expect("an id").to_owned();
        kept.push((far, "online"));
        let own = Agent::online(&app, json!({ "name": "own" })).await;
        set(&app, engine, &own.id, "instance_id", "NULL").await;
        app.backend.lose(&own.id);
        kept.push((own.id, "online"));

        a_round(&app).await;

        for (id, status) in kept {
            assert_status(&app, engine, &id, status).await;
        }
    }

    async fn who_is_paused_while_the_backend_looks_stays_paused(engine: Engine) {
        // Given a slow backend that is asked about a workspace
        let app = healthy(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        app.backend.set_latency(Duration::from_secs(3));
        let (looks, _) = app.backend.looks();
        app.backend.lose(&agent.id);
        eventually("the backend is asked", async || app.backend.looks().0 > looks).await;

        // When it is paused before the answer
        set_status(&app, engine, &agent.id, "paused").await;
        a_round(&app).await;

        // Then it stays so, and nobody is told otherwise
        assert_status(&app, engine, &agent.id, "paused").await;
        assert_eq!(offline_events(&app, engine, &agent.id).await, 0);
    }

    async fn who_is_restarted_while_the_backend_looks_is_not_missed(engine: Engine) {
        // Given a slow backend that found a workspace missing
        let app = healthy(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        app.backend.set_latency(Duration::from_secs(3));
        let (looks, _) = app.backend.looks();
        app.backend.lose(&agent.id);
        eventually("the backend is asked", async || app.backend.looks().0 > looks).await;

        // When it has another instance before the answer is there
        let spec = app.backend.starts().remove(0);
        let started = app.backend.start(&spec, &CancellationToken::new()).await;
        started.expect("a start");
        set(&app, engine, &agent.id, "instance_id", "'another'").await;
        a_round(&app).await;

        // Then the answer is about the old one
        assert_eq!(offline_events(&app, engine, &agent.id).await, 0);
    }

    async fn a_provision_that_is_being_recorded_is_not_missed(engine: Engine) {
        // Given an agent that came online before its server wrote down where it runs
        let app = healthy(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let lease = format!(
            "UPDATE workspaces SET provision_lease_until = '{}' WHERE id = {}",
            (chrono::Utc::now() + chrono::TimeDelta::hours(1)).to_rfc3339(),
            sql_id(engine, &agent.id)
        );
        app.database.execute(&lease).await;
        app.backend.lose(&agent.id);
        a_round(&app).await;
        assert_status(&app, engine, &agent.id, "online").await;
    }
}
