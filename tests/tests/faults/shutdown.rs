//! SIGTERM and SIGINT to a real server.

use std::time::{Duration, Instant};

use molecule_tests::ADMIN;
use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::{Deployment, ServerProcess};

/// What a loaded machine may add to a bound.
const SLACK: Duration = Duration::from_secs(4);

/// A request whose body is still on its way.
struct SlowRequest {
    stream: TcpStream,
    rest: String,
}

impl SlowRequest {
    /// Sends the head and half of the body of a create request.
    async fn begin(server: &ServerProcess) -> Self {
        let address = server.url.trim_start_matches("http://").to_owned();
        let body = json!({ "name": "slow", "external": true }).to_string();
        let (half, rest) = body.split_at(body.len() / 2);
        let head = format!(
            "POST /workspaces HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {ADMIN}\r\n\
             Content-Length: {}\r\n\r\n{half}",
            body.len()
        );
        let mut stream = TcpStream::connect(&address).await.expect("connect");
        stream
            .write_all(head.as_bytes())
            .await
            .expect("half a request");
        Self {
            stream,
            rest: rest.to_owned(),
        }
    }

    /// Sends the rest and reads the reply.
    async fn finish(mut self) -> String {
        self.stream
            .write_all(self.rest.as_bytes())
            .await
            .expect("the other half");
        let mut reply = String::new();
        self.stream
            .read_to_string(&mut reply)
            .await
            .expect("a reply");
        reply
    }
}

async fn is_refused(server: &ServerProcess) -> bool {
    TcpStream::connect(server.url.trim_start_matches("http://"))
        .await
        .is_err()
}

async fn wait_until_refused(server: &ServerProcess) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !is_refused(server).await {
        assert!(
            tokio::time::Instant::now() < deadline,
            "still accepts:\n{}",
            server.log()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn both_signals_end_an_idle_server_at_once_and_well() {
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let mut deployment = Deployment::new();
        let server = deployment.start().await;
        // An idle kept-alive connection must not hold it up.
        assert_eq!(server.request("GET", "/health").send().await.status, 200);
        let idle = TcpStream::connect(server.url.trim_start_matches("http://")).await;
        let started = Instant::now();
        server.signal(signal);
        let (status, log) = server.end(Duration::from_secs(15)).await;
        assert_eq!(status.code(), Some(0), "{name}: {log}");
        assert!(
            started.elapsed() < SLACK,
            "{name}: {:?}\n{log}",
            started.elapsed()
        );
        assert!(
            log.contains(&format!("received {name}")) && log.contains("stopped"),
            "{log}"
        );
        drop(idle);
    }
}

#[tokio::test]
async fn a_request_under_way_is_finished_while_new_connections_are_refused() {
    let mut deployment = Deployment::new();
    let server = deployment.start().await;
    let slow = SlowRequest::begin(&server).await;
    // The server has the head once it works on something that came after it.
    assert_eq!(server.request("GET", "/health").send().await.status, 200);

    server.signal(Signal::TERM);
    wait_until_refused(&server).await;
    let reply = slow.finish().await;

    assert!(reply.starts_with("HTTP/1.1 201"), "{reply}");
    let (status, log) = server.end(Duration::from_secs(15)).await;
    assert_eq!(status.code(), Some(0), "{log}");
    // What was answered was also kept.
    let server = deployment.start().await;
    assert!(
        server
            .admin("GET", "/workspaces")
            .send()
            .await
            .text
            .contains("slow")
    );
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut_at_the_bound() {
    let mut deployment = Deployment::new();
    deployment.set("server.shutdown_timeout_secs", 2);
    let server = deployment.start().await;
    let stuck = SlowRequest::begin(&server).await;
    assert_eq!(server.request("GET", "/health").send().await.status, 200);
    let started = Instant::now();
    server.signal(Signal::TERM);
    let (status, log) = server.end(Duration::from_secs(30)).await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(
        started.elapsed() < Duration::from_secs(2) + SLACK,
        "{:?}\n{log}",
        started.elapsed()
    );
    drop(stuck);
}

#[tokio::test]
async fn a_locked_database_does_not_stretch_the_bound() {
    use sqlx::{Connection, Executor};
    // Given a heartbeat that cannot be written
    let mut deployment = Deployment::new();
    deployment
        .set("server.shutdown_timeout_secs", 3)
        .set("database.timeout_secs", 60);
    let server = deployment.start().await;
    let (id, token) = external(&server).await;
    // The first heartbeat writes that the token was used.
    heartbeat(&server, &id, &token, 1).await;
    let url = format!(
        "sqlite://{}",
        deployment.dir.path().join("data/molecule.db").display()
    );
    let mut other = sqlx::SqliteConnection::connect(&url)
        .await
        .expect("connect");
    other.execute("BEGIN EXCLUSIVE").await.expect("a lock");
    heartbeat(&server, &id, &token, 2).await;

    // When the server is told to end
    let started = Instant::now();
    server.signal(Signal::TERM);
    let (status, log) = server.end(Duration::from_secs(90)).await;

    // Then it gives up in time
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(
        started.elapsed() < Duration::from_secs(3) + SLACK,
        "{:?}\n{log}",
        started.elapsed()
    );
}

async fn external(server: &ServerProcess) -> (String, String) {
    let body = json!({ "name": "remote", "external": true });
    let reply = server
        .admin("POST", "/workspaces")
        .json(body)
        .send()
        .await
        .json();
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    (text(&reply["id"]), text(&reply["connection"]["auth_token"]))
}

async fn heartbeat(server: &ServerProcess, id: &str, token: &str, active_tasks: i64) {
    let body = json!({ "workspace_id": id, "active_tasks": active_tasks });
    let reply = server
        .request("POST", "/registry/heartbeat")
        .bearer(token)
        .json(body)
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

#[tokio::test]
async fn heartbeats_not_written_yet_are_written_at_the_end() {
    let mut deployment = Deployment::new();
    let server = deployment.start().await;
    let (id, token) = external(&server).await;
    // The last of these cannot all have met the flush of their second.
    for active_tasks in 1..=20 {
        heartbeat(&server, &id, &token, active_tasks).await;
    }
    server.stop().await;
    let server = deployment.start().await;
    let row = server.wait_for_status(&id, "online").await;
    assert_eq!(row["active_tasks"], 20);
    server.stop().await;
}

#[tokio::test]
async fn a_provision_under_way_is_taken_back_and_done_by_the_next_server() {
    // Given a hook that hangs
    let mut deployment = Deployment::new();
    deployment
        .set("hooks.config.m-middle.behaviour", "hang")
        .set("hooks.timeout_secs", 600);
    let server = deployment.start().await;
    let id = server
        .create(json!({ "name": "a", "secrets": { "HEARTBEAT_SECS": "0.2" } }))
        .await;
    server.wait_for_log("provision.start").await;

    // When the server ends
    let started = Instant::now();
    let log = server.stop().await;

    // Then it did not wait for the hook, and nothing is left
    assert!(started.elapsed() < SLACK, "{:?}\n{log}", started.elapsed());
    assert!(log.contains("provision cancelled and taken back"), "{log}");
    deployment.assert_nothing_left_of(&id);

    // And the next server brings the workspace up
    deployment.set("hooks.config.m-middle.behaviour", "ok");
    let server = deployment.start().await;
    server.wait_for_status(&id, "online").await;
    server.delete(&id).await;
    deployment.assert_nothing_left_of(&id);
    server.stop().await;
}

#[tokio::test]
async fn a_second_signal_ends_a_shutdown_that_takes_long() {
    let mut deployment = Deployment::new();
    deployment.set("server.shutdown_timeout_secs", 600);
    let server = deployment.start().await;
    let stuck = SlowRequest::begin(&server).await;
    assert_eq!(server.request("GET", "/health").send().await.status, 200);
    server.signal(Signal::TERM);
    server.wait_for_log("shutting down").await;
    let started = Instant::now();
    server.signal(Signal::INT);
    let (status, log) = server.end(Duration::from_secs(20)).await;
    // By itself, and it says that something was left undone.
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(started.elapsed() < SLACK, "{:?}\n{log}", started.elapsed());
    assert!(log.contains("second signal"), "{log}");
    drop(stuck);
}
