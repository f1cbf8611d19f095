//! Every route, asked without credentials.

use std::collections::BTreeSet;

use molecule_tests::{ADMIN, Engine, TestApp};
use serde_json::{Value, json};

use crate::support::{Agent, registration, strict};

/// What anyone may ask for. A route joins this list on purpose or not at all.
const PUBLIC: &[(&str, &str)] = &[
    // Clears the caller's own cookie and nothing else.
    ("delete", "/canvas/session"),
    // Where people left the canvas; the wire has it open.
    ("get", "/canvas/viewport"),
    ("get", "/health"),
    ("get", "/metrics"),
    ("get", "/openapi.json"),
    // What this server offers; the wire has both open.
    ("get", "/plugins"),
    ("get", "/plugins/sources"),
    ("get", "/readyz"),
    ("get", "/workspaces/{id}"),
];

async fn operations(app: &TestApp) -> Vec<(String, String, Value)> {
    let document = app.get("/openapi.json").send().await.json();
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            found.push((method.clone(), path.clone(), operation.clone()));
        }
    }
    assert!(found.len() >= 13, "{}", found.len());
    found
}

/// A body that is right in every respect but the caller.
fn body(path: &str, id: &str) -> Value {
    match path {
        "/registry/register" => registration(id),
        "/registry/heartbeat" => json!({ "workspace_id": id }),
        "/registry/update-card" => json!({ "workspace_id": id, "agent_card": {} }),
        "/workspaces" => json!({ "name": "stranger" }),
        _ => json!({}),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_but_the_public_ones_refuses_strangers() {
    let app = strict(Engine::Sqlite)
        // Else that route is not there at all.
        .config(|config| config.auth.test_tokens = true)
        .start()
        .await;
    let agent = Agent::start(&app, json!({ "name": "one" })).await;
    let before = app.database.dump().await;
    let mut open = BTreeSet::new();
    for (method, path, _) in operations(&app).await {
        let request = app
            .request(&method.to_uppercase(), &path.replace("{id}", &agent.id))
            .header("X-Workspace-ID", &agent.id); // claimed, not proven
        let request = match method.as_str() {
            "get" | "delete" => request,
            _ => request.json(body(&path, &agent.id)),
        };
        let reply = request.send().await;
        match reply.status {
            401 => assert!(!reply.error().is_empty(), "{method} {path}"),
            200 => drop(open.insert((method, path))),
            status => panic!("{method} {path}: {status} {}", reply.text),
        }
    }
    let public: BTreeSet<_> = PUBLIC
        .iter()
        .map(|(m, p)| ((*m).to_owned(), (*p).to_owned()))
        .collect();
    assert_eq!(open, public);
    assert_eq!(
        app.database.dump().await,
        before,
        "a stranger changed something"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_calls_exactly_the_public_routes_public() {
    let app = strict(Engine::Sqlite).start().await;
    let open: BTreeSet<_> = operations(&app)
        .await
        .into_iter()
        .filter(|(_, _, operation)| operation["security"] == json!([{}]))
        .map(|(method, path, _)| (method, path))
        .collect();
    let public: BTreeSet<_> = PUBLIC
        .iter()
        .map(|(m, p)| ((*m).to_owned(), (*p).to_owned()))
        .collect();
    assert_eq!(open, public);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_routes_and_wrong_methods_are_a_json_404() {
    let app = strict(Engine::Sqlite).start().await;
    let known: BTreeSet<_> = operations(&app)
        .await
        .into_iter()
        .map(|(m, p, _)| (m, p))
        .collect();
    let paths: BTreeSet<_> = known.iter().map(|(_, path)| path.clone()).collect();
    for path in paths {
        for method in [
            "get", "post", "put", "patch", "delete", "options", "trace", "brew",
        ] {
            if known.contains(&(method.to_owned(), path.clone())) {
                continue;
            }
            let asked = path.replace("{id}", "7aa08951-00d1-4c3e-9d6a-0123456789ab");
            let reply = app
                .request(&method.to_uppercase(), &asked)
                .bearer(ADMIN)
                .send()
                .await;
            reply.assert_error(404, "404 page not found");
        }
    }
    for path in [
        "/",
        "/nothing",
        "/workspaces/a/b/c",
        "/registry",
        "/admin",
        "/HEALTH",
        "//health",
        "/health%2F",
        "/%FF",
    ] {
        let reply = app.get(path).send().await;
        reply.assert_error(404, "404 page not found");
        assert_eq!(
            reply.header("content-type"),
            Some("application/json; charset=utf-8"),
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_get_route_answers_head_with_the_same_status_and_no_body() {
    let app = strict(Engine::Sqlite).start().await;
    let agent = Agent::start(&app, json!({ "name": "one" })).await;
    for (method, path, _) in operations(&app).await {
        // A stream of events has no end to wait for.
        if method != "get" || path.ends_with("/events/stream") {
            continue;
        }
        let path = path.replace("{id}", &agent.id);
        let get = app.get(&path).bearer(ADMIN).send().await;
        let head = app.request("HEAD", &path).bearer(ADMIN).send().await;
        assert_eq!(
            (head.status, head.text.as_str()),
            (get.status, ""),
            "{path}"
        );
        assert_eq!(
            head.header("content-type"),
            get.header("content-type"),
            "{path}"
        );
        assert!(head.header("x-request-id").is_some(), "{path}");
    }
}
