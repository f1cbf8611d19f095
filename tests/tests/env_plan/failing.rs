//! Boots that would fail, explained before they do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use molecule_core::config::BackendChoice;
use molecule_hooks::{EnvMap, EnvMutator, HookError, WorkspaceContext};
use molecule_tests::ADMIN;
use molecule_tests::fake_backend::Fault;
use molecule_tests::hooks::HangingHook;
use molecule_tests::on_both_engines;
use molecule_tests::support::{sql_bytes, sql_id, strict};
use serde_json::{Value, json};

use crate::shared::{
    ask, find, key, named, plan, scripted, started, store_own, templates, try_out,
};

const CAUSE: &str = "vault said: distinctive-upstream-detail";
const BLOCKED: Duration = Duration::from_secs(3);

/// Behaves until it is told otherwise.
struct Moody(Arc<AtomicU8>);

const FAILS: u8 = 1;
const PANICS: u8 = 2;
const BLOCKS: u8 = 3;
const HANGS: u8 = 4;

#[async_trait]
impl EnvMutator for Moody {
    fn name(&self) -> &str {
        "moody"
    }

    async fn mutate_env(&self, _: &WorkspaceContext, env: &mut EnvMap) -> Result<(), HookError> {
        env.set("HALF_DONE", "yes")?;
        match self.0.load(Ordering::Relaxed) {
            FAILS => return Err(HookError::permanent(CAUSE)),
            PANICS => panic!("{CAUSE}"),
            BLOCKS => std::thread::sleep(BLOCKED),
            HANGS => std::future::pending::<()>().await,
            _ => {}
        }
        Ok(())
    }
}

on_both_engines! {
    async fn a_hook_that_fails_is_named_with_a_fixed_text(engine: Engine) {
        let mood = Arc::new(AtomicU8::new(0));
        let (before, _) = scripted("before", &[("EARLIER", Some("1"))]);
        let (after, _) = scripted("after", &[("LATER", Some("1"))]);
        let app = strict(engine)
            .hook(before).hook(Moody(Arc::clone(&mood))).hook(after)
            .config(|config| config.hooks.timeout_secs = 1)
            .start().await;
        let id = started(&app, named("one")).await;
        for bad in [FAILS, PANICS, BLOCKS, HANGS] {
            mood.store(bad, Ordering::Relaxed);
            let reply = ask(&app, &id).await;
            assert_eq!(reply.status, 200, "{}", reply.text);
            assert!(!reply.text.contains("distinctive"), "{}", reply.text);
            let plan = reply.json();
            assert_eq!(plan["error"], json!({
                "step": "run_hooks", "hook": "moody", "message": "plugin env mutator chain failed",
            }), "{bad}");
            assert_eq!(key(&plan, "EARLIER")["present"], true, "{bad}");
            assert_eq!(key(&plan, "WORKSPACE_ID")["present"], true, "{bad}");
            assert!(find(&plan, "HALF_DONE").is_none() && find(&plan, "LATER").is_none(), "{bad}");
            assert_eq!(plan["booted"]["differs"], Value::Null, "{bad}");
            assert_eq!(plan["booted"]["changes"], json!([]), "{bad}");
            let dry = try_out(&app, named("two")).await.json();
            assert_eq!(dry["error"]["hook"], "moody", "{bad}");
        }
        mood.store(0, Ordering::Relaxed);
        let plan = plan(&app, &id).await;
        assert_eq!((plan["error"].clone(), plan["booted"]["differs"].clone()), (Value::Null, json!(false)));
    }

    async fn a_hook_with_more_time_than_the_request_is_named_in_time(engine: Engine) {
        let app = strict(engine).hook(HangingHook)
            .config(|config| {
                config.hooks.timeout_secs = 60;
                config.server.request_timeout_secs = 3;
            })
            .start().await;
        let started = Instant::now();
        let reply = try_out(&app, named("one")).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(reply.json()["error"]["hook"], "hanging");
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    async fn required_variables_are_missing_until_a_secret_or_a_hook_brings_them(engine: Engine) {
        let root = templates(&[(
            "needy", "runtime_config:\n  required_env: [NEEDED, FROM_HOOK, EMPTY, WORKSPACE_NAME]\n",
        )]);
        let dir = root.path().to_owned();
        let (hook, act) = scripted("hook", &[("FROM_HOOK", Some("1"))]);
        let app = strict(engine).hook(hook)
            .config(move |config| config.workspaces.templates_dir = Some(dir))
            .start().await;
        let body = json!({ "name": "one", "template": "needy", "secrets": { "EMPTY": "" } });
        let dry = try_out(&app, body.clone()).await.json();
        assert_eq!(dry["missing"], json!(["NEEDED", "EMPTY", "WORKSPACE_NAME"]));
        let id = app.create(body).await;
        app.wait_for_status(&id, "failed").await;
        assert_eq!(plan(&app, &id).await["missing"], dry["missing"]);
        for name in ["NEEDED", "EMPTY", "WORKSPACE_NAME"] {
            store_own(&app, engine, &id, name, "now").await;
        }
        let satisfied = plan(&app, &id).await;
        assert_eq!((satisfied["missing"].clone(), satisfied["error"].clone()), (json!([]), Value::Null));
        *act.lock().expect("a script") = vec![("NEEDED", None)];
        assert_eq!(plan(&app, &id).await["missing"], json!(["NEEDED", "FROM_HOOK"]));
    }

    async fn a_template_that_is_gone_is_said(engine: Engine) {
        let root = templates(&[("passing", "runtime: langgraph\n")]);
        let dir = root.path().to_owned();
        let app = strict(engine)
            .config(move |config| config.workspaces.templates_dir = Some(dir))
            .start().await;
        app.backend.set_fault(Fault::StartFails("not today".into()));
        let body = json!({ "name": "one", "template": "passing" });
        let reply = app.post("/workspaces", body).bearer(ADMIN).send().await;
        let id = reply.json()["id"].as_str().expect("an id").to_owned();
        app.wait_for_status(&id, "failed").await;
        std::fs::remove_dir_all(root.path().join("passing")).expect("removed");
        let plan = plan(&app, &id).await;
        assert_eq!(plan["error"]["step"], "load_template");
        assert_eq!(plan["error"]["hook"], Value::Null);
        let text = plan["error"]["message"].as_str().expect("a text");
        assert!(text.starts_with("cannot start workspace"), "{text}");
        assert_eq!(plan["keys"], json!([]));
        assert_eq!(plan["booted"], Value::Null);
    }

    async fn secrets_that_do_not_decrypt_are_said(engine: Engine) {
        let app = strict(engine).start().await;
        let id = started(&app, json!({ "name": "one", "secrets": { "A": "1" } })).await;
        let (row, bytes) = (sql_id(engine, &id), sql_bytes(engine, b"\x08deadbeefdistinctive-damage-that-is-long-enough"));
        app.database.execute(&format!(
            "UPDATE workspace_secrets SET encrypted_value = {bytes}, encryption_version = 2 WHERE workspace_id = {row}"
        )).await;
        let reply = ask(&app, &id).await;
        assert!(!reply.text.contains("distinctive"));
        assert_eq!(reply.json()["error"], json!({
            "step": "load_secrets", "hook": null, "message": "failed to decrypt workspace secret",
        }));
    }

    async fn a_server_without_a_backend_explains_what_it_would_boot(engine: Engine) {
        let (hook, _) = scripted("hook", &[("FROM_HOOK", Some("1"))]);
        let app = strict(engine).hook(hook).real_backend()
            .config(|config| config.backend.kind = BackendChoice::None)
            .start().await;
        let id = app.create(named("one")).await;
        let plan = plan(&app, &id).await;
        assert_eq!(plan["error"]["step"], "start_backend");
        assert_eq!(key(&plan, "FROM_HOOK")["present"], true);
    }
}
