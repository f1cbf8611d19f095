//! Trying out a payload: what a create would say, and nothing of what it would do.

use molecule_tests::support::{create, strict};
use molecule_tests::{ADMIN, Reply, TestApp, on_both_engines};
use serde_json::{Value, json};

use crate::shared::{
    ask, contents, key, named, plan, scripted, started, templates, try_out, winner, writers,
};

const MIB: usize = 1024 * 1024;

async fn raw(app: &TestApp, path: &str, body: impl Into<Vec<u8>>) -> Reply {
    app.request("POST", path)
        .bearer(ADMIN)
        .body(body)
        .send()
        .await
}

/// Bodies that a create refuses, whatever the database holds.
fn refused(parent: &str) -> Vec<Value> {
    let many: serde_json::Map<String, Value> = (0..300)
        .map(|number| (format!("S{number}"), json!("v")))
        .collect();
    vec![
        json!({}),
        json!([]),
        json!("text"),
        json!({ "name": 1 }),
        json!({ "name": "" }),
        json!({ "name": "x".repeat(256) }),
        json!({ "name": "a\nb" }),
        json!({ "name": "a\u{0}b" }),
        json!({ "name": "a{b" }),
        json!({ "name": "a", "role": "r\u{0}" }),
        json!({ "name": "a", "model": "x".repeat(101) }),
        json!({ "name": "a", "runtime": "a\rb" }),
        json!({ "name": "a", "tier": 5 }),
        json!({ "name": "a", "tier": "three" }),
        json!({ "name": "a", "delivery_mode": "pigeon" }),
        json!({ "name": "a", "template": "../up" }),
        json!({ "name": "a", "template": "missing" }),
        json!({ "name": "a", "workspace_dir": "/etc" }),
        json!({ "name": "a", "workspace_dir": "/srv/\u{0}" }),
        json!({ "name": "a", "workspace_access": "read_only" }),
        json!({ "name": "a", "workspace_access": "all" }),
        json!({ "name": "a", "parent_id": "x" }),
        json!({ "name": "a", "parent_id": "7aa08951-00d1-4c3e-9d6a-0123456789ab" }),
        json!({ "name": "taken" }),
        json!({ "name": "taken-below", "parent_id": parent }),
        json!({ "name": "a", "secrets": { "A-B": "v" } }),
        json!({ "name": "a", "secrets": { "TIER": "v" } }),
        json!({ "name": "a", "secrets": { "PATH": "v" } }),
        json!({ "name": "a", "secrets": { "LD_PRELOAD": "v" } }),
        json!({ "name": "a", "secrets": { "A": "a\u{0}b" } }),
        json!({ "name": "a", "secrets": { "A": "x".repeat(64 * 1024 + 1) } }),
        json!({ "name": "a", "secrets": { "A": 1 } }),
        json!({ "name": "a", "secrets": many }),
        json!({ "name": "a", "canvas": { "x": "left" } }),
        json!({ "name": "a", "external": true, "url": "ftp://x" }),
    ]
}

on_both_engines! {
    async fn it_is_refused_as_a_create_is_refused(engine: Engine) {
        let root = templates(&[("there", "runtime: langgraph\n")]);
        let dir = root.path().to_owned();
        let app = strict(engine)
            .config(move |config| config.workspaces.templates_dir = Some(dir))
            .start().await;
        let parent = started(&app, named("taken")).await;
        started(&app, json!({ "name": "taken-below", "parent_id": parent })).await;
        let before = contents(&app).await;
        for body in refused(&parent) {
            let shown: String = body.to_string().chars().take(80).collect();
            let (dry, real) = (try_out(&app, body.clone()).await, create(&app, body).await);
            assert!((400..500).contains(&real.status), "{shown}: {}", real.text);
            assert_eq!((dry.status, dry.text), (real.status, real.text), "{shown}");
        }
        for body in ["", "{", "nul", "\u{0}", "{\"name\":\"\u{1}\"}", "{\"name\":\"a\",\"name\":\"b\"}"] {
            let (dry, real) = (raw(&app, "/admin/env-plan", body).await, raw(&app, "/workspaces", body).await);
            assert_eq!((dry.status, dry.text), (real.status, real.text), "{body:?}");
            assert_eq!(real.status, 400, "{body:?}");
        }
        let (dry, real) = (
            raw(&app, "/admin/env-plan", vec![0xff, 0xfe]).await,
            raw(&app, "/workspaces", vec![0xff, 0xfe]).await,
        );
        assert_eq!((dry.status, dry.text), (real.status, real.text));
        let reply = raw(&app, "/admin/env-plan", vec![b' '; MIB + 1]).await;
        reply.assert_error(413, "request body too large");
        assert!(contents(&app).await == before, "something was stored");
    }

    async fn nothing_is_stored_started_or_told(engine: Engine) {
        let (hook, _) = scripted("hook", &[("FROM_HOOK", Some("1"))]);
        let app = strict(engine).hook(hook).start().await;
        let mut events = app.events();
        let parent = started(&app, named("parent")).await;
        while events.try_recv().is_ok() {}
        let (before, starts) = (contents(&app).await, app.backend.starts().len());
        let body = json!({
            "name": "Dry Run", "role": "tester", "model": "openai/large", "parent_id": parent,
            "secrets": { "A": "1" }, "initial_memories": [{ "content": "m", "scope": "LOCAL" }],
        });
        let reply = try_out(&app, body.clone()).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert!(contents(&app).await == before, "something was stored");
        assert_eq!(app.backend.starts().len(), starts);
        assert!(events.try_recv().is_err(), "nothing happened");

        let dry = reply.json();
        assert_eq!((dry["made_up_id"].clone(), dry["booted"].clone()), (json!(true), Value::Null));
        let id = dry["workspace_id"].as_str().expect("an id");
        ask(&app, id).await.assert_error(404, "workspace not found");

        // The boot that follows a create is the one that was told.
        let real = started(&app, body).await;
        let real = plan(&app, &real).await;
        let shape = |plan: &Value| -> Vec<Value> {
            let mut keys = plan["keys"].as_array().expect("keys").clone();
            for key in &mut keys {
                key["hash"] = Value::Null;
            }
            keys
        };
        assert_eq!(shape(&dry), shape(&real));
        assert_eq!(winner(&dry, "LLM_PROVIDER"), "workspace_secret");
    }

    async fn model_and_runtime_of_the_template_count_and_ones_own_secret_wins(engine: Engine) {
        let root = templates(&[("hermes", "runtime: hermes\nruntime_config:\n  model: anthropic/small\n")]);
        let dir = root.path().to_owned();
        let app = strict(engine)
            .config(move |config| config.workspaces.templates_dir = Some(dir))
            .start().await;
        let body = json!({ "name": "one", "template": "hermes", "secrets": { "MODEL_PROVIDER": "mine" } });
        let plan = try_out(&app, body).await.json();
        for name in ["MODEL", "HERMES_DEFAULT_MODEL"] {
            assert_eq!(writers(&plan, name), ["identity"]);
        }
        assert_eq!(writers(&plan, "MODEL_PROVIDER"), ["workspace_secret"]);
        assert_eq!(key(&plan, "LLM_PROVIDER")["present"], true);
    }

    async fn a_payload_of_almost_a_mebibyte_is_explained(engine: Engine) {
        let app = strict(engine).start().await;
        let secrets: serde_json::Map<String, Value> = (0..15)
            .map(|number| (format!("BIG_{number}"), json!("x".repeat(64 * 1024))))
            .collect();
        let reply = try_out(&app, json!({ "name": "big", "secrets": secrets })).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert!(reply.text.len() < 20_000, "{}", reply.text.len());
    }

    async fn nothing_boots_an_external_workspace(engine: Engine) {
        let app = strict(engine).start().await;
        let id = app.create(json!({ "name": "elsewhere", "external": true })).await;
        let reply = ask(&app, &id).await;
        reply.assert_error(409, "workspace is external: the platform does not boot its agent");
        for body in [json!({ "name": "x", "external": true }), json!({ "name": "x", "runtime": "external" })] {
            let reply = try_out(&app, body).await;
            reply.assert_error(400, "invalid workspace payload");
            let detail = reply.json()["detail"].as_str().unwrap_or_default().to_owned();
            assert!(detail.starts_with("external:"), "{detail}");
        }
    }
}
