//! What a message may be, and what its agent gets of it.

use molecule_tests::support::strict;
use molecule_tests::{ADMIN, on_both_engines};
use serde_json::{Value, json};

use crate::stand_in::StandIn;
use crate::tools::{UNKNOWN, call, online, post, send, server};

/// The longest message.
const MAX_BYTES: usize = 1024 * 1024;

on_both_engines! {
    async fn a_message_reaches_the_agent_as_it_is_and_so_does_the_answer(engine: Engine) {
        // Given an online agent
        let stand_in = StandIn::echo().await;
        let app = server(engine, &stand_in.url).await;
        let agent = online(&app, json!({ "name": "dev" })).await;

        // When it gets a message with everything a caller may send along
        let mut sent = call("hello");
        sent["extra"] = json!({ "x": [1, 2.5, null] });
        let reply = post(&app, &agent.id, sent.to_string())
            .bearer(ADMIN)
            .header("x-request-id", "abc")
            .header("traceparent", "00-1-2-3")
            .header("cookie", "a=b")
            .send()
            .await;

        // Then the agent hears the message and nothing of its caller
        let heard = stand_in.heard();
        assert_eq!(heard.len(), 1);
        assert_eq!(heard[0].body, sent);
        assert_eq!(heard[0].path, "/agent", "the URL as it is, nothing added");
        let headers = &heard[0].headers;
        assert_eq!(headers["content-type"], "application/json");
        let mut names: Vec<&str> = headers.keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "content-length", "content-type", "host"]);

        // And the caller gets the answer
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert_eq!(reply.json(), json!({ "jsonrpc": "2.0", "id": "req-7", "result": sent }));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bare_call_is_wrapped_and_gets_ids() {
    let stand_in = StandIn::echo().await;
    let app = server(molecule_tests::Engine::Sqlite, &stand_in.url).await;
    let agent = online(&app, json!({ "name": "dev" })).await;
    let bare = json!({
        "method": "message/send", "caller": "forged", "id": "lost",
        "params": { "message": { "role": "user", "parts": [{ "type": "text", "text": "hi" }] }, "metadata": 1 },
    });
    // Twice: ids are not the same.
    for _ in 0..2 {
        let reply = post(&app, &agent.id, bare.to_string())
            .bearer(ADMIN)
            .send()
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text);
    }
    let heard: Vec<Value> = stand_in
        .heard()
        .into_iter()
        .map(|heard| heard.body)
        .collect();
    for body in &heard {
        let mut names: Vec<&String> = body.as_object().expect("an object").keys().collect();
        names.sort();
        assert_eq!(names, ["id", "jsonrpc", "method", "params"]);
        assert_eq!(
            (&body["jsonrpc"], &body["method"]),
            (&json!("2.0"), &json!("message/send"))
        );
        assert_eq!(body["params"]["metadata"], 1);
        assert_eq!(
            body["params"]["message"]["parts"],
            bare["params"]["message"]["parts"]
        );
    }
    let id_of = |body: &Value, pointer: &str| {
        let id = body
            .pointer(pointer)
            .and_then(Value::as_str)
            .expect("an id");
        uuid::Uuid::parse_str(id).expect("a UUID")
    };
    for pointer in ["/id", "/params/message/messageId"] {
        assert_ne!(id_of(&heard[0], pointer), id_of(&heard[1], pointer));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_message_reaches_no_agent() {
    let stand_in = StandIn::echo().await;
    let app = server(molecule_tests::Engine::Sqlite, &stand_in.url).await;
    let agent = online(&app, json!({ "name": "dev" })).await;
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    for body in [
        "",
        "[]",
        "null",
        "7",
        "\"x\"",
        "{",
        "{} {}",
        "\u{0}",
        "{\"a\":1,}",
        &deep,
    ] {
        let reply = post(&app, &agent.id, body).bearer(ADMIN).send().await;
        reply.assert_error(400, "invalid JSON");
    }
    let reply = post(&app, &agent.id, b"{\"a\":\"\xff\"}".to_vec())
        .bearer(ADMIN)
        .send()
        .await;
    reply.assert_error(400, "invalid JSON");
    assert!(stand_in.heard().is_empty());
    // For a workspace that is not there, the body does not matter.
    let reply = post(&app, UNKNOWN, "{").bearer(ADMIN).send().await;
    reply.assert_error(404, "workspace not found");
    let reply = post(&app, "not-a-uuid", "{}").bearer(ADMIN).send().await;
    reply.assert_error(404, "workspace not found");
    // And the agent is none the worse for it.
    assert_eq!(send(&app, &agent.id, "hi").send().await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_one_mebibyte_passes_and_of_one_byte_more_does_not() {
    let stand_in =
        StandIn::start(async |_| axum::response::IntoResponse::into_response("{}")).await;
    let app = strict(molecule_tests::Engine::Sqlite).start().await;
    app.backend.set_url(&stand_in.url);
    let agent = online(&app, json!({ "name": "dev" })).await;
    let of = |bytes: usize| {
        let empty = call("").to_string().len();
        let body = call(&"x".repeat(bytes - empty)).to_string();
        assert_eq!(body.len(), bytes);
        body
    };
    let reply = post(&app, &agent.id, of(MAX_BYTES))
        .bearer(ADMIN)
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    for id in [agent.id.as_str(), UNKNOWN] {
        let reply = post(&app, id, of(MAX_BYTES + 1)).bearer(ADMIN).send().await;
        reply.assert_error(413, "request body too large");
    }
    assert_eq!(stand_in.heard().len(), 1);
}
