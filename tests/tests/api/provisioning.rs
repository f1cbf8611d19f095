//! What an agent boots with, and what is told when it does not.

use molecule_hooks::HookError;
use molecule_tests::fake_backend::Fault;
use molecule_tests::hooks::FnHook;
use molecule_tests::{ADMIN, Engine, TestApp, TestAppBuilder, on_both_engines};
use serde_json::{Value, json};

use crate::support::{Agent, changes, recorded, sql_bytes, sql_id, strict};

const START_FAILED: &str = "workspace start failed";

/// Creates a workspace that will fail; its row and the event's payload.
async fn failed(app: &TestApp, body: Value) -> (Value, Value) {
    let mut events = app.events();
    let id = app.create(body).await;
    app.wait_for_status(&id, "failed").await;
    let row = app.listed(&id).await.expect("listed");
    let mut happened = changes(&mut events, &id);
    assert_eq!(happened.len(), 2, "{happened:?}");
    assert_eq!(happened[0].0, "WORKSPACE_PROVISIONING");
    let (event, payload) = happened.remove(1);
    assert_eq!(event, "WORKSPACE_PROVISION_FAILED");
    assert_eq!(row["last_sample_error"], payload["error"]);
    (row, payload)
}

fn with_template(engine: Engine, config: &str) -> (TestAppBuilder, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("t")).expect("a folder");
    std::fs::write(dir.path().join("t/config.yaml"), config).expect("a file");
    let root = dir.path().to_owned();
    (
        strict(engine).config(|config| config.workspaces.templates_dir = Some(root)),
        dir,
    )
}

async fn put_global(app: &TestApp, engine: Engine, n: u8, key: &str, value: &[u8], version: u8) {
    let sql = format!(
        "INSERT INTO global_secrets (id, key, encrypted_value, encryption_version, created_at, updated_at) \
         VALUES ({}, '{key}', {}, {version}, '2026-01-01T00:00:00+00:00', '2026-01-01T00:00:00+00:00')",
        sql_id(engine, &format!("00000000-0000-0000-0000-0000000000{n:02}")),
        sql_bytes(engine, value),
    );
    app.database.execute(&sql).await;
}

on_both_engines! {
    async fn secrets_are_encrypted_at_rest_and_plain_in_the_agent(engine: Engine) {
        let app = strict(engine).start().await;
        let secrets = json!({
            "API_KEY": "hunter2-very-secret", "EMPTY": "", "UTF8": "schlüssel-öffner",
        });
        let body = json!({ "name": "one", "model": "openai/gpt", "secrets": secrets });
        let agent = Agent::start(&app, body).await;
        let env = app.backend.env(&agent.id);
        assert_eq!(
            (
                env["API_KEY"].as_str(),
                env["EMPTY"].as_str(),
                env["UTF8"].as_str()
            ),
            ("hunter2-very-secret", "", "schlüssel-öffner")
        );
        let dump = app.database.dump().await;
        assert!(!dump.contains("hunter2") && !dump.contains("öffner"));
        assert_eq!(
            app.database
                .count("SELECT count(*) FROM workspace_secrets WHERE encryption_version = 2")
                .await,
            5
        );
        // Nor does any answer repeat them.
        for request in [
            app.get("/workspaces").bearer(ADMIN),
            app.get(&format!("/workspaces/{}", agent.id)),
        ] {
            assert!(!request.send().await.text.contains("hunter2"));
        }
    }

    async fn a_model_becomes_secrets_that_name_it_and_its_provider(engine: Engine) {
        let app = strict(engine).start().await;
        let table = [
            ("nousresearch/hermes-4", Some("openrouter")),
            ("openai/gpt-5", Some("openrouter")),
            ("unheard-of/model", None),
            ("no-prefix", None),
        ];
        for (model, provider) in table {
            let agent = Agent::start(&app, json!({ "name": model, "model": model })).await;
            let env = app.backend.env(&agent.id);
            assert_eq!(
                (env["MODEL_PROVIDER"].as_str(), env["MODEL"].as_str()),
                (model, model)
            );
            assert_eq!(
                env.get("LLM_PROVIDER").map(String::as_str),
                provider,
                "{model}"
            );
        }
        let agent = Agent::start(&app, json!({ "name": "none" })).await;
        let env = app.backend.env(&agent.id);
        assert!(
            ["MODEL_PROVIDER", "LLM_PROVIDER", "MODEL"]
                .iter()
                .all(|name| !env.contains_key(*name))
        );
    }

    async fn later_sources_of_the_environment_win(engine: Engine) {
        let hook = FnHook::new("last-word", |workspace, env| {
            let seen = env.get("FROM_WORKSPACE").unwrap_or("nothing").to_owned();
            env.set("SEEN_BY_HOOK", seen)?;
            env.set(
                "FROM_HOOK",
                format!("{}/{}", workspace.name, workspace.tier),
            )?;
            env.set("GITHUB_TOKEN", "hook")?;
            Ok(())
        });
        let app = strict(engine)
            .hook(hook)
            .config(|config| {
                config.workspaces.awareness_url = Some("http://awareness.example".into())
            })
            .start()
            .await;
        put_global(&app, engine, 1, "SHARED", b"global", 0).await;
        put_global(&app, engine, 2, "ONLY_GLOBAL", b"global", 0).await;
        put_global(&app, engine, 3, "AWARENESS_URL", b"http://mine.example", 0).await;
        let parent = Agent::start(&app, json!({ "name": "lead" })).await;
        let body = json!({
            "name": "Dev  Lead (EU)", "role": "pmm-lead", "tier": 2, "runtime": "hermes",
            "model": "x/y", "parent_id": parent.id,
            "secrets": {
                "SHARED": "workspace", "FROM_WORKSPACE": "workspace", "PYTHONPATH": "/mine",
                "GITHUB_TOKEN": "secret", "GIT_AUTHOR_NAME": "Someone", "MODEL": "secret",
                "MOLECULE_AGENT_ROLE": "secret", "PARENT_ID": "secret", "MODEL_PROVIDER": "z",
            },
        });
        let agent = Agent::start(&app, body).await;
        let env = app.backend.env(&agent.id);
        let expected = [
            ("PLUGINS_DIR", "/plugins"),
            ("PYTHONPATH", "/mine"),
            ("AWARENESS_NAMESPACE", &*format!("workspace:{}", agent.id)),
            ("AWARENESS_URL", "http://mine.example"),
            ("ONLY_GLOBAL", "global"),
            ("SHARED", "workspace"),
            ("GIT_AUTHOR_NAME", "Someone"),
            ("GIT_COMMITTER_NAME", "Molecule AI Dev  Lead (EU)"),
            ("GIT_AUTHOR_EMAIL", "dev-lead-eu@agents.moleculesai.app"),
            ("GIT_COMMITTER_EMAIL", "dev-lead-eu@agents.moleculesai.app"),
            ("MODEL", "x/y"),
            ("HERMES_DEFAULT_MODEL", "x/y"),
            ("MODEL_PROVIDER", "z"),
            ("MOLECULE_AGENT_ROLE", "pmm-lead"),
            ("PARENT_ID", &*parent.id),
            ("FROM_WORKSPACE", "workspace"),
            ("SEEN_BY_HOOK", "workspace"),
            ("FROM_HOOK", "Dev  Lead (EU)/2"),
            ("GITHUB_TOKEN", "hook"),
        ];
        for (name, value) in expected {
            assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert_eq!(env.len(), expected.len(), "{:?}", env.keys());
    }

    async fn the_generated_configuration_is_the_documented_one(engine: Engine) {
        let app = strict(engine).start().await;
        let table = [
            (
                json!({ "name": "plain" }),
                ["plain", "", "3", "langgraph", "anthropic:claude-opus-4-7"],
            ),
            (
                json!({ "name": "say \"hi\": #1", "role": "back\\slash", "tier": 1, "runtime": "claude-code" }),
                [
                    r#"say \"hi\": #1"#,
                    r"back\\slash",
                    "1",
                    "claude-code",
                    "sonnet",
                ],
            ),
            (
                json!({ "name": "mine", "model": "x/y", "runtime": "../escape" }),
                ["mine", "", "3", "langgraph", "x/y"],
            ),
        ];
        for (body, [name, description, tier, runtime, model]) in table {
            let expected = format!(
                "name: \"{name}\"\ndescription: \"{description}\"\nversion: \"1.0.0\"\n\
                 tier: {tier}\nruntime: \"{runtime}\"\nmodel: \"{model}\"\n\
                 runtime_config:\n  timeout: 0\n"
            );
            let agent = Agent::start(&app, body).await;
            assert_eq!(
                app.backend.file(&agent.id, "config.yaml").as_deref(),
                Some(&*expected)
            );
        }
    }

    async fn credential_files_are_private_and_fresh(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        let spec = app.backend.starts().remove(0);
        let modes: Vec<_> = spec
            .files
            .iter()
            .map(|file| (file.path.as_str(), file.mode))
            .collect();
        assert_eq!(
            modes,
            [
                (".auth_token", 0o600),
                (".platform_inbound_secret", 0o600),
                ("config.yaml", 0o644)
            ]
        );
        let inbound = app
            .backend
            .file(&agent.id, ".platform_inbound_secret")
            .expect("a secret");
        assert_eq!(inbound.len(), 43);
        assert_ne!(inbound, agent.token);
        let dump = app.database.dump().await;
        assert!(!dump.contains(&inbound) && !dump.contains(&agent.token));
        // The token is no newline away from being sent as it is.
        assert_eq!(agent.beat(&app, json!({})).send().await.status, 200);
    }

    async fn one_missing_variable_is_named(engine: Engine) {
        let (app, _dir) = with_template(
            engine,
            "runtime_config:\n  required_env: [OPENAI_API_KEY]\n",
        );
        let app = app.start().await;
        let (_, payload) = failed(&app, json!({ "name": "one", "template": "t" })).await;
        let text = "missing required env var \"OPENAI_API_KEY\" — add it under Config → Env Vars \
                    (or as a Global secret) and retry";
        assert_eq!(
            payload,
            json!({ "error": text, "missing": ["OPENAI_API_KEY"] })
        );
        assert!(app.backend.starts().is_empty());
        assert_eq!(
            app.database
                .count("SELECT count(*) FROM workspace_auth_tokens")
                .await,
            0
        );
        // Given, or brought by whatever source, it is there.
        Agent::start(
            &app,
            json!({ "name": "two", "template": "t", "secrets": { "OPENAI_API_KEY": "k" } }),
        )
        .await;
        put_global(&app, engine, 1, "OPENAI_API_KEY", b"k", 0).await;
        Agent::start(&app, json!({ "name": "three", "template": "t" })).await;
    }

    async fn several_missing_variables_are_named_in_order_and_empty_ones_count(engine: Engine) {
        let (app, _dir) = with_template(
            engine,
            "runtime_config:\n  required_env: [ZED, GIVEN, EMPTY]\n",
        );
        let app = app.start().await;
        let body =
            json!({ "name": "one", "template": "t", "secrets": { "GIVEN": "v", "EMPTY": "" } });
        let (_, payload) = failed(&app, body).await;
        let text = "missing required env vars ZED, EMPTY — add them under Config → Env Vars \
                    (or as Global secrets) and retry";
        assert_eq!(
            payload,
            json!({ "error": text, "missing": ["ZED", "EMPTY"] })
        );
    }

    async fn a_backend_that_fails_or_panics_is_told_with_a_fixed_text(engine: Engine) {
        let app = strict(engine).start().await;
        for (name, fault) in [
            ("a", Fault::StartFails("secret-backend-detail".into())),
            ("b", Fault::StartPanics("secret-backend-detail".into())),
        ] {
            app.backend.set_fault(fault);
            let (row, payload) = failed(&app, json!({ "name": name })).await;
            assert_eq!(payload, json!({ "error": START_FAILED }));
            assert_eq!(row["url"], "");
        }
        assert!(!app.database.dump().await.contains("secret-backend-detail"));
        // What was minted for it is worth nothing.
        assert_eq!(
            app.database
                .count("SELECT count(*) FROM workspace_auth_tokens WHERE revoked_at IS NULL")
                .await,
            0
        );
        assert_eq!(recorded(&app, "WORKSPACE_PROVISION_FAILED").await, 2);
    }

    async fn a_hook_that_fails_is_told_with_a_fixed_text(engine: Engine) {
        let hook = FnHook::new("strict-one", |_, _| {
            Err(HookError::config("secret-hook-detail"))
        });
        let app = strict(engine).hook(hook).start().await;
        let (_, payload) = failed(&app, json!({ "name": "one" })).await;
        assert_eq!(
            payload,
            json!({ "error": "plugin env mutator chain failed" })
        );
        assert!(app.backend.starts().is_empty());
        assert!(!app.database.dump().await.contains("secret-hook-detail"));
    }

    async fn a_secret_that_does_not_decrypt_stops_the_boot(engine: Engine) {
        let app = strict(engine).start().await;
        let other = Agent::start(
            &app,
            json!({ "name": "other", "secrets": { "A": "value-of-other" } }),
        )
        .await;
        // Moved to another row it does not open.
        let hook_into = format!(
            "UPDATE workspace_secrets SET key = 'B' WHERE workspace_id = {}",
            sql_id(engine, &other.id)
        );
        app.database.execute(&hook_into).await;
        put_global(&app, engine, 1, "BROKEN", b"not sealed", 2).await;
        let (_, payload) = failed(&app, json!({ "name": "one" })).await;
        assert_eq!(
            payload,
            json!({ "error": "failed to decrypt global secret" })
        );
    }
}
