//! Backends that fail, panic, hang, or never bring an agent.

use std::time::{Duration, Instant};

use molecule_core::{Event, EventType};
use molecule_tests::fake_backend::Fault;
use molecule_tests::{ADMIN, Engine, TestApp, eventually, on_both_engines};
use serde_json::json;
use tokio::sync::broadcast;

use crate::process::Deployment;

const START_FAILED: &str = "workspace start failed";
const LIVE_TOKENS: &str = "SELECT count(*) FROM workspace_auth_tokens WHERE revoked_at IS NULL";
const FAILURES: &str =
    "SELECT count(*) FROM structure_events WHERE event_type = 'WORKSPACE_PROVISION_FAILED'";

async fn app(engine: Engine) -> TestApp {
    TestApp::builder(engine)
        .admin_token(ADMIN)
        .config(|config| config.workspaces.provision_deadline_secs = 1)
        .start()
        .await
}

/// Everything published so far, as type and payload.
fn published(events: &mut broadcast::Receiver<Event>) -> Vec<(EventType, serde_json::Value)> {
    std::iter::from_fn(|| events.try_recv().ok())
        .map(|event| (event.event, event.payload))
        .collect()
}

async fn assert_failed(app: &TestApp, id: &str, text: &str) {
    app.wait_for_status(id, "failed").await;
    let row = app.listed(id).await.expect("a row");
    assert_eq!(
        (&row["last_sample_error"], &row["url"]),
        (&json!(text), &json!(""))
    );
    assert_eq!(app.database.count(LIVE_TOKENS).await, 0, "a token is left");
    assert!(app.backend.is_empty(), "compute or storage is left");
    let leased = "SELECT count(*) FROM workspaces WHERE provision_lease_until IS NOT NULL";
    assert_eq!(app.database.count(leased).await, 0);
}

on_both_engines! {
    async fn a_start_that_fails_panics_or_hangs_is_taken_back(engine: Engine) {
        let app = app(engine).await;
        let faults = [
            Fault::StartFails("no space at /secret/path".to_owned()),
            Fault::StartPanics("secret-panic-text".to_owned()),
            Fault::StartHangs,
        ];
        for (done, fault) in (1..).zip(faults) {
            let mut events = app.events();
            app.backend.set_fault(fault.clone());
            let id = app.create(json!({ "name": done.to_string() })).await;
            assert_failed(&app, &id, START_FAILED).await;
            assert_eq!(app.database.count(FAILURES).await, done, "{fault:?}");
            let expected = [
                (EventType::WorkspaceProvisioning, json!({ "name": done.to_string(), "tier": 3, "runtime": "langgraph" })),
                (EventType::WorkspaceProvisionFailed, json!({ "error": START_FAILED })),
            ];
            assert_eq!(published(&mut events), expected, "{fault:?}");
        }
        assert_eq!(app.backend.cancelled(), 1, "the hanging start saw the deadline");
        let rows = app.database.dump().await;
        for text in ["/secret/path", "secret-panic-text"] {
            assert!(!rows.contains(text), "{text} was stored");
        }

        // And a backend that works again is used again
        app.backend.set_fault(Fault::None);
        let id = app.create(json!({ "name": "b" })).await;
        eventually("the next start works", async || app.backend.agent_token(&id).is_some()).await;
        app.shutdown().await;
    }

    async fn an_agent_that_came_too_early_does_not_keep_a_failed_workspace_online(engine: Engine) {
        // Given an agent that registers while the backend still works on its start
        let app = app(engine).await;
        app.backend.set_fault(Fault::StartHangs);
        let id = app.create(json!({ "name": "early" })).await;
        eventually("the start hangs", async || app.backend.starts().len() == 1).await;
        let files = app.backend.starts().remove(0).files;
        let token = files.into_iter().find(|file| file.path == ".auth_token").expect("a token");
        let token = String::from_utf8(token.content).expect("text");
        let body = json!({ "id": id, "url": "http://localhost:8000", "agent_card": null });
        let reply = app.post("/registry/register", body).bearer(&token).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        app.wait_for_status(&id, "online").await;

        // When the start does not end in time and is taken back
        // Then the workspace does not stay online without an agent
        assert_failed(&app, &id, START_FAILED).await;
        assert_eq!(app.database.count(FAILURES).await, 1);
        app.shutdown().await;
    }

    async fn a_delete_does_not_wait_for_a_place_in_the_queue(engine: Engine) {
        // Given one provision that takes the only place, and one that waits
        let app = TestApp::builder(engine)
            .admin_token(ADMIN)
            .config(|config| config.workspaces.provision_concurrency = 1)
            .start()
            .await;
        app.backend.set_fault(Fault::StartHangs);
        app.create(json!({ "name": "first" })).await;
        eventually("the start hangs", async || app.backend.starts().len() == 1).await;
        let waiting = app.create(json!({ "name": "second" })).await;

        // When the waiting one is deleted
        let asked = Instant::now();
        let reply = app.delete(&format!("/workspaces/{waiting}")).bearer(ADMIN).send().await;

        // Then that is done at once
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        assert_eq!(app.backend.starts().len(), 1);
        app.shutdown().await;
    }

    async fn a_delete_ends_a_hanging_provision_and_waits_for_it(engine: Engine) {
        // Given a provision that would hang for a long time
        let app = TestApp::builder(engine).admin_token(ADMIN).start().await;
        app.backend.set_fault(Fault::StartHangs);
        let id = app.create(json!({ "name": "a" })).await;
        eventually("the start hangs", async || app.backend.starts().len() == 1).await;

        // When it is deleted
        let started = Instant::now();
        let reply = app.delete(&format!("/workspaces/{id}")).bearer(ADMIN).send().await;

        // Then the start was cancelled and had ended before the reply
        assert_eq!(reply.json(), json!({ "status": "removed", "cascade_deleted": 0 }));
        assert_eq!(app.backend.cancelled(), 1);
        assert!(started.elapsed() < Duration::from_secs(10));
        app.wait_for_status(&id, "removed").await;
        assert!(app.backend.is_empty());
        assert_eq!(app.database.count(LIVE_TOKENS).await, 0);
        // A removed workspace did not fail.
        assert_eq!(app.database.count(FAILURES).await, 0);
        app.shutdown().await;
    }

    async fn an_agent_that_never_registers_fails_with_the_documented_text(engine: Engine) {
        // Given a started workspace whose agent stays away, half an hour ago and more
        let app = TestApp::builder(engine).admin_token(ADMIN).start().await;
        let id = app.create(json!({ "name": "a", "runtime": "hermes" })).await;
        let started = "SELECT count(*) FROM workspaces WHERE provisioned_at IS NOT NULL";
        eventually("it is started", async || app.database.count(started).await == 1).await;
        let (database, dir) = app.shutdown().await;
        let ago = chrono::Utc::now() - chrono::TimeDelta::minutes(31);
        database.execute(&format!("UPDATE workspaces SET provisioned_at = '{}'", ago.to_rfc3339())).await;

        // When the sweep comes by
        let app = TestApp::builder(engine).admin_token(ADMIN).start_on(database, dir).await;

        // Then the row and the event say what happened
        let text = "provisioning timed out — container started but never called /registry/register. \
                    Check container logs and network connectivity to the platform.";
        app.wait_for_status(&id, "failed").await;
        assert_eq!(app.listed(&id).await.expect("a row")["last_sample_error"], text);
        let rows = app.database.dump().await;
        for part in ["provision_timeout_sweep", "timeout_secs", "hermes"] {
            assert!(rows.contains(part), "{part}");
        }
        assert_eq!(app.database.count(FAILURES).await, 1);
        app.shutdown().await;
    }

    async fn a_secret_that_does_not_decrypt_stops_the_boot(engine: Engine) {
        // Given one slot for provisions, taken by a workspace that hangs
        let app = TestApp::builder(engine)
            .admin_token(ADMIN)
            .config(|config| config.workspaces.provision_concurrency = 1)
            .start()
            .await;
        let zeros = match engine {
            Engine::Sqlite => "zeroblob(60)",
            Engine::Postgres => "decode(repeat('00', 60), 'hex')",
        };
        let global = "INSERT INTO global_secrets (id, key, encrypted_value, encryption_version, created_at, updated_at) \
                      SELECT id, key, encrypted_value, 9, created_at, updated_at FROM workspace_secrets";
        let damages = [
            ("workspace", format!("UPDATE workspace_secrets SET encrypted_value = {zeros}")),
            ("workspace", "UPDATE workspace_secrets SET encryption_version = 9".to_owned()),
            ("workspace", "UPDATE workspace_secrets SET encryption_version = 1".to_owned()),
            ("global", global.to_owned()),
        ];
        for (scope, damage) in damages {
            app.backend.set_fault(Fault::StartHangs);
            let before = app.backend.starts().len();
            let blocker = app.create(json!({ "name": "blocker" })).await;
            eventually("the slot is taken", async || app.backend.starts().len() > before).await;
            let id = app.create(json!({ "name": damage, "secrets": { "KEY": "value-of-the-key" } })).await;

            // When a stored secret is damaged before the next one has its turn
            app.database.execute(&damage).await;
            let reply = app.delete(&format!("/workspaces/{blocker}")).bearer(ADMIN).send().await;
            assert_eq!(reply.status, 200, "{}", reply.text);

            // Then the boot stops with the documented text and without a start
            app.wait_for_status(&id, "failed").await;
            let row = app.listed(&id).await.expect("a row");
            assert_eq!(row["last_sample_error"], format!("failed to decrypt {scope} secret"), "{damage}");
            assert_eq!(app.backend.starts().len(), before + 1, "{damage}");
            assert_eq!(app.database.count(LIVE_TOKENS).await, 0, "{damage}");
            for table in ["global_secrets", "workspace_secrets"] {
                app.database.execute(&format!("DELETE FROM {table}")).await;
            }
        }
        app.shutdown().await;
    }
}

#[tokio::test]
async fn a_failed_provision_leaves_a_record_in_the_log() {
    // Given agents that end at once
    let mut deployment = Deployment::new();
    deployment.set("backend.process.command", json!(["false"]));
    let server = deployment.start().await;
    let id = server.create(json!({ "name": "a" })).await;
    let row = server.wait_for_status(&id, "failed").await;
    assert_eq!(row["last_sample_error"], START_FAILED);
    let log = server.stop().await;
    let record = |name: &str| {
        let found = log
            .lines()
            .find_map(|line| line.split_once(&format!("evt: {name} ")));
        let (_, json) = found.unwrap_or_else(|| panic!("no {name}: {log}"));
        serde_json::from_str::<serde_json::Value>(json).expect("JSON")
    };
    assert_eq!(record("provision.start")["workspace_id"], id);
    let failed = record("provision.failed");
    assert_eq!(
        (&failed["workspace_id"], &failed["reason"]),
        (&json!(id), &json!("backend_refused"))
    );
    assert!(failed["duration_ms"].is_u64(), "{failed}");
    deployment.assert_nothing_left_of(&id);
}
