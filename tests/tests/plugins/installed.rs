//! `GET /workspaces/{id}/plugins`, `…/available`, `…/compatibility`.

use molecule_tests::fake_plugins::PluginFault;
use molecule_tests::support::{Agent, fields};
use molecule_tests::{ADMIN, Engine, TestApp, on_both_engines};
use serde_json::{Value, json};

use crate::ground::{agent, installed, list, put, put_usual, server, set};

const UNKNOWN: &str = "7aa08951-00d1-4c3e-9d6a-0123456789ab";

async fn get(app: &TestApp, id: &str, rest: &str) -> Value {
    let path = format!("/workspaces/{id}/plugins{rest}");
    let reply = app.get(&path).bearer(ADMIN).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("a list").iter();
    list.map(|plugin| plugin["name"].as_str().expect("a name"))
        .collect()
}

on_both_engines! {
    async fn what_is_installed_is_listed_by_name_with_all_that_is_known(engine: Engine) {
        let app = server(engine).start().await;
        put(&app, "b", &[("plugin.yaml",
            "name: another\nversion: '1.2'\ndescription: d\nauthor: a\ntags: [t, 5]\nskills: [s]\nruntimes: [claude_code]")]);
        put(&app, "c", &[("plugin.yaml", "runtimes: [langgraph]")]);
        let agent = agent(&app).await;
        let answer = installed(&app, &agent.id, "b").await;
        installed(&app, &agent.id, "c").await;
        let plugins = &app.backend.plugins;
        plugins.plant(&agent.id, "a-by-hand", &[("plugin.yaml", ": no yaml [")], None);
        plugins.plant(&agent.id, "old", &[], Some(""));
        let listed = list(&app, &agent.id).await;
        assert_eq!(names(&listed), ["a-by-hand", "b", "c", "old"]);
        let b = &listed[1];
        let all = [
            "name", "version", "description", "author", "tags", "skills", "runtimes",
            "supported_on_runtime", "installed", "complete", "source", "tracked_ref", "update_mode",
            "installed_sha", "tree_sha256", "installed_at", "delivery_error", "receipt",
        ];
        assert_eq!(fields(b), all.into());
        for (field, value) in [
            ("version", json!("1.2")),
            ("tags", json!(["t"])),
            ("skills", json!(["s"])),
            ("runtimes", json!(["claude_code"])),
            ("supported_on_runtime", json!(true)),
            ("installed", json!(true)),
            ("complete", json!(true)),
            ("source", json!("local://b")),
            ("tracked_ref", json!("none")),
            ("update_mode", json!("notify")),
            ("installed_sha", Value::Null),
            ("tree_sha256", answer["tree_sha256"].clone()),
        ] {
            assert_eq!(b[field], value, "{field}");
        }
        assert_eq!(b["receipt"]["wanted"]["tree_sha256"], answer["tree_sha256"]);
        assert_eq!(b["receipt"]["delivered"]["tree_sha256"], answer["tree_sha256"]);
        assert_eq!(b["receipt"]["state"], "unknown", "the agent says nothing");
        assert_eq!(listed[2]["supported_on_runtime"], false);
        let by_hand = &listed[0];
        assert_eq!((&by_hand["version"], &by_hand["tags"]), (&json!(""), &json!([])));
        assert_eq!((&by_hand["complete"], &by_hand["source"]), (&json!(false), &Value::Null));
        assert_eq!(by_hand["receipt"]["state"], "untracked");
        assert_eq!(by_hand["supported_on_runtime"], true, "it may be tried everywhere");
        assert_eq!(listed[3]["complete"], true, "its marker is of another make");
    }

    async fn nothing_is_listed_when_nothing_runs_or_nobody_can_look(engine: Engine) {
        let app = server(engine).start().await;
        put_usual(&app, "careful", "1.0");
        let agent = agent(&app).await;
        installed(&app, &agent.id, "careful").await;
        let far = app.create(json!({ "name": "far", "external": true })).await;
        for id in [&far, UNKNOWN] {
            assert_eq!(list(&app, id).await, json!([]));
        }
        app.backend.plugins.set_fault(PluginFault::ListFails);
        assert_eq!(list(&app, &agent.id).await, json!([]));
        assert_eq!(names(&list(&app, &agent.id).await), ["careful"]);
        app.backend.set_unknown(true);
        assert_eq!(list(&app, &agent.id).await, json!([]));
        app.backend.set_unknown(false);
        app.backend.kill(&agent.id);
        assert_eq!(list(&app, &agent.id).await, json!([]));
        let wanted = get(&app, &agent.id, "?include=wanted").await;
        assert_eq!((names(&wanted), &wanted[0]["installed"]), (vec!["careful"], &json!(false)));
        assert_eq!(wanted[0]["receipt"]["state"], "unknown");
    }

    async fn what_should_be_there_and_is_not_is_shown_on_request(engine: Engine) {
        let app = server(engine).start().await;
        put_usual(&app, "careful", "1.0");
        put_usual(&app, "other", "1.0");
        let agent = agent(&app).await;
        installed(&app, &agent.id, "careful").await;
        installed(&app, &agent.id, "other").await;
        app.backend.plugins.lose(&agent.id, "careful");
        assert_eq!(names(&list(&app, &agent.id).await), ["other"]);
        let wanted = get(&app, &agent.id, "?include=wanted").await;
        assert_eq!(names(&wanted), ["careful", "other"]);
        assert_eq!(wanted[0]["receipt"]["state"], "not_delivered");
        assert_eq!((&wanted[0]["installed"], &wanted[1]["installed"]), (&json!(false), &json!(true)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn available_are_those_that_work_with_the_runtime() {
    let app = server(Engine::Sqlite).start().await;
    put(&app, "all", &[("plugin.yaml", "version: '1'")]);
    put(
        &app,
        "ours",
        &[("plugin.yaml", "runtimes: [claude_code, x]")],
    );
    put(&app, "theirs", &[("plugin.yaml", "runtimes: [langgraph]")]);
    put(
        &app,
        "Claude",
        &[("plugin.yaml", "runtimes: [Claude-Code]")],
    );
    let agent = agent(&app).await;
    assert_eq!(
        names(&get(&app, &agent.id, "/available").await),
        ["all", "ours"]
    );
    // The runtime cannot be looked up: everything.
    for id in [UNKNOWN] {
        let listed = get(&app, id, "/available").await;
        assert_eq!(names(&listed), ["Claude", "all", "ours", "theirs"]);
    }
    set(&app, &agent.id, "runtime = 'langgraph'").await;
    assert_eq!(
        names(&get(&app, &agent.id, "/available").await),
        ["all", "theirs"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compatibility_is_told_for_any_runtime() {
    let app = server(Engine::Sqlite).start().await;
    let agent = agent(&app).await;
    let plugins = &app.backend.plugins;
    plugins.plant(
        &agent.id,
        "b",
        &[("plugin.yaml", "runtimes: [langgraph]")],
        None,
    );
    plugins.plant(
        &agent.id,
        "a",
        &[("plugin.yaml", "runtimes: [claude-code]")],
        None,
    );
    plugins.plant(&agent.id, "c", &[], None);
    let found = get(&app, &agent.id, "/compatibility?runtime=claude_code").await;
    assert_eq!(
        fields(&found),
        [
            "target_runtime",
            "compatible",
            "incompatible",
            "all_compatible"
        ]
        .into()
    );
    assert_eq!(found["target_runtime"], "claude_code");
    assert_eq!(names(&found["compatible"]), ["a", "c"]);
    assert_eq!(names(&found["incompatible"]), ["b"]);
    assert_eq!(found["all_compatible"], false);

    let path = format!("/workspaces/{}/plugins/compatibility", agent.id);
    for path in [
        path.clone(),
        format!("{path}?runtime="),
        format!("{path}?Runtime=x"),
    ] {
        let reply = app.get(&path).bearer(ADMIN).send().await;
        reply.assert_error(400, "runtime query parameter is required");
    }
    plugins.set_fault(PluginFault::ListFails);
    let reply = app
        .get(&format!("{path}?runtime=x"))
        .bearer(ADMIN)
        .send()
        .await;
    reply.assert_error(500, "failed to list installed plugins");
    app.backend.kill(&agent.id);
    let found = get(&app, &agent.id, "/compatibility?runtime=x").await;
    assert_eq!(
        (&found["compatible"], &found["incompatible"]),
        (&json!([]), &json!([]))
    );
    assert_eq!(found["all_compatible"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_itself_may_look_and_others_may_not() {
    let app = server(Engine::Sqlite).start().await;
    let one = agent(&app).await;
    let other = Agent::online(&app, json!({ "name": "other" })).await;
    for rest in ["", "/available", "/compatibility?runtime=x"] {
        let path = format!("/workspaces/{}/plugins{rest}", one.id);
        assert_eq!(
            app.get(&path).bearer(&one.token).send().await.status,
            200,
            "{rest}"
        );
        assert_eq!(
            app.get(&path).bearer(&other.token).send().await.status,
            401,
            "{rest}"
        );
        assert_eq!(app.get(&path).send().await.status, 401, "{rest}");
        let path = format!("/workspaces/no-uuid/plugins{rest}");
        let reply = app.get(&path).bearer(ADMIN).send().await;
        reply.assert_error(400, "invalid workspace ID");
    }
}
