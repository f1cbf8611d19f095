//! A backend that tells what happens is acted on at once, and never believed.

use std::time::Duration;

use molecule_core::backend::Change;
use molecule_tests::support::{Agent, sql_id};
use molecule_tests::{ADMIN, Engine, TestApp, TestAppBuilder, eventually, on_both_engines};
use serde_json::json;
use uuid::Uuid;

use crate::rounds::{
    QUICK, assert_status, offline_events, only, status, wait_for_lead, wait_until_offline,
};

/// What is looked at together.
const LOOK_AT_ONCE: usize = 16;

/// A server whose loops look once an hour, on a backend that tells.
fn told(engine: Engine) -> TestAppBuilder {
    let builder = only(engine, |_| {});
    builder.edit_backend(|backend| backend.tells_changes())
}

/// Waits until somebody listens, and until the looks of the start are over.
async fn listening(app: &TestApp) {
    wait_for_lead(app).await;
    eventually("somebody listens", async || {
        app.backend.tell(Change::Started(Uuid::nil()))
    })
    .await;
    eventually("the first round", async || app.backend.lists() > 0).await;
}

/// Tells of an end that is none, and waits until that is looked into: what was told
/// before has been dealt with then.
async fn caught_up(app: &TestApp) {
    let (looks, _) = app.backend.looks();
    let witness = Agent::online(app, json!({ "name": Uuid::new_v4() })).await;
    app.backend.tell_end(&witness.id);
    eventually("what was told is looked into", async || {
        app.backend.looks().0 > looks
    })
    .await;
    assert_eq!(status(app, &witness.id).await, "online");
}

on_both_engines! {
    async fn an_end_that_is_told_is_seen_although_the_next_round_is_an_hour_away(engine: Engine) {
        // Given three running workspaces
        let app = told(engine).start().await;
        let crashed = Agent::online(&app, json!({ "name": "crashed" })).await;
        let lost = Agent::online(&app, json!({ "name": "lost" })).await;
        let fine = Agent::online(&app, json!({ "name": "fine" })).await;
        listening(&app).await;
        let lists = app.backend.lists();

        // When two end and are told of, and a third one is told of for nothing
        app.backend.kill(&crashed.id);
        app.backend.lose(&lost.id);
        for id in [&crashed.id, &lost.id, &fine.id] {
            assert!(app.backend.tell_end(id));
        }

        // Then the two are offline, once, without a list
        for agent in [&crashed, &lost] {
            wait_until_offline(&app, engine, &agent.id).await;
        }
        caught_up(&app).await;
        for (agent, times) in [(&crashed, 1), (&lost, 1), (&fine, 0)] {
            assert_eq!(offline_events(&app, engine, &agent.id).await, times);
        }
        assert_eq!(app.backend.lists(), lists);
    }

    async fn something_missed_is_looked_for_soon(engine: Engine) {
        // Given a workspace that ended untold
        let app = told(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        listening(&app).await;
        app.backend.lose(&agent.id);

        // When the backend says that it may have missed something, many times
        let lists = app.backend.lists();
        for _ in 0..100 {
            app.backend.tell(Change::Missed);
        }

        // Then it is found with few lists
        wait_until_offline(&app, engine, &agent.id).await;
        let lists = app.backend.lists() - lists;
        assert!((1..=3).contains(&lists), "{lists}");
    }

    async fn something_missed_is_looked_for_until_a_list_can_be_made(engine: Engine) {
        // Given a workspace that ended untold, on a backend that cannot list
        let app = told(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        listening(&app).await;
        app.backend.lose(&agent.id);
        app.backend.set_list_fails(true);

        // When it says that it may have missed something
        let lists = app.backend.lists();
        app.backend.tell(Change::Missed);
        eventually("it is asked for a list", async || app.backend.lists() > lists).await;
        assert_eq!(status(&app, &agent.id).await, "online");

        // Then it is asked again, without being told more
        app.backend.set_list_fails(false);
        wait_until_offline(&app, engine, &agent.id).await;
    }

    async fn what_we_end_ourselves_is_no_absence(engine: Engine) {
        // Given a backend that tells of every end, also of those that we cause
        let app = told(engine).start().await;
        let mut agents = Vec::new();
        for name in ["paused", "hibernated", "restarted", "removed"] {
            agents.push(Agent::online(&app, json!({ "name": name })).await);
        }
        listening(&app).await;

        // When each is ended in another way
        for (agent, what) in agents.iter().zip(["pause", "hibernate", "restart", ""]) {
            let reply = match what {
                "" => app.delete(&format!("/workspaces/{}", agent.id)),
                what => app.post(&format!("/workspaces/{}/{what}", agent.id), json!({})),
            };
            let reply = reply.bearer(ADMIN).send().await;
            assert_eq!(reply.status, 200, "{what}: {}", reply.text);
            app.backend.tell_end(&agent.id);
        }
        caught_up(&app).await;

        // Then nobody is missed
        for agent in &agents {
            assert_eq!(offline_events(&app, engine, &agent.id).await, 0);
        }
        for (agent, status) in agents.iter().zip(["paused", "hibernated"]) {
            assert_status(&app, engine, &agent.id, status).await;
        }
    }

    async fn a_workspace_that_keeps_crashing_costs_few_looks(engine: Engine) {
        // Given one that its daemon revives each time
        let app = told(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        listening(&app).await;
        let (looks, _) = app.backend.looks();
        let id = Uuid::parse_str(&agent.id).expect("a UUID");

        // When it tells a thousand times of its end and its start
        for _ in 0..1000 {
            app.backend.tell(Change::Ended(id));
            app.backend.tell(Change::Started(id));
        }
        caught_up(&app).await;

        // Then it was looked at now and then, and is still online
        let looks = app.backend.looks().0 - looks;
        assert!(looks < 20, "{looks}");
        assert_eq!(offline_events(&app, engine, &agent.id).await, 0);
    }

    async fn a_storm_is_drained_in_waves(engine: Engine) {
        // Given a fleet of which some are really gone
        let app = told(engine).start().await;
        let starting = (0..40).map(|number| {
            let body = json!({ "name": format!("agent {number}") });
            Agent::online(&app, body)
        });
        let agents = futures_util::future::join_all(starting).await;
        listening(&app).await;
        app.backend.set_latency(Duration::from_millis(10));
        let gone = &agents[..10];
        for agent in gone {
            app.backend.lose(&agent.id);
        }
        let lists = app.backend.lists();

        // When ten thousand ends are told, most of them of workspaces nobody knows
        for number in 0..10_000_u128 {
            app.backend.tell(Change::Ended(Uuid::from_u128(number)));
        }
        for agent in &agents {
            app.backend.tell_end(&agent.id);
        }

        // Then those are found, with a few looks at a time
        for agent in gone {
            wait_until_offline(&app, engine, &agent.id).await;
        }
        let (_, at_once) = app.backend.looks();
        assert!(at_once <= 2 * LOOK_AT_ONCE, "{at_once}");
        assert!(app.backend.lists() - lists <= 4, "{}", app.backend.lists() - lists);
        for agent in &agents[10..] {
            assert_eq!(offline_events(&app, engine, &agent.id).await, 0);
        }
    }

    async fn a_backend_that_tells_and_cannot_look_kills_nobody(engine: Engine) {
        // Given a backend that only tells of ends
        let app = told(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        listening(&app).await;
        app.backend.set_unknown(true);
        app.backend.lose(&agent.id);

        // When it does
        let (looks, _) = app.backend.looks();
        app.backend.tell_end(&agent.id);
        eventually("it is looked at twice", async || app.backend.looks().0 > looks + 1).await;
        assert_eq!(offline_events(&app, engine, &agent.id).await, 0);

        // And when it can look again, then it is asked once more without being told
        app.backend.set_unknown(false);
        app.backend.tell(Change::Missed);
        wait_until_offline(&app, engine, &agent.id).await;
    }

    async fn requested_restarts_wait_for_a_backend_that_is_away(engine: Engine) {
        // Given a backend that is away
        let app = told(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        listening(&app).await;
        app.backend.set_down(true);
        let starts = app.backend.starts_of(&agent.id).len();

        // When a workspace is found gone
        app.backend.lose(&agent.id);
        app.backend.tell_end(&agent.id);
        wait_until_offline(&app, engine, &agent.id).await;

        // Then its restart waits, and nothing has failed
        let secret = json!({ "key": "A", "value": "b" });
        let path = format!("/workspaces/{}/secrets", agent.id);
        let stored = app.post(&path, secret).bearer(ADMIN).send().await;
        assert_eq!(stored.status, 200, "{}", stored.text);
        caught_up(&app).await;
        assert_status(&app, engine, &agent.id, "offline").await;
        assert_eq!(app.backend.starts_of(&agent.id).len(), starts);

        // When it is back, then so is the workspace
        app.backend.set_down(false);
        eventually("it is started again", async || {
            app.backend.starts_of(&agent.id).len() > starts
        })
        .await;
    }

    async fn without_a_backend_that_tells_the_rounds_go_on_as_ever(engine: Engine) {
        let app = only(engine, |cadence| cadence.health = QUICK).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        app.backend.lose(&agent.id);
        wait_until_offline(&app, engine, &agent.id).await;
    }

    async fn with_one_the_rounds_are_a_safety_net(engine: Engine) {
        // Given a backend that could tell and does not
        let app = only(engine, |cadence| cadence.told_health = QUICK)
            .edit_backend(|backend| backend.tells_changes())
            .start()
            .await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        app.backend.lose(&agent.id);
        wait_until_offline(&app, engine, &agent.id).await;
    }

    async fn who_is_being_started_is_left_to_who_starts_it(engine: Engine) {
        // Given a row that is being started
        let app = told(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        listening(&app).await;
        let lease = format!(
            "UPDATE workspaces SET provision_lease_until = '{}' WHERE id = {}",
            (chrono::Utc::now() + chrono::TimeDelta::hours(1)).to_rfc3339(),
            sql_id(engine, &agent.id)
        );
        app.database.execute(&lease).await;
        app.backend.lose(&agent.id);
        app.backend.tell_end(&agent.id);
        caught_up(&app).await;

        // Then its end changes nothing
        assert_status(&app, engine, &agent.id, "online").await;
    }
}
