//! What a server weighs that does nothing, how soon it answers after its start,
//! and how much it keeps in memory for a workspace. Measured on the binary
//! of `examples/minimal-server`, with SQLite and no backend.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use molecule_benches::client::{Connection, request};
use molecule_benches::options::Length;
use molecule_benches::stats::{grouped, median, percentile};
use molecule_benches::workspaces::Agent;
use molecule_benches::{block_on, fleet};
use molecule_tests::{ADMIN, Engine, KEY, TestDatabase};
use serde_json::json;

/// Names another binary to measure.
const BINARY_VARIABLE: &str = "MOLECULE_BENCH_SERVER";
const PATIENCE: Duration = Duration::from_secs(300);
/// Long enough for what a server does once after its start, and for the loops that
/// run every second.
const SETTLE: Duration = Duration::from_secs(3);
const CONNECTIONS: usize = 16;
const REPORTED: &str = "SELECT count(*) FROM workspaces WHERE uptime_seconds = 3600";

/// A running server in a process of its own, with a folder of its own.
struct Server {
    child: Child,
    address: SocketAddr,
    /// From the start of the process to the first 200.
    answered_after: Duration,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start(binary: &Path, database: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let free = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = free.local_addr().expect("its number");
        drop(free);
        let mut command = Command::new(binary);
        command
            .env_clear()
            .current_dir(dir.path())
            .env("MOLECULE_ENV", "staging")
            .env("MOLECULE_ADDRESS", "127.0.0.1")
            .env("PORT", address.port().to_string())
            .env("MOLECULE_BACKEND", "none")
            .env("MOLECULE_DATA_DIR", dir.path().join("data"))
            .env("DATABASE_URL", database)
            .env("ADMIN_TOKEN", ADMIN)
            .env("SECRETS_ENCRYPTION_KEY", KEY)
            .env("RATE_LIMIT", "1000000000")
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let started = Instant::now();
        let child = command.spawn().expect("the server starts");
        while !is_up(address) {
            assert!(started.elapsed() < PATIENCE, "the server does not answer");
            std::thread::sleep(Duration::from_millis(1));
        }
        Self {
            child,
            address,
            answered_after: started.elapsed(),
            _dir: dir,
        }
    }

    /// Memory as the system tells it; none where it does not.
    fn memory(&self) -> Option<Memory> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(path).ok()?;
        let mib = |name: &str| -> Option<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some(kib / 1024.0)
        };
        Some(Memory {
            resident: mib("VmRSS:")?,
            own: mib("RssAnon:")?,
        })
    }
}

/// MiB that are really there.
struct Memory {
    /// All of it, with the pages of the program itself, which the system shares and
    /// takes back at will.
    resident: f64,
    /// What the program allocated.
    own: f64,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It ended by itself otherwise, which is as good here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// True when `/health` says 200.
fn is_up(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(&head == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

fn database() -> TestDatabase {
    block_on(TestDatabase::create(Engine::Sqlite))
}

/// The binary to measure: what the environment names, else what cargo built beside
/// this bench.
/// The named one, else the one made for deployment, else the one for trying things out.
fn binary() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(BINARY_VARIABLE) {
        return Some(PathBuf::from(named)).filter(|path| path.is_file());
    }
    let own = std::env::current_exe().ok()?;
    let target = own.parent()?.parent()?.parent()?;
    let made = ["dist", "release"].map(|profile| target.join(profile).join("minimal-server"));
    made.into_iter().find(|path| path.is_file())
}

fn idle(binary: &Path, starts: usize) {
    let (mut millis, mut memory) = (Vec::new(), Vec::new());
    for _ in 0..starts {
        let database = database();
        let server = Server::start(binary, database.url());
        millis.push(server.answered_after.as_secs_f64() * 1000.0);
        std::thread::sleep(SETTLE);
        memory.extend(server.memory());
    }
    println!("an idle server on an empty SQLite database, {starts} starts");
    println!(
        "  start to first 200 on /health: median {:.0} ms, slowest {:.0} ms",
        median(&millis),
        percentile(&millis, 100.0)
    );
    let resident: Vec<f64> = memory.iter().map(|memory| memory.resident).collect();
    let own: Vec<f64> = memory.iter().map(|memory| memory.own).collect();
    println!(
        "  resident memory {} s after the start: median {:.1} MiB, largest {:.1} MiB; without the program's own pages {:.1} MiB",
        SETTLE.as_secs(),
        median(&resident),
        percentile(&resident, 100.0),
        median(&own)
    );
}

/// Lets every agent report once and the tree be read; memory when all of it is
/// written.
fn known(binary: &Path, workspaces: usize) -> Option<Memory> {
    let database = database();
    let server = Server::start(binary, database.url());
    let agents = block_on(fleet::insert(&database, workspaces));
    block_on(async {
        let mut connections = Vec::new();
        for part in agents.chunks(workspaces.div_ceil(CONNECTIONS)) {
            connections.push(report(server.address, part));
        }
        futures_util::future::join_all(connections).await;
        check_access(server.address, &agents[0], &agents[1]).await;
        let deadline = Instant::now() + PATIENCE;
        while database.count(REPORTED).await < agents.len() as i64 {
            assert!(Instant::now() < deadline, "heartbeats are not written");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    std::thread::sleep(SETTLE);
    server.memory()
}

async fn report(address: SocketAddr, agents: &[Agent]) {
    let mut connection = Connection::open(address).await.expect("a connection");
    for agent in agents {
        let body = json!({
            "workspace_id": agent.id,
            "active_tasks": 1,
            "uptime_seconds": 3600,
            "current_task": "benching",
        });
        let body = body.to_string();
        ask(&mut connection, "/registry/heartbeat", agent, &body).await;
    }
}

/// Makes the server read the tree.
async fn check_access(address: SocketAddr, one: &Agent, other: &Agent) {
    let mut connection = Connection::open(address).await.expect("a connection");
    let body = json!({ "caller_id": one.id, "target_id": other.id }).to_string();
    ask(&mut connection, "/registry/check-access", one, &body).await;
}

async fn ask(connection: &mut Connection, path: &str, agent: &Agent, body: &str) {
    let wanted = request("POST", path, &agent.token, Some(body));
    connection.send(&wanted).await.expect("the server reads");
    let reply = connection.receive().await.expect("an answer");
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(reply.body));
}

fn main() {
    let Some(binary) = binary() else {
        println!(
            "footprint: skipped, there is no binary; `cargo build --profile dist -p minimal-server` makes one, \
             {BINARY_VARIABLE} names another"
        );
        return;
    };
    let (starts, sizes) = match Length::wanted() {
        Length::Full => (11, [1_000, 100_000]),
        Length::Quick => (3, [1_000, 20_000]),
        Length::Smoke => (1, [100, 200]),
    };
    idle(&binary, starts);
    println!("memory of workspaces whose agents have reported, tree and tokens in memory");
    let [few, many] = sizes.map(|size| {
        let memory = known(&binary, size);
        if let Some(memory) = &memory {
            println!(
                "  {:>7} workspaces: {:.1} MiB resident, {:.1} MiB without the program's own pages",
                grouped(size as f64),
                memory.resident,
                memory.own
            );
        }
        memory
    });
    if let (Some(few), Some(many)) = (few, many) {
        println!(
            "  per workspace: {:.0} bytes of everything the process holds (tokens, limits, unreturned memory)",
            (many.own - few.own) * 1024.0 * 1024.0 / (sizes[1] - sizes[0]) as f64
        );
    }
}
