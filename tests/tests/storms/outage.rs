//! A database that goes away and comes back while clients go on.

use std::sync::Arc;
use std::time::Duration;

use molecule_tests::database::postgres_is_wanted;
use molecule_tests::live::{EventStream, Said, Socket};
use molecule_tests::support::Agent;
use molecule_tests::{ADMIN, Engine, TestApp, TestDatabase, eventually};
use serde_json::json;
use sqlx::{Connection, Executor, SqliteConnection};

use crate::clients::Load;
use crate::tools::{behind_proxy, external, leads, quiet, start_on};

/// How long the database is away each time.
const AWAY: Duration = Duration::from_secs(2);

fn impatient(engine: Engine) -> molecule_tests::TestAppBuilder {
    quiet(engine).config(|config| config.database.timeout_secs = 1)
}

/// Waits until clients were refused something since `before`.
async fn wait_until_refused(load: &Load, before: usize) {
    eventually("somebody is refused", async || load.answers().1 > before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_restarts_under_load_costs_nobody_anything_but_time() {
    if !postgres_is_wanted() {
        return;
    }
    // Given clients that go on whatever happens
    let (app, mut proxy, database) = behind_proxy(impatient(Engine::Postgres)).await;
    let app = Arc::new(app);
    let load = Load::begin(&app).await;
    load.wait_until_served().await;

    for _ in 0..2 {
        // When PostgreSQL stops
        let (_, before) = load.answers();
        proxy.cut().await;
        wait_until_refused(&load, before).await;
        tokio::time::sleep(AWAY).await;

        // And comes back
        proxy.restore().await;

        // Then everything goes on by itself
        load.wait_until_served().await;
    }
    load.end().await;
    drop(database);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_postgres_ends_under_load_are_replaced() {
    if !postgres_is_wanted() {
        return;
    }
    // Given clients of a server that is connected to PostgreSQL directly
    let app = Arc::new(impatient(Engine::Postgres).start().await);
    let load = Load::begin(&app).await;
    load.wait_until_served().await;

    // When somebody ends its connections, again and again
    let all = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let mut ended = 0;
    for _ in 0..30 {
        ended += app.database.count(all).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(ended > 30, "{ended} connections were ended");

    // Then clients noticed nothing worse than a refusal, and everything goes on
    load.wait_until_served().await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sqlite_file_that_others_lock_under_load_costs_nobody_anything_but_time() {
    // Given clients that go on whatever happens
    let app = Arc::new(impatient(Engine::Sqlite).start().await);
    let load = Load::begin(&app).await;
    load.wait_until_served().await;
    let mut other = SqliteConnection::connect(app.database.url())
        .await
        .expect("connect");

    for _ in 0..2 {
        // When another process locks the file
        let (_, before) = load.answers();
        // It waits for its turn like everybody.
        other.execute("BEGIN EXCLUSIVE").await.expect("a lock");
        wait_until_refused(&load, before).await;
        tokio::time::sleep(AWAY).await;

        // And lets go
        other.execute("ROLLBACK").await.expect("the lock goes");

        // Then everything goes on by itself
        load.wait_until_served().await;
    }
    load.end().await;
}

/// A change of a workspace that is recorded and told.
async fn change(app: &TestApp, agent: &Agent, task: &str) -> bool {
    let body = json!({ "current_task": task, "error_rate": 0.9 });
    let troubled = agent.beat(app, body).send().await.status == 200;
    let well = agent.beat(app, json!({ "error_rate": 0.0 })).send().await;
    troubled && well.status == 200
}

/// Two servers on one database, the first one behind a proxy.
async fn two() -> (TestApp, TestApp, molecule_tests::proxy::Proxy, TestDatabase) {
    let (one, proxy, database) = behind_proxy(impatient(Engine::Postgres)).await;
    let other = start_on(impatient(Engine::Postgres), database.share()).await;
    (one, other, proxy, database)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_events_hear_of_what_they_missed_and_of_what_follows() {
    if !postgres_is_wanted() {
        return;
    }
    // Given readers of one server, which hear what happens on the other one
    let (one, other, mut proxy, _database) = two().await;
    let agent = external(&other, "far").await;
    let bearer = format!("Bearer {ADMIN}");
    let headers = [("authorization", bearer.as_str())];
    let mut socket = Socket::open(&one, "/ws", &headers).await.expect("a socket");
    let mut stream = EventStream::open(&one, &agent.id, &headers).await;
    assert!(change(&other, &agent, "before").await);
    socket.wait_for("WORKSPACE_DEGRADED", &agent.id).await;
    socket.wait_for("WORKSPACE_ONLINE", &agent.id).await;
    stream.wait_for("WORKSPACE_DEGRADED").await;
    let mut last = stream.wait_for("WORKSPACE_ONLINE").await.id;

    // When the first server loses its database for a while, in which something
    // happens
    proxy.cut().await;
    eventually("it is noticed", async || {
        one.get("/readyz").send().await.status == 503
    })
    .await;
    assert!(change(&other, &agent, "meanwhile").await);
    proxy.restore().await;

    // Then both readers are told of it without a connection of their own anew, or
    // at least are told to come back
    let mut said = socket.next().await;
    loop {
        match said {
            Said::Event(event)
                if event["event"] == "WORKSPACE_ONLINE" && event["workspace_id"] == *agent.id =>
            {
                break;
            }
            Said::Event(_) => said = socket.next().await,
            ended => panic!("the socket did not survive: {ended:?}"),
        }
    }
    for kind in ["WORKSPACE_DEGRADED", "WORKSPACE_ONLINE"] {
        let block = stream.wait_for(kind).await;
        assert_ne!(block.id, last, "told twice");
        last = block.id;
    }

    // And go on to hear the other server, and are heard by it
    let mut there = Socket::open(&other, "/ws", &headers)
        .await
        .expect("a socket");
    assert!(change(&one, &agent, "after").await);
    there.wait_for("WORKSPACE_DEGRADED", &agent.id).await;
    assert!(change(&other, &agent, "and after").await);
    for _ in 0..2 {
        socket.wait_for("WORKSPACE_DEGRADED", &agent.id).await;
        stream.wait_for("WORKSPACE_DEGRADED").await;
    }
    one.shutdown().await;
    other.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_server_leads_again_after_an_outage_longer_than_its_lease() {
    if !postgres_is_wanted() {
        return;
    }
    // Given a server that leads
    let (app, mut proxy, _database) = behind_proxy(impatient(Engine::Postgres)).await;
    eventually("it leads", async || leads(&app).await).await;

    // When PostgreSQL is away for so long that the lead ends
    proxy.cut().await;
    eventually("the lead ends", async || !leads(&app).await).await;

    // Then it leads again soon after it is back, and does a leader's work
    proxy.restore().await;
    eventually("it leads again", async || leads(&app).await).await;
    let agent = Agent::online(&app, json!({ "name": "one" })).await;
    let starts = async || app.backend.starts_of(&agent.id).len();
    let reply = crate::tools::set_secret(&app, &agent.id, "KEY", "value").await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    eventually("a requested restart is done", async || starts().await == 2).await;
    app.shutdown().await;
}
