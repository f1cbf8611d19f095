//! Hooks that misbehave.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::{TimeDelta, Utc};
use molecule_core::{Event, EventType};
use molecule_hooks::{
    EnvMap, EnvMutator, HookError, MAX_ENV_VALUE_BYTES, Token, TokenScope, WorkspaceContext,
};
use molecule_tests::hooks::{FnHook, FnTokens, HangingHook};
use molecule_tests::{ADMIN, Engine, TestApp, eventually, on_both_engines};
use serde_json::{Value, json};
use tokio::sync::broadcast;

use crate::process::Deployment;

const CHAIN_FAILED: &str = "plugin env mutator chain failed";

/// Does what the name of the workspace says, after it wrote a variable.
struct ByName;

#[async_trait]
impl EnvMutator for ByName {
    fn name(&self) -> &str {
        "by-name"
    }

    async fn mutate_env(
        &self,
        workspace: &WorkspaceContext,
        env: &mut EnvMap,
    ) -> Result<(), HookError> {
        env.set("HALF_DONE", workspace.name.as_str())?;
        match workspace.name.split('-').next().unwrap_or_default() {
            "error" => Err(HookError::permanent("no")),
            "panic" => panic!("boom"),
            "hang" => std::future::pending().await,
            "reserved" => Ok(env.set("WORKSPACE_ID", "mine")?),
            "invalid" => Ok(env.set("A=B", "x")?),
            "huge" => Ok(env.set("HUGE", "x".repeat(MAX_ENV_VALUE_BYTES + 1))?),
            "nul" => Ok(env.set("NUL", "a\0b")?),
            _ => Ok(()),
        }
    }
}

/// Waits for the failure of a workspace and returns the payload.
async fn failure_of(events: &mut broadcast::Receiver<Event>, id: &str) -> Value {
    let waiting = async {
        loop {
            let event = events.recv().await.expect("an event");
            if event.event == EventType::WorkspaceProvisionFailed
                && event.workspace_id.to_string() == id
            {
                return event.payload;
            }
        }
    };
    tokio::time::timeout(molecule_tests::PATIENCE, waiting)
        .await
        .expect("a failure")
}

on_both_engines! {
    async fn a_misbehaving_hook_fails_its_own_workspace_and_no_other(engine: Engine) {
        // Given a chain whose middle misbehaves for some workspaces
        let app = TestApp::builder(engine)
            .admin_token(ADMIN)
            .config(|config| config.hooks.timeout_secs = 1)
            .hook(FnHook::new("first", |_, env| {
                let seen = if env.contains("FIRST") || env.contains("HALF_DONE") { "stale" } else { "fresh" };
                Ok(env.set("FIRST", seen)?)
            }))
            .hook(ByName)
            .hook(FnHook::new("last", |_, env| Ok(env.set("LAST", "yes")?)))
            .start()
            .await;
        let mut events = app.events();

        let faults = ["error", "panic", "hang", "reserved", "invalid", "huge", "nul"];
        for (done, fault) in (1..).zip(faults) {
            // When such a workspace is provisioned
            let id = app.create(json!({ "name": fault, "secrets": { "KEEP": "s3cret-value" } })).await;
            let payload = failure_of(&mut events, &id).await;

            // Then row and event say so in the documented words, and nothing ran
            assert_eq!(payload, json!({ "error": CHAIN_FAILED }), "{fault}");
            let row = app.listed(&id).await.expect("a row");
            assert_eq!((&row["status"], &row["last_sample_error"]), (&json!("failed"), &json!(CHAIN_FAILED)), "{fault}");
            assert!(app.backend.starts().is_empty(), "{fault}: the backend was called");
            assert_eq!(app.database.count("SELECT count(*) FROM workspace_auth_tokens").await, 0, "{fault}");
            let recorded = "SELECT count(*) FROM structure_events WHERE event_type = 'WORKSPACE_PROVISION_FAILED'";
            assert_eq!(app.database.count(recorded).await, done, "{fault}");
        }

        // And the next workspace boots with a chain that knows nothing of them
        let id = app.create(json!({ "name": "fine" })).await;
        eventually("the fine workspace starts", async || app.backend.starts().len() == 1).await;
        let env = app.backend.env(&id);
        let wanted = [("FIRST", "fresh"), ("HALF_DONE", "fine"), ("LAST", "yes")];
        for (name, value) in wanted {
            assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!env.contains_key("KEEP"), "a secret of a failed workspace");
        app.shutdown().await;
    }

    async fn provisions_at_the_same_time_do_not_share_the_fate_of_a_hook(engine: Engine) {
        let app = TestApp::builder(engine)
            .admin_token(ADMIN)
            .config(|config| {
                config.hooks.timeout_secs = 1;
                config.workspaces.provision_concurrency = 12;
            })
            .hook(ByName)
            .start()
            .await;
        let faults = ["fine", "panic", "hang", "error"];
        let names = (0..12).map(|n| format!("{}-{n}", faults[n % faults.len()]));
        let created = names.map(|name| {
            let app = &app;
            async move { (app.create(json!({ "name": name })).await, name) }
        });
        for (id, name) in futures_util::future::join_all(created).await {
            if name.starts_with("fine") {
                eventually(&name, async || app.backend.agent_token(&id).is_some()).await;
                assert_eq!(app.backend.env(&id)["HALF_DONE"], name);
            } else {
                app.wait_for_status(&id, "failed").await;
            }
        }
        assert_eq!(app.backend.starts().len(), 3);
        app.shutdown().await;
    }
}

#[tokio::test]
async fn a_hanging_hook_is_bounded_by_its_own_limit() {
    // Given a long limit for all hooks and a short one for the hanging hook
    let app = TestApp::builder(Engine::Sqlite)
        .admin_token(ADMIN)
        .config(|config| {
            config.hooks.timeout_secs = 600;
            config.hooks.timeouts_secs.insert("hanging".to_owned(), 1);
        })
        .hook(HangingHook)
        .start()
        .await;
    let started = Instant::now();
    let id = app.create(json!({ "name": "a" })).await;
    app.wait_for_status(&id, "failed").await;
    let took = started.elapsed();
    assert!(
        (Duration::from_secs(1)..Duration::from_secs(10)).contains(&took),
        "{took:?}"
    );
    app.shutdown().await;
}

#[tokio::test]
async fn a_bad_token_provider_is_answered_with_the_documented_texts_and_may_recover() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let hour = TimeDelta::hours(1);
    let table: [(&str, &str); 4] = [
        ("empty", "token refresh failed: empty token"),
        ("expired", "token refresh failed"),
        ("error", "token refresh failed"),
        ("panic", "token refresh failed"),
    ];
    for (fault, text) in table {
        let provider = FnTokens::new(TokenScope::Shared, move |_| async move {
            CALLS.fetch_add(1, Ordering::Relaxed);
            match fault {
                "empty" => Ok(Token::new("", Utc::now() + hour)),
                "expired" => Ok(Token::new("expired-token-value", Utc::now() - hour)),
                "error" => Err(HookError::transient("upstream said expired-token-value")),
                _ => panic!("expired-token-value"),
            }
        });
        let app = TestApp::builder(Engine::Sqlite)
            .admin_token(ADMIN)
            .hook(provider)
            .start()
            .await;
        let reply = app
            .get("/admin/github-installation-token")
            .bearer(ADMIN)
            .send()
            .await;
        reply.assert_error(500, text);
        assert!(
            !reply.text.contains("expired-token-value"),
            "{fault}: {}",
            reply.text
        );
        // A provider in trouble keeps no workspace from booting.
        let id = app.create(json!({ "name": fault })).await;
        eventually(fault, async || app.backend.agent_token(&id).is_some()).await;
        app.shutdown().await;
    }
    assert_eq!(CALLS.load(Ordering::Relaxed), table.len());
}

#[tokio::test]
async fn the_log_names_the_hook_and_the_cause_but_never_a_value() {
    // Given a real server whose hooks know a password
    const PASSWORD: &str = "hook-password-in-plain-sight";
    for format in ["human", "json"] {
        let mut deployment = Deployment::new();
        deployment
            .set("log.format", format)
            .set("log.filter", "debug")
            .set("hooks.timeout_secs", 1)
            .set("hooks.config.a-first.behaviour", "writes-secret")
            .set("hooks.config.a-first.password", "first-hook-secret-value")
            .set("hooks.config.m-middle.behaviour", "by-name")
            .set("hooks.config.m-middle.password", PASSWORD)
            .set("hooks.config.z-last.behaviour", "ok");
        let server = deployment.start().await;
        // (fault, a word of the cause)
        let table = [
            ("error", "refused with"),
            ("panic", "panicked with"),
            ("hang", "did not finish within 1 s (hooks.timeout_secs)"),
            ("reserved-name", "PLATFORM_URL is reserved"),
            ("invalid-name", "not a valid environment variable name"),
            ("huge-value", "longer than"),
        ];
        for (fault, cause) in table {
            // When the one in the middle misbehaves
            let body = json!({ "name": fault, "secrets": { "KNOWN": "workspace-secret-value" } });
            let id = server.create(body).await;
            let row = server.wait_for_status(&id, "failed").await;
            assert_eq!(row["last_sample_error"], CHAIN_FAILED, "{fault}");

            // Then one line says who and why
            server.wait_for_log(&id).await;
            let log = server.log();
            let quoted = |line: &&str| line.contains("provisionhook") && line.contains("m-middle");
            let line = log.lines().rfind(|line| quoted(line) && line.contains(&id));
            let line = line.unwrap_or_else(|| panic!("{fault}: no line names the hook:\n{log}"));
            assert!(line.contains(cause), "{fault}: {line}");
            deployment.assert_nothing_left_of(&id);
        }

        // And no value was logged, not even by the panic itself
        let log = server.stop().await;
        for value in [
            PASSWORD,
            "first-hook-secret-value",
            "workspace-secret-value",
            "xxxxxxxx",
        ] {
            let line = log.lines().find(|line| line.contains(value));
            assert!(line.is_none(), "{format}: {value} in the log: {line:?}");
        }
        assert!(
            log.contains("A_FIRST_SEEN HOOK_PASSWORD"),
            "the names of what changed: {log}"
        );
    }
}
