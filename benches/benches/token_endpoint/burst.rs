//! Everybody asks at the instant the token expires; one mint must serve them.
//!
//! The callers live in a process of their own, so that neither side runs out of
//! file descriptors.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Write};
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
/// A caller gives up after this long.
const PATIENCE: Duration = Duration::from_secs(30);

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
    // Closed again, because the callers are as many as the server has places for.
    let first = app.get(&path(&agent)).bearer(&agent.token);
    let first = runtime.block_on(first.header("connection", "close").send());
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

/// The callers: ask once, wait for a line on standard input, ask all at once.
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
            // With the token that is about to expire: the connection is in use.
            let mut connection = Connection::open(address).await.expect("a connection");
            ask(&mut connection, &request).await.expect("a first reply");
            let (request, mut started) = (request.clone(), started.clone());
            tasks.spawn(async move {
                started
                    .wait_for(|started| *started)
                    .await
                    .expect("the start");
                ask(&mut connection, &request).await
            });
        }
        println!("connected");
        std::io::stdin()
            .lock()
            .read_line(&mut String::new())
            .expect("a line");
        start.send_replace(true);
        report(&tasks.join_all().await);
    });
}

/// What one caller got, and when.
struct Answer {
    sent: Instant,
    received: Instant,
    status: u16,
    body: Vec<u8>,
}

async fn ask(connection: &mut Connection, request: &[u8]) -> io::Result<Answer> {
    let exchange = async {
        connection.send(request).await?;
        let sent = Instant::now();
        let reply = connection.receive().await?;
        Ok(Answer {
            sent,
            received: Instant::now(),
            status: reply.status,
            body: reply.body.to_vec(),
        })
    };
    tokio::time::timeout(PATIENCE, exchange).await?
}

/// Prints one line about what the callers saw.
fn report(answers: &[io::Result<Answer>]) {
    let answered: Vec<&Answer> = answers.iter().flatten().collect();
    let refused = answered.iter().filter(|a| a.status != 200).count();
    let bodies: BTreeSet<&[u8]> = answered.iter().map(|a| &a.body[..]).collect();
    let last_sent = answered.iter().map(|a| a.sent).max();
    let first_received = answered.iter().map(|a| a.received).min();
    let together = match last_sent < first_received {
        true => "before",
        false => "NOT before",
    };
    println!(
        "{} answers, {refused} of them refusals, {} connections lost; {} distinct; the last request \
         was sent {together} the first answer",
        answered.len(),
        answers.len() - answered.len(),
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
