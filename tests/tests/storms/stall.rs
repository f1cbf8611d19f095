//! A PostgreSQL that accepts everything and answers nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use molecule_tests::database::postgres_is_wanted;
use molecule_tests::support::assert_unavailable;
use molecule_tests::{ADMIN, Engine, TestAppBuilder, eventually};
use serde_json::json;

use crate::clients::Load;
use crate::tools::{behind_proxy, external, leads, quiet};

/// Longest time for an answer, which is less than a request may take: a statement is
/// given up earlier.
const BOUND: Duration = Duration::from_secs(7);

fn bounded() -> TestAppBuilder {
    quiet(Engine::Postgres).config(|config| {
        config.database.timeout_secs = 1;
        config.database.max_connections = 4;
        config.server.request_timeout_secs = 20;
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_to_a_silent_postgres_end_in_time_and_say_why() {
    if !postgres_is_wanted() {
        return;
    }
    let (app, proxy, _database) = behind_proxy(bounded()).await;
    let agent = external(&app, "far").await;

    // When PostgreSQL says nothing any more
    proxy.set_silent(true);

    // Then every request has an answer in time, more of them than connections
    let path = format!("/workspaces/{}", agent.id);
    let requests = || {
        vec![
            app.get("/workspaces").bearer(ADMIN),
            app.get(&path).bearer(ADMIN),
            app.post("/workspaces", json!({ "name": "a" }))
                .bearer(ADMIN),
            app.post(
                &format!("{path}/secrets"),
                json!({ "key": "A", "value": "b" }),
            )
            .bearer(ADMIN),
            app.request("POST", &format!("{path}/pause")).bearer(ADMIN),
            app.get("/org/tokens").bearer("a-token-that-was-never-seen"),
            app.delete(&path).bearer(ADMIN),
        ]
    };
    for round in 0..2 {
        let asked = requests().into_iter().map(|request| async {
            let started = Instant::now();
            let reply = request.send().await;
            (reply, started.elapsed())
        });
        for (number, (reply, took)) in join_all(asked).await.into_iter().enumerate() {
            assert!(took < BOUND, "request {number}, round {round}: {took:?}");
            assert_ne!(reply.status, 401);
            assert_unavailable(&reply);
        }
    }
    // What needs no database is served, and readiness is denied in time
    assert_eq!(app.get("/health").send().await.status, 200);
    assert_eq!(app.get("/readyz").send().await.status, 503);

    // When it speaks again
    proxy.set_silent(false);

    // Then the same server works
    eventually("it is ready", async || {
        app.get("/readyz").send().await.status == 200
    })
    .await;
    eventually("it leads", async || leads(&app).await).await;
    app.create(json!({ "name": "after" })).await;
    app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_is_silent_under_load_and_then_gone_is_survived() {
    if !postgres_is_wanted() {
        return;
    }
    let (app, mut proxy, _database) = behind_proxy(bounded()).await;
    let app = Arc::new(app);
    let load = Load::begin(&app).await;
    load.wait_until_served().await;

    // When it falls silent, and its connections are lost in the end
    let (_, before) = load.answers();
    proxy.set_silent(true);
    eventually("somebody is refused", async || load.answers().1 > before).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    proxy.cut().await;
    proxy.set_silent(false);
    proxy.restore().await;

    // Then everything goes on
    load.wait_until_served().await;
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_ends_in_time_while_its_postgres_is_silent() {
    if !postgres_is_wanted() {
        return;
    }
    let (app, proxy, _database) = behind_proxy(bounded()).await;
    // Known by heart after its second heartbeat.
    let agent = external(&app, "far").await;
    let beat = async || {
        agent
            .beat(&app, json!({ "current_task": "x" }))
            .send()
            .await
            .status
    };
    assert_eq!(beat().await, 200);
    proxy.set_silent(true);
    assert_eq!(beat().await, 200);
    let started = Instant::now();
    app.shutdown().await;
    // The bound of the harness is ten seconds.
    assert!(
        started.elapsed() < Duration::from_secs(14),
        "{:?}",
        started.elapsed()
    );
}
