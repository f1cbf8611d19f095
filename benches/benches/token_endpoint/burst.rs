//! Everybody asks at the instant the token expires; one mint must serve them.
//!
//! The callers live in a process of their own, so that neither side runs out of
//! file descriptors.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use molecule_benches::client::{Connection, request};
use molecule_benches::options::Length;
use molecule_benches::stats::grouped;
use molecule_benches::{block_on, server_runtime, workspaces};
use molecule_hooks::testing::FakeClock;
use molecule_tests::{ADMIN, Engine, TestApp};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{TOKEN_LIFE, path, provider};

/// Marks the arguments of the callers' process: `address,path,token,callers`.
pub(crate) const CLIENT: &str = "--burst-client=";
/// The upstream takes this long, so that every caller is there before the answer.
const MINT_TAKES: Duration = Duration::from_secs(2);

pub(crate) fn run(length: Length) {
    let callers = if length == Length::Smoke { 100 } else { 10_000 };
    raise_file_limit();
    let runtime = server_runtime();
    let (time, mints) = (FakeClock::new(), Arc::new(AtomicU64::new(0)));
    let tokens = provider(time.clock(), Arc::clone(&mints), MINT_TAKES);
    let builder = TestApp::builder(Engine::Sqlite)
        .strict()
        .admin_token(ADMIN)
        .hook(tokens)
        .clock(time.clock());
    let app = runtime.block_on(builder.start());
    let agent = runtime.block_on(workspaces::create(&app, 1)).remove(0);
    let first = runtime.block_on(app.get(&path(&agent)).bearer(&agent.token).send());
    assert_eq!(first.status, 200, "{}", first.text);
    let minted_before = mints.load(Ordering::SeqCst);

    let address = app.url.trim_start_matches("http://");
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .arg(format!(
            "{CLIENT}{address},{},{},{callers}",
            path(&agent),
            agent.token
        ))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    assert_eq!(line(), "connected");
    time.advance(TOKEN_LIFE);
    child
        .stdin
        .take()
        .expect("its input")
        .write_all(b"go\n")
        .expect("it reads");
    let report = line();
    assert!(
        child.wait().expect("it ends").success(),
        "the callers failed"
    );

    println!(
        "{} callers at the instant of expiry",
        grouped(f64::from(callers))
    );
    println!("  mints: {}", mints.load(Ordering::SeqCst) - minted_before);
    println!("  {report}");
    runtime.block_on(app.shutdown());
}

/// The callers: connect, wait for a line on standard input, ask all at once.
pub(crate) fn run_client(arguments: &str) {
    raise_file_limit();
    let parts: Vec<&str> = arguments.split(',').collect();
    let [address, path, token, callers] = parts[..] else {
        panic!("four arguments")
    };
    let address: SocketAddr = address.parse().expect("an address");
    let callers: usize = callers.parse().expect("a number");
    let request = request("GET", path, token, None);
    block_on(async move {
        let (start, started) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let mut connection = Connection::open(address).await.expect("a connection");
            let (request, mut started) = (request.clone(), started.clone());
            tasks.spawn(async move {
                started
                    .wait_for(|started| *started)
                    .await
                    .expect("the start");
                connection.send(&request).await.expect("the server reads");
                let sent = Instant::now();
                let reply = connection.receive().await.expect("the server answers");
                (sent, Instant::now(), reply.status, reply.body.to_vec())
            });
        }
        println!("connected");
        std::io::stdin()
            .lock()
            .read_line(&mut String::new())
            .expect("a line");
        start.send_replace(true);
        report(tasks.join_all().await);
    });
}

/// Prints one line about what the callers saw.
fn report(replies: Vec<(Instant, Instant, u16, Vec<u8>)>) {
    let refused = replies
        .iter()
        .filter(|(_, _, status, _)| *status != 200)
        .count();
    let mut bodies: Vec<&[u8]> = replies.iter().map(|(_, _, _, body)| &body[..]).collect();
    bodies.sort_unstable();
    bodies.dedup();
    let last_sent = replies.iter().map(|(sent, ..)| *sent).max();
    let first_reply = replies.iter().map(|(_, reply, ..)| *reply).min();
    let together = if last_sent < first_reply {
        "before"
    } else {
        "NOT before"
    };
    println!(
        "{} replies, {refused} refused, {} distinct; the last request was sent {together} the first reply",
        replies.len(),
        bodies.len()
    );
}

/// A caller is a socket; some systems allow few by default.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // What does not work shows as a refused connection.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}
