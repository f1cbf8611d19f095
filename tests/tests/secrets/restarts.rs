//! Who is restarted by a change, and who is not.

use std::sync::Arc;

use molecule_tests::database::postgres_is_wanted;
use molecule_tests::support::{Agent, set_status, strict};
use molecule_tests::{Engine, TestApp, eventually, on_both_engines};
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};

use crate::requests::{NOBODY, admin, assert_saved, noted, set, watch, with_secrets, workspace};

const GLOBAL: &str = "/settings/secrets";

/// Every status, and whether an agent of that status is restarted.
const STATUSES: [(&str, bool); 9] = [
    ("provisioning", true),
    ("online", true),
    ("degraded", true),
    ("offline", true),
    ("failed", true),
    ("hibernating", true),
    ("hibernated", false),
    ("paused", false),
    ("awaiting_agent", false),
];

/// The ids that a change of a key would restart.
async fn dependents(app: &TestApp, path: &str, key: &str) -> Vec<String> {
    let reply = admin(app, "GET", &format!("{path}/{key}/dependents")).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let ids = reply.json()["dependents"].as_array().cloned();
    let mut ids: Vec<String> = ids
        .expect("a list")
        .iter()
        .filter_map(|id| id.as_str().map(str::to_owned))
        .collect();
    ids.sort();
    ids
}

on_both_engines! {
    async fn a_value_that_is_stored_already_restarts_nobody(engine: Engine) {
        let app = strict(engine).start().await;
        let (id, path) = workspace(&app, "one").await;
        watch(&app, engine).await;
        // A global change asks once more for who boots while it is written, so its
        // requests are counted from below.
        for path in [path.as_str(), GLOBAL] {
            let key = if path == GLOBAL { "GLOBAL_KEY" } else { "KEY" };
            let before = noted(&app, engine, &id).await;
            assert_saved(&set(&app, path, key, "one").await, key);
            let first = noted(&app, engine, &id).await;
            assert!(first > before, "{path}");
            let listed = admin(&app, "GET", path).await.json();
            for _ in 0..3 {
                assert_saved(&set(&app, path, key, "one").await, key);
            }
            assert_eq!(noted(&app, engine, &id).await, first);
            assert_eq!(admin(&app, "GET", path).await.json(), listed, "not even the time of the change");
            assert_saved(&set(&app, path, key, "two").await, key);
            let second = noted(&app, engine, &id).await;
            assert!(second > first, "{path}");
            // Back again is a change as well, and so is the end
            assert_saved(&set(&app, path, key, "one").await, key);
            assert!(noted(&app, engine, &id).await > second, "{path}");
        }
        let before = noted(&app, engine, &id).await;
        assert_eq!(admin(&app, "DELETE", &format!("{path}/KEY")).await.status, 200);
        assert_eq!(admin(&app, "DELETE", &format!("{GLOBAL}/GLOBAL_KEY")).await.status, 200);
        let after = noted(&app, engine, &id).await;
        assert!(after >= before + 2);
        // What was not there changes nothing
        admin(&app, "DELETE", &format!("{path}/KEY")).await.assert_error(404, "secret not found");
        admin(&app, "DELETE", &format!("{GLOBAL}/KEY")).await.assert_error(404, "secret not found");
        assert_eq!(noted(&app, engine, &id).await, after);
        app.shutdown().await;
    }

    async fn only_agents_that_run_or_boot_are_restarted_and_dependents_says_which(engine: Engine) {
        let app = strict(engine).start().await;
        let mut workspaces = Vec::new();
        for (status, restarts) in STATUSES {
            let (id, path) = workspace(&app, status).await;
            Agent::started(&app, id.clone()).await;
            workspaces.push((id, path, status, restarts));
        }
        let external = app.create(json!({ "name": "external", "external": true, "url": "https://agent.example.org" })).await;
        let external_path = format!("/workspaces/{external}/secrets");
        workspaces.push((external, external_path, "online", false));
        let (removed, _) = workspace(&app, "removed").await;
        assert_eq!(admin(&app, "DELETE", &format!("/workspaces/{removed}")).await.status, 200);
        watch(&app, engine).await;

        for (id, path, status, restarts) in &workspaces {
            set_status(&app, engine, id, status).await;
            let expected: Vec<&String> = restarts.then_some(id).into_iter().collect();
            assert_eq!(dependents(&app, path, "KEY").await.iter().collect::<Vec<_>>(), expected, "{status}");
            assert_saved(&set(&app, path, "KEY", "value").await, "KEY");
            assert_eq!(noted(&app, engine, id).await, i64::from(*restarts), "{status}");
        }

        // All of them at once, but for the one that has its own
        app.database.execute("DELETE FROM noted").await;
        app.database.execute("DELETE FROM workspace_secrets").await;
        let (own, own_path) = with_secrets(&app, "own", json!({ "SHARED": "mine" })).await;
        for (id, _, status, _) in &workspaces {
            set_status(&app, engine, id, status).await;
        }
        let mut expected: Vec<String> = workspaces.iter()
            .filter(|(_, _, _, restarts)| *restarts).map(|(id, ..)| id.clone()).collect();
        expected.sort();
        assert_eq!(dependents(&app, GLOBAL, "SHARED").await, expected);
        assert_saved(&set(&app, GLOBAL, "SHARED", "everybody's").await, "SHARED");
        for (id, _, status, restarts) in &workspaces {
            // One request each, and one more for who boots meanwhile: above they were
            // all made to.
            let (one, noted) = (i64::from(*restarts), noted(&app, engine, id).await);
            assert!((one..=2 * one).contains(&noted), "{status}: {noted}");
        }
        assert_eq!(noted(&app, engine, &own).await, 0);
        assert_eq!(noted(&app, engine, &removed).await, 0);
        // Another key reaches it, and so does the shared one once its own is gone
        assert_saved(&set(&app, GLOBAL, "OTHER", "everybody's").await, "OTHER");
        assert_eq!(noted(&app, engine, &own).await, 1);
        assert_eq!(admin(&app, "DELETE", &format!("{own_path}/SHARED")).await.status, 200);
        assert_eq!(noted(&app, engine, &own).await, 2);
        assert!(dependents(&app, GLOBAL, "SHARED").await.contains(&own));
        // Nobody, of no key
        assert_eq!(dependents(&app, &own_path, "%00").await, Vec::<String>::new());
        assert_eq!(dependents(&app, GLOBAL, "%00").await, Vec::<String>::new());
        let path = format!("/workspaces/{NOBODY}/secrets/KEY/dependents");
        admin(&app, "GET", &path).await.assert_error(404, "workspace not found");
        app.shutdown().await;
    }

    async fn a_workspace_created_with_secrets_is_not_restarted_for_them(engine: Engine) {
        let app = strict(engine).start().await;
        watch(&app, engine).await;
        let secrets = json!({ "ONE": "value", "TWO": "value" });
        let (id, _) = with_secrets(&app, "one", secrets).await;
        app.wait_for_status(&id, "provisioning").await;
        assert_eq!(noted(&app, engine, &id).await, 0);
        app.shutdown().await;
    }

    async fn writers_of_one_key_all_succeed_and_the_last_one_wins(engine: Engine) {
        let app = Arc::new(strict(engine).start().await);
        let (id, path) = workspace(&app, "one").await;
        let (other, _) = workspace(&app, "two").await;
        watch(&app, engine).await;
        let mut writers = tokio::task::JoinSet::new();
        for number in 0..24 {
            let (app, path) = (Arc::clone(&app), path.clone());
            writers.spawn(async move {
                let (own, shared) = (format!("own-{number}"), format!("shared-{number}"));
                for (path, key, value) in [
                    (path.as_str(), "KEY", own.as_str()), (GLOBAL, "SHARED", &shared),
                    (GLOBAL, &format!("KEY_{number}"), &shared), (&path, "KEY", "last"),
                ] {
                    assert_saved(&set(&app, path, key, value).await, key);
                }
                let _ = admin(&app, "DELETE", &format!("{GLOBAL}/KEY_{number}")).await;
            });
        }
        while let Some(done) = writers.join_next().await {
            done.expect("a writer");
        }
        // Each change that was one was requested
        assert!(noted(&app, engine, &id).await > 24);
        assert!(noted(&app, engine, &other).await >= 24 + 24 + 24);
        let agent = Agent::started(&app, id).await;
        eventually("the agent reads the last value", async || {
            let token = app.backend.agent_token(&agent.id).unwrap_or_default();
            let reply = app.get(&format!("{path}/values")).bearer(&token).send().await;
            reply.status == 200 && reply.json()["KEY"] == "last"
                && reply.json()["SHARED"].as_str().is_some_and(|value| value.starts_with("shared-"))
        }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_takes_nothing_back() {
    let engine = Engine::Postgres;
    if !postgres_is_wanted() {
        return;
    }
    let app = Arc::new(strict(engine).start().await);
    let (id, path) = workspace(&app, "one").await;
    Agent::started(&app, id.clone()).await;
    watch(&app, engine).await;
    // Its change waits for somebody else's
    let mut other = PgConnection::connect(app.database.url())
        .await
        .expect("connect");
    other.execute("BEGIN").await.expect("begin");
    other
        .execute("SELECT id FROM workspaces FOR UPDATE")
        .await
        .expect("lock");
    let client = tokio::spawn({
        let (app, path) = (Arc::clone(&app), path.clone());
        async move { set(&app, &path, "KEY", "value").await }
    });
    eventually("the change waits", async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        app.database.count(waiting).await > 0
    })
    .await;
    client.abort();
    let _ = client.await;
    other.execute("ROLLBACK").await.expect("release");
    eventually("the change is made", async || {
        admin(&app, "GET", &path).await.json()[0]["key"] == "KEY"
    })
    .await;
    assert_eq!(noted(&app, engine, &id).await, 1);
}
