//! `doctor` explains what is wrong with a fleet, and what to do.

use std::process::Command;

use chrono::{TimeDelta, Utc};
use molecule_tests::database::postgres_is_wanted;
use molecule_tests::support::{Agent, sql_id};
use molecule_tests::{ADMIN, Engine, KEY, TestApp, TestDatabase, on_both_engines};
use serde_json::{Value, json};
use sqlx::{Connection, Executor};
use tempfile::TempDir;

use crate::rounds::{only, sql_time, wait_for_lead};

/// Runs the command on a database; its exit code and what it said.
pub(crate) fn doctor(url: &str, change: impl FnOnce(&mut Value)) -> (Option<i32>, String) {
    let dir = TempDir::new().expect("a temporary directory");
    let mut config = json!({
        "environment": "development",
        "data_dir": dir.path(),
        "auth": { "admin_token": ADMIN },
        "secrets": { "encryption_key": KEY },
        "database": { "url": url, "timeout_secs": 1 },
        "backend": { "kind": "none" },
    });
    change(&mut config);
    let file = dir.path().join("molecule.yaml");
    std::fs::write(&file, config.to_string()).expect("the configuration file");
    let output = Command::new(env!("CARGO_BIN_EXE_fault-server"))
        .args(["doctor", "--config"])
        .arg(&file)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir(dir.path())
        .output()
        .expect("the command runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), said)
}

/// Fails unless a line of this kind says this, and the next one gives advice.
#[track_caller]
pub(crate) fn assert_says(said: &str, line: &str, advice: &str) {
    let mut lines = said.lines().skip_while(|found| !found.contains(line));
    assert!(lines.next().is_some(), "no {line:?} in\n{said}");
    if !advice.is_empty() {
        let hint = lines.next().unwrap_or_default();
        assert!(hint.contains("hint:") && hint.contains(advice), "{said}");
    }
}

on_both_engines! {
    async fn a_fleet_that_is_well_has_nothing_to_explain(engine: Engine) {
        let app = only(engine, |_| {}).start().await;
        wait_for_lead(&app).await;
        Agent::online(&app, json!({ "name": "one" })).await;
        let (code, said) = doctor(app.database.url(), |_| {});
        assert_eq!(code, Some(0), "{said}");
        assert!(!said.contains("FAIL") && !said.contains("warn"), "{said}");
        assert_says(&said, "ok    workspaces: none is stuck", "");
        if engine == Engine::Postgres {
            assert_says(&said, "ok    clock: the database's clock is", "");
            let process = format!("/{}/", std::process::id());
            let leader = said.lines().find(|line| line.starts_with("ok    leader: "));
            assert!(leader.is_some_and(|line| line.contains(&process)), "{said}");
        }
    }

    async fn workspaces_that_are_stuck_are_counted_and_named(engine: Engine) {
        // Given one row for each way to be stuck, and one that only just began
        let app = only(engine, |_| {}).start().await;
        let ago = |minutes| sql_time(Utc::now() - TimeDelta::minutes(minutes));
        let mut ids = Vec::new();
        for (name, changes) in [
            ("abandoned", vec![("status", "'provisioning'".to_owned()), ("provision_lease_until", ago(2))]),
            ("silent", vec![("status", "'provisioning'".to_owned()), ("provisioned_at", ago(13))]),
            ("waiting", vec![("restart_requested_at", ago(11))]),
            ("dozing", vec![("status", "'hibernating'".to_owned()), ("updated_at", ago(11))]),
            ("young", vec![("restart_requested_at", ago(1))]),
        ] {
            ids.push((Agent::online(&app, json!({ "name": name })).await.id, changes));
        }
        // Nobody mends them any more
        let (database, dir) = app.shutdown().await;
        for (id, changes) in &ids {
            for (column, value) in changes {
                let id = sql_id(engine, id);
                let sql = format!("UPDATE workspaces SET {column} = {value} WHERE id = {id}");
                database.execute(&sql).await;
            }
        }

        // When
        let (code, said) = doctor(database.url(), |_| {});

        // Then each is named, with what to do; that a server is off is no failure
        assert_eq!(code, Some(0), "{said}");
        for (index, what, advice) in [
            (0, "1 provisioning was given up", "start a server"),
            (1, "1 were started and never registered", "the log of the agent"),
            (2, "1 wait for a restart", "restarts_per_minute"),
            (3, "1 began to hibernate", "restart them"),
        ] {
            assert_says(&said, &format!("warn  workspaces: {what}"), advice);
            assert!(said.contains(&ids[index].0), "{said}");
        }
        assert!(!said.contains(&ids[4].0), "{said}");
        drop(dir);
    }

    async fn a_database_of_a_newer_version_is_told(engine: Engine) {
        let app = only(engine, |_| {}).start().await;
        let newer = match engine {
            Engine::Sqlite => "X'00', 1",
            Engine::Postgres => "'\\x00', 1",
        };
        let sql = format!(
            "INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time)
             VALUES (9999, 'later', CURRENT_TIMESTAMP, TRUE, {newer})"
        );
        app.database.execute(&sql).await;
        let (code, said) = doctor(app.database.url(), |_| {});
        assert_eq!(code, Some(1), "{said}");
        assert_says(&said, "FAIL  database: a newer version", "run that version");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_gone_or_was_shut_down_is_told() {
    if !postgres_is_wanted() {
        return;
    }
    // Given a server that led and died without a word
    let app = only(Engine::Postgres, |_| {}).start().await;
    wait_for_lead(&app).await;
    let (database, _dir) = app.shutdown().await;
    let shut_down = doctor(database.url(), |_| {});
    database
        .execute(
            "UPDATE leases SET holder = 'there/7/abc', renewed_at = now() - interval '5 minutes'",
        )
        .await;
    let gone = doctor(database.url(), |_| {});
    database.execute("DELETE FROM leases").await;
    let never = doctor(database.url(), |_| {});

    // Then each is told apart, and none is a failure of the installation
    for ((code, said), line, advice) in [
        (
            shut_down,
            "warn  leader: none: every server was shut down",
            "start a server",
        ),
        (
            gone,
            "warn  leader: there/7/abc, renewed 300 s ago",
            "its server is gone",
        ),
        (never, "warn  leader: none: no server", "start a server"),
    ] {
        assert_eq!(code, Some(0), "{said}");
        assert_says(&said, line, advice);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_database_is_told_from_a_broken_one() {
    let app = TestApp::builder(Engine::Sqlite).start().await;
    let (database, _dir) = app.shutdown().await;
    let mut held = sqlx::SqliteConnection::connect(database.url())
        .await
        .expect("connect");
    held.execute("BEGIN EXCLUSIVE").await.expect("a lock");
    let (code, said) = doctor(database.url(), |_| {});
    assert_eq!(code, Some(1), "{said}");
    assert_says(&said, "FAIL  database", "somebody holds a lock");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_and_a_backend_that_do_not_answer_are_told_without_secrets() {
    // Given nobody behind either address
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let url = format!("postgres://molecule:the-password@127.0.0.1:{port}/none");
    let (code, said) = doctor(&url, |_| {});
    assert_eq!(code, Some(1), "{said}");
    assert_says(
        &said,
        "FAIL  database: the database cannot be reached",
        "DATABASE_URL",
    );
    assert!(!said.contains("the-password"), "{said}");

    let database = TestDatabase::create(Engine::Sqlite).await;
    let (code, said) = doctor(database.url(), |config| {
        config["backend"] = json!({
            "kind": "docker",
            "docker": { "host": format!("tcp://127.0.0.1:{port}") },
        });
    });
    assert_eq!(code, Some(1), "{said}");
    assert_says(&said, "FAIL  backend", "Docker daemon");
}

on_both_engines! {
    async fn plugins_that_are_missing_or_forgotten_are_named(engine: Engine) {
        // given a plugin that did not get into its workspace, and an update of long ago
        let app = only(engine, |_| {}).start().await;
        wait_for_lead(&app).await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let (code, said) = doctor(app.database.url(), |_| {});
        assert_eq!(code, Some(0), "{said}");
        assert_says(&said, "ok    plugins: nothing is wrong with them", "");
        let long_ago = sql_time(Utc::now() - TimeDelta::days(8));
        let (row, other, workspace) = (
            sql_id(engine, "00000000-0000-4000-8000-000000000001"),
            sql_id(engine, "00000000-0000-4000-8000-000000000002"),
            sql_id(engine, &agent.id),
        );
        let sql = format!(
            "INSERT INTO workspace_plugins (id, workspace_id, plugin_name, source_raw, tracked_ref,
                 installed_sha, installed_at, updated_at, delivery_error)
             VALUES ({row}, {workspace}, 'careful', 'local://careful', 'tag:v1', 'abc', {long_ago},
                     {long_ago}, 'not_found')"
        );
        app.database.execute(&sql).await;
        let sql = format!(
            "INSERT INTO plugin_update_queue (id, workspace_id, plugin_name, tracked_ref, current_sha,
                 latest_sha, created_at)
             VALUES ({other}, {workspace}, 'careful', 'tag:v1', 'abc', 'def', {long_ago})"
        );
        app.database.execute(&sql).await;

        let (code, said) = doctor(app.database.url(), |config| {
            let key = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
            config["plugins"] = json!({ "trusted_keys": [key] });
        });

        // then doctor says so, and that nothing of it keeps the server from working
        assert_eq!(code, Some(0), "{said}");
        assert_says(
            &said,
            "warn  plugins: the folder of local:// is not there; 1 installed plugin(s)",
            "plugins.registry_dir",
        );
        assert_says(&said, "warn  plugins: 1 update(s) wait", "/admin/plugin-updates-pending");
        let missing = format!("careful in {} (not_found)", agent.id);
        assert_says(&said, &missing, "the server's log");
        assert_says(&said, "warn  plugins: there are trusted keys", "require_signature");
        assert_says(&said, "1 tracked plugin(s) were not asked", "upstream");
    }
}
