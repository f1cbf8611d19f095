//! The token endpoint, with authentication on and its token cached, next to a
//! bare hyper server that answers the same JSON; and ten thousand callers at the
//! instant the token expires.
//!
//! Every log setting gets a process of its own, because a process has one logger.

mod burst;

use std::fs::File;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use molecule_benches::client::{Load, Script, request};
use molecule_benches::options::Length;
use molecule_benches::stats::{grouped, median};
use molecule_benches::workspaces::{self, Agent};
use molecule_benches::{bare, cpu, server_runtime};
use molecule_hooks::{Clock, Token, TokenScope};
use molecule_tests::hooks::FnTokens;
use molecule_tests::{ADMIN, Engine, TestApp};

const CONNECTIONS: usize = 64;
/// How long a token of the bench lives.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);
/// No logger at all, the usual quiet setting, and the default.
const LOG_SETTINGS: [&str; 3] = ["off", "warn", "info"];
const COMPARE: &str = "--compare-with-logs=";

fn main() {
    let length = Length::wanted();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(client) = arguments
        .first()
        .and_then(|first| first.strip_prefix(burst::CLIENT))
    {
        return burst::run_client(client);
    }
    if let Some(log) = arguments
        .first()
        .and_then(|first| first.strip_prefix(COMPARE))
    {
        return compare(log, length);
    }
    println!("token endpoint against a bare hyper server, {CONNECTIONS} connections (medians)");
    println!("  `echo` decodes and encodes the JSON of its request; `answer` only encodes");
    println!(
        "  logs   endpoint/s     echo/s  ratio   answer/s  ratio   server CPU per request, us"
    );
    let settings = if length == Length::Smoke {
        &LOG_SETTINGS[..1]
    } else {
        &LOG_SETTINGS[..]
    };
    for log in settings {
        in_own_process(log, &arguments);
    }
    burst::run(length);
}

/// Runs [`compare`] in a child whose log goes to a file, as a server's does.
fn in_own_process(log: &str, arguments: &[String]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("log");
    let file = File::create(&path).expect("a log file");
    let status = Command::new(std::env::current_exe().expect("this program"))
        .arg(format!("{COMPARE}{log}"))
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(file)
        .status()
        .expect("this program starts");
    if !status.success() {
        eprintln!("{}", std::fs::read_to_string(&path).unwrap_or_default());
        panic!("the comparison with logs {log} failed");
    }
}

fn compare(log: &str, length: Length) {
    let runtime = server_runtime();
    let mints = Arc::new(AtomicU64::new(0));
    let tokens = provider(Clock::system(), Arc::clone(&mints), Duration::ZERO);
    let mut builder = TestApp::builder(Engine::Sqlite)
        .strict()
        .admin_token(ADMIN)
        .hook(tokens);
    if log != "off" {
        builder = builder.logs(log);
    }
    let app = runtime.block_on(builder.start());
    let agents = runtime.block_on(workspaces::create(&app, CONNECTIONS));
    let reply = runtime.block_on(app.get(&path(&agents[0])).bearer(&agents[0].token).send());
    assert_eq!(reply.status, 200, "{}", reply.text);
    let refused = runtime.block_on(app.get(&path(&agents[0])).bearer(&agents[1].token).send());
    assert_eq!(refused.status, 401, "authentication is on");
    let bare = runtime.block_on(bare::serve(reply.json()));

    let scripts = || agents.iter().map(script).collect();
    let json = request("POST", "/", &agents[0].token, Some(&reply.text));
    let echoes = (0..CONNECTIONS).map(|_| same(json.clone())).collect();
    let address = app
        .url
        .trim_start_matches("http://")
        .parse()
        .expect("an address");
    let mut targets = [
        Load::open(address, scripts()),
        Load::open(bare, echoes),
        Load::open(bare, scripts()),
    ];
    let (rounds, time) = length.rounds();
    for load in &mut targets {
        load.run(time); // warms it up
    }
    let mut measured = Vec::new();
    for _ in 0..rounds {
        measured.push(targets.each_mut().map(|load| one_round(load, time)));
    }
    let column =
        |pick: fn(&[Sample; 3]) -> f64| median(&measured.iter().map(pick).collect::<Vec<_>>());
    println!(
        "  {log:<5} {:>11} {:>10}  {:.2}x {:>10}  {:.2}x   {:.1}, {:.1}, {:.1}",
        grouped(column(|[endpoint, ..]| endpoint.per_second)),
        grouped(column(|[_, echo, _]| echo.per_second)),
        column(|[endpoint, echo, _]| endpoint.per_second / echo.per_second),
        grouped(column(|[.., answer]| answer.per_second)),
        column(|[endpoint, _, answer]| endpoint.per_second / answer.per_second),
        column(|[endpoint, ..]| endpoint.cpu_us),
        column(|[_, echo, _]| echo.cpu_us),
        column(|[.., answer]| answer.cpu_us),
    );
    assert_eq!(mints.load(Ordering::SeqCst), 1, "one token serves them all");
    runtime.block_on(app.shutdown());
}

struct Sample {
    per_second: f64,
    /// Processor time of the server for one request, in microseconds.
    cpu_us: f64,
}

fn one_round(load: &mut Load, time: Duration) -> Sample {
    let before = cpu::of_other_threads().unwrap_or_default();
    let round = load.run(time);
    let used = cpu::of_other_threads()
        .unwrap_or_default()
        .saturating_sub(before);
    Sample {
        per_second: round.per_second,
        cpu_us: used.as_secs_f64() * 1e6 / round.replies as f64,
    }
}

fn path(agent: &Agent) -> String {
    format!("/workspaces/{}/github-installation-token", agent.id)
}

fn script(agent: &Agent) -> Script {
    same(request("GET", &path(agent), &agent.token, None))
}

fn same(request: Bytes) -> Script {
    Box::new(move || request.clone())
}

/// One token for everybody, minted in `takes`; counts.
fn provider(clock: Clock, mints: Arc<AtomicU64>, takes: Duration) -> FnTokens {
    FnTokens::new(TokenScope::Shared, move |_| {
        let number = mints.fetch_add(1, Ordering::SeqCst);
        let clock = clock.clone();
        async move {
            tokio::time::sleep(takes).await;
            Ok(Token::new(
                format!("ghs_{number:036}"),
                clock.now() + TOKEN_LIFE,
            ))
        }
    })
}
