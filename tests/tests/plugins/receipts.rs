//! Wanted, delivered, loaded: what agents report, and how it is compared.

use molecule_tests::support::{Agent, fields, registration};
use molecule_tests::{ADMIN, Engine, TestApp, on_both_engines};
use serde_json::{Value, json};

use crate::ground::{agent, installed, list, put, put_usual, server, set};

async fn state(app: &TestApp, id: &str) -> Value {
    list(app, id).await[0]["receipt"]["state"].clone()
}

async fn beats(app: &TestApp, agent: &Agent, plugins: Value) {
    let reply = agent.beat(app, json!({ "plugins": plugins })).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

/// What is stored of a report; `-` for null.
async fn stored(app: &TestApp) -> String {
    let sql = "SELECT COALESCE(loaded_plugins, '-') FROM workspaces";
    app.database.text(sql).await
}

async fn report(app: &TestApp, query: &str) -> Value {
    let path = format!("/admin/plugin-receipts{query}");
    let reply = app.get(&path).bearer(ADMIN).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

on_both_engines! {
    async fn a_receipt_follows_a_plugin_from_its_delivery_to_its_loading(engine: Engine) {
        let app = server(engine).start().await;
        put_usual(&app, "careful", "1.0");
        let agent = agent(&app).await;
        let first = installed(&app, &agent.id, "careful").await["tree_sha256"].clone();
        assert_eq!(state(&app, &agent.id).await, "unknown", "the agent says nothing");
        beats(&app, &agent, json!([])).await;
        assert_eq!(state(&app, &agent.id).await, "pending_restart");
        // It started after that.
        set(&app, &agent.id, "provisioned_at = '2099-01-01T00:00:00+00:00'").await;
        assert_eq!(state(&app, &agent.id).await, "not_loaded");
        let with = |digest: &Value, error: Value| {
            json!([{ "name": "careful", "version": "1.0", "tree_sha256": digest, "error": error }])
        };
        beats(&app, &agent, with(&first, json!("no python"))).await;
        assert_eq!(state(&app, &agent.id).await, "load_failed");
        beats(&app, &agent, with(&first, Value::Null)).await;
        assert_eq!(state(&app, &agent.id).await, "in_sync");
        let receipt = &list(&app, &agent.id).await[0]["receipt"];
        assert_eq!(fields(receipt), ["wanted", "delivered", "loaded", "state"].into());
        assert_eq!(receipt["loaded"]["version"], "1.0");
        assert_eq!(receipt["loaded"]["tree_sha256"], first);

        // A new tree, which needs a restart.
        set(&app, &agent.id, "provisioned_at = '2020-01-01T00:00:00+00:00'").await;
        put_usual(&app, "careful", "2.0");
        let second = installed(&app, &agent.id, "careful").await["tree_sha256"].clone();
        assert_eq!(state(&app, &agent.id).await, "pending_restart");
        beats(&app, &agent, with(&second, Value::Null)).await;
        assert_eq!(state(&app, &agent.id).await, "in_sync");

        // Somebody put another one there.
        let marker = json!({ "tree_sha256": "00" }).to_string();
        app.backend.plugins.plant(&agent.id, "careful", &[], Some(&marker));
        assert_eq!(state(&app, &agent.id).await, "differs");
    }

    async fn only_changed_reports_are_written(engine: Engine) {
        let app = server(engine).start().await;
        let agent = agent(&app).await;
        assert_eq!(stored(&app).await, "-");
        beats(&app, &agent, json!([{ "name": "b" }, { "name": "a" }])).await;
        assert_eq!(stored(&app).await, r#"[{"name":"a"},{"name":"b"}]"#);
        // Whoever else wrote to the row meanwhile is not overwritten by a repetition,
        // in whatever order.
        set(&app, &agent.id, "loaded_plugins = 'untouched'").await;
        beats(&app, &agent, json!([{ "name": "a" }, { "name": "b" }])).await;
        assert_eq!(stored(&app).await, "untouched");
        // A heartbeat without a word on plugins says nothing new.
        agent.beat(&app, json!({})).send().await;
        assert_eq!(stored(&app).await, "untouched");
        beats(&app, &agent, json!([{ "name": "a" }])).await;
        assert_eq!(stored(&app).await, r#"[{"name":"a"}]"#);
    }

    async fn a_registration_says_what_is_loaded_or_that_nothing_is_known(engine: Engine) {
        let app = server(engine).start().await;
        let agent = agent(&app).await;
        let register = async |plugins: Option<Value>| {
            let mut body = registration(&agent.id);
            if let Some(plugins) = plugins {
                body["plugins"] = plugins;
            }
            let reply = app.post("/registry/register", body).bearer(&agent.token).send().await;
            assert_eq!(reply.status, 200, "{}", reply.text);
        };
        register(Some(json!([{ "name": "a", "sha": "AB" }]))).await;
        assert_eq!(stored(&app).await, r#"[{"name":"a","sha":"AB"}]"#);
        register(None).await;
        assert_eq!(stored(&app).await, "-");
        // The same as before the registration is news again.
        beats(&app, &agent, json!([{ "name": "a", "sha": "AB" }])).await;
        assert_eq!(stored(&app).await, r#"[{"name":"a","sha":"AB"}]"#);
        register(Some(json!("what?"))).await;
        assert_eq!(stored(&app).await, "-");
    }

    async fn bad_reports_are_left_alone_and_fail_no_heartbeat(engine: Engine) {
        let app = server(engine).start().await;
        let agent = agent(&app).await;
        beats(&app, &agent, json!([{ "name": "a" }])).await;
        for bad in [
            json!(null), json!("a"), json!(5), json!(true), json!({}), json!([5]), json!([[]]),
            json!([{}]), json!([{ "name": 5 }]), json!([{ "name": "a", "version": {} }]),
            json!(vec![json!({ "name": "a" }); 257]),
        ] {
            beats(&app, &agent, bad).await;
            assert_eq!(stored(&app).await, r#"[{"name":"a"}]"#);
        }
        let long = "x".repeat(5000);
        let nul = "1\0 2";
        beats(&app, &agent, json!([
            { "name": "b", "version": nul, "error": long, "tree_sha256": "no digest", "unknown": [1] },
            { "name": "../../etc" },
        ])).await;
        let text = stored(&app).await;
        assert!(text.contains(r#""version":"1 2""#), "{text}");
        assert!(text.len() < 400 && !text.contains("etc") && !text.contains("digest"), "{text}");
    }

    async fn secrets_in_reports_are_masked(engine: Engine) {
        let app = server(engine).start().await;
        let agent = agent(&app).await;
        let error = format!("could not clone with {}", agent.token);
        beats(&app, &agent, json!([{ "name": "a", "error": error }])).await;
        let text = stored(&app).await;
        assert!(text.contains("could not clone with") && !text.contains(&agent.token), "{text}");
    }

    async fn the_report_covers_all_workspaces_page_by_page(engine: Engine) {
        let app = server(engine).start().await;
        for plugin in ["a", "b", "c"] {
            put(&app, plugin, &[("plugin.yaml", "version: '1'")]);
        }
        let mut agents = Vec::new();
        for name in ["one", "two"] {
            let agent = Agent::online(&app, json!({ "name": name })).await;
            for plugin in ["a", "b", "c"] {
                installed(&app, &agent.id, plugin).await;
            }
            agents.push(agent);
        }
        let whole = report(&app, "").await;
        assert_eq!(whole["next_cursor"], Value::Null);
        let all = whole["receipts"].as_array().expect("a list").clone();
        assert_eq!(all.len(), 6);
        let names = [
            "workspace_id", "workspace_name", "workspace_status", "plugin", "delivery_error", "receipt",
        ];
        assert_eq!(fields(&all[0]), names.into());
        assert_eq!(all[0]["receipt"]["state"], "unknown");

        let mut found = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = report(&app, &format!("?limit=2&cursor={cursor}")).await;
            let receipts = page["receipts"].as_array().expect("a list");
            assert!(receipts.len() <= 2);
            found.extend(receipts.clone());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(found, all);

        // No workspace is asked for it.
        let calls = app.backend.plugins.all_calls();
        beats(&app, &agents[0], json!([{ "name": "a" }])).await;
        set(&app, &agents[0].id, "provisioned_at = '2099-01-01T00:00:00+00:00'").await;
        let loaded = report(&app, "?state=in_sync").await;
        assert_eq!(loaded["receipts"].as_array().map(Vec::len), Some(1));
        assert_eq!(loaded["receipts"][0]["plugin"], "a");
        let missing = report(&app, "?state=not_loaded&limit=1").await;
        assert_eq!(missing["receipts"][0]["plugin"], "b");
        assert!(missing["next_cursor"].is_string());
        assert_eq!(app.backend.plugins.all_calls(), calls);

        let sql = "UPDATE workspace_plugins SET delivery_error = 'not_found' WHERE plugin_name = 'c'";
        app.database.execute(sql).await;
        let failed = report(&app, "?state=not_delivered").await;
        assert_eq!(failed["receipts"].as_array().map(Vec::len), Some(2));
        assert_eq!(failed["receipts"][0]["delivery_error"], "not_found");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_report_refuses_what_it_does_not_understand() {
    let app = server(Engine::Sqlite).start().await;
    let agent = agent(&app).await;
    for (query, error) in [
        ("?state=fine", "invalid state"),
        ("?limit=0", "invalid limit"),
        ("?limit=501", "invalid limit"),
        ("?limit=-1", "invalid limit"),
        ("?limit=x", "invalid limit"),
        ("?cursor=x", "invalid cursor"),
        ("?cursor=x/y", "invalid cursor"),
    ] {
        let path = format!("/admin/plugin-receipts{query}");
        let reply = app.get(&path).bearer(ADMIN).send().await;
        reply.assert_error(400, error);
    }
    let reply = app
        .get("/admin/plugin-receipts")
        .bearer(&agent.token)
        .send()
        .await;
    assert_eq!(reply.status, 401);
    assert_eq!(
        report(&app, "").await,
        json!({ "receipts": [], "next_cursor": null })
    );
}
