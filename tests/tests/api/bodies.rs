//! Request bodies: what is refused, what is said about it, and that nothing of
//! it is stored.

use molecule_tests::{ADMIN, Engine, eventually, on_both_engines};
use serde_json::{Value, json};

use crate::support::{Agent, raw, strict};

/// Bodies that are no JSON object of the right shape, whatever the route.
fn broken() -> Vec<Vec<u8>> {
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    [
        "",
        " ",
        "{",
        "}",
        "nope",
        "null",
        "true",
        "7",
        "\"text\"",
        "[]",
        "[{}]",
        "{}{}",
        "{} x",
        "{'a':1}",
        "{\"a\":1,}",
        "{\"a\":\"\\ud800\"}",
        "\u{feff}{}",
    ]
    .into_iter()
    .map(|text| text.as_bytes().to_vec())
    .chain([
        nested(100_000).into_bytes(),
        b"\xff\xfe{}".to_vec(),
        b"{\"name\":\"\xff\"}".to_vec(),
        vec![0; 10],
    ])
    .collect()
}

on_both_engines! {
    async fn what_is_not_a_workspace_is_refused_and_nothing_is_stored(engine: Engine) {
        let app = strict(engine).start().await;
        let empty = app.database.dump().await;
        let mut bodies = broken();
        let many: serde_json::Map<String, Value> = (0..10_000)
            .map(|n| (format!("KEY_{n}"), json!("v")))
            .collect();
        bodies.extend(
            [
                r#"{"name":5}"#.to_owned(),
                r#"{"name":["a"]}"#.to_owned(),
                r#"{"name":"a"} x"#.to_owned(),
                r#"{"name":"a","tier":"x"}"#.to_owned(),
                r#"{"name":"a","tier":1.0}"#.to_owned(),
                r#"{"name":"a","tier":1e0}"#.to_owned(),
                r#"{"name":"a","tier":99999999999999999999}"#.to_owned(),
                r#"{"name":"a","external":"yes"}"#.to_owned(),
                r#"{"name":"a","external":1}"#.to_owned(),
                r#"{"name":"a","budget_limit":1.0}"#.to_owned(),
                r#"{"name":"a","max_concurrent_tasks":"1"}"#.to_owned(),
                r#"{"name":"a","canvas":"here"}"#.to_owned(),
                r#"{"name":"a","canvas":{"x":"1"}}"#.to_owned(),
                r#"{"name":"a","canvas":{"x":1e999}}"#.to_owned(),
                r#"{"name":"a","secrets":{"A":1}}"#.to_owned(),
                r#"{"name":"a","secrets":[["A","b"]]}"#.to_owned(),
                r#"{"name":"a","parent_id":7}"#.to_owned(),
                r#"["a",null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null]"#.to_owned(),
                format!(r#"{{"name":{}1{}}}"#, "[".repeat(50_000), "]".repeat(50_000)),
            ]
            .map(String::into_bytes),
        );
        for body in bodies {
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            let reply = app
                .request("POST", "/workspaces")
                .bearer(ADMIN)
                .body(body)
                .send()
                .await;
            assert_eq!(
                (reply.status, reply.error().as_str()),
                (400, "invalid workspace payload"),
                "{shown}: {}",
                reply.text
            );
            assert!(
                reply.json()["detail"].is_string(),
                "{shown}: {}",
                reply.text
            );
        }
        let reply = app
            .post("/workspaces", json!({ "name": "a", "secrets": many }))
            .bearer(ADMIN)
            .send()
            .await;
        reply.assert_error(400, "invalid workspace fields");
        assert_eq!(app.database.dump().await, empty);
        assert_eq!(app.backend.starts().len(), 0);
    }

    async fn what_is_not_a_registry_call_is_refused_and_changes_nothing(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let before = app.database.dump().await;
        let id = &agent.id;
        let register = [
            format!(r#"{{"id":"{id}","url":"http://localhost:1"}}"#),
            format!(r#"{{"id":"{id}","agent_card":{{}}}}"#),
            format!(r#"{{"id":"{id}","url":"","agent_card":{{}}}}"#),
            format!(r#"{{"id":"{id}","url":5,"agent_card":{{}}}}"#),
            format!(r#"{{"id":"{id}","url":"http://localhost:1","agent_card":{{}}}} x"#),
            format!(r#"["{id}","http://localhost:1",{{}}]"#),
            format!(
                r#"{{"id":"{id}","url":"http://localhost:1","agent_card":{}{}}}"#,
                "[".repeat(10_000),
                "]".repeat(10_000)
            ),
            r#"{"url":"http://localhost:1","agent_card":{}}"#.to_owned(),
            r#"{"id":"nope","url":"http://localhost:1","agent_card":{}}"#.to_owned(),
            r#"{"id":7,"url":"http://localhost:1","agent_card":{}}"#.to_owned(),
        ];
        let heartbeat = [
            r#"{"workspace_id":"nope"}"#.to_owned(),
            r#"{"workspace_id":7}"#.to_owned(),
            format!(r#"{{"workspace_id":"{id}","active_tasks":1.0}}"#),
            format!(r#"{{"workspace_id":"{id}","active_tasks":"1"}}"#),
            format!(r#"{{"workspace_id":"{id}","active_tasks":-1}}"#),
            format!(r#"{{"workspace_id":"{id}","uptime_seconds":-1}}"#),
            format!(r#"{{"workspace_id":"{id}","error_rate":"x"}}"#),
            format!(r#"{{"workspace_id":"{id}","error_rate":-0.5}}"#),
            format!(r#"{{"workspace_id":"{id}","error_rate":1e999}}"#),
            format!(r#"{{"workspace_id":"{id}","monthly_spend":1.0}}"#),
            format!(r#"{{"workspace_id":"{id}","current_task":7}}"#),
            format!(r#"{{"workspace_id":"{id}","runtime_state":7}}"#),
            format!(r#"{{"workspace_id":"{id}","runtime_metadata":[]}}"#),
            format!(
                r#"{{"workspace_id":"{id}","runtime_metadata":{{"capabilities":{{"status_mgmt":"yes"}}}}}}"#
            ),
            format!(
                r#"{{"workspace_id":"{id}","runtime_metadata":{{"idle_timeout_seconds":1.5}}}}"#
            ),
            format!(r#"["{id}",0.1,null,null,null,null,null,null,null]"#),
        ];
        for (path, own) in [
            ("/registry/register", register.to_vec()),
            ("/registry/heartbeat", heartbeat.to_vec()),
        ] {
            let bodies = broken()
                .into_iter()
                .chain(own.into_iter().map(String::into_bytes));
            for body in bodies {
                let shown = String::from_utf8_lossy(&body[..body.len().min(90)]).into_owned();
                let reply = app
                    .request("POST", path)
                    .bearer(&agent.token)
                    .body(body)
                    .send()
                    .await;
                assert_eq!(
                    (reply.status, reply.error().as_str()),
                    (400, "invalid request body"),
                    "{path} {shown}: {}",
                    reply.text
                );
                assert!(
                    reply.json()["detail"].is_string(),
                    "{path} {shown}: {}",
                    reply.text
                );
            }
        }
        assert_eq!(app.database.dump().await, before);
    }

    async fn the_character_that_postgres_cannot_store_is_nobodys_trouble(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let other = Agent::online(&app, json!({ "name": "two" })).await;
        for card in [
            json!({ "name": "a\u{0}b" }),
            json!({ "a\u{0}b": [1] }),
            json!("\u{0}"),
        ] {
            let body = json!({ "id": agent.id, "url": "http://localhost:1", "agent_card": card });
            let reply = app
                .post("/registry/register", body)
                .bearer(&agent.token)
                .send()
                .await;
            reply.assert_error(400, "invalid request body");
        }
        let body = json!({ "id": agent.id, "url": "http://localhost:1/\u{0}", "agent_card": {} });
        let reply = app
            .post("/registry/register", body)
            .bearer(&agent.token)
            .send()
            .await;
        reply.assert_error(400, "invalid request body");
        let body = json!({ "name": "far", "external": true, "url": "http://agent.example/\u{0}" });
        let reply = app.post("/workspaces", body).bearer(ADMIN).send().await;
        reply.assert_error(400, "invalid workspace fields");
        for field in [
            "name",
            "role",
            "model",
            "runtime",
            "template",
            "workspace_dir",
            "parent_id",
            "delivery_mode",
            "workspace_access",
        ] {
            let mut body = json!({ "name": "x" });
            body[field] = json!("/a\u{0}b");
            let reply = app.post("/workspaces", body).bearer(ADMIN).send().await;
            assert_eq!(reply.status, 400, "{field}: {}", reply.text);
        }

        // In a heartbeat it must not keep the reports of others from being written.
        let poison =
            json!({ "current_task": "a\u{0}b", "sample_error": "c\u{0}d", "error_rate": 0.9 });
        assert_eq!(agent.beat(&app, poison).send().await.status, 200);
        assert_eq!(
            other
                .beat(&app, json!({ "current_task": "mine" }))
                .send()
                .await
                .status,
            200
        );
        eventually("both reports are written", || async {
            let (one, two) = (app.listed(&agent.id).await, app.listed(&other.id).await);
            one.is_some_and(|row| row["current_task"] == "ab" && row["last_sample_error"] == "cd")
                && two.is_some_and(|row| row["current_task"] == "mine")
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn details_never_repeat_what_was_sent() {
    let app = strict(Engine::Sqlite).start().await;
    let bodies = [
        r#"{"name":"a","secrets":{"KEY":{"hunter2-value":1}}}"#,
        r#"{"name":"a","tier":"hunter2-value"}"#,
        r#"{"name":"a","secrets":{"KEY":"hunter2-value"#,
        r#"{"name":"a","secrets":"hunter2-value"}"#,
    ];
    for body in bodies {
        let reply = app
            .request("POST", "/workspaces")
            .bearer(ADMIN)
            .body(body)
            .send()
            .await;
        assert_eq!(reply.status, 400);
        assert!(!reply.text.contains("hunter2"), "{}", reply.text);
    }
    let body = json!({ "name": "a", "secrets": { "KEY": "hunter2\u{0}value" } });
    let reply = app.post("/workspaces", body).bearer(ADMIN).send().await;
    reply.assert_error(400, "invalid workspace fields");
    assert!(!reply.text.contains("hunter2"), "{}", reply.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detail_names_the_field() {
    let app = strict(Engine::Sqlite).start().await;
    let table = [
        (r#"{"name":5}"#, "name: "),
        (r#"{"name":"a","canvas":{"x":"1"}}"#, "canvas.x: "),
        (r#"{"name":"a","secrets":{"KEY":1}}"#, "secrets.KEY: "),
        (r#"{"role":"a"}"#, "name is required"),
    ];
    for (body, start) in table {
        let reply = app
            .request("POST", "/workspaces")
            .bearer(ADMIN)
            .body(body)
            .send()
            .await;
        let detail = reply.json()["detail"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(detail.starts_with(start), "{body}: {detail}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_fields_and_content_types_are_ignored() {
    let app = strict(Engine::Sqlite).start().await;
    for (name, kind) in [
        ("a", "text/plain"),
        ("b", "application/xml"),
        ("c", "application/json; charset=latin1"),
    ] {
        let body = format!(r#" {{"name":"{name}","surprise":{{"x":[1,2]}},"role":null}} "#);
        let reply = app
            .request("POST", "/workspaces")
            .bearer(ADMIN)
            .header("content-type", kind)
            .body(body)
            .send()
            .await;
        assert_eq!(reply.status, 201, "{kind}: {}", reply.text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_a_413_and_the_registry_takes_a_quarter() {
    let app = strict(Engine::Sqlite)
        .config(|config| config.server.max_body_bytes = 8192)
        .start()
        .await;
    let padded = |size: usize| {
        let mut text = r#"{"name":"a","zzz":""#.to_owned();
        text.push_str(&"x".repeat(size - text.len() - 2));
        text + "\"}"
    };
    let post = |path: &str, size: usize| {
        app.request("POST", path)
            .bearer(ADMIN)
            .body(padded(size))
            .send()
    };
    assert_eq!(post("/workspaces", 8192).await.status, 201);
    post("/workspaces", 8193)
        .await
        .assert_error(413, "request body too large");
    for path in ["/registry/register", "/registry/heartbeat"] {
        post(path, 2048)
            .await
            .assert_error(400, "invalid request body");
        post(path, 2049)
            .await
            .assert_error(413, "request body too large");
    }

    // Also when the size is not announced, or announced and not yet sent.
    let head = format!(
        "POST /workspaces HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {ADMIN}\r\n"
    );
    let chunked = format!(
        "{head}transfer-encoding: chunked\r\n\r\n2001\r\n{}\r\n0\r\n\r\n",
        "x".repeat(0x2001)
    );
    let announced = format!("{head}content-length: 1000000000\r\n\r\n");
    for request in [chunked, announced] {
        let answer = raw(&app, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(
            answer.ends_with(r#"{"error":"request body too large"}"#),
            "{answer}"
        );
    }
    // A stranger learns nothing about limits.
    let reply = app
        .request("POST", "/workspaces")
        .body(padded(8193))
        .send()
        .await;
    reply.assert_error(401, "admin auth required");
}
