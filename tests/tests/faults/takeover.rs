//! Two servers on one database: who may take over whose work.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use molecule_hooks::Clock;
use molecule_tests::database::postgres_is_wanted;
use molecule_tests::fake_backend::Fault;
use molecule_tests::{ADMIN, Engine, TestApp, eventually};
use serde_json::json;

/// The wall clock, some time ahead.
#[derive(Clone, Default)]
pub(crate) struct MovableClock(Arc<AtomicI64>);

impl MovableClock {
    pub(crate) fn clock(&self) -> Clock {
        let ahead = Arc::clone(&self.0);
        Clock::from_fn(move || Utc::now() + TimeDelta::milliseconds(ahead.load(Ordering::Relaxed)))
    }

    pub(crate) fn advance(&self, by: Duration) {
        let millis = i64::try_from(by.as_millis()).expect("a short time");
        self.0.fetch_add(millis, Ordering::Relaxed);
    }
}

/// A server in the middle of a provision, and the workspace.
async fn hanging_provision() -> (TestApp, String) {
    let app = TestApp::builder(Engine::Postgres)
        .admin_token(ADMIN)
        .start()
        .await;
    app.backend.set_fault(Fault::StartHangs);
    let id = app.create(json!({ "name": "a" })).await;
    eventually("the start hangs", async || app.backend.starts().len() == 1).await;
    (app, id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_server_keeps_its_provision_and_a_dead_one_loses_it() {
    if !postgres_is_wanted() {
        return;
    }
    // Given a provision under way on one server
    let (first, id) = hanging_provision().await;

    // When a second server comes up on the same database and looks around
    let dir = tempfile::tempdir().expect("a temporary directory");
    let clock = MovableClock::default();
    let second = TestApp::builder(Engine::Postgres)
        .admin_token(ADMIN)
        .clock(clock.clock())
        .start_on(first.database.share(), dir)
        .await;
    // Its clock is ahead, so that only a renewed lease holds it off
    clock.advance(Duration::from_secs(19));
    let renewed = format!(
        "SELECT count(*) FROM workspaces WHERE provision_lease_until > '{}'",
        (Utc::now() + TimeDelta::seconds(33)).to_rfc3339()
    );
    eventually("the lease is renewed", async || {
        second.database.count(&renewed).await == 1
    })
    .await;
    let round = async || {
        let reply = second.get("/admin/liveness").bearer(ADMIN).send().await;
        reply.json()["subsystems"]["provision-recovery"]["last_tick_at"].clone()
    };
    let before = round().await;
    eventually("the second server looks again", async || {
        round().await != before
    })
    .await;

    // Then it leaves the work alone
    assert!(
        second.backend.starts().is_empty(),
        "taken from a living server"
    );
    assert!(
        second.backend.stops().is_empty(),
        "stopped under a living server"
    );

    // When the first server is gone without a word: the lease is as old as that
    let past = (Utc::now() - TimeDelta::seconds(1)).to_rfc3339();
    second
        .database
        .execute(&format!(
            "UPDATE workspaces SET provision_lease_until = '{past}'"
        ))
        .await;

    // Then the second one stops what may be left and starts over, once
    eventually("it is taken over", async || {
        second.backend.agent_token(&id).is_some()
    })
    .await;
    assert_eq!(
        (second.backend.starts().len(), second.backend.stops().len()),
        (1, 1)
    );
    second.shutdown().await;
    first.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_servers_one_takes_over() {
    if !postgres_is_wanted() {
        return;
    }
    // Given an interrupted provision
    let (first, id) = hanging_provision().await;
    let (database, _dir) = first.shutdown().await;

    // When four servers come up at once
    let servers = (0..4).map(|_| {
        let database = database.share();
        async {
            let dir = tempfile::tempdir().expect("a temporary directory");
            TestApp::builder(Engine::Postgres)
                .admin_token(ADMIN)
                .start_on(database, dir)
                .await
        }
    });
    let servers = futures_util::future::join_all(servers).await;

    // Then exactly one of them starts the workspace
    let starts = || {
        servers
            .iter()
            .map(|server| server.backend.starts().len())
            .sum::<usize>()
    };
    eventually("someone takes over", async || {
        servers
            .iter()
            .any(|server| server.backend.agent_token(&id).is_some())
    })
    .await;
    let started = "SELECT count(*) FROM workspaces WHERE provisioned_at IS NOT NULL";
    eventually("it is recorded", async || {
        database.count(started).await == 1
    })
    .await;
    assert_eq!(starts(), 1);
    for server in servers {
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_overtaken_takes_nothing_back() {
    if !postgres_is_wanted() {
        return;
    }
    // Given a provision under way on one server, which loses its lease
    let (first, id) = hanging_provision().await;
    let overtaken = "UPDATE workspaces SET provision_lease_until = created_at";
    first.database.execute(overtaken).await;

    // And another one, which takes over and gets it started
    let dir = tempfile::tempdir().expect("a temporary directory");
    let second = TestApp::builder(Engine::Postgres)
        .admin_token(ADMIN)
        .start_on(first.database.share(), dir)
        .await;
    eventually("it is taken over", async || {
        second.backend.agent_token(&id).is_some()
    })
    .await;
    let started = "SELECT count(*) FROM workspaces WHERE provisioned_at IS NOT NULL";
    eventually("it is recorded", async || {
        second.database.count(started).await == 1
    })
    .await;

    // When the first one notices
    eventually("the first server gives up", async || {
        first.backend.cancelled() == 1
    })
    .await;
    let (_database, _dir) = first.shutdown().await;

    // Then the agent of the second one still has its token and its workspace
    let token = second.backend.agent_token(&id).expect("a token");
    let body = json!({ "workspace_id": id });
    let reply = second
        .post("/registry/heartbeat", body)
        .bearer(&token)
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    second.wait_for_status(&id, "online").await;
    assert!(second.backend.stops().len() <= 1, "stopped under its agent");
    second.shutdown().await;
}
