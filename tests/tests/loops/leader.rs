//! Several servers on one database: one of them runs the loops.

use std::time::Duration;

use molecule_hooks::testing::FakeClock;
use molecule_tests::database::postgres_is_wanted;
use molecule_tests::proxy::Proxy;
use molecule_tests::support::Agent;
use molecule_tests::{Engine, TestApp, TestAppBuilder, TestDatabase, eventually, on_both_engines};
use serde_json::json;
use tokio::time::Instant;

use crate::rounds::{
    QUICK, leads, offline_events, only, status, wait_for_lead, wait_until_offline,
};

/// What a server that died without a word may hold the lead for.
const LEASE: Duration = Duration::from_secs(12);

fn sweeping() -> TestAppBuilder {
    only(Engine::Postgres, |cadence| cadence.health = QUICK)
}

async fn start_on(builder: TestAppBuilder, database: TestDatabase) -> TestApp {
    let dir = tempfile::tempdir().expect("a temporary directory");
    builder.start_on(database, dir).await
}

/// How many of these servers lead.
async fn leaders(servers: &[&TestApp]) -> usize {
    let mut count = 0;
    for server in servers {
        count += usize::from(leads(server).await);
    }
    count
}

on_both_engines! {
    async fn a_server_alone_leads(engine: Engine) {
        let app = only(engine, |_| {}).start().await;
        wait_for_lead(&app).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_servers_acts_and_the_other_follows_it() {
    if !postgres_is_wanted() {
        return;
    }
    // Given two servers on one database and one backend
    let first = sweeping().start().await;
    wait_for_lead(&first).await;
    let second = start_on(
        sweeping().backend(first.backend.clone()),
        first.database.share(),
    )
    .await;
    let agent = Agent::online(&second, json!({ "name": "one" })).await;

    // When a workspace dies
    first.backend.lose(&agent.id);

    // Then the one that leads notices, and it is one
    wait_until_offline(&second, Engine::Postgres, &agent.id).await;
    assert_eq!(leaders(&[&first, &second]).await, 1);
    assert_eq!(offline_events(&first, Engine::Postgres, &agent.id).await, 1);

    // When it is shut down
    let (database, _dir) = first.shutdown().await;
    let left = Instant::now();
    wait_for_lead(&second).await;

    // Then the other one did not have to wait for the end of a lease
    assert!(left.elapsed() < LEASE / 2, "{:?}", left.elapsed());
    let agent = Agent::online(&second, json!({ "name": "two" })).await;
    second.backend.lose(&agent.id);
    wait_until_offline(&second, Engine::Postgres, &agent.id).await;
    second.shutdown().await;
    drop(database);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_servers_at_once_one_leads() {
    if !postgres_is_wanted() {
        return;
    }
    let database = TestDatabase::create(Engine::Postgres).await;
    // Their migrations take turns.
    let starting = (0..4).map(|_| start_on(sweeping(), database.share()));
    let servers = futures_util::future::join_all(starting).await;
    let all: Vec<&TestApp> = servers.iter().collect();
    eventually("somebody leads", async || leaders(&all).await > 0).await;
    // For longer than it takes to renew
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        assert_eq!(leaders(&all).await, 1);
        tokio::time::sleep(QUICK).await;
    }
    for server in servers {
        server.shutdown().await;
    }
}

#[test]
fn the_lead_of_a_server_that_was_killed_passes_on() {
    if !postgres_is_wanted() {
        return;
    }
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime")
    };
    // Given a server that leads, and one that follows
    let (doomed, survivor) = (runtime(), runtime());
    let database = survivor.block_on(TestDatabase::create(Engine::Postgres));
    let first = doomed.block_on(start_on(sweeping(), database.share()));
    doomed.block_on(wait_for_lead(&first));
    let second = survivor.block_on(start_on(sweeping(), database.share()));
    assert!(!survivor.block_on(leads(&second)));

    // When the first one is gone in the middle of everything
    doomed.shutdown_background();

    // Then the second one takes over, not before the lease could be over
    let left = Instant::now();
    survivor.block_on(wait_for_lead(&second));
    assert!(left.elapsed() > LEASE / 2, "{:?}", left.elapsed());
    survivor.block_on(second.shutdown());
    drop(first);
    drop(database);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_are_wrong_make_neither_two_leaders_nor_none() {
    if !postgres_is_wanted() {
        return;
    }
    // Given servers whose clocks are years apart
    let (early, late) = (FakeClock::new(), FakeClock::new());
    late.advance(Duration::from_secs(10 * 365 * 86_400));
    let first = sweeping().clock(early.clock()).start().await;
    wait_for_lead(&first).await;
    let second = start_on(sweeping().clock(late.clock()), first.database.share()).await;

    // When they jump ahead and back
    let until = Instant::now() + LEASE + Duration::from_secs(3);
    let mut jumps = 0;
    while Instant::now() < until {
        for time in [&early, &late] {
            let now = time.now();
            let by = Duration::from_secs(100 * 86_400);
            time.set(if jumps % 2 == 0 { now + by } else { now - by });
        }
        jumps += 1;
        assert_eq!(leaders(&[&first, &second]).await, 1);
        assert!(leads(&first).await, "it lives and renews");
        tokio::time::sleep(QUICK * 4).await;
    }

    // Then the lead still passes on
    let (database, _dir) = first.shutdown().await;
    wait_for_lead(&second).await;
    second.shutdown().await;
    drop(database);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_stops_before_another_one_begins() {
    if !postgres_is_wanted() {
        return;
    }
    // Given a leader whose way to the database can be cut, and another server
    let database = TestDatabase::create(Engine::Postgres).await;
    let mut proxy = Proxy::start(database.server_address()).await;
    let timeout =
        |builder: TestAppBuilder| builder.config(|config| config.database.timeout_secs = 2);
    let first = start_on(timeout(sweeping()), database.through(proxy.port())).await;
    wait_for_lead(&first).await;
    let second = start_on(timeout(sweeping()), database.share()).await;

    // When it is cut
    proxy.cut().await;

    // Then there are never two, and soon the other one leads
    let cut = Instant::now();
    while !leads(&second).await {
        assert!(leaders(&[&first, &second]).await <= 1);
        assert!(cut.elapsed() < LEASE * 2, "nobody leads");
        tokio::time::sleep(QUICK).await;
    }
    assert!(!leads(&first).await);

    // And the first one follows when it is back
    proxy.restore().await;
    let agent = Agent::online(&second, json!({ "name": "one" })).await;
    eventually("the first server is back", async || {
        status(&first, &agent.id).await == "online"
    })
    .await;
    assert!(!leads(&first).await && leads(&second).await);
    first.shutdown().await;
    second.shutdown().await;
}
