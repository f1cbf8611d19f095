//! Connections of every kind, good and bad, to a real server.

use std::time::{Duration, Instant};

use molecule_core::{Config, Registry, Server, config::Environment};
use molecule_tests::{ADMIN, Engine, FakeBackend, PATIENCE, TestDatabase, eventually};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::{Deployment, ServerProcess};

/// Within this a shutdown without requests is over, far below its bound.
const SOON: Duration = Duration::from_secs(2);

async fn connect(server: &ServerProcess, bytes: &str) -> TcpStream {
    let address = server.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("connect");
    stream.write_all(bytes.as_bytes()).await.expect("write");
    stream
}

/// A request that keeps the connection.
async fn health(stream: &mut TcpStream) {
    let request = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(request).await.expect("write");
    let mut buffer = [0; 4096];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await;
    let count = read.expect("in time").expect("a reply");
    assert!(buffer[..count].starts_with(b"HTTP/1.1 200"));
}

/// Everything until the server closes the connection.
async fn rest(stream: &mut TcpStream, within: Duration) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(within, stream.read_to_end(&mut bytes)).await;
    // A reset is an end too.
    let _ = read.expect("closed in time");
    String::from_utf8(bytes).expect("text")
}

/// Ends the server, which must not wait for anything.
async fn ends_soon(server: ServerProcess) {
    let started = Instant::now();
    server.signal(Signal::TERM);
    let (status, log) = server.end(PATIENCE).await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(started.elapsed() < SOON, "{:?}\n{log}", started.elapsed());
}

#[tokio::test]
async fn half_a_request_head_is_not_waited_for_long() {
    let mut deployment = Deployment::new();
    let server = deployment.start().await;
    let mut stream = connect(&server, "GET /hea").await;
    let started = Instant::now();
    rest(&mut stream, PATIENCE).await;
    assert!(started.elapsed() > Duration::from_secs(8), "too hasty");
    server.stop().await;
}

#[tokio::test]
async fn half_open_connections_do_not_delay_the_end() {
    let mut deployment = Deployment::new();
    let server = deployment.start().await;
    let mut open = Vec::new();
    for sent in ["", "GET /hea", "POST /workspaces HTTP/1.1\r\nHost: a\r\n"] {
        open.push(connect(&server, sent).await);
    }
    // They were accepted before this.
    health(&mut connect(&server, "").await).await;
    ends_soon(server).await;
}

#[tokio::test]
async fn two_hundred_idle_connections_do_not_delay_the_end() {
    let mut deployment = Deployment::new();
    let server = deployment.start().await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        let mut stream = connect(&server, "").await;
        health(&mut stream).await;
        idle.push(stream);
    }
    ends_soon(server).await;
}

#[tokio::test]
async fn what_was_cut_off_did_not_happen() {
    // Given a create request of which the last byte is missing
    let mut deployment = Deployment::new();
    deployment.set("server.shutdown_timeout_secs", 1);
    let server = deployment.start().await;
    let body = json!({ "name": "cut-off", "external": true }).to_string();
    let request = format!(
        "POST /workspaces HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {ADMIN}\r\n\
         Content-Length: {}\r\n\r\n{}",
        body.len(),
        &body[..body.len() - 1]
    );
    let mut stream = connect(&server, &request).await;
    health(&mut connect(&server, "").await).await;

    // When the server does not wait for it any longer
    server.signal(Signal::TERM);
    server.wait_for_log("were cut off").await;
    let _ = stream.write_all(b"}").await;

    // Then the client knows, and nothing was created
    assert_eq!(rest(&mut stream, PATIENCE).await, "");
    let (status, log) = server.end(PATIENCE).await;
    assert_eq!(status.code(), Some(0), "{log}");
    let server = deployment.start().await;
    let list = server.admin("GET", "/workspaces").send().await;
    assert_eq!(list.text.trim(), "[]");
    server.stop().await;
}

#[tokio::test]
async fn a_server_answers_after_many_aborted_connections() {
    let mut deployment = Deployment::new();
    let server = deployment.start().await;
    for round in 0..100 {
        for sent in [
            "",
            "GET /hea",
            "no HTTP at all\r\n\r\n",
            "GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            let stream = connect(&server, sent).await;
            if round % 2 == 0 {
                // A reset instead of an orderly end.
                stream.set_zero_linger().expect("an option");
            }
        }
    }
    assert_eq!(server.request("GET", "/health").send().await.status, 200);
    ends_soon(server).await;
}

#[tokio::test]
async fn a_server_without_descriptors_accepts_again_when_it_has_some() {
    // Given a server that may open a few more files
    let mut deployment = Deployment::new();
    let server = deployment.start().await;
    assert_eq!(server.admin("GET", "/workspaces").send().await.status, 200);
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid()))
        .expect("its files")
        .count() as u64;
    let limit = |current| Rlimit {
        current: Some(current),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    let pid = Pid::from_raw(server.pid());
    let before = prlimit(pid, Resource::Nofile, limit(open + 5)).expect("a limit");

    // When clients take them all
    let mut taken = Vec::new();
    for _ in 0..20 {
        taken.push(connect(&server, "").await);
    }
    server.wait_for_log("cannot accept connections").await;
    drop(taken);

    // Then it works again once they left
    prlimit(pid, Resource::Nofile, before).expect("a limit");
    assert_eq!(server.request("GET", "/health").send().await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let mut deployment = Deployment::new();
    let server = deployment.start().await;
    let mut stream = connect(
        &server,
        "GET /health HTTP/1.1\r\nHost: a\r\nX-Request-Id: one\r\n\r\n\
         GET /nowhere HTTP/1.1\r\nHost: a\r\nX-Request-Id: two\r\n\r\n\
         GET /health HTTP/1.1\r\nHost: a\r\nX-Request-Id: three\r\nConnection: close\r\n\r\n",
    )
    .await;
    let replies = rest(&mut stream, PATIENCE).await;
    let places: Vec<_> = [
        "HTTP/1.1 200",
        "x-request-id: one",
        "HTTP/1.1 404",
        "x-request-id: two",
        "x-request-id: three",
    ]
    .map(|text| replies.find(text).expect(text))
    .into();
    assert!(places.is_sorted(), "{replies}");
    server.stop().await;
}

#[tokio::test]
async fn http2_without_tls_is_spoken_and_does_not_delay_the_end() {
    let mut deployment = Deployment::new();
    let server = deployment.start().await;
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .timeout(PATIENCE)
        .build()
        .expect("a client");
    for _ in 0..3 {
        let url = format!("{}/health", server.url);
        let reply = client.get(url).send().await.expect("a reply");
        assert_eq!(reply.version(), reqwest::Version::HTTP_2);
        assert_eq!(reply.status(), 200);
    }
    // The client keeps its connection.
    ends_soon(server).await;
    drop(client);
}

#[tokio::test]
async fn a_server_that_cannot_start_leaves_nothing_running() {
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    // Given a database that breaks late in the start
    let database = TestDatabase::create(Engine::Sqlite).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let start = || {
        let mut config = Config {
            environment: Environment::Development,
            ..Config::default()
        };
        config.server.address = [127, 0, 0, 1].into();
        config.server.port = 0;
        config.database.url = Some(database.url().into());
        config.data_dir.0 = dir.path().to_owned();
        Server::builder(config, Registry::new())
            .backend(std::sync::Arc::new(FakeBackend::default()))
            .start()
    };
    start().await.expect("the server starts").shutdown().await;
    database
        .execute("ALTER TABLE workspaces RENAME COLUMN provision_lease_until TO elsewhere")
        .await;

    // When it is started
    let failed = start().await.err().expect("no start");

    // Then it says why and no task of it is left
    assert!(failed.to_string().contains("database"), "{failed}");
    eventually("all tasks ended", async || {
        metrics.num_alive_tasks() <= before
    })
    .await;
}
