//! Requests for restarts, noted by the database itself: whoever carries them out
//! takes them away from the rows.

use molecule_tests::support::sql_id;
use molecule_tests::{ADMIN, Engine, Reply, TestApp};
use serde_json::{Value, json};

/// An id of no workspace.
pub(crate) const NOBODY: &str = "7aa08951-00d1-4c3e-9d6a-0123456789ab";

/// Has every request that follows noted.
pub(crate) async fn watch(app: &TestApp, engine: Engine) {
    let statements: &[&str] = match engine {
        Engine::Sqlite => &[
            "CREATE TABLE noted (id BLOB NOT NULL)",
            "CREATE TRIGGER note AFTER UPDATE OF restart_requested_at ON workspaces
             WHEN NEW.restart_requested_at IS NOT NULL
             BEGIN INSERT INTO noted VALUES (NEW.id); END",
        ],
        Engine::Postgres => &[
            "CREATE TABLE noted (id UUID NOT NULL)",
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql
             AS 'BEGIN INSERT INTO noted VALUES (NEW.id); RETURN NULL; END'",
            "CREATE TRIGGER note AFTER UPDATE OF restart_requested_at ON workspaces FOR EACH ROW
             WHEN (NEW.restart_requested_at IS NOT NULL) EXECUTE FUNCTION note()",
        ],
    };
    for statement in statements {
        app.database.execute(statement).await;
    }
}

/// How often a restart of this workspace was requested since [`watch`].
pub(crate) async fn noted(app: &TestApp, engine: Engine, id: &str) -> i64 {
    let id = sql_id(engine, id);
    let sql = format!("SELECT count(*) FROM noted WHERE id = {id}");
    app.database.count(&sql).await
}

/// A request as the administrator.
pub(crate) async fn admin(app: &TestApp, method: &str, path: &str) -> Reply {
    app.request(method, path).bearer(ADMIN).send().await
}

/// Writes a secret as the administrator, to any of the paths.
pub(crate) async fn set(app: &TestApp, path: &str, key: &str, value: &str) -> Reply {
    let body = json!({ "key": key, "value": value });
    app.post(path, body).bearer(ADMIN).send().await
}

/// As [`set`], and it must work.
#[track_caller]
pub(crate) fn assert_saved(reply: &Reply, key: &str) {
    assert_eq!(reply.status, 200, "{}", reply.text);
    let said = reply.json();
    assert_eq!(
        (&said["status"], &said["key"]),
        (&json!("saved"), &json!(key))
    );
}

/// A workspace whose agent does not matter; its secrets path.
pub(crate) async fn workspace(app: &TestApp, name: &str) -> (String, String) {
    with_secrets(app, name, json!({})).await
}

/// As [`workspace`], created with secrets.
pub(crate) async fn with_secrets(app: &TestApp, name: &str, secrets: Value) -> (String, String) {
    let id = app
        .create(json!({ "name": name, "secrets": secrets }))
        .await;
    let path = format!("/workspaces/{id}/secrets");
    (id, path)
}
