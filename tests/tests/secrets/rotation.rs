//! `secrets rotate` and `secrets status` as operators run them.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use molecule_tests::support::{Agent, sql_bytes, sql_id, strict};
use molecule_tests::{Engine, TestApp, TestDatabase, on_both_engines};
use serde_json::{Value, json};

use crate::commands::Commands;
use crate::requests::{assert_saved, set, watch, workspace};

const OLD: &str = "old-key-old-key-old-key-old-key-";
const NEW: &str = "new-key-new-key-new-key-new-key-";
/// Values hold this; no command may print it.
const MARK: &str = "hunter2";

/// A server with these keys on a database that exists.
async fn server(
    engine: Engine,
    database: &TestDatabase,
    current: Option<&str>,
    previous: &[&str],
) -> TestApp {
    let app = strict(engine).config(|config| {
        config.secrets.encryption_key = current.map(Into::into);
        config.secrets.previous_encryption_keys =
            previous.iter().map(|key| (*key).into()).collect();
    });
    let dir = tempfile::tempdir().expect("a temporary directory");
    app.start_on(database.share(), dir).await
}

/// Runs a command; its exit code must be this one and no value may show.
#[track_caller]
fn expect((code, said): (Option<i32>, String), wanted: i32) -> String {
    assert_eq!(code, Some(wanted), "{said}");
    assert!(!said.contains(MARK), "{said}");
    for key in [OLD, NEW] {
        assert!(!said.contains(key), "{said}");
    }
    said
}

/// How many values are under no key at all, or not under the one with this id.
async fn not_under(database: &TestDatabase, engine: Engine, id: &str) -> i64 {
    let head = sql_bytes(engine, format!("\u{8}{id}").as_bytes());
    let sql = format!(
        "SELECT (SELECT count(*) FROM workspace_secrets WHERE encryption_version <> 2 OR substr(encrypted_value, 1, 9) <> {head})
              + (SELECT count(*) FROM global_secrets WHERE encryption_version <> 2 OR substr(encrypted_value, 1, 9) <> {head})
              + (SELECT count(*) FROM workspaces WHERE inbound_secret IS NOT NULL
                 AND (inbound_secret_version <> 2 OR substr(inbound_secret, 1, 9) <> {head}))"
    );
    database.count(&sql).await
}

/// The id after `current key: `.
fn current_key(status: &str) -> String {
    let line = status.lines().next().expect("a line");
    line.strip_prefix("current key: ")
        .expect("the current key")
        .to_owned()
}

on_both_engines! {
    async fn a_key_is_replaced_while_servers_run(engine: Engine) {
        let database = TestDatabase::create(engine).await;
        // Values in plain text, then under an old key
        let app = server(engine, &database, None, &[]).await;
        let plain = Agent::start(&app, json!({ "name": "plain", "secrets": { "KEY": "hunter2-plain" } })).await;
        // Who is paused is not restarted for a secret, and keeps what it booted with.
        assert_eq!(crate::requests::admin(&app, "POST", &format!("/workspaces/{}/pause", plain.id)).await.status, 200);
        app.shutdown().await;
        let app = server(engine, &database, Some(OLD), &[]).await;
        let agent = Agent::start(&app, json!({ "name": "old", "secrets": { "KEY": "hunter2-old" } })).await;
        assert_eq!(crate::requests::admin(&app, "POST", &format!("/workspaces/{}/pause", agent.id)).await.status, 200);
        assert_saved(&set(&app, "/settings/secrets", "SHARED", "hunter2-shared").await, "SHARED");
        app.shutdown().await;

        // Both keys: everything works, and doctor has a hint
        let commands = Commands::new(&database, Some(NEW), &[OLD]);
        let app = server(engine, &database, Some(NEW), &[OLD]).await;
        watch(&app, engine).await;
        let status = expect(commands.run(&["secrets", "status"]).await, 0);
        let new_id = current_key(&status);
        for line in [
            "workspace_secrets: 1 in plain text", "workspace_secrets: 1 under the previous key",
            "global_secrets: 1 under the previous key", "workspaces.inbound_secret: 1 in plain text",
        ] {
            assert!(status.contains(line), "{line}: {status}");
        }
        let doctor = expect(commands.run(&["doctor"]).await, 0);
        assert!(doctor.contains("warn  secrets: 2 of 5 value(s) in PLAIN TEXT"), "{doctor}");
        assert!(doctor.contains("secrets rotate"), "{doctor}");

        // A dry run changes nothing
        let before = not_under(&database, engine, &new_id).await;
        let said = expect(commands.run(&["secrets", "rotate", "--dry-run"]).await, 0);
        assert!(said.contains("workspace_secrets: 2 to encrypt again"), "{said}");
        assert_eq!((not_under(&database, engine, &new_id).await, before), (5, 5));

        // The rotation changes no value, restarts nobody, and is done when it says so
        let said = expect(commands.run(&["secrets", "rotate"]).await, 0);
        for line in [
            "workspace_secrets: 2 encrypted again", "global_secrets: 1 encrypted again",
            "workspaces.inbound_secret: 2 encrypted again", "previous keys are not needed any more",
        ] {
            assert!(said.contains(line), "{line}: {said}");
        }
        assert_eq!(not_under(&database, engine, &new_id).await, 0);
        assert_eq!(database.count("SELECT count(*) FROM noted").await, 0);
        let values = format!("/workspaces/{}/secrets/values", agent.id);
        let reply = app.get(&values).bearer(&agent.token).send().await;
        let expected = json!({ "KEY": "hunter2-old", "SHARED": "hunter2-shared" });
        assert_eq!((reply.status, reply.json()), (200, expected.clone()));
        let doctor = expect(commands.run(&["doctor"]).await, 0);
        assert!(doctor.contains("ok    secrets: 5 value(s), all under the current key"), "{doctor}");
        let said = expect(commands.run(&["secrets", "rotate"]).await, 0);
        assert!(said.contains("workspace_secrets: 0 encrypted again"), "{said}");
        app.shutdown().await;

        // Then the old key may go
        let app = server(engine, &database, Some(NEW), &[]).await;
        let reply = app.get(&values).bearer(&agent.token).send().await;
        assert_eq!((reply.status, reply.json()), (200, expected));
        app.shutdown().await;
    }

    async fn a_value_whose_key_is_gone_is_listed_and_fails_the_command(engine: Engine) {
        let database = TestDatabase::create(engine).await;
        let app = server(engine, &database, Some(OLD), &[]).await;
        let (id, path) = workspace(&app, "one").await;
        Agent::started(&app, id.clone()).await;
        assert_saved(&set(&app, &path, "LOST", "hunter2-lost").await, "LOST");
        assert_saved(&set(&app, "/settings/secrets", "LOST_TOO", "hunter2-lost").await, "LOST_TOO");
        app.shutdown().await;
        let app = server(engine, &database, Some(NEW), &[]).await;
        assert_saved(&set(&app, "/settings/secrets", "FOUND", "hunter2-found").await, "FOUND");
        let sql = format!(
            "UPDATE global_secrets SET encrypted_value = {}, encryption_version = 0 WHERE key = 'FOUND'",
            sql_bytes(engine, b"hunter2-found"),
        );
        database.execute(&sql).await;
        let commands = Commands::new(&database, Some(NEW), &[]);
        let status = expect(commands.run(&["secrets", "status"]).await, 0);
        assert!(status.contains("which is NOT CONFIGURED"), "{status}");
        for words in [&["secrets", "rotate", "--dry-run"][..], &["secrets", "rotate"]] {
            let said = expect(commands.run(words).await, 1);
            for line in [
                format!("not readable: workspace_secrets \"LOST\" of workspace {id}: the value is encrypted with key"),
                "not readable: global_secrets \"LOST_TOO\": the value is encrypted with key".to_owned(),
                format!("not readable: workspaces.inbound_secret \"inbound_secret\" of workspace {id}:"),
                "global_secrets: 1".to_owned(),
            ] {
                assert!(said.contains(&line), "{line}: {said}");
            }
        }
        let doctor = expect(commands.run(&["doctor"]).await, 1);
        assert!(doctor.contains("FAIL  secrets: 3 of 4 value(s) are under a key that is not configured"), "{doctor}");
        app.shutdown().await;
        // With the key back, all is well
        let commands = Commands::new(&database, Some(NEW), &[OLD]);
        expect(commands.run(&["secrets", "rotate"]).await, 0);
        expect(commands.run(&["doctor"]).await, 0);
    }

    async fn a_rotation_that_is_killed_loses_nothing_and_is_started_again(engine: Engine) {
        const ROWS: usize = 200;
        let database = TestDatabase::create(engine).await;
        let app = server(engine, &database, Some(OLD), &[]).await;
        let mut ids = Vec::new();
        for number in 0..4 {
            let secrets: serde_json::Map<String, Value> = (0..ROWS)
                .map(|key| (format!("KEY_{key}"), json!(format!("hunter2-{number}-{key}")))).collect();
            ids.push(Agent::start(&app, json!({ "name": format!("n{number}"), "secrets": secrets })).await.id);
        }
        app.shutdown().await;
        let commands = Commands::new(&database, Some(NEW), &[OLD]);
        let new_id = current_key(&expect(commands.run(&["secrets", "status"]).await, 0));
        let all = not_under(&database, engine, &new_id).await;
        assert_eq!(all, 4 * ROWS as i64 + 4);
        // Killed as soon as something was done
        let mut child = commands.command(&["secrets", "rotate"])
            .stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let mut left = all;
        while left == all && child.try_wait().expect("its state").is_none() {
            left = not_under(&database, engine, &new_id).await;
        }
        child.kill().expect("kill -9");
        child.wait().expect("its end");
        assert!(not_under(&database, engine, &new_id).await < all);
        // A server reads all of it, whichever key it is under
        let app = server(engine, &database, Some(NEW), &[OLD]).await;
        expect(commands.run(&["secrets", "rotate"]).await, 0);
        assert_eq!(not_under(&database, engine, &new_id).await, 0);
        app.shutdown().await;
        let app = server(engine, &database, Some(NEW), &[]).await;
        for (number, id) in ids.iter().enumerate() {
            let reply = app.get(&format!("/workspaces/{id}/model")).bearer(molecule_tests::ADMIN).send().await;
            assert_eq!(reply.status, 200);
            let rows = format!("SELECT count(*) FROM workspace_secrets WHERE workspace_id = {}", sql_id(engine, id));
            assert_eq!(database.count(&rows).await, ROWS as i64, "{number}");
        }
        app.shutdown().await;
    }

    async fn a_server_may_write_during_a_rotation(engine: Engine) {
        let database = TestDatabase::create(engine).await;
        let app = server(engine, &database, Some(OLD), &[]).await;
        let secrets: serde_json::Map<String, Value> = (0..100)
            .map(|key| (format!("KEY_{key}"), json!("hunter2-first"))).collect();
        let (id, path) = crate::requests::with_secrets(&app, "one", Value::Object(secrets)).await;
        Agent::started(&app, id).await;
        app.shutdown().await;
        let app = Arc::new(server(engine, &database, Some(NEW), &[OLD]).await);
        let commands = Commands::new(&database, Some(NEW), &[OLD]);
        let is_over = Arc::new(AtomicBool::new(false));
        let writer = tokio::spawn({
            let (app, path, is_over) = (Arc::clone(&app), path.clone(), Arc::clone(&is_over));
            async move {
                let mut round = 0;
                while !is_over.load(Ordering::Relaxed) {
                    round += 1;
                    for key in (0..100).step_by(7) {
                        let key = format!("KEY_{key}");
                        assert_saved(&set(&app, &path, &key, &format!("hunter2-{round}")).await, &key);
                    }
                }
                round
            }
        });
        expect(commands.run(&["secrets", "rotate"]).await, 0);
        is_over.store(true, Ordering::Relaxed);
        let round = writer.await.expect("the writer");
        let new_id = current_key(&expect(commands.run(&["secrets", "status"]).await, 0));
        assert_eq!(not_under(&database, engine, &new_id).await, 0);
        // Each value is the last one that was written
        for key in (0..100).step_by(7) {
            // Equal to what is stored: the time of the change stays
            let listed = |list: Value| list.as_array().and_then(|rows| {
                rows.iter().find(|row| row["key"] == format!("KEY_{key}")).map(|row| row["updated_at"].clone())
            });
            let before = listed(crate::requests::admin(&app, "GET", &path).await.json());
            assert_saved(&set(&app, &path, &format!("KEY_{key}"), &format!("hunter2-{round}")).await, &format!("KEY_{key}"));
            let after = listed(crate::requests::admin(&app, "GET", &path).await.json());
            assert_eq!(before, after, "KEY_{key}");
        }
    }

    async fn what_cannot_work_says_why(engine: Engine) {
        let database = TestDatabase::create(engine).await;
        let mut commands = Commands::new(&database, Some(NEW), &[]);
        for words in [&["secrets", "rotate"][..], &["secrets", "status"]] {
            let said = expect(commands.run(words).await, 1);
            assert!(said.contains("run `migrate` first"), "{said}");
        }
        expect(commands.run(&["migrate"]).await, 0);
        let said = expect(commands.run(&["secrets", "status"]).await, 0);
        assert!(said.contains("nothing is stored"), "{said}");
        let said = expect(commands.run(&["doctor"]).await, 0);
        assert!(said.contains("ok    secrets: 0 value(s)"), "{said}");
        // No key, keys that are none, keys in a file that is not there
        let said = expect(commands.secrets(json!({})).run(&["secrets", "rotate"]).await, 78);
        assert!(said.contains("secrets.encryption_key: is required for a rotation"), "{said}");
        let said = expect(commands.run(&["doctor"]).await, 0);
        assert!(said.contains("warn  secrets: no key is configured"), "{said}");
        let file = commands.write("keys", "hunter2-is-no-key\n\nhunter2-neither\n");
        let section = json!({ "encryption_key": NEW, "previous_encryption_keys_file": file });
        let said = expect(commands.secrets(section).run(&["secrets", "rotate"]).await, 78);
        assert!(said.contains("previous_encryption_keys[0]") && said.contains("previous_encryption_keys[1]"), "{said}");
        let section = json!({ "encryption_key": NEW, "previous_encryption_keys_file": "/does/not/exist" });
        let said = expect(commands.secrets(section).run(&["secrets", "status"]).await, 78);
        assert!(said.contains("previous_encryption_keys_file: cannot be read"), "{said}");
        // A file with good keys
        let file = commands.write("keys", &format!("{OLD}\n{NEW}\n"));
        let section = json!({ "encryption_key": NEW, "previous_encryption_keys_file": file });
        expect(commands.secrets(section).run(&["secrets", "rotate"]).await, 0);
        for words in [&["secrets"][..], &["secrets", "turn"], &["secrets", "rotate", "--force"]] {
            let (code, said) = commands.run(words).await;
            assert_eq!(code, Some(2), "{said}");
        }
    }
}
