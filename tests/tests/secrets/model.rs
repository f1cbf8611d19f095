//! The model of a workspace.

use molecule_tests::support::{Agent, sql_bytes, sql_id, strict};
use molecule_tests::{ADMIN, Engine, Reply, TestApp, on_both_engines};
use serde_json::{Value, json};

use crate::requests::{admin, assert_saved, noted, set, watch, workspace};

async fn put(app: &TestApp, id: &str, body: Value) -> Reply {
    let path = format!("/workspaces/{id}/model");
    let request = app.request("PUT", &path).json(body);
    request.bearer(ADMIN).send().await
}

async fn get(app: &TestApp, id: &str) -> Value {
    let reply = admin(app, "GET", &format!("/workspaces/{id}/model")).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

/// The keys of a workspace's own secrets.
async fn keys(app: &TestApp, id: &str) -> Vec<String> {
    let list = admin(app, "GET", &format!("/workspaces/{id}/secrets")).await;
    let list = list.json();
    let own = list
        .as_array()
        .expect("a list")
        .iter()
        .filter(|item| item["scope"] == "workspace");
    own.filter_map(|item| item["key"].as_str().map(str::to_owned))
        .collect()
}

/// Whether this is the model in the row, from which agents boot.
async fn boots_with(app: &TestApp, engine: Engine, id: &str, model: Option<&str>) -> bool {
    let model = match model {
        Some(model) => format!("= '{model}'"),
        None => "IS NULL".to_owned(),
    };
    let id = sql_id(engine, id);
    let sql = format!("SELECT count(*) FROM workspaces WHERE id = {id} AND model {model}");
    app.database.count(&sql).await == 1
}

on_both_engines! {
    async fn a_model_is_read_set_changed_and_cleared(engine: Engine) {
        let app = strict(engine).start().await;
        let (id, _) = workspace(&app, "one").await;
        watch(&app, engine).await;
        assert_eq!(get(&app, &id).await, json!({ "model": "", "source": "default" }));
        for (number, (model, expected)) in [
            ("anthropic/claude", &["LLM_PROVIDER", "MODEL_PROVIDER"][..]),
            ("openai/gpt", &["LLM_PROVIDER", "MODEL_PROVIDER"]),
            ("meta/llama", &["MODEL_PROVIDER"]),
        ].into_iter().enumerate() {
            let reply = put(&app, &id, json!({ "model": model })).await;
            assert_eq!((reply.status, reply.json()), (200, json!({ "status": "saved", "model": model })));
            assert_eq!(get(&app, &id).await, json!({ "model": model, "source": "workspace_secrets" }));
            assert_eq!(keys(&app, &id).await, expected);
            assert!(boots_with(&app, engine, &id, Some(model)).await);
            assert_eq!(noted(&app, engine, &id).await, number as i64 + 1);
            // The same again changes nothing
            assert_eq!(put(&app, &id, json!({ "model": model })).await.status, 200);
            assert_eq!(noted(&app, engine, &id).await, number as i64 + 1);
        }
        for requests in [4, 4] {
            let reply = put(&app, &id, json!({ "model": "" })).await;
            assert_eq!((reply.status, reply.json()), (200, json!({ "status": "cleared" })));
            assert_eq!(get(&app, &id).await, json!({ "model": "", "source": "default" }));
            assert!(keys(&app, &id).await.is_empty());
            assert!(boots_with(&app, engine, &id, None).await);
            assert_eq!(noted(&app, engine, &id).await, requests);
        }
        app.shutdown().await;
    }

    async fn the_model_of_the_creation_is_the_one_that_is_read_and_replaced(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one", "model": "anthropic/claude" })).await;
        let env = app.backend.env(&agent.id);
        assert_eq!((env["MODEL"].as_str(), env["LLM_PROVIDER"].as_str()), ("anthropic/claude", "anthropic"));
        assert_eq!(get(&app, &agent.id).await["model"], "anthropic/claude");
        assert_eq!(put(&app, &agent.id, json!({ "model": "openrouter/auto" })).await.status, 200);
        assert!(boots_with(&app, engine, &agent.id, Some("openrouter/auto")).await);
        // The secret under its own name does the same
        let path = format!("/workspaces/{}/secrets", agent.id);
        assert_saved(&set(&app, &path, "MODEL_PROVIDER", "x/y").await, "MODEL_PROVIDER");
        assert!(boots_with(&app, engine, &agent.id, Some("x/y")).await);
        assert_eq!(get(&app, &agent.id).await["model"], "x/y");
        assert_eq!(admin(&app, "DELETE", &format!("{path}/MODEL_PROVIDER")).await.status, 200);
        assert!(boots_with(&app, engine, &agent.id, None).await);
        assert_eq!(get(&app, &agent.id).await["source"], "default");
        app.shutdown().await;
    }

    async fn a_provider_that_somebody_chose_stays(engine: Engine) {
        let app = strict(engine).start().await;
        let (id, path) = workspace(&app, "one").await;
        assert_saved(&set(&app, &path, "LLM_PROVIDER", "my-proxy").await, "LLM_PROVIDER");
        for model in ["anthropic/claude", "meta/llama", ""] {
            assert_eq!(put(&app, &id, json!({ "model": model })).await.status, 200);
            assert!(keys(&app, &id).await.contains(&"LLM_PROVIDER".to_owned()), "{model}");
        }
        let agent = Agent::start(&app, json!({
            "name": "two", "model": "anthropic/claude", "secrets": { "LLM_PROVIDER": "my-proxy" },
        })).await;
        assert_eq!(put(&app, &agent.id, json!({ "model": "openai/gpt" })).await.status, 200);
        assert!(keys(&app, &agent.id).await.contains(&"LLM_PROVIDER".to_owned()));
        app.shutdown().await;
    }

    async fn a_bad_model_is_refused_and_nothing_changes(engine: Engine) {
        let app = strict(engine).start().await;
        let (id, _) = workspace(&app, "one").await;
        assert_eq!(put(&app, &id, json!({ "model": "a/b" })).await.status, 200);
        for body in [
            json!({}), json!({ "model": null }), json!({ "model": 5 }), json!({ "model": ["x"] }), json!([]),
            json!({ "model": "x".repeat(101) }), json!({ "model": "a\nb" }), json!({ "model": "a\0b" }),
            json!({ "model": "a\u{7}b" }),
        ] {
            let reply = put(&app, &id, body.clone()).await;
            reply.assert_error(400, "invalid request body");
            assert!(reply.json()["detail"].is_string(), "{body}");
        }
        put(&app, &id, json!({ "model": "x".repeat(1024 * 1024) })).await.assert_error(413, "request body too large");
        assert_eq!(get(&app, &id).await["model"], "a/b");
        app.shutdown().await;
    }

    async fn a_model_that_does_not_decrypt_is_said_and_can_be_replaced(engine: Engine) {
        let app = strict(engine).start().await;
        let (id, _) = workspace(&app, "one").await;
        assert_eq!(put(&app, &id, json!({ "model": "anthropic/b" })).await.status, 200);
        let damage = sql_bytes(engine, b"\x08deadbeefnonsense");
        app.database.execute(&format!("UPDATE workspace_secrets SET encrypted_value = {damage}")).await;
        let reply = admin(&app, "GET", &format!("/workspaces/{id}/model")).await;
        reply.assert_error(500, "failed to decrypt");
        assert_eq!(put(&app, &id, json!({ "model": "anthropic/c" })).await.status, 200);
        assert_eq!(get(&app, &id).await["model"], "anthropic/c");
        app.shutdown().await;
    }
}
