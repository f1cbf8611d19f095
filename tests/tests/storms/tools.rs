//! What the tests of this binary share.

use std::time::Duration;

use molecule_tests::proxy::Proxy;
use molecule_tests::support::{Agent, strict};
pub(crate) use molecule_tests::support::{is_leased, row_has, status};
use molecule_tests::{ADMIN, Engine, Reply, TestApp, TestAppBuilder, TestDatabase};
use serde_json::{Value, json};

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

/// Whether this server leads.
pub(crate) async fn leads(app: &TestApp) -> bool {
    let reply = app.get("/admin/liveness").bearer(ADMIN).send().await;
    reply.json()["leader"] == true
}
