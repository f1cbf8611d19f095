//! The next boot against the one that runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{TimeDelta, Utc};
use molecule_core::Config;
use molecule_hooks::Token;
use molecule_tests::fake_backend::Fault;
use molecule_tests::hooks::FnHook;
use molecule_tests::support::{assert_time, sql_id, strict};
use molecule_tests::{ADMIN, eventually, on_both_engines};
use serde_json::{Value, json};

use crate::shared::{changes, hash, named, plan, scripted, started, store_global, store_own};

/// The port of a test server changes when it is started again.
fn fixed_url(config: &mut Config) {
    config.server.platform_url = Some("http://platform.example".to_owned());
}

on_both_engines! {
    async fn nothing_differs_right_after_a_boot(engine: Engine) {
        let (hook, _) = scripted("hook", &[("FROM_HOOK", Some("1")), ("GONE", None)]);
        let app = strict(engine).hook(hook).start().await;
        let id = started(&app, json!({ "name": "one", "secrets": { "A": "1", "GONE": "1" } })).await;
        let plan = plan(&app, &id).await;
        assert_time(&plan["booted"]["at"]);
        assert_eq!(plan["booted"]["differs"], false);
        assert!(changes(&plan).is_empty(), "{plan:#}");
    }

    async fn each_kind_of_change_is_named(engine: Engine) {
        let (hook, act) = scripted("hook", &[("FROM_HOOK", Some("1")), ("MOVED", Some("same"))]);
        let app = strict(engine).hook(hook).start().await;
        let secrets = json!({ "A": "1", "B": "1", "OURS": "same", "LEFT": "1" });
        let id = started(&app, json!({ "name": "one", "secrets": secrets })).await;

        store_own(&app, engine, &id, "A", "2").await;
        store_own(&app, engine, &id, "NEW", "1").await;
        let workspace = sql_id(engine, &id);
        app.database.execute(&format!(
            "DELETE FROM workspace_secrets WHERE key = 'LEFT' AND workspace_id = {workspace}"
        )).await;
        store_global(&app, engine, "EVERYWHERE", "1").await;
        store_global(&app, engine, "B", "behind the workspace's own").await;
        *act.lock().expect("a script") = vec![
            ("FROM_HOOK", Some("2".to_owned())),
            ("OURS", Some("same".to_owned())),
        ];
        let plan = plan(&app, &id).await;
        assert_eq!(changes(&plan), [
            "A changed", "EVERYWHERE added", "FROM_HOOK changed", "LEFT removed", "MOVED removed",
            "NEW added", "OURS writer_changed",
        ]);
        assert_eq!(plan["booted"]["differs"], true);

        // A variable that a hook takes away is gone for the container.
        *act.lock().expect("a script") = vec![("B", None)];
        assert!(changes(&self::plan(&app, &id).await).contains(&"B removed".to_owned()));
    }

    async fn a_renewed_token_is_told_apart_from_a_change(engine: Engine) {
        let minted = Arc::new(AtomicI64::new(0));
        let count = Arc::clone(&minted);
        let hook = FnHook::new("minting", move |_, env| {
            let number = count.fetch_add(1, Ordering::Relaxed);
            let token = Token::new(format!("ghs_{number}"), Utc::now() + TimeDelta::hours(1));
            Ok(env.set_token("GITHUB_TOKEN", &token)?)
        });
        let app = strict(engine).hook(hook).start().await;
        let id = started(&app, named("one")).await;
        let plan = plan(&app, &id).await;
        assert_eq!(changes(&plan), ["GITHUB_TOKEN renewed"]);
        assert_eq!(plan["booted"]["differs"], false);
        assert_eq!(minted.load(Ordering::Relaxed), 2, "a plan runs the hooks");
    }

    async fn the_plan_of_a_boot_survives_the_server(engine: Engine) {
        let app = strict(engine).config(fixed_url).start().await;
        let id = started(&app, json!({ "name": "one", "secrets": { "A": "1" } })).await;
        let before = plan(&app, &id).await;
        let (database, dir) = app.shutdown().await;
        let app = strict(engine).config(fixed_url).start_on(database, dir).await;
        let after = plan(&app, &id).await;
        assert_eq!(before["keys"], after["keys"], "hashes compare across servers");
        assert_eq!(before["booted"], after["booted"]);
        store_own(&app, engine, &id, "A", "2").await;
        assert_eq!(changes(&plan(&app, &id).await), ["A changed"]);
    }

    async fn hashes_stay_when_encryption_is_turned_on_and_end_with_a_lost_key(engine: Engine) {
        let with_key = |key: Option<&str>| {
            let key = key.map(Into::into);
            strict(engine).config(fixed_url).config(move |config| config.secrets.encryption_key = key)
        };
        let app = with_key(None).start().await;
        let id = started(&app, named("one")).await;
        let plain = plan(&app, &id).await;
        let (database, dir) = app.shutdown().await;
        let app = with_key(Some(molecule_tests::KEY)).start_on(database, dir).await;
        let sealed = plan(&app, &id).await;
        assert_eq!(sealed["hash_key"], plain["hash_key"]);
        assert_eq!(sealed["keys"], plain["keys"]);
        assert_eq!(sealed["booted"]["differs"], false);
        let stored = "SELECT count(*) FROM platform_state WHERE key = 'fingerprint_key' AND value LIKE '2:%'";
        assert_eq!(app.database.count(stored).await, 1, "sealed as soon as there is a key");

        let value = "SELECT value FROM platform_state WHERE key = 'fingerprint_key'";
        let kept = app.database.text(value).await;
        let (database, dir) = app.shutdown().await;
        let app = with_key(Some("another key that has 32 bytes...")).start_on(database, dir).await;
        assert_eq!(app.database.text(value).await, kept, "whoever has the key still uses it");
        let lost = plan(&app, &id).await;
        assert_ne!(lost["hash_key"], plain["hash_key"]);
        assert_ne!(hash(&lost, "PLUGINS_DIR"), hash(&plain, "PLUGINS_DIR"));
        assert_eq!(lost["booted"]["differs"], Value::Null, "it cannot be told");
        assert!(changes(&lost).is_empty());
        store_own(&app, engine, &id, "NEW", "1").await;
        let changed = plan(&app, &id).await;
        assert_eq!(changes(&changed), ["NEW added"]);
        assert_eq!(changed["booted"]["differs"], true);
    }

    async fn a_damaged_or_foreign_boot_plan_is_left_out(engine: Engine) {
        let app = strict(engine).start().await;
        let id = started(&app, named("one")).await;
        let row = sql_id(engine, &id);
        app.database.execute(&format!("UPDATE workspaces SET instance_id = 'other' WHERE id = {row}")).await;
        assert_eq!(plan(&app, &id).await["booted"], Value::Null, "of another container");
        app.database.execute(&format!("UPDATE workspaces SET instance_id = NULL WHERE id = {row}")).await;
        assert_eq!(plan(&app, &id).await["booted"]["differs"], false, "the last one");
        for damaged in ["{}", "[]", "\"x\"", "{\"keys\": 1}"] {
            app.database.execute(&format!("UPDATE workspace_boot_plans SET plan = '{damaged}'")).await;
            assert_eq!(plan(&app, &id).await["booted"], Value::Null, "{damaged}");
        }
    }

    async fn without_a_boot_there_is_nothing_to_compare_and_a_purge_leaves_nothing(engine: Engine) {
        let app = strict(engine).start().await;
        app.backend.set_fault(Fault::StartHangs);
        let id = app.create(named("hanging")).await;
        eventually("the start hangs", || async { !app.backend.starts().is_empty() }).await;
        assert_eq!(plan(&app, &id).await["booted"], Value::Null);
        app.backend.set_fault(Fault::None);
        let id = started(&app, named("one")).await;
        let stored = "SELECT count(*) FROM workspace_boot_plans";
        assert_eq!(app.database.count(stored).await, 1);
        let path = format!("/workspaces/{id}?confirm=true&purge=true");
        assert_eq!(app.delete(&path).bearer(ADMIN).send().await.status, 200);
        assert_eq!(app.database.count(stored).await, 0);
    }
}
