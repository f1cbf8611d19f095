//! What the tests of this binary share.

use std::time::Duration;

use molecule_tests::support::{Agent, strict};
use molecule_tests::{ADMIN, Engine, Request, TestApp, eventually};
use serde_json::{Value, json};

/// A workspace that nobody created.
pub(crate) const UNKNOWN: &str = "7aa08951-00d1-4c3e-9d6a-0123456789ab";

/// A strict server whose agents are at `url`, and where only messages notice that
/// one is dead.
pub(crate) async fn server(engine: Engine, url: &str) -> TestApp {
    let app = strict(engine)
        .cadence(|cadence| cadence.health = Duration::from_secs(3600))
        .start()
        .await;
    app.backend.set_url(url);
    app
}

/// A workspace whose agent was started and has registered.
pub(crate) async fn online(app: &TestApp, body: Value) -> Agent {
    let id = app.create(body).await;
    started(app, id).await
}

/// Waits until the agent of a workspace was started, and registers it.
pub(crate) async fn started(app: &TestApp, id: String) -> Agent {
    eventually("the agent starts", async || {
        let row = app.listed(&id).await.expect("listed");
        row["url"] != "" && row["status"] == "provisioning"
    })
    .await;
    let token = app.backend.agent_token(&id).expect("a token file");
    let agent = Agent { id, token };
    let reply = agent.register(app).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    agent
}

/// A message to a workspace, from nobody in particular.
pub(crate) fn message(app: &TestApp, id: &str, text: &str) -> Request {
    post(app, id, call(text).to_string())
}

/// A message from an administrator.
pub(crate) fn send(app: &TestApp, id: &str, text: &str) -> Request {
    message(app, id, text).bearer(ADMIN)
}

/// Any bytes as a message.
pub(crate) fn post(app: &TestApp, id: &str, body: impl Into<Vec<u8>>) -> Request {
    let path = format!("/workspaces/{id}/a2a");
    app.request("POST", &path).body(body)
}

/// A JSON-RPC call with this text.
pub(crate) fn call(text: &str) -> Value {
    let parts = json!([{ "kind": "text", "text": text }]);
    let message = json!({ "role": "user", "messageId": "m-1", "parts": parts });
    json!({ "jsonrpc": "2.0", "id": "req-7", "method": "message/send", "params": { "message": message } })
}
