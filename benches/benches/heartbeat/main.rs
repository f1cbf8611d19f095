//! How many heartbeats the server takes, on both databases, with status changes
//! among them, and whether every change is in the database afterwards; then what
//! the database sees of a large fleet.

mod sizes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use molecule_benches::client::{Load, Script, request};
use molecule_benches::options::Length;
use molecule_benches::stats::{grouped, median, percentile};
use molecule_benches::workspaces::{self, Agent};
use molecule_benches::{server_runtime, statements};
use molecule_tests::{ADMIN, Engine, TestApp, TestDatabase};
use serde_json::json;

const AGENTS: usize = 100;
/// Of this many heartbeats, one reports trouble and the next one health again:
/// two of 200 change the status.
const CYCLE: u64 = 200;
const DEGRADED: &str =
    "SELECT count(*) FROM structure_events WHERE event_type = 'WORKSPACE_DEGRADED'";
const ONLINE: &str = "SELECT count(*) FROM structure_events WHERE event_type = 'WORKSPACE_ONLINE'";
const DEGRADED_NOW: &str = "SELECT count(*) FROM workspaces WHERE status = 'degraded'";

/// Changes that the heartbeats sent so far must have caused.
#[derive(Default)]
struct Expected {
    degraded: AtomicU64,
    online: AtomicU64,
}

/// The heartbeats of one agent; its trouble comes at a time of its own.
fn script(agent: &Agent, number: usize, expected: Arc<Expected>) -> Script {
    let beat = |rate: f64| -> Bytes {
        let body = json!({
            "workspace_id": agent.id,
            "error_rate": rate,
            "sample_error": "",
            "active_tasks": 1,
            "uptime_seconds": 3600,
            "current_task": "benching",
        });
        request(
            "POST",
            "/registry/heartbeat",
            &agent.token,
            Some(&body.to_string()),
        )
    };
    let (healthy, troubled) = (beat(0.0), beat(0.9));
    let trouble_at = 1 + (number as u64 * 37) % (CYCLE - 1);
    let mut sent = 0;
    let mut recovers = true; // the first heartbeat brings a new workspace online
    Box::new(move || {
        let troubles = sent % CYCLE == trouble_at;
        sent += 1;
        if std::mem::replace(&mut recovers, troubles) {
            expected.online.fetch_add(1, Ordering::Relaxed);
        }
        match troubles {
            true => {
                expected.degraded.fetch_add(1, Ordering::Relaxed);
                troubled.clone()
            }
            false => healthy.clone(),
        }
    })
}

fn measure(engine: Engine, rounds: usize, time: Duration) {
    let runtime = server_runtime();
    let app = runtime.block_on(async {
        TestApp::builder(engine)
            .strict()
            .admin_token(ADMIN)
            .start()
            .await
    });
    let agents = runtime.block_on(workspaces::create(&app, AGENTS));
    let expected = Arc::new(Expected::default());
    let scripts = agents
        .iter()
        .enumerate()
        .map(|(n, agent)| script(agent, n, Arc::clone(&expected)));
    let address = app
        .url
        .trim_start_matches("http://")
        .parse()
        .expect("an address");
    let mut load = Load::open(address, scripts.collect());
    load.run(time);
    let rounds: Vec<_> = (0..rounds).map(|_| load.run(time)).collect();
    let per_second: Vec<f64> = rounds.iter().map(|round| round.per_second).collect();
    let latencies: Vec<f64> = rounds
        .iter()
        .flat_map(|round| &round.latencies_ms)
        .copied()
        .collect();
    println!(
        "heartbeats on {engine:?}: {AGENTS} agents, one connection each, as fast as they are answered"
    );
    println!(
        "  {} heartbeats/s (median of {} rounds)",
        grouped(median(&per_second)),
        rounds.len()
    );
    println!(
        "  latency under this load: p50 {:.2} ms, p99 {:.2} ms, slowest {:.1} ms",
        percentile(&latencies, 50.0),
        percentile(&latencies, 99.0),
        percentile(&latencies, 100.0)
    );
    runtime.block_on(report_changes(&app.database, &expected));
    runtime.block_on(app.shutdown());
}

/// Counts over a connection of its own, while the server still runs: what it sees
/// is committed.
async fn report_changes(database: &TestDatabase, expected: &Expected) {
    let (degraded, online) = (
        expected.degraded.load(Ordering::Relaxed),
        expected.online.load(Ordering::Relaxed),
    );
    let found = (database.count(DEGRADED).await, database.count(ONLINE).await);
    println!(
        "  status changes recorded: {} degraded of {degraded}, {} online of {online}",
        found.0, found.1
    );
    assert_eq!(
        found,
        (degraded as i64, online as i64),
        "a status change was lost"
    );
    let degraded_now = AGENTS as i64 + degraded as i64 - online as i64;
    assert_eq!(
        database.count(DEGRADED_NOW).await,
        degraded_now,
        "rows and events disagree"
    );
}

fn main() {
    let length = Length::wanted();
    let (rounds, time) = match length {
        Length::Full => (9, Duration::from_secs(2)),
        shorter => shorter.rounds(),
    };
    let mut engines = vec![Engine::Sqlite];
    match std::env::var("MOLECULE_TEST_POSTGRES_URL") {
        Ok(_) => engines.push(Engine::Postgres),
        Err(_) => {
            println!("heartbeats on Postgres: skipped, MOLECULE_TEST_POSTGRES_URL is not set");
        }
    }
    for engine in &engines {
        measure(*engine, rounds, time);
    }
    statements::count();
    for engine in engines {
        sizes::run(engine, length);
    }
}
