//! What the tests of this binary share.

use molecule_tests::{ADMIN, Engine, Reply, TestApp, eventually};
use serde_json::{Value, json};

use crate::support::{Agent, sql_id};
pub(crate) use crate::support::{is_leased, status};

/// Posts to a workspace as the administrator, without a body.
pub(crate) async fn act(app: &TestApp, id: &str, what: &str) -> Reply {
    let path = format!("/workspaces/{id}/{what}");
    app.request("POST", &path).bearer(ADMIN).send().await
}

/// The same with a body.
pub(crate) async fn act_with(app: &TestApp, id: &str, what: &str, body: Value) -> Reply {
    let path = format!("/workspaces/{id}/{what}");
    app.post(&path, body).bearer(ADMIN).send().await
}

/// Waits until the backend was asked for so many starts of a workspace, and the
/// last one is recorded.
pub(crate) async fn started_times(app: &TestApp, id: &str, count: usize) -> Agent {
    eventually("the agent starts again", || async {
        app.backend.starts_of(id).len() >= count && !is_leased(app, id).await
    })
    .await;
    assert_eq!(app.backend.starts_of(id).len(), count, "too many starts");
    Agent {
        id: id.to_owned(),
        token: app.backend.agent_token(id).expect("a token file"),
    }
}

/// Requests a restart as a changed secret does.
pub(crate) async fn request_restart(app: &TestApp, id: &str) {
    let engine = app.database.engine();
    let (id, now) = (sql_id(engine, id), now(engine));
    let sql = format!("UPDATE workspaces SET restart_requested_at = {now} WHERE id = {id}");
    app.database.execute(&sql).await;
}

/// The time as the server writes it.
pub(crate) fn now(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => "strftime('%Y-%m-%dT%H:%M:%f000000+00:00', 'now')",
        Engine::Postgres => "now()",
    }
}

/// A body with this name only.
pub(crate) fn named(name: &str) -> Value {
    json!({ "name": name })
}
