//! Agents that are dead, busy or gone.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::IntoResponse;
use molecule_tests::support::{recorded, sql_id};
use molecule_tests::{Engine, PATIENCE, Reply, eventually, on_both_engines};
use serde_json::{Value, json};

use crate::stand_in::StandIn;
use crate::tools::{online, send, server, started};

const BUSY: &str = "workspace agent busy — retry after a short backoff";

fn restarting() -> Value {
    json!({
        "error": "workspace agent unreachable — container restart triggered",
        "restarting": true, "retry_after": 15,
    })
}

#[track_caller]
fn assert_says(reply: &Reply, expected: Value, retry_after: &str) {
    assert_eq!((reply.status, reply.json()), (503, expected));
    assert_eq!(reply.header("retry-after"), Some(retry_after));
}

on_both_engines! {
    async fn a_dead_agent_is_restarted_once_however_many_call(engine: Engine) {
        // Given an agent whose compute is gone
        let stand_in = StandIn::echo().await;
        let app = server(engine, &stand_in.url).await;
        let agent = online(&app, json!({ "name": "dev" })).await;
        let _port = stand_in.stop().await;
        app.backend.lose(&agent.id);
        let again = StandIn::echo().await;
        app.backend.set_url(&again.url);

        // When many call it
        let reply = send(&app, &agent.id, "hi").send().await;
        assert_says(&reply, restarting(), "15");
        let calls = (0..10).map(|_| send(&app, &agent.id, "hi").send());
        for reply in futures_util::future::join_all(calls).await {
            let waits = reply.error() == "workspace has no URL";
            assert!(reply.status == 503 && (waits || reply.json() == restarting()), "{}", reply.text);
        }

        // Then it is offline once and started once more
        let agent = started(&app, agent.id).await;
        assert_eq!(app.backend.starts_of(&agent.id).len(), 2);
        assert_eq!(recorded(&app, "WORKSPACE_OFFLINE").await, 1);

        // And back
        let reply = send(&app, &agent.id, "hi").send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(again.heard().len(), 1);
    }

    async fn an_agent_that_crashed_behind_its_gateway_is_restarted(engine: Engine) {
        // Given something in front of the agent that says so
        let gateway = StandIn::start(async |_| StatusCode::BAD_GATEWAY.into_response()).await;
        let app = server(engine, &gateway.url).await;
        let agent = online(&app, json!({ "name": "dev" })).await;
        app.backend.kill(&agent.id);
        let reply = send(&app, &agent.id, "hi").send().await;
        assert_says(&reply, restarting(), "15");
        started(&app, agent.id).await;
        assert_eq!(recorded(&app, "WORKSPACE_OFFLINE").await, 1);
    }

    async fn an_agent_that_takes_too_long_is_busy(engine: Engine) {
        // Given an agent that runs and does not answer
        let stand_in = StandIn::hanging().await;
        let app = server(engine, &stand_in.url).await;
        let agent = online(&app, json!({ "name": "dev" })).await;

        // Then a caller is told so when its time is over
        let begun = Instant::now();
        let reply = send(&app, &agent.id, "hi").header("x-timeout", "1").send().await;
        let took = begun.elapsed();
        let busy = json!({ "error": BUSY, "busy": true, "retry_after": 30 });
        assert_says(&reply, busy.clone(), "30");
        assert!((Duration::from_secs(1)..PATIENCE / 2).contains(&took), "{took:?}");

        // Or when the agent's own time is, and nonsense in the header is nothing
        let metadata = json!({ "runtime_metadata": { "idle_timeout_seconds": 1 } });
        assert_eq!(agent.beat(&app, metadata).send().await.status, 200);
        for nonsense in ["0", "-1", "soon", "99999999999999999999999"] {
            let reply = send(&app, &agent.id, "hi").header("x-timeout", nonsense).send().await;
            assert_says(&reply, busy.clone(), "30");
        }

        // And one that retries by itself says so
        let metadata = json!({ "runtime_metadata": { "capabilities": { "session": true } } });
        assert_eq!(agent.beat(&app, metadata).send().await.status, 200);
        let reply = send(&app, &agent.id, "hi").header("x-timeout", "1").send().await;
        let native = json!({
            "error": "workspace agent busy — adapter handles retry (native_session)",
            "busy": true, "retry_after": 30, "native_session": true,
        });
        assert_says(&reply, native, "30");
        assert_eq!(recorded(&app, "WORKSPACE_OFFLINE").await, 0);
        assert_eq!(app.backend.starts_of(&agent.id).len(), 1);
    }

    async fn who_is_paused_while_it_works_is_not_restarted(engine: Engine) {
        // Given a message under way
        let stand_in = StandIn::hanging().await;
        let app = server(engine, &stand_in.url).await;
        let agent = online(&app, json!({ "name": "dev" })).await;
        let sending = send(&app, &agent.id, "hi").header("x-timeout", "2").send();
        let pausing = async {
            eventually("the agent hears it", async || stand_in.heard().len() == 1).await;
            let path = format!("/workspaces/{}/pause", agent.id);
            let reply = app.request("POST", &path).bearer(molecule_tests::ADMIN).send().await;
            assert_eq!(reply.status, 200, "{}", reply.text);
        };

        // When the workspace is paused
        let (reply, ()) = tokio::join!(sending, pausing);

        // Then nobody is told that it comes back, and it does not
        let expected = json!({ "error": "workspace has no URL", "status": "paused" });
        assert_eq!((reply.status, reply.json()), (503, expected));
        assert_eq!(recorded(&app, "WORKSPACE_OFFLINE").await, 0);
        assert_eq!(app.backend.starts_of(&agent.id).len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_refuses_and_runs_cannot_be_reached() {
    let stand_in = StandIn::echo().await;
    let app = server(Engine::Sqlite, &stand_in.url).await;
    let agent = online(&app, json!({ "name": "dev" })).await;
    let _port = stand_in.stop().await;
    for unknown in [false, true] {
        // Nor is one restarted of which the backend cannot tell.
        app.backend.set_unknown(unknown);
        if unknown {
            app.backend.lose(&agent.id);
        }
        let reply = send(&app, &agent.id, "hi").send().await;
        assert_eq!(
            reply.json(),
            json!({ "error": "failed to reach workspace agent" })
        );
        assert_eq!(reply.status, 502);
    }
    assert_eq!(recorded(&app, "WORKSPACE_OFFLINE").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_external_agent_is_nobodys_to_restart() {
    let stand_in = StandIn::echo().await;
    let app = molecule_tests::TestApp::builder(Engine::Sqlite)
        .start()
        .await;
    let id = app.create(json!({ "name": "far", "external": true })).await;
    let sql = format!(
        "UPDATE workspaces SET status = 'online', url = '{}' WHERE id = {}",
        stand_in.url.replace("127.0.0.1", "localhost"),
        sql_id(Engine::Sqlite, &id)
    );
    app.database.execute(&sql).await;
    assert_eq!(send(&app, &id, "hi").send().await.status, 200);
    let _port = stand_in.stop().await;
    send(&app, &id, "hi")
        .send()
        .await
        .assert_error(502, "failed to reach workspace agent");
    assert!(app.backend.starts().is_empty());
    assert_eq!(recorded(&app, "WORKSPACE_OFFLINE").await, 0);
}
