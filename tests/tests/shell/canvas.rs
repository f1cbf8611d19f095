//! Unknown routes go to the web canvas, without what opens doors.

use std::time::Duration;

use molecule_tests::{ADMIN, Engine, TestApp};
use tokio::time::Instant;

use crate::support::{raw, strict};
use crate::upstream::Upstream;

async fn app_before(url: &str) -> TestApp {
    strict(Engine::Sqlite)
        .config(|config| {
            config.server.canvas_proxy_url = Some(url.to_owned());
            config.server.request_timeout_secs = 1;
        })
        .start()
        .await
}

async fn start() -> (TestApp, Upstream) {
    let upstream = Upstream::start().await;
    (app_before(&upstream.url).await, upstream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_route_takes_is_the_canvas() {
    let (app, upstream) = start().await;
    for target in [
        "/",
        "/?x=1",
        "/index.html",
        "/_next/static/chunks/%5Bid%5D.js",
        "/_next/image?url=%2Fa%2F..%2Fb.png&w=64",
        "/workspaces/a/b/c/d",
        "/readyz2",
        "/cp/auth/login",
    ] {
        let reply = app.get(target).send().await;
        assert_eq!(
            (reply.status, reply.text.as_str()),
            (200, "hello from behind"),
            "{target}"
        );
        assert_eq!(upstream.last().target, target);
    }
    for method in ["HEAD", "POST", "PUT", "PATCH", "DELETE"] {
        let reply = app.request(method, "/api/anything").body("x").send().await;
        assert_eq!(reply.status, 200, "{method}");
        assert_eq!(upstream.last().method, method);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_route_takes_is_not() {
    let (app, upstream) = start().await;
    assert_eq!(app.get("/health").send().await.text, r#"{"status":"ok"}"#);
    app.get("/workspaces")
        .send()
        .await
        .assert_error(401, "admin auth required");
    app.request("PUT", "/workspaces")
        .send()
        .await
        .assert_error(404, "404 page not found");
    let reply = app.get("/workspaces/").send().await;
    assert_eq!(
        (reply.status, reply.header("location")),
        (301, Some("/workspaces"))
    );
    assert!(upstream.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_never_reach_it() {
    let (app, upstream) = start().await;
    for target in ["/page", "/workspaces/a/b/c", "/admin/unknown"] {
        let request = format!(
            "GET {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\nAuthorization: Bearer {ADMIN}\r\n\
             authorization: Basic eDp5\r\nCookie: molecule_session=s3cret\r\ncookie: b=2\r\n\
             Proxy-Authorization: Basic eDp5\r\nx-kept: yes\r\n\r\n"
        );
        let answer = raw(&app, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let seen = upstream.last();
        let all = format!("{:?}", seen.headers);
        for secret in [ADMIN, "eDp5", "s3cret", "b=2"] {
            assert!(!all.contains(secret), "{secret} reached the canvas: {all}");
        }
        assert_eq!(seen.header("x-kept"), Some("yes"));
        assert_eq!(seen.header("x-forwarded-host"), Some("a"));
        assert_eq!(
            seen.header("host"),
            Some(upstream.url.trim_start_matches("http://"))
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_that_could_be_read_in_two_ways_stop_here() {
    let (app, upstream) = start().await;
    for target in [
        "//evil.example/x",
        "/a/../b",
        "/a/%2e%2e/b",
        "/a%2fb",
        "/a%5cb",
        "/a\\b",
        "/./a",
        "/a//b",
        "/a/..;/b",
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let answer = raw(&app, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{target}: {answer}");
        assert!(
            answer.ends_with(r#"{"error":"404 page not found"}"#),
            "{target}: {answer}"
        );
    }
    assert!(upstream.seen().is_empty());
    // The absolute form names another host; ours is the only one behind us.
    let answer = raw(
        &app,
        b"GET http://evil.example/x HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(upstream.last().target, "/x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canvas_that_is_away_or_hangs_is_a_502() {
    let (app, _upstream) = start().await;
    let started = Instant::now();
    let reply = app.get("/a/hang").send().await;
    assert_eq!(
        (reply.status, reply.text.as_str()),
        (502, "canvas unavailable")
    );
    assert!(started.elapsed() < Duration::from_secs(5));
    let app = app_before("http://127.0.0.1:9").await;
    let reply = app.get("/").send().await;
    assert_eq!(
        (reply.status, reply.text.as_str()),
        (502, "canvas unavailable")
    );
    // The API does not need it.
    assert_eq!(
        app.get("/workspaces").bearer(ADMIN).send().await.status,
        200
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circle_of_proxies_ends() {
    // Given a canvas that is this very server
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address").port()
    };
    let app = strict(Engine::Sqlite)
        .config(|config| {
            config.server.port = port;
            config.server.canvas_proxy_url = Some(format!("http://127.0.0.1:{port}"));
        })
        .start()
        .await;
    let started = Instant::now();
    let reply = app.get("/page").send().await;
    assert_eq!(
        (reply.status, reply.text.as_str()),
        (502, "canvas unavailable")
    );
    assert!(started.elapsed() < Duration::from_secs(5));
}
