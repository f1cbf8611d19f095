//! How many SQL statements ten thousand authenticated requests cost, for every way
//! to prove who one is. The routes are those that have no statement of their own.

use std::time::{Duration, Instant};

use bytes::Bytes;
use molecule_benches::client::{Connection, request};
use molecule_benches::database::transactions;
use molecule_benches::options::Length;
use molecule_benches::stats::grouped;
use molecule_benches::workspaces;
use molecule_benches::{block_on, server_runtime, statements};
use molecule_hooks::{Clock, Token, TokenScope};
use molecule_tests::hooks::FnTokens;
use molecule_tests::{ADMIN, Engine, TestApp};
use serde_json::json;

const TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// A proof, the route it opens, and its request.
type Case = (&'static str, &'static str, Bytes);

fn tokens() -> FnTokens {
    FnTokens::new(TokenScope::Shared, |_| async {
        let expires = Clock::system().now() + TOKEN_LIFE;
        Ok(Token::new(
            "ghs_0123456789012345678901234567890123456".to_owned(),
            expires,
        ))
    })
}

async fn cases(app: &TestApp) -> Vec<Case> {
    let agents = workspaces::create(app, 2).await;
    let (agent, other) = (&agents[0], &agents[1]);
    let minted = app.post("/org/tokens", json!({ "name": "bench" }));
    let minted = minted.bearer(ADMIN).send().await;
    assert!(minted.status < 300, "{}", minted.text);
    let org = minted.json()["auth_token"]
        .as_str()
        .expect("a token")
        .to_owned();
    let own = format!("/workspaces/{}/github-installation-token", agent.id);
    let admin = "/admin/github-installation-token";
    let question = json!({ "caller_id": agent.id, "target_id": other.id }).to_string();
    let beat = json!({ "workspace_id": agent.id, "active_tasks": 1 }).to_string();
    let post = |path, body: &str| request("POST", path, &agent.token, Some(body));
    vec![
        (
            "workspace token",
            "token endpoint",
            request("GET", &own, &agent.token, None),
        ),
        (
            "workspace token",
            "heartbeat",
            post("/registry/heartbeat", &beat),
        ),
        (
            "workspace token",
            "check-access",
            post("/registry/check-access", &question),
        ),
        (
            "organisation token",
            "admin token endpoint",
            request("GET", admin, &org, None),
        ),
        (
            "administrator token",
            "admin token endpoint",
            request("GET", admin, ADMIN, None),
        ),
    ]
}

/// Asks so often over one connection; every answer must be 200.
async fn ask(app: &TestApp, wanted: &Bytes, count: usize) {
    let address = app.url.trim_start_matches("http://").parse();
    let address = address.expect("an address");
    let mut connection = Connection::open(address).await.expect("a connection");
    for _ in 0..count {
        connection.send(wanted).await.expect("the server reads");
        let reply = connection.receive().await.expect("an answer");
        assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(reply.body));
    }
}

fn measure(engine: Engine, requests: usize, idle: Duration) {
    let runtime = server_runtime();
    let builder = TestApp::builder(engine).strict().admin_token(ADMIN);
    let app = runtime.block_on(builder.hook(tokens()).start());
    let cases = runtime.block_on(cases(&app));
    println!(
        "statements of {} authenticated requests on {engine:?}",
        grouped(requests as f64)
    );
    for (proof, route, wanted) in &cases {
        let before = statements::so_far();
        // The second reads a status that the first changed: it brought an agent online.
        block_on(ask(&app, wanted, 2));
        let first = statements::total(&statements::since(&before));
        let (before, started) = (statements::so_far(), Instant::now());
        block_on(ask(&app, wanted, requests));
        let took = started.elapsed();
        let ran = statements::since(&before);
        println!(
            "  {proof} at {route}: the first two {first}, all the others {} in {:.1} s, {} of them reads",
            statements::total(&ran),
            took.as_secs_f64(),
            statements::reads(&ran)
        );
        if !ran.is_empty() {
            println!("    {}", statements::listed(&ran));
        }
    }
    let before = runtime.block_on(transactions(&app.database));
    let (ran, started) = (statements::so_far(), Instant::now());
    std::thread::sleep(idle);
    let after = runtime.block_on(transactions(&app.database));
    let ran = statements::since(&ran);
    println!(
        "  for comparison, {:.0} s without a request: {} statements",
        started.elapsed().as_secs_f64(),
        statements::total(&ran)
    );
    if !ran.is_empty() {
        println!("    {}", statements::listed(&ran));
    }
    if let Some((before, after)) = before.zip(after) {
        println!(
            "    {} transactions by the database's own count",
            after - before
        );
    }
    runtime.block_on(app.shutdown());
}

fn main() {
    let (requests, idle) = match Length::wanted() {
        Length::Full => (10_000, Duration::from_secs(10)),
        Length::Quick => (10_000, Duration::from_secs(2)),
        Length::Smoke => (100, Duration::ZERO),
    };
    statements::count();
    measure(Engine::Sqlite, requests, idle);
    match std::env::var("MOLECULE_TEST_POSTGRES_URL") {
        Ok(_) => measure(Engine::Postgres, requests, idle),
        Err(_) => println!("on Postgres: skipped, MOLECULE_TEST_POSTGRES_URL is not set"),
    }
}
