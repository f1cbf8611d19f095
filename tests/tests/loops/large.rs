//! What a fleet of ten thousand containers costs its daemon.

use std::time::{Duration, Instant};

use molecule_core::config::BackendChoice;
use molecule_tests::{ADMIN, Engine, TestApp, TestDatabase};
use uuid::Uuid;

use crate::fake_daemon::FakeDaemon;
use crate::rounds::{only, wait_for_lead};

const FLEET: usize = 10_000;
/// How often each of the loops looks; once a minute in a deployment.
const PERIOD: Duration = Duration::from_secs(5);
/// Rounds that are counted.
const ROUNDS: usize = 3;
/// Reading ten thousand of anything takes its time in a debug build.
const PATIENCE: Duration = Duration::from_secs(120);

/// A database with this many workspaces online, and the instance id it goes by.
async fn fleet_in_a_database() -> (TestDatabase, tempfile::TempDir, String) {
    // The first start gives it one.
    let app = only(Engine::Sqlite, |_| {}).start().await;
    let (database, dir) = app.shutdown().await;
    let instance = database
        .text("SELECT value FROM platform_state WHERE key = 'instance_id'")
        .await;
    let insert = format!(
        "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {FLEET})
         INSERT INTO workspaces (id, name, tier, runtime, status, instance_id, created_at, updated_at, last_heartbeat_at)
         SELECT unhex(printf('%032x', n)), printf('agent %d', n), 2, 'langgraph', 'online',
                lower(printf('%032x%032x', n, n)),
                '2099-01-01T00:00:00+00:00', '2099-01-01T00:00:00+00:00', '2099-01-01T00:00:00+00:00'
         FROM numbers"
    );
    database.execute(&insert).await;
    (database, dir, instance)
}

fn workspaces() -> impl Iterator<Item = Uuid> {
    (1..=FLEET).map(|number| Uuid::from_u128(number as u128))
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn count(app: &TestApp, status: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM workspaces WHERE status = '{status}'");
    app.database.count(&sql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_containers_cost_two_lists_a_round_and_a_storm_few_looks() {
    // Given a daemon that holds a large fleet, and a server with three loops
    // that look at it
    let (database, dir, instance) = fleet_in_a_database().await;
    let daemon = FakeDaemon::start(&instance, workspaces());
    let app = only(Engine::Sqlite, |cadence| {
        cadence.told_health = PERIOD;
        cadence.tokens = PERIOD;
        cadence.orphans = PERIOD;
    })
    .real_backend()
    .config(|config| {
        config.backend.kind = BackendChoice::Docker;
        config.backend.docker.host = Some(daemon.address());
        // Nothing is booted here.
        config.workspaces.restarts_per_minute = 1;
    })
    .start_on(database, dir)
    .await;
    wait_for_lead(&app).await;
    until("the server listens", async || daemon.listeners() == 1).await;
    until("the first list", async || daemon.calls("volumes") > 0).await;

    // When nothing happens for some rounds
    let before = (daemon.calls("containers/json"), daemon.calls("volumes"));
    let started = Instant::now();
    until("some rounds", async || {
        daemon.calls("containers/json") >= before.0 + ROUNDS
    })
    .await;
    let periods = started.elapsed().as_secs_f64() / PERIOD.as_secs_f64();

    // Then all loops together cost one list of each kind a round, and no look
    let lists = daemon.calls("containers/json") - before.0;
    let volumes = daemon.calls("volumes") - before.1;
    let most = periods / 0.9 + 1.0;
    assert!(
        (lists as f64) <= most && (volumes as f64) <= most,
        "{lists}, {volumes} in {periods}"
    );
    assert_eq!(daemon.calls("inspect"), 0);
    assert_eq!(count(&app, "online").await, FLEET as i64);
    let (containers, listed_volumes) = daemon.list_bytes();
    println!("bytes of a list: containers {containers}, volumes {listed_volumes}");
    println!(
        "{FLEET} containers: {lists} container lists and {volumes} volume lists in {periods:.1} rounds; \
         a round is a minute in a deployment"
    );

    // When all of them are told to have ended, and twenty really have
    let ended: Vec<Uuid> = workspaces().step_by(FLEET / 20).collect();
    for id in &ended {
        daemon.end(*id);
    }
    for id in workspaces() {
        daemon.tell_end(id);
    }

    // Then those are found, few at a time, and most of the others are not looked at
    until("those that ended are missed", async || {
        count(&app, "online").await == (FLEET - ended.len()) as i64
    })
    .await;
    let (inspects, at_once) = (daemon.calls("inspect"), daemon.most_inspecting());
    assert!(at_once <= 32, "{at_once} at once");
    assert!(inspects < FLEET / 4, "{inspects}");
    let reply = app.get("/metrics").bearer(ADMIN).send().await.text;
    assert!(reply.contains("molecule_backend_lists_total"), "{reply}");
}
