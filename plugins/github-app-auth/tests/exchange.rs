//! The exchange against a GitHub that checks signatures, and its failures.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod common;

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use common::{World, faces, fixture};
use github_stand_in::{Behaviour, GithubStandIn};
use molecule_hooks::{EMPTY_TOKEN, HookErrorKind};

fn wait(secs: u64) -> Option<Duration> {
    Some(Duration::from_secs(secs))
}

#[tokio::test]
async fn both_key_formats_get_a_token_with_the_documented_request() {
    for key in ["test-only-pkcs1.pem", "test-only-pkcs8.pem"] {
        let world = World::with_key(key).await;

        let token = world.token().await.unwrap();

        assert!(token.secret.expose().starts_with("ghs_"));
        let left = token.expires_at - world.clock.now();
        assert!(left > TimeDelta::minutes(59), "{left}");
        let claims = world.github.last_claims().unwrap();
        assert_eq!(claims.iss, "4242");
        assert_eq!(claims.exp - claims.iat, 9 * 60);
        let age = world.clock.now().timestamp() - claims.iat;
        assert!((60..65).contains(&age), "{age}");
        let request = world.github.last_request().unwrap();
        assert_eq!(request.installation_id, "77");
        assert_eq!(request.body_bytes, 0);
        assert_eq!(request.headers["accept"], "application/vnd.github+json");
        assert_eq!(request.headers["x-github-api-version"], "2022-11-28");
        assert_eq!(request.headers.get_all("content-length").iter().count(), 1);
        assert!(request.headers.contains_key("user-agent"));
    }
}

#[tokio::test]
async fn a_base_url_may_end_with_a_slash() {
    let github = GithubStandIn::start(common::PUBLIC_KEY).await.unwrap();
    let url = format!("{}/", github.url());
    let world = World::with(|config| config.with_env("GITHUB_API_URL", &url)).await;
    world.token().await.unwrap();
    assert_eq!((github.calls(), world.github.calls()), (1, 0));
}

#[tokio::test]
async fn refusals_are_permanent_and_quote_status_and_message() {
    let world = World::with_key("test-only-other-rsa.pem").await;
    let error = world.token().await.unwrap_err();
    assert_eq!(error.kind(), HookErrorKind::Permanent);
    assert_eq!(
        error.to_string(),
        "access_tokens returned 401: A JSON web token could not be decoded"
    );

    for (code, body, expected) in [
        (404, r#"{"message":"Not Found"}"#, "404: Not Found"),
        (
            422,
            r#"{"message":"two\nlines \u001b[31m"}"#,
            "422: two lines [31m",
        ),
        (400, "<html>secret</html>", "400: Bad Request"),
        (403, r#"{"message":"suspended"}"#, "403: suspended"),
        (302, "", "302: Found"),
    ] {
        let world = World::new().await;
        world.github.set_behaviour(Behaviour::Status {
            code,
            body: body.to_owned(),
            headers: vec![("x-ratelimit-remaining".into(), "4999".into())],
        });
        let error = world.token().await.unwrap_err();
        assert_eq!(error.kind(), HookErrorKind::Permanent, "{code}");
        assert_eq!(
            error.to_string(),
            format!("access_tokens returned {expected}")
        );
    }
}

#[tokio::test]
async fn upstream_trouble_is_transient() {
    for code in [500, 502, 503, 504, 408] {
        let world = World::new().await;
        world.github.set_behaviour(Behaviour::refuse(code, "oops"));
        let error = world.token().await.unwrap_err();
        assert!(error.is_transient(), "{code}");
        assert_eq!(error.retry_after(), None);
        assert_eq!(
            error.to_string(),
            format!("access_tokens returned {code}: oops")
        );
    }
}

#[tokio::test]
async fn an_unreachable_github_is_transient() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let world = World::with(|config| config.with_env("GITHUB_API_URL", &url)).await;
    let error = world.token().await.unwrap_err();
    assert!(error.is_transient());
    assert_eq!(error.to_string(), "post access_tokens: cannot connect");
    assert!(
        !faces(&error).contains(&url),
        "the URL stays out: {error:?}"
    );
}

#[tokio::test]
async fn the_time_to_come_back_is_passed_on() {
    let world = World::new().await;
    let in_two_minutes = world.clock.now() + TimeDelta::seconds(120);
    let date = in_two_minutes.format("%a, %d %b %Y %H:%M:%S GMT");
    let reset = in_two_minutes.timestamp().to_string();
    let refused = |code| Behaviour::refuse(code, "slow down");
    let limited = Behaviour::refuse(403, "You have exceeded a secondary rate limit.");
    let cases = [
        (refused(429).with_header("retry-after", "37"), 37),
        (refused(403).with_header("retry-after", "37"), 37),
        (refused(503).with_header("retry-after", "37"), 37),
        (
            refused(429).with_header("retry-after", date.to_string()),
            120,
        ),
        (
            refused(403)
                .with_header("x-ratelimit-remaining", "0")
                .with_header("x-ratelimit-reset", &reset),
            120,
        ),
        (refused(429).with_header("x-ratelimit-reset", &reset), 120),
        (refused(429), 60),
        (limited.with_header("x-ratelimit-remaining", "4999"), 60),
        (
            refused(429).with_header("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT"),
            0,
        ),
        (refused(429).with_header("retry-after", "soon"), 60),
    ];
    for (behaviour, secs) in cases {
        let world = World::new().await;
        world.github.set_behaviour(behaviour.clone());
        let error = world.token().await.unwrap_err();
        assert!(error.is_transient(), "{behaviour:?}");
        let got = error.retry_after().unwrap();
        let least = wait(secs).unwrap().saturating_sub(Duration::from_secs(5));
        assert!(
            got >= least && got <= wait(secs).unwrap(),
            "{behaviour:?}: {got:?}"
        );
    }
}

#[tokio::test]
async fn nonsense_is_permanent_and_not_quoted() {
    let script = |body: &str| Behaviour::Status {
        code: 201,
        body: body.to_owned(),
        headers: vec![],
    };
    for (behaviour, expected) in [
        (Behaviour::Garbage, "parse response: "),
        (
            script(r#"{"token":"ghs_PLANTED_PLANTED"#),
            "parse response: ",
        ),
        (script(r#"{"token":{"PLANTED":1}}"#), "parse response: "),
        (script(r#"{"token":["PLANTED"]}"#), "parse response: "),
        (script(r#""PLANTED""#), "parse response: "),
        (
            script(r#"{"token":"ghs_PLANTED_PLANTED","expires_at":"PLANTED"}"#),
            "parse response: expires_at is not an RFC 3339 time",
        ),
        (
            Behaviour::NoToken,
            "access_tokens response missing token field",
        ),
        (
            Behaviour::EmptyToken,
            "access_tokens response missing token field",
        ),
        (
            Behaviour::Expired,
            "token provider returned an expired token",
        ),
    ] {
        let world = World::new().await;
        world.github.set_behaviour(behaviour.clone());
        let error = world.token().await.unwrap_err();
        assert_eq!(error.kind(), HookErrorKind::Permanent, "{behaviour:?}");
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(!faces(&error).contains("PLANTED"), "{error:?}");
        assert_ne!(error.to_string(), EMPTY_TOKEN);
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_transient() {
    let world = World::new().await;
    world.github.set_behaviour(Behaviour::Truncated);
    let error = world.token().await.unwrap_err();
    assert!(error.is_transient());
    assert_eq!(error.to_string(), "read response: connection failed");
}

#[tokio::test]
async fn an_endless_answer_is_cut_at_the_cap() {
    let world = World::new().await;
    world.github.set_behaviour(Behaviour::Huge);
    let started = Instant::now();
    let error = world.token().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "read response: the answer is longer than 65536 bytes"
    );
    assert!(started.elapsed() < Duration::from_secs(5));
    let taken = world.github.streamed_bytes();
    assert!(taken < 64 * 1024 * 1024, "{taken} bytes were read");
}

#[tokio::test]
async fn a_hanging_github_is_given_up_after_the_timeout() {
    let world = World::with(|config| {
        let section = serde_json::json!({"timeout_secs": 1});
        config.with_section("github-app-auth", section)
    })
    .await;
    world.github.set_behaviour(Behaviour::Hang);
    let started = Instant::now();
    let error = world.token().await.unwrap_err();
    assert!(error.is_transient());
    assert_eq!(error.to_string(), "post access_tokens: timed out");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_token_without_expiry_counts_for_an_hour() {
    let world = World::new().await;
    world.github.set_behaviour(Behaviour::NoExpiry);
    let token = world.token().await.unwrap();
    let left = token.expires_at - world.clock.now();
    assert!(left <= TimeDelta::hours(1) && left > TimeDelta::minutes(59));
}

#[tokio::test]
async fn a_redirect_does_not_carry_the_jwt_elsewhere() {
    let elsewhere = GithubStandIn::start(common::PUBLIC_KEY).await.unwrap();
    let target = format!("{}/app/installations/77/access_tokens", elsewhere.url());
    for code in [301, 302, 307, 308] {
        let world = World::new().await;
        let behaviour = Behaviour::refuse(code, "moved").with_header("location", &target);
        world.github.set_behaviour(behaviour);
        assert!(world.token().await.is_err());
    }
    assert_eq!(elsewhere.calls(), 0);
}

#[tokio::test]
async fn no_error_shows_a_key_a_jwt_or_a_token() {
    let pem = std::fs::read_to_string(fixture("test-only-pkcs8.pem")).unwrap();
    let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiI0MjQyIn0.c2lnbmF0dXJl";
    let message = format!("no: ghs_PLANTEDPLANTED Bearer PLANTED-{jwt} https://u:PLANTED@h {pem}");
    for code in [401, 404, 403, 429, 500] {
        let world = World::new().await;
        let behaviour = Behaviour::refuse(code, &message).with_header("x-secret", "PLANTED");
        world.github.set_behaviour(behaviour);
        for error in [
            Some(world.token().await.unwrap_err()),
            world.boot().await.0.err(),
        ] {
            let Some(error) = error else { continue };
            let shown = faces(&error);
            assert!(shown.contains("[REDACTED]"), "{shown}");
            assert!(!shown.contains("PLANTED"), "{shown}");
            assert!(!shown.contains("eyJ"), "{shown}");
            let body = pem.lines().filter(|line| !line.contains("-----"));
            for line in body {
                assert!(!shown.contains(&line[..12]), "{shown}");
            }
        }
    }
}
