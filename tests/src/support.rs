//! What the tests of this binary share.

use std::collections::BTreeSet;

use crate::hooks::FnTokens;
use crate::{ADMIN, Engine, Reply, Request, TestApp, TestAppBuilder, TestDatabase, eventually};
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use chrono::{DateTime, TimeDelta, Utc};
use molecule_core::Event;
use molecule_hooks::{HookError, Token, TokenScope};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::Receiver;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// A server as in production: an administrator token, no open doors.
pub fn strict(engine: Engine) -> TestAppBuilder {
    TestApp::builder(engine).admin_token(ADMIN).strict()
}

/// A workspace whose agent was started.
pub struct Agent {
    /// Its UUID.
    pub id: String,
    /// What the agent finds in its `.auth_token`.
    pub token: String,
}

impl Agent {
    /// Creates a workspace as the administrator and waits for its start.
    pub async fn start(app: &TestApp, body: Value) -> Self {
        let id = app.create(body).await;
        Self::started(app, id).await
    }

    /// As [`start`](Self::start), and the agent has registered.
    pub async fn online(app: &TestApp, body: Value) -> Self {
        let agent = Self::start(app, body).await;
        let reply = agent.register(app).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        agent
    }

    /// Waits until the agent of a workspace that exists was started.
    pub async fn started(app: &TestApp, id: String) -> Self {
        let path = format!("/workspaces/{id}");
        eventually("the agent starts", || async {
            app.get(&path).send().await.json()["url"] == "http://127.0.0.1:9"
        })
        .await;
        let token = app.backend.agent_token(&id).expect("a token file");
        Self { id, token }
    }

    /// A registration with the agent's own token.
    pub fn register(&self, app: &TestApp) -> Request {
        app.post("/registry/register", registration(&self.id))
            .bearer(&self.token)
    }

    /// A heartbeat with the agent's own token and these fields.
    pub fn beat(&self, app: &TestApp, mut fields: Value) -> Request {
        fields["workspace_id"] = json!(self.id);
        app.post("/registry/heartbeat", fields).bearer(&self.token)
    }

    /// The path of its token-refresh endpoint.
    pub fn token_path(&self) -> String {
        format!("/workspaces/{}/github-installation-token", self.id)
    }
}

/// Creates a workspace as the administrator; the reply may be a refusal.
pub async fn create(app: &TestApp, body: Value) -> Reply {
    app.post("/workspaces", body).bearer(ADMIN).send().await
}

/// The body of a registration.
pub fn registration(id: &str) -> Value {
    json!({ "id": id, "url": "http://localhost:8000", "agent_card": { "name": "agent" } })
}

/// A provider whose one token serves everybody and never ends.
pub fn any_token() -> FnTokens {
    FnTokens::new(TokenScope::Shared, |_| async {
        Ok::<_, HookError>(Token::new("ghs_any", Utc::now() + TimeDelta::hours(1)))
    })
}

/// An id as a literal of this engine.
pub fn sql_id(engine: Engine, id: &str) -> String {
    match engine {
        Engine::Sqlite => format!("X'{}'", id.replace('-', "")),
        Engine::Postgres => format!("'{id}'"),
    }
}

/// Bytes as a literal of this engine.
pub fn sql_bytes(engine: Engine, bytes: &[u8]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    match engine {
        Engine::Sqlite => format!("X'{hex}'"),
        Engine::Postgres => format!("'\\x{hex}'"),
    }
}

/// Sets the stored status, as another part of the platform would.
pub async fn set_status(app: &TestApp, engine: Engine, id: &str, status: &str) {
    let id = sql_id(engine, id);
    let sql = format!("UPDATE workspaces SET status = '{status}' WHERE id = {id}");
    app.database.execute(&sql).await;
}

/// How many events of a type were recorded.
pub async fn recorded(app: &TestApp, event: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM structure_events WHERE event_type = '{event}'");
    app.database.count(&sql).await
}

/// What happened to a workspace since the last look, as type and payload.
pub fn seen(events: &mut Receiver<Event>, id: &str) -> Vec<(&'static str, Value)> {
    let mut found = Vec::new();
    while let Ok(event) = events.try_recv() {
        if event.workspace_id.to_string() == id {
            found.push((event.event.as_str(), event.payload));
        }
    }
    found
}

/// As [`seen`], without the events that every heartbeat causes.
pub fn changes(events: &mut Receiver<Event>, id: &str) -> Vec<(&'static str, Value)> {
    let mut found = seen(events, id);
    found.retain(|(event, _)| !matches!(*event, "WORKSPACE_HEARTBEAT" | "TASK_UPDATED"));
    found
}

/// The names of an object's fields.
pub fn fields(value: &Value) -> BTreeSet<&str> {
    let object = value.as_object().expect("an object");
    object.keys().map(String::as_str).collect()
}

/// Fails unless the text is a time as the wire writes it: RFC 3339, UTC, `Z`.
#[track_caller]
pub fn assert_time(value: &Value) {
    let text = value.as_str().expect("a time");
    assert!(text.ends_with('Z'), "{text}");
    DateTime::parse_from_rfc3339(text).expect("RFC 3339");
}

/// Fails unless this is the answer that clients retry on.
#[track_caller]
pub fn assert_unavailable(reply: &Reply) {
    let expected = json!({
        "error": "platform datastore unavailable — retry shortly",
        "code": "platform_unavailable",
    });
    assert_eq!((reply.status, reply.json()), (503, expected));
    let wait = reply.header("retry-after").expect("Retry-After");
    assert!(wait.parse::<u32>().is_ok_and(|secs| secs > 0), "{wait}");
}

/// Sends bytes as they are and reads until the server closes.
pub async fn raw(app: &TestApp, bytes: &[u8]) -> String {
    let address = app.url.strip_prefix("http://").expect("an address");
    let mut stream = TcpStream::connect(address).await.expect("connect");
    stream.write_all(bytes).await.expect("write");
    let mut answer = Vec::new();
    // A reset after the answer is as good as an orderly end.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// What a workspace's status is, removed or not; empty when there is no answer.
pub async fn status(app: &TestApp, id: &str) -> String {
    let path = format!("/workspaces/{id}?include_removed=true");
    let reply = app.get(&path).bearer(ADMIN).send().await;
    match reply.status {
        200 => reply.json()["status"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        _ => String::new(),
    }
}

/// Whether the row of a workspace meets a condition.
pub async fn row_has(database: &TestDatabase, id: &str, condition: &str) -> bool {
    let id = sql_id(database.engine(), id);
    let sql = format!("SELECT count(*) FROM workspaces WHERE id = {id} AND ({condition})");
    database.count(&sql).await == 1
}

/// True while a server works on the workspace.
pub async fn is_leased(app: &TestApp, id: &str) -> bool {
    row_has(&app.database, id, "provision_lease_until IS NOT NULL").await
}

/// Waits until nobody works on a workspace, and checks that what is there fits its
/// status. `story` is what was done to it.
pub async fn assert_settled(app: &TestApp, id: &str, story: &str) {
    eventually("nobody works on it any more", || async {
        !is_leased(app, id).await
    })
    .await;
    let now = status(app, id).await;
    match now.as_str() {
        "removed" => {
            eventually("nothing of it is left", || async {
                !app.backend.runs(id) && !app.backend.stores(id)
            })
            .await;
        }
        "paused" | "hibernated" => {
            assert!(!app.backend.runs(id), "{now} and running: {story}");
            assert!(app.backend.stores(id), "{now} without its files: {story}");
        }
        "provisioning" | "online" | "degraded" | "offline" | "failed" => {
            assert!(app.backend.stores(id), "{now} without its files: {story}");
        }
        other => panic!("{other}: {story}"),
    }
}

/// Makes the fake backend's agents one that keeps what it is told.
pub async fn listen(app: &TestApp) -> UnboundedReceiver<Value> {
    let (send, heard) = unbounded_channel();
    let hear = |State(send): State<UnboundedSender<Value>>, Json(body): Json<Value>| async move {
        let _ = send.send(body);
        Json(json!({ "jsonrpc": "2.0", "id": 1, "result": {} }))
    };
    let router = Router::new().route("/", post(hear)).with_state(send);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    app.backend.set_url(&url);
    heard
}
