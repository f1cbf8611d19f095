//! Tokens that no agent can hold any more.

use std::time::Duration;

use molecule_hooks::testing::FakeClock;
use molecule_tests::support::{Agent, set_status, sql_id};
use molecule_tests::{Engine, TestApp, TestAppBuilder, eventually, on_both_engines};
use serde_json::json;

use crate::rounds::{QUICK, only, set, sql_time};

/// Longer than a token may go unused.
const LONG: Duration = Duration::from_secs(301);

fn sweeping(engine: Engine, time: &FakeClock) -> TestAppBuilder {
    only(engine, |cadence| cadence.tokens = QUICK)
        .clock(time.clock())
        .config(|config| config.workspaces.provision_timeout_secs = Some(86_400))
}

async fn live_tokens(app: &TestApp, engine: Engine, id: &str) -> i64 {
    let id = sql_id(engine, id);
    let sql = format!(
        "SELECT count(*) FROM workspace_auth_tokens WHERE workspace_id = {id} AND revoked_at IS NULL"
    );
    app.database.count(&sql).await
}

async fn a_round(app: &TestApp) {
    let before = app.backend.lists();
    eventually("a whole round of the token sweep", async || {
        app.backend.lists() >= before + 3
    })
    .await;
}

on_both_engines! {
    async fn a_token_goes_when_it_is_unused_and_nothing_runs(engine: Engine) {
        // Given workspaces of each kind, whose tokens were last used now
        let time = FakeClock::new();
        let app = sweeping(engine, &time).start().await;
        let mut expected = Vec::new();
        for (status, left) in [
            ("online", 0),
            ("degraded", 0),
            ("offline", 0),
            ("failed", 0),
            ("paused", 0),
            ("hibernated", 0),
            ("hibernating", 1),
            ("provisioning", 1),
            ("awaiting_agent", 1),
            ("removed", 1),
        ] {
            let agent = Agent::online(&app, json!({ "name": status })).await;
            set_status(&app, engine, &agent.id, status).await;
            app.backend.lose(&agent.id);
            expected.push((agent, status, left));
        }
        for (name, column, value) in [
            ("external", "external", "TRUE".to_owned()),
            ("mock", "runtime", "'mock'".to_owned()),
            ("never started", "provisioned_at", "NULL, booted_at = NULL".to_owned()),
            ("starting", "provision_lease_until", sql_time(time.now() + Duration::from_secs(86_400))),
        ] {
            let agent = Agent::online(&app, json!({ "name": name })).await;
            set(&app, engine, &agent.id, column, &value).await;
            app.backend.lose(&agent.id);
            expected.push((agent, name, 1));
        }
        for (name, kill) in [("running", false), ("stopped", true)] {
            let agent = Agent::online(&app, json!({ "name": name })).await;
            if kill {
                app.backend.kill(&agent.id);
            }
            expected.push((agent, name, 1));
        }

        // When they are not old enough
        a_round(&app).await;
        for (agent, name, _) in &expected {
            assert_eq!(live_tokens(&app, engine, &agent.id).await, 1, "{name}");
        }
        // And then the backend does not answer
        app.backend.set_list_fails(true);
        a_round(&app).await;
        time.advance(LONG);
        a_round(&app).await;
        for (agent, name, _) in &expected {
            assert_eq!(live_tokens(&app, engine, &agent.id).await, 1, "{name}");
        }
        // And then it does
        app.backend.set_list_fails(false);
        a_round(&app).await;

        // Then those that nobody can hold are gone, also from memory
        for (agent, name, left) in &expected {
            assert_eq!(live_tokens(&app, engine, &agent.id).await, *left, "{name}");
        }
        let (online, ..) = &expected[0];
        let reply = online.beat(&app, json!({})).send().await;
        assert_eq!(reply.status, 401, "{}", reply.text);
    }

    async fn a_backend_that_holds_nothing_is_an_answer(engine: Engine) {
        let time = FakeClock::new();
        let app = sweeping(engine, &time).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        set_status(&app, engine, &agent.id, "paused").await;
        assert_eq!(app.backend.lose_all(), 1);
        time.advance(LONG);
        eventually("its token goes", || async {
            live_tokens(&app, engine, &agent.id).await == 0
        })
        .await;
    }

    async fn a_token_that_is_used_stays(engine: Engine) {
        let time = FakeClock::new();
        let app = sweeping(engine, &time).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let id = sql_id(engine, &agent.id);
        let used = format!(
            "UPDATE workspace_auth_tokens SET last_used_at = {} WHERE workspace_id = {id}",
            sql_time(time.now() + LONG)
        );
        app.database.execute(&used).await;
        time.advance(LONG);
        app.backend.lose(&agent.id);
        a_round(&app).await;
        assert_eq!(live_tokens(&app, engine, &agent.id).await, 1);
    }
}
