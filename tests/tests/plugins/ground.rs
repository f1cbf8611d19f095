//! A server with plugins in its folder, and what tests of deliveries ask it.

use std::fs;

use molecule_tests::support::{Agent, sql_id, strict};
use molecule_tests::{ADMIN, Engine, Reply, TestApp, TestAppBuilder};
use serde_json::{Value, json};

/// A server that gives installs a short time and remembers every restart.
pub(crate) fn server(engine: Engine) -> TestAppBuilder {
    strict(engine).config(|config| config.workspaces.restarts_per_minute = 600)
}

/// Puts a plugin into the folder of the server, in place of what is there.
pub(crate) fn put(app: &TestApp, name: &str, files: &[(&str, &str)]) {
    let folder = app.dir.path().join("plugins").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    for (path, text) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, text).expect("a file");
    }
}

/// A plugin with a manifest and a skill.
pub(crate) fn put_usual(app: &TestApp, name: &str, version: &str) {
    let manifest = format!("version: '{version}'\nskills: [one]\n");
    put(
        app,
        name,
        &[
            ("plugin.yaml", &manifest),
            ("skills/one/SKILL.md", "do one"),
            ("rules/a.md", version),
        ],
    );
}

/// Installs as the administrator.
pub(crate) async fn install(app: &TestApp, id: &str, body: Value) -> Reply {
    let path = format!("/workspaces/{id}/plugins");
    app.post(&path, body).bearer(ADMIN).send().await
}

/// Installs without a restart; the answer.
pub(crate) async fn installed(app: &TestApp, id: &str, source: &str) -> Value {
    let reply = install(app, id, json!({ "source": source, "restart": false })).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

/// Removes as the administrator.
pub(crate) async fn uninstall(app: &TestApp, id: &str, name: &str) -> Reply {
    let path = format!("/workspaces/{id}/plugins/{name}?restart=false");
    app.delete(&path).bearer(ADMIN).send().await
}

/// What is installed, as the administrator sees it.
pub(crate) async fn list(app: &TestApp, id: &str) -> Value {
    let path = format!("/workspaces/{id}/plugins");
    let reply = app.get(&path).bearer(ADMIN).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

/// A workspace whose agent works.
pub(crate) async fn agent(app: &TestApp) -> Agent {
    Agent::online(app, json!({ "name": "one", "runtime": "claude-code" })).await
}

/// A column of a tracked plugin as text; `-` for null.
pub(crate) async fn column(app: &TestApp, id: &str, plugin: &str, column: &str) -> String {
    let id = sql_id(app.database.engine(), id);
    let sql = format!(
        "SELECT COALESCE(CAST({column} AS TEXT), '-') FROM workspace_plugins
         WHERE workspace_id = {id} AND plugin_name = '{plugin}'"
    );
    app.database.text(&sql).await
}

/// How many rows a workspace has in a table.
pub(crate) async fn rows(app: &TestApp, id: &str, table: &str) -> i64 {
    let id = sql_id(app.database.engine(), id);
    let sql = format!("SELECT count(*) FROM {table} WHERE workspace_id = {id}");
    app.database.count(&sql).await
}

/// Changes the row of a workspace.
pub(crate) async fn set(app: &TestApp, id: &str, assignments: &str) {
    let id = sql_id(app.database.engine(), id);
    let sql = format!("UPDATE workspaces SET {assignments} WHERE id = {id}");
    app.database.execute(&sql).await;
}

/// Somebody else holds a plugin until this time, written as in the database.
pub(crate) async fn hold(app: &TestApp, id: &str, plugin: &str, until: &str) {
    let engine = app.database.engine();
    let (id, holder) = (
        sql_id(engine, id),
        sql_id(engine, &uuid::Uuid::new_v4().to_string()),
    );
    let sql = format!(
        "INSERT INTO plugin_operations (workspace_id, plugin_name, holder, expires_at)
         VALUES ({id}, '{plugin}', {holder}, '{until}')"
    );
    app.database.execute(&sql).await;
}
