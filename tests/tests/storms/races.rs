//! Changes of one workspace that meet.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use molecule_tests::fake_backend::Fault;
use molecule_tests::support::Agent;
use molecule_tests::{ADMIN, TestApp, eventually, on_both_engines};
use serde_json::json;
use tokio::task::JoinSet;

use crate::tools::{act, is_leased, quiet, row_has, set_secret, status};

/// Secrets written at once.
const WRITES: usize = 20;

async fn settled(app: &TestApp, id: &str) {
    eventually("nobody works on it, or is asked to", async || {
        let quiet = "provision_lease_until IS NULL AND restart_requested_at IS NULL";
        row_has(&app.database, id, quiet).await
    })
    .await;
}

on_both_engines! {
    async fn secrets_written_at_once_cost_few_boots_and_the_last_boot_has_them_all(engine: Engine) {
        // Given a workspace that runs, and boots that take a while
        let app = quiet(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let id = agent.id.as_str();
        app.backend.set_fault(Fault::StartSlow(Duration::from_millis(300)));

        // When many write different secrets, while somebody restarts it by hand
        let keys: Vec<String> = (0..WRITES).map(|number| format!("KEY_{number}")).collect();
        let writes = keys.iter().map(|key| set_secret(&app, id, key, "value"));
        let restart = act(&app, id, "restart");
        let (replies, restart) = tokio::join!(join_all(writes), restart);
        for reply in &replies {
            assert_eq!(reply.status, 200, "{}", reply.text);
        }
        assert!(matches!(restart.status, 200 | 409), "{}", restart.text);
        let after_writes = app.backend.starts_of(id).len();

        // Then it is booted twice more at most once all is written, and knows all
        settled(&app, id).await;
        eventually("it runs with all of them", async || {
            let env = app.backend.env(id);
            keys.iter().all(|key| env.contains_key(key))
        }).await;
        settled(&app, id).await;
        let boots = app.backend.starts_of(id).len();
        assert!(boots <= after_writes + 2, "{boots} boots, {after_writes} of them before the writes ended");
        app.shutdown().await;
    }

    async fn a_secret_written_during_a_boot_is_in_the_one_that_follows(engine: Engine) {
        let app = quiet(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let id = agent.id.as_str();
        app.backend.set_fault(Fault::StartSlow(Duration::from_millis(200)));
        for round in 0..5 {
            let value = format!("value {round}");
            let (restart, write) = tokio::join!(
                act(&app, id, "restart"),
                set_secret(&app, id, "KEY", &value),
            );
            assert_eq!((restart.status, write.status), (200, 200), "{} {}", restart.text, write.text);
            settled(&app, id).await;
            assert_eq!(app.backend.env(id)["KEY"], value);
        }
        app.shutdown().await;
    }

    async fn heartbeats_neither_wake_nor_revive_who_is_paused(engine: Engine) {
        // Given an agent that beats all the time, from several connections
        let app = Arc::new(quiet(engine).start().await);
        let agent = Arc::new(Agent::online(&app, json!({ "name": "one" })).await);
        let mut beating = JoinSet::new();
        for _ in 0..3 {
            let (app, agent) = (Arc::clone(&app), Arc::clone(&agent));
            beating.spawn(async move {
                loop {
                    let reply = agent.beat(&app, json!({ "active_tasks": 1, "error_rate": 0.9 })).send().await;
                    assert!(matches!(reply.status, 200 | 401), "{}", reply.text);
                }
            });
        }
        for _ in 0..5 {
            // When it is paused in the middle of them
            assert_eq!(act(&app, &agent.id, "pause").await.status, 200);

            // Then it stays paused
            for _ in 0..20 {
                assert!(row_has(&app.database, &agent.id, "status = 'paused'").await);
                assert!(!app.backend.runs(&agent.id));
            }
            assert_eq!(status(&app, &agent.id).await, "paused");

            // And comes back when it may
            assert_eq!(act(&app, &agent.id, "resume").await.status, 200);
            settled(&app, &agent.id).await;
            assert!(app.backend.runs(&agent.id));
        }
        beating.shutdown().await;
    }

    async fn of_deletes_restarts_pauses_and_sleeps_at_once_the_delete_stays(engine: Engine) {
        let app = quiet(engine).start().await;
        app.backend.set_fault(Fault::StartSlow(Duration::from_millis(20)));
        for round in 0..8 {
            let agent = Agent::online(&app, json!({ "name": format!("agent {round}") })).await;
            let (id, path) = (agent.id.as_str(), format!("/workspaces/{}?confirm=true", agent.id));
            let delete = async {
                tokio::time::sleep(Duration::from_millis(round * 5)).await;
                app.delete(&path).bearer(ADMIN).send().await
            };
            let (delete, restart, again, pause, sleep, resume, wake) = tokio::join!(
                delete,
                act(&app, id, "restart"),
                act(&app, id, "restart"),
                act(&app, id, "pause"),
                act(&app, id, "hibernate?force=true"),
                act(&app, id, "resume"),
                // Wakes it, should it sleep.
                app.post(&format!("/workspaces/{id}/a2a"), json!({ "method": "message/send", "params": {} })).bearer(ADMIN).send(),
            );
            assert_eq!(delete.status, 200, "{}", delete.text);
            for reply in [restart, again, pause, sleep, resume] {
                assert!(matches!(reply.status, 200 | 404 | 409), "{}: {}", reply.status, reply.text);
            }
            assert_ne!(wake.status, 401, "{}", wake.text);
            eventually("nothing is left", async || {
                !is_leased(&app, id).await && !app.backend.runs(id) && !app.backend.stores(id)
            }).await;
            assert_eq!(status(&app, id).await, "removed");
        }
        assert!(app.backend.is_empty());
        let live = "SELECT count(*) FROM workspace_auth_tokens WHERE revoked_at IS NULL";
        assert_eq!(app.database.count(live).await, 0);
        app.shutdown().await;
    }

    async fn deletes_at_any_moment_of_a_first_boot_leave_nothing(engine: Engine) {
        let app = quiet(engine).start().await;
        app.backend.set_fault(Fault::StartSlow(Duration::from_millis(15)));
        let mut outcomes = BTreeSet::new();
        for wait in 0..25 {
            let id = app.create(json!({ "name": format!("agent {wait}") })).await;
            tokio::time::sleep(Duration::from_millis(wait)).await;
            outcomes.insert(app.backend.runs(&id));
            let reply = app.delete(&format!("/workspaces/{id}")).bearer(ADMIN).send().await;
            assert_eq!(reply.status, 200, "{}", reply.text);
            assert!(!app.backend.runs(&id) && !app.backend.stores(&id), "left after {wait} ms");
            assert!(!is_leased(&app, &id).await);
            assert_eq!(status(&app, &id).await, "removed");
        }
        println!("deleted while it ran: {outcomes:?}");
        assert!(app.backend.is_empty());
        app.shutdown().await;
    }
}
