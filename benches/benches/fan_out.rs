//! How long an event takes to 1,000 sockets at 100 events a second, with every
//! reader reading and with one that never does, and how many statements the
//! database saw meanwhile.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use molecule_benches::client::{Connection, request};
use molecule_benches::database::transactions;
use molecule_benches::options::Length;
use molecule_benches::socket::Socket;
use molecule_benches::stats::percentile;
use molecule_benches::workspaces::Agent;
use molecule_benches::{client_runtime, cpu, server_runtime, statements};
use molecule_tests::{ADMIN, Engine, TestApp, eventually};
use serde_json::json;
use tokio::task::JoinSet;

/// Siblings, each with this many sockets.
const WORKSPACES: usize = 20;
const SOCKETS_EACH: usize = 50;
/// Of each heartbeat come two events: the changed task and the heartbeat.
const BEAT_EVERY: Duration = Duration::from_millis(20);
/// What the outsider's events carry, so that its connection fills up.
const PADDING: usize = 8_000;

/// The listening agents, and one that none of them hears of.
struct Fleet {
    agents: Vec<Agent>,
    outsider: Agent,
}

async fn create(app: &TestApp, name: &str, parent: Option<&str>) -> Agent {
    let id = app
        .create(json!({ "name": name, "parent_id": parent }))
        .await;
    eventually("it is started", || async {
        app.backend.agent_token(&id).is_some()
    })
    .await;
    let token = app.backend.agent_token(&id).expect("a token");
    Agent { id, token }
}

async fn fleet(app: &TestApp) -> Fleet {
    let team = create(app, "team", None).await;
    let others = create(app, "others", None).await;
    let mut agents = Vec::new();
    for number in 0..WORKSPACES {
        agents.push(create(app, &format!("agent-{number}"), Some(&team.id)).await);
    }
    Fleet {
        agents,
        outsider: create(app, "outsider", Some(&others.id)).await,
    }
}

fn beat(agent: &Agent, task: &str) -> bytes::Bytes {
    let body = json!({ "workspace_id": agent.id, "current_task": task });
    request(
        "POST",
        "/registry/heartbeat",
        &agent.token,
        Some(&body.to_string()),
    )
}

/// Sends this many heartbeats at a steady rate.
async fn beats(address: SocketAddr, agent: Agent, padding: usize, count: usize) {
    let mut connection = Connection::open(address).await.expect("a connection");
    let mut timer = tokio::time::interval(BEAT_EVERY);
    for number in 0..count {
        timer.tick().await;
        let task = format!("{number} {}", "x".repeat(padding));
        connection
            .send(&beat(&agent, &task))
            .await
            .expect("the server reads");
        let status = connection.receive().await.expect("an answer").status;
        assert_eq!(status, 200);
    }
}

/// Milliseconds since the moment that an event names. Its JSON is ours: the time
/// has a fixed place and form.
fn age_ms(event: &[u8]) -> f64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let name = b"\"timestamp\":\"";
    let at = event.windows(name.len()).position(|bytes| bytes == name);
    let at = at.expect("a time") + name.len();
    // `2026-01-02T03:04:05.678901Z`: within the minute is enough.
    let digits = std::str::from_utf8(&event[at + 17..at + 26]).expect("digits");
    let event: f64 = digits.parse().expect("seconds");
    let now = (now.as_secs() % 60) as f64 + f64::from(now.subsec_micros()) / 1e6;
    ((now - event).rem_euclid(60.0)) * 1000.0
}

async fn read(mut socket: Socket, count: usize) -> (Socket, Vec<f64>) {
    let mut ages = Vec::with_capacity(count);
    for _ in 0..count {
        let event = socket.text().await.expect("the socket stays open");
        ages.push(age_ms(event));
    }
    (socket, ages)
}

/// One round of heartbeats: the latencies of the readers.
async fn round(
    address: SocketAddr,
    fleet: &Fleet,
    sockets: Vec<Socket>,
    outsider_reads: bool,
    count: usize,
) -> (Vec<Socket>, Vec<f64>) {
    let (id, token) = (&fleet.outsider.id, &fleet.outsider.token);
    let mut outsider = Socket::open(address, id, token).await.expect("a socket");
    let holding = tokio::spawn(async move {
        if outsider_reads {
            while outsider.text().await.is_ok() {}
        }
        // Who does not read just holds the connection.
        std::future::pending::<()>().await;
        drop(outsider);
    });
    let mut readers = JoinSet::new();
    for socket in sockets {
        readers.spawn(read(socket, 2 * count));
    }
    let noise = tokio::spawn(beats(address, fleet.outsider.clone(), PADDING, count));
    beats(address, fleet.agents[0].clone(), 0, count).await;
    noise.await.expect("no panic");
    let (mut sockets, mut ages) = (Vec::new(), Vec::new());
    while let Some(reader) = readers.join_next().await {
        let (socket, found) = reader.expect("no panic");
        sockets.push(socket);
        ages.extend(found);
    }
    holding.abort();
    (sockets, ages)
}

fn measure(engine: Engine, rounds: usize, time: Duration) {
    let server = server_runtime();
    let app = server.block_on(async {
        TestApp::builder(engine)
            .strict()
            .admin_token(ADMIN)
            .config(|config| config.server.rate_limit = 1_000_000_000)
            .start()
            .await
    });
    let fleet = server.block_on(fleet(&app));
    let address = app
        .url
        .trim_start_matches("http://")
        .parse()
        .expect("an address");
    let client = client_runtime();
    // The first heartbeat of a workspace brings it online, which is an event more.
    for agent in [&fleet.agents[0], &fleet.outsider] {
        client.block_on(beats(address, agent.clone(), 1, 1));
    }
    let count = time.div_duration_f64(BEAT_EVERY) as usize;
    let mut sockets = client.block_on(async {
        let mut sockets = Vec::new();
        for agent in &fleet.agents {
            for _ in 0..SOCKETS_EACH {
                let socket = Socket::open(address, &agent.id, &agent.token).await;
                sockets.push(socket.expect("a socket"));
            }
        }
        sockets
    });
    println!(
        "fan-out on {engine:?}: {} sockets, 100 events/s",
        sockets.len()
    );
    let mut latencies = [Vec::new(), Vec::new()];
    let before = server.block_on(transactions(&app.database));
    let ran = statements::so_far();
    let (started, cpu) = (std::time::Instant::now(), cpu::of_other_threads());
    let mut total = 0;
    for _ in 0..rounds {
        for (found, reads) in latencies.iter_mut().zip([true, false]) {
            let done = client.block_on(round(address, &fleet, sockets, reads, count));
            sockets = done.0;
            found.extend(done.1);
            total += 4 * count;
        }
    }
    let took = started.elapsed();
    for (found, name) in latencies.iter().zip(["all read", "one stalled"]) {
        println!(
            "  {name}: {} deliveries, p50 {:.2} ms, p99 {:.2} ms, slowest {:.1} ms",
            found.len(),
            percentile(found, 50.0),
            percentile(found, 99.0),
            percentile(found, 100.0)
        );
    }
    let [all, stalled] = latencies.map(|found| percentile(&found, 99.0));
    println!(
        "  p99 with one stalled reader: {:.2} of that without",
        stalled / all
    );
    if let (Some(before), Some(after)) = (cpu, cpu::of_other_threads()) {
        let share = (after - before).as_secs_f64() / took.as_secs_f64();
        println!("  processor time of the server: {share:.2} of one core");
    }
    let ran = statements::since(&ran);
    println!(
        "  statements: {} while {total} events were sent, {:.4} per event",
        statements::total(&ran),
        statements::total(&ran) as f64 / total as f64
    );
    println!("    {}", statements::listed(&ran));
    let after = server.block_on(transactions(&app.database));
    if let (Some(before), Some(after)) = (before, after) {
        println!(
            "  database: {} transactions, {:.1} a second (heartbeats are written once a second)",
            after - before,
            (after - before) as f64 / started.elapsed().as_secs_f64()
        );
    }
    drop(sockets);
    server.block_on(app.shutdown());
}

fn main() {
    let (rounds, time) = match Length::wanted() {
        Length::Full => (5, Duration::from_secs(5)),
        Length::Quick => (2, Duration::from_secs(3)),
        Length::Smoke => (1, Duration::from_millis(500)),
    };
    statements::count();
    measure(Engine::Sqlite, rounds, time);
    match std::env::var("MOLECULE_TEST_POSTGRES_URL") {
        Ok(_) => measure(Engine::Postgres, rounds, time),
        Err(_) => println!("fan-out on Postgres: skipped, MOLECULE_TEST_POSTGRES_URL is not set"),
    }
}
