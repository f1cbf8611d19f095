//! A database that is locked or gone.

use std::time::{Duration, Instant};

use molecule_tests::database::{TestDatabase, postgres_is_wanted};
use molecule_tests::fake_backend::Fault;
use molecule_tests::proxy::Proxy;
use molecule_tests::{ADMIN, Engine, Reply, TestApp, eventually};
use serde_json::json;
use sqlx::{Connection, Executor, SqliteConnection};

const BOUND: Duration = Duration::from_secs(8);

/// The documented answer of a server whose database is away.
#[track_caller]
fn assert_unavailable(reply: &Reply) {
    reply.assert_error(503, "platform datastore unavailable — retry shortly");
    assert_eq!(
        reply.json()["code"],
        "platform_unavailable",
        "{}",
        reply.text
    );
    let wait = reply
        .header("retry-after")
        .and_then(|text| text.parse::<u32>().ok());
    assert!(wait.is_some_and(|secs| secs > 0), "{:?}", reply.headers);
}

/// An external workspace with its token.
async fn external(app: &TestApp) -> (String, String) {
    let body = json!({ "name": "remote", "external": true });
    let reply = app.post("/workspaces", body).bearer(ADMIN).send().await;
    let (id, token) = (
        &reply.json()["id"],
        &reply.json()["connection"]["auth_token"],
    );
    (
        id.as_str().expect("an id").to_owned(),
        token.as_str().expect("a token").to_owned(),
    )
}

async fn heartbeat(app: &TestApp, id: &str, token: &str, task: &str) -> Reply {
    let body = json!({ "workspace_id": id, "current_task": task, "active_tasks": 3 });
    app.post("/registry/heartbeat", body)
        .bearer(token)
        .send()
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_sqlite_file_delays_answers_a_little_and_loses_no_heartbeat() {
    // Given a server with an online workspace, and someone who locks the file
    let app = TestApp::builder(Engine::Sqlite)
        .admin_token(ADMIN)
        .config(|config| config.database.timeout_secs = 1)
        .start()
        .await;
    let (id, token) = external(&app).await;
    assert_eq!(heartbeat(&app, &id, &token, "before").await.status, 200);
    let mut other = SqliteConnection::connect(app.database.url())
        .await
        .expect("connect");
    other.execute("BEGIN EXCLUSIVE").await.expect("a lock");

    // When requests come in that want to write
    let started = Instant::now();
    let create = app
        .post("/workspaces", json!({ "name": "a" }))
        .bearer(ADMIN)
        .send();
    let path = format!("/workspaces/{id}");
    let delete = app.delete(&path).bearer(ADMIN).send();
    let (create, delete) = tokio::join!(create, delete);

    // Then they are told to come back, soon
    assert_unavailable(&create);
    assert_unavailable(&delete);
    assert!(started.elapsed() < BOUND, "{:?}", started.elapsed());
    // Reading goes on, and a heartbeat is taken in
    assert_eq!(app.get("/health").send().await.status, 200);
    assert_eq!(app.get(&path).send().await.json()["status"], "online");
    assert_eq!(
        heartbeat(&app, &id, &token, "while locked").await.status,
        200
    );
    let flush = async || {
        let reply = app.get("/admin/liveness").bearer(ADMIN).send().await;
        reply.json()["subsystems"]["heartbeat-flush"]["last_tick_at"].clone()
    };
    for _ in 0..2 {
        let before = flush().await;
        eventually("a flush that fails", async || flush().await != before).await;
    }
    assert_ne!(
        app.listed(&id).await.expect("a row")["current_task"],
        "while locked"
    );

    // When the lock goes
    other.execute("ROLLBACK").await.expect("the lock goes");

    // Then the heartbeat is written, and the server works as before
    eventually("the heartbeat of the lock is written", async || {
        app.listed(&id)
            .await
            .is_some_and(|row| row["current_task"] == "while locked")
    })
    .await;
    let id = app.create(json!({ "name": "a" })).await;
    eventually("provisions work", async || {
        app.backend.agent_token(&id).is_some()
    })
    .await;
    app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_sqlite_file_leaves_no_provision_stuck() {
    // Given a provision whose start fails while the file is locked
    let clock = crate::takeover::MovableClock::default();
    let app = TestApp::builder(Engine::Sqlite)
        .admin_token(ADMIN)
        .clock(clock.clock())
        .config(|config| config.database.timeout_secs = 1)
        .start()
        .await;
    app.backend.set_fault(Fault::StartHangs);
    let id = app.create(json!({ "name": "a" })).await;
    eventually("the start hangs", async || app.backend.starts().len() == 1).await;
    let mut other = SqliteConnection::connect(app.database.url())
        .await
        .expect("connect");
    other.execute("BEGIN EXCLUSIVE").await.expect("a lock");
    app.backend.set_fault(Fault::None);
    let reply = app
        .delete(&format!("/workspaces/{id}"))
        .bearer(ADMIN)
        .send()
        .await;

    // Then the delete did nothing by halves
    assert_unavailable(&reply);
    assert_eq!(
        app.get(&format!("/workspaces/{id}")).send().await.json()["status"],
        "provisioning"
    );

    // And with the lock gone it can be repeated
    other.execute("ROLLBACK").await.expect("the lock goes");
    let reply = app
        .delete(&format!("/workspaces/{id}"))
        .bearer(ADMIN)
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert!(app.backend.is_empty());
    app.shutdown().await;
}

/// A server that reaches PostgreSQL through a proxy.
async fn behind_proxy(
    change: impl FnOnce(molecule_tests::TestAppBuilder) -> molecule_tests::TestAppBuilder,
) -> (TestApp, Proxy, TestDatabase) {
    let database = TestDatabase::create(Engine::Postgres).await;
    let proxy = Proxy::start(database.server_address()).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let builder = TestApp::builder(Engine::Postgres)
        .admin_token(ADMIN)
        .strict()
        .config(|config| config.database.timeout_secs = 1);
    let app = change(builder)
        .start_on(database.through(proxy.port()), dir)
        .await;
    (app, proxy, database)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_its_postgres_says_so_and_recovers_by_itself() {
    if !postgres_is_wanted() {
        return;
    }
    let (app, mut proxy, _database) = behind_proxy(|builder| builder).await;
    let (id, token) = external(&app).await;
    assert_eq!(heartbeat(&app, &id, &token, "before").await.status, 200);
    assert_eq!(app.get("/readyz").send().await.status, 200);

    // When PostgreSQL is gone, connections and all
    proxy.cut().await;

    // Then everything that needs it answers 503 within a bound
    let paths = [
        ("GET", "/workspaces".to_owned()),
        ("POST", "/workspaces".to_owned()),
        ("GET", format!("/workspaces/{id}")),
        ("DELETE", format!("/workspaces/{id}")),
    ];
    for (method, path) in paths {
        let started = Instant::now();
        let reply = app
            .request(method, &path)
            .bearer(ADMIN)
            .json(json!({ "name": "a" }))
            .send()
            .await;
        assert_unavailable(&reply);
        assert!(
            started.elapsed() < BOUND,
            "{method} {path}: {:?}",
            started.elapsed()
        );
    }
    // A token that nobody looked up before cannot be judged: 503, never 401 or 200
    let path = format!("/workspaces/{id}/github-installation-token");
    assert_unavailable(&app.get(&path).bearer("an-unknown-token").send().await);
    let card = json!({ "id": id, "url": "http://localhost:1", "agent_card": {} });
    assert_unavailable(
        &app.post("/registry/register", card)
            .bearer("an-unknown-token")
            .send()
            .await,
    );
    // The answer from before counts for a second.
    eventually("it is not ready", async || {
        let ready = app.get("/readyz").send().await;
        ready.status == 503 && ready.json()["database"] == "unavailable"
    })
    .await;
    assert_eq!(app.get("/health").send().await.status, 200);

    // When it is back
    proxy.restore().await;

    // Then the same server works again
    eventually("it is ready again", async || {
        app.get("/readyz").send().await.status == 200
    })
    .await;
    let created = app.create(json!({ "name": "a" })).await;
    eventually("provisions work", async || {
        app.backend.agent_token(&created).is_some()
    })
    .await;
    assert_eq!(heartbeat(&app, &id, &token, "after").await.status, 200);
    eventually("heartbeats are written", async || {
        app.listed(&id)
            .await
            .is_some_and(|row| row["current_task"] == "after")
    })
    .await;
    app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_of_a_short_postgres_outage_are_written_afterwards() {
    if !postgres_is_wanted() {
        return;
    }
    let (app, mut proxy, _database) = behind_proxy(|builder| builder).await;
    let (id, token) = external(&app).await;
    // Token and status are in memory after two of them.
    for _ in 0..2 {
        assert_eq!(heartbeat(&app, &id, &token, "before").await.status, 200);
    }
    proxy.cut().await;
    let during = heartbeat(&app, &id, &token, "during").await;
    assert_eq!(during.status, 200, "{}", during.text);
    proxy.restore().await;
    eventually("the heartbeat is written", async || {
        let reply = app.get("/workspaces").bearer(ADMIN).send().await;
        reply.status == 200 && reply.text.contains("during")
    })
    .await;
    app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provision_that_lost_its_postgres_is_taken_up_again() {
    if !postgres_is_wanted() {
        return;
    }
    // Given a provision that is starting its compute
    let clock = crate::takeover::MovableClock::default();
    let (app, mut proxy, _database) = behind_proxy(|builder| {
        builder
            .clock(clock.clock())
            .config(|config| config.workspaces.provision_deadline_secs = 2)
    })
    .await;
    app.backend.set_fault(Fault::StartHangs);
    let id = app.create(json!({ "name": "a" })).await;
    eventually("the start hangs", async || app.backend.starts().len() == 1).await;

    // When the database goes away, and the start then fails
    proxy.cut().await;
    eventually("the deadline ends the start", async || {
        app.backend.cancelled() == 1
    })
    .await;
    app.backend.set_fault(Fault::None);
    assert!(app.backend.is_empty());
    let recovery = async || {
        let reply = app.get("/readyz").send().await;
        reply.status == 503
    };
    eventually("the outage is noticed", recovery).await;
    proxy.restore().await;

    // Then the row is either failed already, or started over after the lease
    let settled = async || {
        clock.advance(Duration::from_secs(40));
        let reply = app.get(&format!("/workspaces/{id}")).send().await;
        reply.status == 200
            && (reply.json()["status"] == "failed" || app.backend.agent_token(&id).is_some())
    };
    eventually("the row is not stuck", settled).await;
    let orphaned =
        "SELECT count(*) FROM workspaces WHERE status = 'provisioning' AND provisioned_at IS NULL";
    eventually("nothing is under way", async || {
        app.database.count(orphaned).await == 0
    })
    .await;
    app.shutdown().await;
}
