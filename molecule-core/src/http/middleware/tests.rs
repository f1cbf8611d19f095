//! The shell around routes that misbehave.

use std::sync::LazyLock;

use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use tower::ServiceExt;
use utoipa_axum::router::OpenApiRouter;

use super::*;
use crate::http::{self, Proxies};

const TIMEOUT: Duration = Duration::from_millis(300);
const ORIGIN: &str = "http://localhost:3000";

fn shell(closing: &CancellationToken, limit: u64) -> Shell {
    Shell::new(ShellParts {
        redactor: Redactor::default(),
        timeout: TIMEOUT,
        slow: vec![("/slow", TIMEOUT * 20)],
        templates: vec!["/panic".to_owned(), "/slow".to_owned()],
        cors: Cors::new(&[ORIGIN.to_owned()]),
        limiter: Some(RateLimiter::new(limit, Duration::from_secs(60))),
        known_credential: Box::new(|headers| {
            assert!(!headers.contains_key("x-boom"), "boom");
            None
        }),
        trusted_proxies: Vec::new(),
        guard: None,
        closing: closing.clone(),
        supervisor: Supervisor::new(molecule_hooks::Clock::system()),
    })
}

/// A word every 100 ms, for ever.
fn endless() -> Body {
    let words = stream::unfold((), |()| async {
        tokio::time::sleep(TIMEOUT / 3).await;
        Some((Ok::<_, std::convert::Infallible>("word "), ()))
    });
    Body::from_stream(words)
}

async fn panics() -> &'static str {
    panic!("with a secret")
}

/// A route with a limit of its own, as a room writes it.
async fn rare(caller: Caller) -> Response {
    static LIMITER: LazyLock<RateLimiter> =
        LazyLock::new(|| RateLimiter::new(1, Duration::from_secs(3600)));
    let quota = LIMITER.take_at(&caller, Instant::now());
    match quota.is_allowed() {
        true => (quota, "yes").into_response(),
        false => quota.refusal("mint rate limit exceeded"),
    }
}

async fn ask(closing: &CancellationToken, limit: u64, path: &str, boom: bool) -> Response {
    let routes = OpenApiRouter::new()
        .route("/panic", get(panics))
        .route("/hang", get(std::future::pending::<&'static str>))
        .route("/slow", get(async || tokio::time::sleep(TIMEOUT * 2).await))
        .route("/words", get(async || endless()))
        .route("/rare", get(rare))
        .route(
            "/events",
            get(async || {
                (
                    [(CONTENT_TYPE, "text/event-stream; charset=utf-8")],
                    endless(),
                )
            }),
        );
    let router = http::router(routes, (), shell(closing, limit), Proxies::default());
    let mut request = Request::builder().uri(path).header("origin", ORIGIN);
    if boom {
        request = request.header("x-boom", "1");
    }
    let request = request.body(Body::empty()).unwrap();
    router.oneshot(request).await.unwrap()
}

/// As [`ask`], with the body.
async fn answer(path: &str, boom: bool) -> (Response<()>, Bytes) {
    let response = ask(&CancellationToken::new(), 10, path, boom).await;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (Response::from_parts(parts, ()), body)
}

#[tokio::test]
async fn a_panic_is_a_json_500_with_every_header() {
    for (path, boom) in [("/panic", false), ("/words", true)] {
        let (response, body) = answer(path, boom).await;
        assert_eq!(response.status(), 500, "{path}");
        assert_eq!(&body[..], br#"{"error":"internal error"}"#);
        assert_eq!(response.headers()["x-frame-options"], "DENY");
        assert_eq!(response.headers()["access-control-allow-origin"], ORIGIN);
        assert!(response.headers().contains_key(REQUEST_ID));
    }
    let (response, _) = answer("/panic", false).await;
    assert_eq!(response.headers()["x-ratelimit-remaining"], "9");
}

#[tokio::test]
async fn a_slow_route_has_a_deadline_of_its_own() {
    let (response, _) = answer("/slow", false).await;
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_handler_that_hangs_is_a_500_and_a_stream_may_go_on() {
    let (response, body) = answer("/hang", false).await;
    assert_eq!(response.status(), 500);
    assert_eq!(&body[..], br#"{"error":"internal error"}"#);

    let response = ask(&CancellationToken::new(), 10, "/words", false).await;
    let words = response.into_body().into_data_stream().take(6);
    let words: Vec<_> = words.map(|word| word.unwrap()).collect().await;
    assert_eq!(words.len(), 6, "twice as long as a request may take");
}

#[tokio::test]
async fn only_streams_of_events_end_when_the_server_closes() {
    let closing = CancellationToken::new();
    let events = ask(&closing, 10, "/events", false).await;
    let words = ask(&closing, 10, "/words", false).await;
    let mut events = events.into_body().into_data_stream();
    let mut words = words.into_body().into_data_stream();
    assert!(events.next().await.is_some() && words.next().await.is_some());
    closing.cancel();
    assert!(events.next().await.is_none());
    assert!(words.next().await.is_some());
}

#[tokio::test]
async fn without_a_connection_everybody_is_one_caller() {
    let response = ask(&CancellationToken::new(), 0, "/words", false).await;
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["access-control-allow-origin"], ORIGIN);
}

#[tokio::test]
async fn a_limit_of_a_route_speaks_instead_of_the_outer_one() {
    for (status, expected) in [(200, "yes"), (429, "mint rate limit exceeded")] {
        let (response, body) = answer("/rare", false).await;
        assert_eq!(response.status(), status);
        assert!(
            String::from_utf8_lossy(&body).contains(expected),
            "{body:?}"
        );
        for (name, value) in [
            ("x-ratelimit-limit", "1"),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "3600"),
        ] {
            let values: Vec<_> = response.headers().get_all(name).iter().collect();
            assert_eq!(values, [value], "{name}");
        }
    }
}
