//! The scripted upstream, asked over real sockets.

#![allow(clippy::unwrap_used)] // helpers of tests count as tests

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use molecule_hooks::testing::{Fault, MAX_RECORDED_BODY_BYTES, Reply, ScriptedUpstream};
use serde_json::json;

const LONG: Duration = Duration::from_secs(20);

/// Sends raw bytes and reads until the other side closes.
fn exchange(address: SocketAddr, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LONG))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

async fn ask(upstream: &ScriptedUpstream, request: impl Into<Vec<u8>>) -> std::io::Result<String> {
    let (address, request) = (upstream.address(), request.into());
    let answer = tokio::task::spawn_blocking(move || exchange(address, &request)).await;
    Ok(String::from_utf8_lossy(&answer.unwrap()?).into_owned())
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Trace: 7\r\n\r\n")
}

#[tokio::test]
async fn replies_come_in_order_and_then_the_default_one() {
    let upstream = ScriptedUpstream::start().await.unwrap();
    upstream
        .reply(Reply::json(201, json!({ "token": "t-1" })))
        .reply(Reply::status(429).header("Retry-After", "30"))
        .default_reply(Reply::text(503, "down"));

    let first = ask(&upstream, get("/a?b=c")).await.unwrap();
    assert!(first.starts_with("HTTP/1.1 201 "), "{first}");
    assert!(first.contains("content-type: application/json"));
    assert!(first.ends_with(r#"{"token":"t-1"}"#));
    let second = ask(&upstream, get("/")).await.unwrap();
    assert!(second.starts_with("HTTP/1.1 429 "));
    assert!(second.contains("retry-after: 30"));
    for _ in 0..2 {
        let later = ask(&upstream, get("/")).await.unwrap();
        assert!(later.starts_with("HTTP/1.1 503 ") && later.ends_with("down"));
    }
}

#[tokio::test]
async fn without_a_script_the_answer_says_so() {
    let upstream = ScriptedUpstream::start().await.unwrap();
    let answer = ask(&upstream, get("/")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.ends_with("no reply was scripted"));
}

#[tokio::test]
async fn requests_are_recorded_as_they_arrived() {
    let upstream = ScriptedUpstream::start().await.unwrap();
    let body = r#"{"n":1}"#;
    let request = format!(
        "POST /mint?x=1 HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer abc\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    ask(&upstream, request).await.unwrap();

    assert_eq!(upstream.request_count(), 1);
    let recorded = upstream.requests().remove(0);
    assert_eq!(recorded.method, "POST");
    assert_eq!(recorded.path, "/mint?x=1");
    assert_eq!(recorded.header("authorization"), Some("Bearer abc"));
    assert_eq!(recorded.header("absent"), None);
    assert_eq!(recorded.text(), body);
    assert_eq!(recorded.json(), Some(json!({ "n": 1 })));
    assert!(!recorded.body_truncated);
}

#[tokio::test]
async fn a_long_request_body_is_read_but_not_kept() {
    let upstream = ScriptedUpstream::start().await.unwrap();
    let length = MAX_RECORDED_BODY_BYTES + 1;
    let mut request = format!(
        "PUT / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    )
    .into_bytes();
    request.resize(request.len() + length, b'x');
    ask(&upstream, request).await.unwrap();
    let recorded = upstream.requests().remove(0);
    assert_eq!(recorded.body.len(), MAX_RECORDED_BODY_BYTES);
    assert!(recorded.body_truncated);
}

#[tokio::test]
async fn a_delayed_reply_waits_before_its_head() {
    let upstream = ScriptedUpstream::start().await.unwrap();
    upstream.reply(Reply::status(200).after(Duration::from_millis(60)));
    let start = Instant::now();
    ask(&upstream, get("/")).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(60));
}

#[tokio::test]
async fn a_hanging_reply_sends_nothing_and_the_connection_ends_with_the_upstream() {
    let upstream = ScriptedUpstream::start().await.unwrap();
    upstream.reply(Reply::hang());
    let address = upstream.address();
    let caller = tokio::task::spawn_blocking(move || exchange(address, get("/").as_bytes()));
    assert!(upstream.wait_for_requests(1, LONG).await);
    assert!(
        !upstream
            .wait_for_requests(2, Duration::from_millis(20))
            .await
    );
    assert!(!caller.is_finished());

    drop(upstream);

    let answer = tokio::time::timeout(LONG, caller).await.unwrap().unwrap();
    assert!(answer.map_or(true, |bytes| bytes.is_empty()));
    assert!(TcpStream::connect(address).is_err(), "the port is closed");
}

#[tokio::test]
async fn a_reset_is_a_reset() {
    let upstream = ScriptedUpstream::start().await.unwrap();
    upstream.reply(Reply::reset());
    let error = ask(&upstream, get("/")).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(upstream.request_count(), 1);
}

#[tokio::test]
async fn garbage_arrives_as_it_is() {
    let upstream = ScriptedUpstream::start().await.unwrap();
    upstream.reply(Reply::garbage(*b"\x16\x03\x01 not http\r\n"));
    let answer = ask(&upstream, get("/")).await.unwrap();
    assert_eq!(answer, "\u{16}\u{3}\u{1} not http\r\n");
}

#[tokio::test]
async fn a_streamed_body_has_exactly_the_size_asked_for() {
    let upstream = ScriptedUpstream::start().await.unwrap();
    upstream.reply(Reply::streaming(3_000_001));
    let request = "GET / HTTP/1.0\r\n\r\n"; // without chunks in between
    let answer = ask(&upstream, request).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("200 OK") && !head.contains("content-length"));
    assert_eq!(body.len(), 3_000_001);
}

#[tokio::test]
async fn a_client_may_leave_an_endless_body() {
    let upstream = ScriptedUpstream::start().await.unwrap();
    upstream
        .reply(Reply::streaming(u64::MAX))
        .default_reply(Reply::text(200, "still here"));
    let address = upstream.address();
    let left = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(get("/").as_bytes())?;
        stream.read_exact(&mut [0; 100_000])
    });
    left.await.unwrap().unwrap();
    let next = ask(&upstream, get("/")).await.unwrap();
    assert!(next.ends_with("still here"));
}

#[tokio::test]
async fn a_reply_that_http_does_not_know_is_answered_with_the_reason() {
    let upstream = ScriptedUpstream::start().await.unwrap();
    upstream.reply(Reply::status(200).header("bad name", "x"));
    let answer = ask(&upstream, get("/")).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 501 "), "{answer}");
    assert!(answer.contains("the scripted reply is not valid HTTP"));
}

#[test]
#[should_panic(expected = "99 is not a final HTTP status")]
fn a_status_that_does_not_exist_is_a_mistake_of_the_test() {
    let _ = Reply::status(99);
}

#[tokio::test]
async fn code_answers_when_nothing_is_queued() {
    let upstream = ScriptedUpstream::start().await.unwrap();
    upstream
        .answer_with(|request| match request.path.as_str() {
            "/panic" => panic!("on purpose"),
            path => Reply::text(200, format!("you asked for {path}")),
        })
        .reply(Reply::text(200, "queued"));
    assert!(ask(&upstream, get("/a")).await.unwrap().ends_with("queued"));
    let answer = ask(&upstream, get("/b")).await.unwrap();
    assert!(answer.ends_with("you asked for /b"), "{answer}");
    let cut = ask(&upstream, get("/panic")).await;
    assert!(cut.map_or(true, |answer| answer.is_empty()));
    let answer = ask(&upstream, get("/c")).await.unwrap();
    assert!(answer.ends_with("you asked for /c"), "{answer}");
    upstream.default_reply(Reply::text(200, "no code any more"));
    let answer = ask(&upstream, get("/d")).await.unwrap();
    assert!(answer.ends_with("no code any more"), "{answer}");
}

fn is_reset(answer: std::io::Result<String>) -> bool {
    answer.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn a_fault_breaks_every_answer_until_it_is_mended() {
    let upstream = ScriptedUpstream::start().await.unwrap();
    upstream.default_reply(Reply::text(201, "usual"));
    let request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
        Authorization: Bearer abc\r\nX-Vault-Token: def\r\n\r\n";
    for (fault, status, body) in [
        (Fault::Slow(Duration::from_millis(50)), "201", "usual"),
        (Fault::Drips(Duration::from_millis(5)), "201", "usual"),
        (Fault::Wrong, "200", "<title>Sign in to the network</title>"),
        (
            Fault::RateLimited(Duration::from_secs(30)),
            "429",
            "slow down",
        ),
        (Fault::Fails(503), "503", r#"cannot serve "Bearer abc def""#),
    ] {
        let started = Instant::now();
        let answer = ask(upstream.break_down(fault), request).await.unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(answer.ends_with(body), "{fault:?}: {answer}");
        let waits = matches!(fault, Fault::Slow(_) | Fault::Drips(_));
        assert!(!waits || started.elapsed() >= Duration::from_millis(25));
        assert!(status != "429" || answer.contains("retry-after: 30"));
    }
    let garbled = ask(upstream.break_down(Fault::Garbled), request).await;
    assert!(!garbled.unwrap().starts_with("HTTP"));
    let usual = ask(upstream.mend(), request).await.unwrap();
    assert!(usual.starts_with("HTTP/1.1 201 ") && usual.ends_with("usual"));
    assert_eq!(upstream.request_count(), 7);
}

#[tokio::test]
async fn a_truncated_answer_promises_more_than_it_holds() {
    let upstream = ScriptedUpstream::start().await.unwrap();
    upstream.default_reply(Reply::text(200, "0123456789"));
    let answer = ask(upstream.break_down(Fault::Truncated), get("/")).await;
    let answer = answer.unwrap();
    assert!(answer.contains("content-length: 10\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n01234"), "{answer}");
}

#[tokio::test]
async fn a_dead_upstream_resets_new_and_open_connections_and_keeps_its_queue() {
    let upstream = ScriptedUpstream::start().await.unwrap();
    upstream.reply(Reply::text(200, "queued"));
    upstream.break_down(Fault::Dead);
    assert!(is_reset(ask(&upstream, get("/")).await));
    assert_eq!(upstream.request_count(), 0);
    let answer = ask(upstream.mend(), get("/")).await.unwrap();
    assert!(answer.ends_with("queued"), "{answer}");

    upstream.default_reply(Reply::text(200, "first"));
    let address = upstream.address();
    let (open, opened) = tokio::sync::oneshot::channel();
    let (broken, dies) = std::sync::mpsc::channel();
    let client = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(LONG))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"first") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            answer.extend(byte);
        }
        let _ = open.send(());
        let _ = dies.recv();
        stream.write_all(get("/").as_bytes())?;
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    });
    opened.await.unwrap();
    upstream.break_down(Fault::Dead);
    broken.send(()).unwrap();
    assert!(is_reset(client.await.unwrap()));
}

#[tokio::test]
async fn an_oversized_answer_does_not_end_and_a_silent_one_does_not_begin() {
    let upstream = ScriptedUpstream::start().await.unwrap();
    upstream.default_reply(Reply::text(200, "usual"));
    upstream.break_down(Fault::Oversized);
    let address = upstream.address();
    let left = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(get("/").as_bytes())?;
        stream.read_exact(&mut [0; 1_000_000])
    });
    left.await.unwrap().unwrap();
    upstream.break_down(Fault::Silent);
    let caller = tokio::task::spawn_blocking(move || exchange(address, get("/").as_bytes()));
    assert!(upstream.wait_for_requests(2, LONG).await);
    drop(upstream);
    let answer = tokio::time::timeout(LONG, caller).await.unwrap().unwrap();
    assert!(answer.map_or(true, |bytes| bytes.is_empty()));
}

#[test]
fn there_is_one_fault_of_each_kind_to_try() {
    let names: Vec<String> = Fault::all()
        .iter()
        .map(|fault| format!("{fault:?}"))
        .collect();
    for kind in [
        "Slow",
        "Silent",
        "Dead",
        "Drips",
        "Truncated",
        "Oversized",
        "Wrong",
        "Garbled",
        "RateLimited",
        "Fails",
    ] {
        assert!(names.iter().any(|name| name.starts_with(kind)), "{kind}");
    }
}
