//! Heartbeats of a thousand, ten thousand and a hundred thousand workspaces: what
//! the database sees must not grow with the requests.

use std::time::{Duration, Instant};

use bytes::Bytes;
use molecule_benches::client::{Load, Script, request};
use molecule_benches::database::{counter, transactions};
use molecule_benches::options::Length;
use molecule_benches::stats::{grouped, median, percentile};
use molecule_benches::workspaces::Agent;
use molecule_benches::{fleet, server_runtime, statements};
use molecule_tests::{ADMIN, Engine, TestApp};
use serde_json::json;

const CONNECTIONS: usize = 100;
const COMMITS: &str = "molecule_heartbeat_commits_total";

/// The sizes of the fleet, the rounds and their duration.
fn plan(length: Length) -> (&'static [usize], usize, Duration) {
    match length {
        Length::Full => (&[1_000, 10_000, 100_000], 5, Duration::from_secs(2)),
        Length::Quick => (&[1_000, 10_000], 3, Duration::from_secs(1)),
        Length::Smoke => (&[200], 1, Duration::from_millis(200)),
    }
}

pub(crate) fn run(engine: Engine, length: Length) {
    let (sizes, rounds, time) = plan(length);
    println!(
        "heartbeats on {engine:?} by the number of workspaces, {CONNECTIONS} connections, as fast as they are answered"
    );
    println!(
        "  workspaces  heartbeats/s   p50 ms   p99 ms  commits/s  all transactions  reads per heartbeat: first, later"
    );
    for size in sizes {
        measure(engine, *size, rounds, time);
    }
}

fn beat(agent: &Agent) -> Bytes {
    let body = json!({
        "workspace_id": agent.id,
        "error_rate": 0.0,
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
}

/// Speaks for its agents by turns.
fn script(beats: Vec<Bytes>) -> Script {
    let mut turn = 0;
    Box::new(move || {
        turn += 1;
        beats[turn % beats.len()].clone()
    })
}

fn measure(engine: Engine, size: usize, rounds: usize, time: Duration) {
    let runtime = server_runtime();
    let app = TestApp::builder(engine).strict().admin_token(ADMIN);
    let app = runtime.block_on(app.start());
    let agents = runtime.block_on(fleet::insert(&app.database, size));
    let each = size / CONNECTIONS;
    let scripts = agents
        .chunks(each)
        .map(|agents| script(agents.iter().map(beat).collect()));
    let address = app.url.trim_start_matches("http://").parse();
    let mut load = Load::open(address.expect("an address"), scripts.collect());

    // Until everybody was heard at least once.
    let before = statements::so_far();
    let mut first = 0;
    loop {
        first += load.run(Duration::from_millis(100)).replies;
        if load.fewest_sent() >= each {
            break;
        }
    }
    let first_reads = statements::reads(&statements::since(&before)) as f64 / first as f64;

    let transactions_before = runtime.block_on(transactions(&app.database));
    let commits = runtime.block_on(counter(&app, COMMITS));
    let (before, started) = (statements::so_far(), Instant::now());
    let rounds: Vec<_> = (0..rounds).map(|_| load.run(time)).collect();
    let took = started.elapsed().as_secs_f64();
    let commits = runtime.block_on(counter(&app, COMMITS)) - commits;
    let replies: usize = rounds.iter().map(|round| round.replies).sum();
    let reads = statements::reads(&statements::since(&before)) as f64 / replies as f64;
    let transactions_after = runtime.block_on(transactions(&app.database));
    let counted_for = started.elapsed().as_secs_f64();
    let per_second: Vec<f64> = rounds.iter().map(|round| round.per_second).collect();
    let latencies: Vec<f64> = rounds
        .iter()
        .flat_map(|round| &round.latencies_ms)
        .copied()
        .collect();
    let all = match (transactions_before, transactions_after) {
        (Some(before), Some(after)) => format!("{} in {counted_for:.0} s", after - before),
        _ => "not counted".to_owned(),
    };
    println!(
        "  {:>10}  {:>12}  {:>7.2}  {:>7.2}  {:>9.2}  {all:>16}  {first_reads:.3}, {reads:.5}",
        grouped(size as f64),
        grouped(median(&per_second)),
        percentile(&latencies, 50.0),
        percentile(&latencies, 99.0),
        commits as f64 / took,
    );
    runtime.block_on(app.shutdown());
}
