//! What the tests of this binary share.

use std::time::Duration;

use molecule_tests::support::{Agent, sql_id, strict};
use molecule_tests::{ADMIN, Engine, Reply, TestApp, TestAppBuilder, TestDatabase};
use serde_json::{Value, json};

use crate::proxy::Proxy;

/// How often a loop under test looks.
pub(crate) const QUICK: Duration = Duration::from_millis(50);
const NEVER: Duration = Duration::from_secs(3600);

/// A strict server whose loops look once, at its start, and that restarts as often
/// as it is asked to.
pub(crate) fn quiet(engine: Engine) -> TestAppBuilder {
    strict(engine)
        .config(|config| config.workspaces.restarts_per_minute = 6000)
        .cadence(|cadence| {
            cadence.liveness = NEVER;
            cadence.health = NEVER;
            cadence.hibernation = NEVER;
            cadence.tokens = NEVER;
        })
}

/// Starts a server on a database that exists.
pub(crate) async fn start_on(builder: TestAppBuilder, database: TestDatabase) -> TestApp {
    let dir = tempfile::tempdir().expect("a temporary directory");
    builder.start_on(database, dir).await
}

/// A server that reaches PostgreSQL through a proxy, and the way around it.
pub(crate) async fn behind_proxy(builder: TestAppBuilder) -> (TestApp, Proxy, TestDatabase) {
    let database = TestDatabase::create(Engine::Postgres).await;
    let proxy = Proxy::start(database.server_address()).await;
    let app = start_on(builder, database.through(proxy.port())).await;
    (app, proxy, database)
}

/// Posts to a workspace as the administrator, without a body.
pub(crate) async fn act(app: &TestApp, id: &str, what: &str) -> Reply {
    let path = format!("/workspaces/{id}/{what}");
    app.request("POST", &path).bearer(ADMIN).send().await
}

/// Writes a secret of a workspace as the administrator.
pub(crate) async fn set_secret(app: &TestApp, id: &str, key: &str, value: &str) -> Reply {
    let body = json!({ "key": key, "value": value });
    let path = format!("/workspaces/{id}/secrets");
    app.post(&path, body).bearer(ADMIN).send().await
}

/// An external workspace whose agent has beaten once.
pub(crate) async fn external(app: &TestApp, name: &str) -> Agent {
    let body = json!({ "name": name, "external": true });
    let reply = app.post("/workspaces", body).bearer(ADMIN).send().await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    let made = reply.json();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let agent = Agent {
        id: text(&made["id"]),
        token: text(&made["connection"]["auth_token"]),
    };
    let reply = agent.beat(app, json!({})).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    agent
}

/// What a workspace's status is, removed or not; empty when there is no answer.
pub(crate) async fn status(app: &TestApp, id: &str) -> String {
    let path = format!("/workspaces/{id}?include_removed=true");
    let reply = app.get(&path).send().await;
    match reply.status {
        200 => reply.json()["status"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        _ => String::new(),
    }
}

/// Whether the row of a workspace meets a condition.
pub(crate) async fn row_has(database: &TestDatabase, id: &str, condition: &str) -> bool {
    let id = sql_id(database.engine(), id);
    let sql = format!("SELECT count(*) FROM workspaces WHERE id = {id} AND {condition}");
    database.count(&sql).await == 1
}

/// True while a server works on the workspace.
pub(crate) async fn is_leased(app: &TestApp, id: &str) -> bool {
    row_has(&app.database, id, "provision_lease_until IS NOT NULL").await
}

/// Whether this server leads.
pub(crate) async fn leads(app: &TestApp) -> bool {
    let reply = app.get("/admin/liveness").bearer(ADMIN).send().await;
    reply.json()["leader"] == true
}
