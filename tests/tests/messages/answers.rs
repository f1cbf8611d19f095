//! What becomes of an agent's answer.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use molecule_tests::{ADMIN, Engine};
use serde_json::{Value, json};

use crate::raw_agent::RawAgent;
use crate::stand_in::{Heard, StandIn};
use crate::tools::{online, post, send, server};

const MAX_ANSWER_BYTES: usize = 10 * 1024 * 1024;

/// Answers as the text of the message says: a status, a space, a body.
async fn obey(heard: Heard) -> Response {
    let text = heard.body.pointer("/params/message/parts/0/text");
    let text = text.and_then(Value::as_str).expect("a text");
    let (status, body) = text.split_once(' ').expect("a status and a body");
    let status = StatusCode::from_bytes(status.as_bytes()).expect("a status");
    let headers = [
        ("location", "/elsewhere"),
        ("set-cookie", "agent=1"),
        ("content-type", "text/html"),
    ];
    (status, headers, body.to_owned()).into_response()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_answer_passes_as_it_is_and_a_bad_one_as_a_status_and_a_sentence() {
    let stand_in = StandIn::start(obey).await;
    let app = server(Engine::Sqlite, &stand_in.url).await;
    let agent = online(&app, json!({ "name": "dev" })).await;
    let rpc_error = r#"{ "jsonrpc":"2.0", "id":1, "error":{"code":-32000, "message":"no"} }"#;
    let table = [
        // (said, status, body)
        (format!("200 {rpc_error}"), 200, rpc_error),
        ("201 not json".to_owned(), 201, "not json"),
        ("200 ".to_owned(), 200, ""),
        ("202 {}".to_owned(), 202, "{}"),
        (
            r#"400 {"error":"no parts"}"#.to_owned(),
            400,
            r#"{"error":"no parts"}"#,
        ),
        (
            r#"429 {"error":"slow down","x":1}"#.to_owned(),
            429,
            r#"{"error":"slow down"}"#,
        ),
        (
            r#"500 {"error":{"code":1}}"#.to_owned(),
            500,
            r#"{"error":"Internal Server Error"}"#,
        ),
        ("404 <html>".to_owned(), 404, r#"{"error":"Not Found"}"#),
        ("401 ".to_owned(), 401, r#"{"error":"Unauthorized"}"#),
        // It runs, so this is what it says and not its death.
        ("502 ".to_owned(), 502, r#"{"error":"Bad Gateway"}"#),
        ("503 ".to_owned(), 503, r#"{"error":"Service Unavailable"}"#),
        ("504 ".to_owned(), 504, r#"{"error":"Gateway Timeout"}"#),
        ("521 ".to_owned(), 521, r#"{"error":"agent error"}"#),
        ("799 ".to_owned(), 799, r#"{"error":"agent error"}"#),
        // Nobody is sent elsewhere.
        ("302 ".to_owned(), 502, r#"{"error":"Found"}"#),
        ("308 ".to_owned(), 502, r#"{"error":"Permanent Redirect"}"#),
    ];
    let count = table.len();
    for (said, status, body) in table {
        let reply = send(&app, &agent.id, &said).send().await;
        assert_eq!(
            (reply.status, reply.text.as_str()),
            (status, body),
            "{said}"
        );
        assert_eq!(
            reply.header("content-type"),
            Some("application/json"),
            "{said}"
        );
        assert_eq!(
            (reply.header("location"), reply.header("set-cookie")),
            (None, None)
        );
    }
    let heard = stand_in.heard();
    assert_eq!(
        heard.len(),
        count,
        "a redirect was followed or a call repeated"
    );
    assert!(heard.iter().all(|heard| heard.path == "/agent"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_has_ten_mebibytes_at_most() {
    let stand_in = StandIn::start(async |heard: Heard| {
        let text = heard.body.pointer("/params/message/parts/0/text");
        let size: usize = text
            .and_then(Value::as_str)
            .expect("a text")
            .parse()
            .expect("a size");
        "x".repeat(size).into_response()
    })
    .await;
    let app = server(Engine::Sqlite, &stand_in.url).await;
    let agent = online(&app, json!({ "name": "dev" })).await;
    let most = send(&app, &agent.id, &MAX_ANSWER_BYTES.to_string())
        .send()
        .await;
    assert_eq!((most.status, most.text.len()), (200, MAX_ANSWER_BYTES));
    let more = send(&app, &agent.id, &(MAX_ANSWER_BYTES + 1).to_string())
        .send()
        .await;
    let expected = json!({ "error": "failed to read agent response", "delivery_confirmed": true });
    assert_eq!((more.status, more.json()), (502, expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_says_whether_the_message_arrived() {
    for (answer, delivered) in [
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"half",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"hal\r\n",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n",
            true,
        ),
        ("HTTP/1.1 302 Found\r\ncontent-length: 100\r\n\r\n", true),
        (
            "HTTP/1.1 500 Oh\r\ncontent-length: 100\r\n\r\n{\"error\":",
            false,
        ),
    ] {
        let agent = RawAgent::start(answer).await;
        let app = server(Engine::Sqlite, &agent.url).await;
        let workspace = online(&app, json!({ "name": "dev" })).await;
        let reply = send(&app, &workspace.id, "hi").send().await;
        let expected =
            json!({ "error": "failed to read agent response", "delivery_confirmed": delivered });
        assert_eq!((reply.status, reply.json()), (502, expected), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http_is_no_agent_and_who_hangs_up_is_busy() {
    let endless_head = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(2 * 1024 * 1024));
    let unreachable = "failed to reach workspace agent";
    let busy = "workspace agent busy — retry after a short backoff";
    for (answer, status, error) in [
        ("SSH-2.0-OpenSSH_9.9\r\n", 502, unreachable),
        ("HTTP/1.1 banana\r\n\r\n", 502, unreachable),
        (
            "\u{16}\u{3}\u{1}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}",
            502,
            unreachable,
        ),
        (endless_head.as_str(), 502, unreachable),
        // A change of the protocol is not for callers.
        (
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            502,
            "Switching Protocols",
        ),
        // Probably at work on it.
        ("", 503, busy),
        ("HTTP/1.1 200 OK\r\ncontent-", 503, busy),
    ] {
        let agent = RawAgent::start(answer).await;
        let app = server(Engine::Sqlite, &agent.url).await;
        let workspace = online(&app, json!({ "name": "dev" })).await;
        let reply = send(&app, &workspace.id, "hi").send().await;
        let head: String = answer.chars().take(40).collect();
        assert_eq!(
            (reply.status, reply.error()),
            (status, error.to_owned()),
            "{head:?}: {}",
            reply.text
        );
        assert!(
            !reply.text.contains("SSH") && !reply.text.contains("127.0.0.1"),
            "{}",
            reply.text
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_external_agent_is_called_only_where_its_url_may_lead() {
    // Given external agents that claim to be on this machine and elsewhere
    let stand_in = StandIn::echo().await;
    let app = server(Engine::Sqlite, &stand_in.url).await;
    let local = stand_in.url.replace("127.0.0.1", "localhost");
    let urls = [
        stand_in.url.as_str(),
        &local,
        "http://169.254.169.254/latest",
        "http://[::1]:9/",
        "http://10.0.0.1/",
        "http://0.0.0.0:80/",
        "ftp://203.0.113.9/",
        "http://nowhere.invalid/",
    ];
    for (number, url) in urls.into_iter().enumerate() {
        let name = format!("far {number}");
        let id = app.create(json!({ "name": name, "external": true })).await;
        let sql = format!(
            "UPDATE workspaces SET status = 'online', url = '{url}' WHERE id = {}",
            molecule_tests::support::sql_id(Engine::Sqlite, &id)
        );
        app.database.execute(&sql).await;
        let reply = post(&app, &id, "{}").bearer(ADMIN).send().await;
        reply.assert_error(502, "workspace URL is not publicly routable");
    }
    assert!(stand_in.heard().is_empty());
}
