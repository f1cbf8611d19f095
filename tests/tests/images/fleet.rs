//! Servers whose workspaces run images of the fake backend, and what is asked of them.

use std::sync::Arc;

use molecule_tests::support::{Agent, sql_id, strict};
pub(crate) use molecule_tests::support::{is_leased, status};
use molecule_tests::{ADMIN, Engine, FakeBackend, Reply, TestApp, TestAppBuilder, eventually};
use serde_json::{Value, json};

/// A strict server whose fake backend runs images.
pub(crate) fn with_images(engine: Engine) -> TestAppBuilder {
    let backend = Arc::<FakeBackend>::default();
    backend.images.switch_on();
    strict(engine).backend(backend)
}

/// A body with this runtime.
pub(crate) fn of_runtime(runtime: &str) -> Value {
    json!({ "name": format!("a {runtime}"), "runtime": runtime })
}

/// Asks as the administrator.
pub(crate) async fn admin(app: &TestApp, method: &str, path: &str) -> Reply {
    app.request(method, path).bearer(ADMIN).send().await
}

/// Restarts a workspace as the administrator.
pub(crate) async fn restart(app: &TestApp, id: &str) {
    let reply = admin(app, "POST", &format!("/workspaces/{id}/restart")).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

/// Waits until a workspace was started so many times and the last is recorded.
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

/// 1 if the row of a workspace is so.
pub(crate) async fn count(app: &TestApp, id: &str, condition: &str) -> i64 {
    let id = sql_id(app.database.engine(), id);
    let sql = format!("SELECT count(*) FROM workspaces WHERE id = {id} AND ({condition})");
    app.database.count(&sql).await
}

/// Fails unless the row of a workspace is so.
#[track_caller]
pub(crate) fn assert_row<'a>(
    app: &'a TestApp,
    id: &'a str,
    condition: &'a str,
) -> impl Future<Output = ()> + 'a {
    let at = std::panic::Location::caller();
    async move {
        let holds = count(app, id, condition).await == 1;
        assert!(holds, "{at}: the row is not so: {condition}");
    }
}

/// A time so many seconds from now, as a literal that both engines compare.
pub(crate) fn in_secs(secs: i64) -> String {
    let at = chrono::Utc::now() + chrono::TimeDelta::seconds(secs);
    format!(
        "'{}'",
        at.to_rfc3339_opts(chrono::SecondsFormat::Micros, false)
    )
}

/// Whether a restart of a workspace is requested for later: a condition.
pub(crate) fn later() -> String {
    let (from, to) = (in_secs(5), in_secs(900));
    format!("restart_requested_at > {from} AND restart_requested_at < {to}")
}

/// Writes a column of a workspace's row.
pub(crate) async fn set(app: &TestApp, id: &str, assignment: &str) {
    let id = sql_id(app.database.engine(), id);
    let sql = format!("UPDATE workspaces SET {assignment} WHERE id = {id}");
    app.database.execute(&sql).await;
}

/// Requests a restart as a changed secret does.
pub(crate) async fn request_restart(app: &TestApp, id: &str) {
    set(app, id, &format!("restart_requested_at = {}", in_secs(-1))).await;
}
