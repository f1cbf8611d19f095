//! Agents coming, staying and finding each other.

mod access;
mod cards;
mod discovery;
mod peers;
mod reports;
mod servers;

use molecule_tests::support;
use molecule_tests::{ADMIN, TestApp};
use serde_json::{Value, json};

/// A workspace that nobody created.
const UNKNOWN: &str = "7aa08951-00d1-4c3e-9d6a-0123456789ab";

/// Puts one workspace below another, behind the server's back.
async fn adopt(app: &TestApp, engine: molecule_tests::Engine, child: &str, parent: &str) {
    let (child, parent) = (
        support::sql_id(engine, child),
        support::sql_id(engine, parent),
    );
    let sql = format!("UPDATE workspaces SET parent_id = {parent} WHERE id = {child}");
    app.database.execute(&sql).await;
}

/// Makes the server read who is whose parent again.
async fn renew_tree(app: &TestApp) {
    let name = format!("renewal {}", uuid::Uuid::new_v4());
    let id = app.create(json!({ "name": name, "external": true })).await;
    remove(app, &id).await;
}

/// Deletes a workspace with everything below it.
async fn remove(app: &TestApp, id: &str) {
    let path = format!("/workspaces/{id}?confirm=true");
    let reply = app.delete(&path).bearer(ADMIN).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

/// Creates an external workspace with a URL.
async fn external(app: &TestApp, name: &str, url: &str) -> String {
    app.create(json!({ "name": name, "external": true, "url": url }))
        .await
}

/// A body with fields that no server knows.
fn with_strange_fields(mut body: Value) -> Value {
    body["x"] = json!({ "deep": [1, null, { "y": "z" }] });
    body["status"] = json!("removed");
    body
}
