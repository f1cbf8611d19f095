//! Habits of the wire that every route shares.

use molecule_tests::{ADMIN, Engine, Reply, TestApp};
use serde_json::json;

use crate::support::{Agent, any_token, raw, registration, strict};

const UNKNOWN: &str = "7aa08951-00d1-4c3e-9d6a-0123456789ab";

/// One reply of every kind.
async fn replies(app: &TestApp, agent: &Agent) -> Vec<Reply> {
    let requests = [
        app.get("/health"),
        app.get("/readyz"),
        app.get("/metrics"),
        app.get("/openapi.json"),
        app.get("/admin/liveness").bearer(ADMIN),
        app.get("/workspaces").bearer(ADMIN),
        app.get("/workspaces"),
        app.post("/workspaces", json!({ "name": "" })).bearer(ADMIN),
        app.post("/workspaces", json!({ "name": "made", "external": true }))
            .bearer(ADMIN),
        app.get(&format!("/workspaces/{}", agent.id)),
        app.get(&format!("/workspaces/{UNKNOWN}")),
        app.get("/workspaces/nope"),
        app.delete(&format!("/workspaces/{UNKNOWN}")).bearer(ADMIN),
        app.get(&agent.token_path()).bearer(&agent.token),
        app.get(&agent.token_path()),
        agent.register(app),
        agent.beat(app, json!({})),
        app.post("/registry/heartbeat", json!({})),
        app.get("/nothing"),
        app.request("PUT", "/health"),
        app.request("HEAD", "/health"),
    ];
    let mut found = Vec::new();
    for request in requests {
        found.push(request.send().await);
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_is_compact_and_says_what_it_is() {
    let app = strict(Engine::Sqlite).hook(any_token()).start().await;
    let agent = Agent::start(&app, json!({ "name": "one" })).await;
    for reply in replies(&app, &agent).await {
        if reply.header("content-type") == Some("application/json; charset=utf-8")
            && !reply.text.is_empty()
        {
            // The order of fields is free, the number of bytes is not.
            assert_eq!(
                reply.text.len(),
                reply.json().to_string().len(),
                "{}",
                reply.text
            );
        }
        if reply.status >= 400 {
            assert!(reply.json()["error"].is_string(), "{}", reply.text);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_response_carries_an_id_of_its_own_and_the_security_headers() {
    let app = strict(Engine::Sqlite).hook(any_token()).start().await;
    let agent = Agent::start(&app, json!({ "name": "one" })).await;
    let mut ids = std::collections::BTreeSet::new();
    for reply in replies(&app, &agent).await {
        let expected = [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            (
                "strict-transport-security",
                "max-age=31536000; includeSubDomains",
            ),
            ("referrer-policy", "strict-origin-when-cross-origin"),
            (
                "permissions-policy",
                "camera=(), microphone=(), geolocation=()",
            ),
        ];
        // Two forms, by path; tests of the shell tell them apart.
        let csp = reply.header("content-security-policy").unwrap_or_default();
        assert!(csp.starts_with("default-src 'self'"), "{csp}");
        for (name, value) in expected {
            assert_eq!(reply.header(name), Some(value), "{name} of {}", reply.text);
        }
        let id = reply.header("x-request-id").expect("an id").to_owned();
        assert!(ids.insert(id), "the same id twice");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callers_request_id_is_kept_when_it_is_plain() {
    let app = strict(Engine::Sqlite).start().await;
    for id in ["a", "trace-01_x.y", &"z".repeat(64)] {
        for path in ["/health", "/nothing", "/workspaces"] {
            let reply = app.get(path).header("x-request-id", id).send().await;
            assert_eq!(reply.header("x-request-id"), Some(id), "{path}");
        }
    }
    for id in ["", "a b", "a\"b", "<x>", "a/b", "ä", &"z".repeat(65)] {
        let reply = app.get("/health").header("x-request-id", id).send().await;
        let given = reply.header("x-request-id").expect("an id");
        assert!(given != id && given.len() == 32, "{id:?} became {given:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strange_paths_and_queries_get_a_json_answer() {
    let app = strict(Engine::Sqlite).start().await;
    for id in [
        "nope",
        "7aa08951",
        "%FF",
        "%00",
        "{id}",
        "7aa08951-00d1-4c3e-9d6a-0123456789abc",
    ] {
        let path = format!("/workspaces/{id}");
        app.get(&path)
            .send()
            .await
            .assert_error(400, "invalid workspace ID");
        app.delete(&path)
            .bearer(ADMIN)
            .send()
            .await
            .assert_error(400, "invalid workspace ID");
    }
    let agent = Agent::start(&app, json!({ "name": "one" })).await;
    let path = format!("/workspaces/{}", agent.id);
    for query in [
        "?include_removed=true&include_removed=true",
        "?include_removed",
        "?%FF=%FF",
        "?=&&",
        "?include_removed=%FF",
    ] {
        let reply = app.get(&format!("{path}{query}")).send().await;
        assert_eq!(reply.status, 200, "{query}: {}", reply.text);
    }
    let reply = app
        .delete(&format!("{path}?confirm=true&confirm=true&purge=false"))
        .bearer(ADMIN)
        .send()
        .await;
    assert_eq!(
        reply.json(),
        json!({ "status": "removed", "cascade_deleted": 0 })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_no_http_ends_only_itself() {
    let app = strict(Engine::Sqlite).start().await;
    for bytes in [
        b"\x16\x03\x01\x02\x00".as_slice(),
        b"GET\r\n\r\n",
        b"\r\n\r\n\r\n\r\nx y z\r\n\r\n",
    ] {
        let _ = raw(&app, bytes).await;
    }
    let long = format!(
        "GET /{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        "a".repeat(100_000)
    );
    let answer = raw(&app, long.as_bytes()).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
    assert_eq!(app.get("/health").send().await.status, 200);
    let reply = app
        .post("/registry/register", registration(UNKNOWN))
        .bearer("x")
        .send()
        .await;
    reply.assert_error(404, "workspace not found");
}
