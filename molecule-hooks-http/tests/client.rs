//! The client against an upstream that misbehaves.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

use std::time::Duration;

use molecule_hooks::testing::{Reply, ScriptedUpstream};
use molecule_hooks::{HookError, HookErrorKind};
use molecule_hooks_http::{Answer, HttpClient, base_url, is_loopback, join, one_line};

async fn upstream() -> ScriptedUpstream {
    ScriptedUpstream::start().await.unwrap()
}

async fn ask(upstream: &ScriptedUpstream) -> Result<Answer, HookError> {
    ask_within(upstream, Duration::from_secs(60)).await
}

async fn ask_within(upstream: &ScriptedUpstream, timeout: Duration) -> Result<Answer, HookError> {
    let base = base_url(&upstream.url()).unwrap();
    let client = HttpClient::builder("test/1", &base)
        .timeout(timeout)
        .build()
        .unwrap();
    client
        .send("ask", client.get(join(&base, ["a b", "c/d"])))
        .await
}

#[tokio::test]
async fn an_answer_of_any_status_is_an_answer() {
    let upstream = upstream().await;
    upstream.reply(Reply::json(201, serde_json::json!({ "n": 7 })).header("X-Trace", "t"));

    let answer = ask(&upstream).await.unwrap();

    assert_eq!(
        (answer.status(), answer.header("x-trace")),
        (201, Some("t"))
    );
    let body: serde_json::Value = answer.json("ask").unwrap();
    assert_eq!(body["n"], 7);
    let request = upstream.requests().remove(0);
    assert_eq!(request.path, "/a%20b/c%2Fd");
    assert_eq!(request.header("user-agent"), Some("test/1"));
    assert_eq!(ask(&upstream).await.unwrap().status(), 404);
}

#[tokio::test]
async fn trouble_on_the_way_is_transient_and_shows_no_address() {
    for (reply, expected) in [
        (Reply::hang(), "ask: timed out"),
        (Reply::reset(), "ask: connection failed"),
        (Reply::garbage("not http"), "ask: connection failed"),
        (
            Reply::status(200).after(Duration::from_secs(600)),
            "ask: timed out",
        ),
    ] {
        let upstream = upstream().await;
        upstream.reply(reply);
        let error = ask_within(&upstream, Duration::from_secs(1))
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(error.is_transient());
        let address = upstream.address().to_string();
        assert!(!error.chain().contains(&address), "{error:?}");
    }
    let upstream = upstream().await;
    let base = base_url(&upstream.url()).unwrap();
    drop(upstream);
    let client = HttpClient::builder("test/1", &base).build().unwrap();
    let error = client.send("ask", client.get(base)).await.unwrap_err();
    assert!(error.is_transient());
}

#[tokio::test]
async fn an_endless_answer_is_cut_at_the_cap() {
    let upstream = upstream().await;
    upstream.reply(Reply::streaming(u64::MAX));
    let error = ask(&upstream).await.unwrap_err();
    assert_eq!(error.kind(), HookErrorKind::Permanent);
    assert_eq!(
        error.to_string(),
        "ask: the answer is longer than 65536 bytes"
    );
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_not_followed() {
    let (upstream, elsewhere) = (upstream().await, upstream().await);
    for status in [301, 302, 303, 307, 308] {
        upstream.reply(Reply::status(status).header("Location", &elsewhere.url()));
        let answer = ask(&upstream).await.unwrap();
        assert_eq!(answer.refusal("ask", "").kind(), HookErrorKind::Permanent);
    }
    assert_eq!(elsewhere.request_count(), 0);
}

#[tokio::test]
async fn a_refusal_says_whether_to_come_back_and_when() {
    let secs = |secs| Some(Duration::from_secs(secs));
    for (reply, transient, wait) in [
        (Reply::status(400), false, None),
        (Reply::status(401), false, None),
        (Reply::status(404).header("Retry-After", "9"), false, None),
        (Reply::status(408), true, None),
        (Reply::status(429), true, secs(60)),
        (Reply::status(429).header("Retry-After", "7"), true, secs(7)),
        (
            Reply::status(429).header("Retry-After", "soon"),
            true,
            secs(60),
        ),
        (Reply::status(500), true, None),
        (
            Reply::status(503).header("Retry-After", "120"),
            true,
            secs(120),
        ),
        (
            Reply::status(503).header("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT"),
            true,
            secs(0),
        ),
    ] {
        let upstream = upstream().await;
        upstream.reply(reply.clone());
        let error = ask(&upstream).await.unwrap().refusal("ask", "");
        assert_eq!(error.is_transient(), transient, "{reply:?}");
        assert_eq!(error.retry_after(), wait, "{reply:?}");
    }
}

#[tokio::test]
async fn what_the_upstream_says_is_masked_and_cut() {
    let upstream = upstream().await;
    upstream.reply(Reply::status(403));
    let answer = ask(&upstream).await.unwrap();
    let error = answer.refusal("ask", "no\n  ghp_PLANTEDPLANTED \u{1b}[31m for you");
    assert_eq!(
        error.to_string(),
        "ask: status 403: no [REDACTED] [31m for you"
    );
    assert_eq!(
        answer.refusal("ask", "").to_string(),
        "ask: status 403: Forbidden"
    );
    assert_eq!(one_line(&"é".repeat(1000)).chars().count(), 200);
}

#[tokio::test]
async fn nonsense_is_permanent_and_not_quoted() {
    for body in ["<html>PLANTED</html>", r#"{"n":"PLANTED"#, ""] {
        let upstream = upstream().await;
        upstream.reply(Reply::text(200, body));
        let answer = ask(&upstream).await.unwrap();
        let error = answer.json::<serde_json::Value>("ask").unwrap_err();
        assert_eq!(error.kind(), HookErrorKind::Permanent);
        assert!(
            error
                .to_string()
                .starts_with("ask: the answer is not the expected JSON")
        );
        assert!(!format!("{error:?} {answer:?}").contains("PLANTED"));
    }
}

#[test]
fn an_address_that_leaks_or_misleads_is_refused() {
    for (text, why) in [
        ("", "is not a URL"),
        ("vault:8200", "must start with"),
        ("file:///etc/passwd", "must start with"),
        ("https://me:hunter22@host", "must not hold"),
        ("https://host/?token=1", "must end with its path"),
        ("https://host/#x", "must end with its path"),
    ] {
        assert!(base_url(text).unwrap_err().contains(why), "{text}");
    }
    for (text, local) in [
        ("http://127.0.0.1:1", true),
        ("http://[::1]/x/", true),
        ("http://localhost", true),
        ("http://10.0.0.1", false),
        ("http://localhost.example.org", false),
    ] {
        let url = base_url(text).unwrap();
        assert_eq!(is_loopback(&url), local, "{text}");
        assert!(join(&url, ["v1"]).path().ends_with("/v1"));
        assert!(!join(&url, ["v1"]).path().contains("//"));
    }
}

#[test]
fn a_file_of_authorities_must_hold_some() {
    let base = base_url("https://upstream.invalid").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let build = |path: &str| HttpClient::builder("test/1", &base).ca_file(path).build();
    let file = directory.path().join("ca.pem");
    let path = file.to_str().unwrap();
    for (text, why) in [
        ("", "holds no certificate"),
        ("hello", "holds no certificate"),
        (
            "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
            "no certificate",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        let error = build(path).unwrap_err();
        assert_eq!(error.kind(), HookErrorKind::Config);
        assert!(error.to_string().contains(why), "{error}");
    }
    assert!(
        build("/no/such/file")
            .unwrap_err()
            .to_string()
            .contains("cannot be read")
    );
    let folder = build(directory.path().to_str().unwrap()).unwrap_err();
    assert!(folder.to_string().contains("not a regular file"));
}
