//! `/cp/*`: what reaches the control plane, and what never does.

use std::time::Duration;

use molecule_tests::{Engine, TestApp, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use crate::support::{raw, strict};
use crate::upstream::{HUGE, Upstream};

const PATIENCE: Duration = Duration::from_secs(20);

async fn app_before(url: &str) -> TestApp {
    strict(Engine::Sqlite)
        .config(|config| {
            config.control_plane.upstream_url = Some(url.to_owned());
            config.server.request_timeout_secs = 1;
        })
        .start()
        .await
}

async fn start() -> (TestApp, Upstream) {
    let upstream = Upstream::start().await;
    (app_before(&upstream.url).await, upstream)
}

async fn connect(app: &TestApp, bytes: &str) -> TcpStream {
    let address = app.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("connect");
    stream.write_all(bytes.as_bytes()).await.expect("write");
    stream
}

/// Reads until `text` came.
async fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let (mut all, mut buffer) = (String::new(), [0; 4096]);
    while !all.contains(text) {
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await;
        let count = read.expect("in time").expect("bytes");
        assert!(count > 0, "closed after {all:?}");
        all.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_listed_prefixes_are_forwarded_as_they_are() {
    let (app, upstream) = start().await;
    for target in [
        "/cp/auth/login",
        "/cp/auth/login?next=%2Fa%2F..%2Fb&x=1",
        "/cp/orgs",
        "/cp/orgs/",
        "/cp/orgs/a%20b/members?q=ä",
        "/cp/billing/plans",
        "/cp/templates",
        "/cp/templates/x",
        "/cp/legal/terms",
    ] {
        let reply = app.get(target).send().await;
        assert_eq!(
            (reply.status, reply.text.as_str()),
            (200, "hello from behind"),
            "{target}"
        );
        let expected = target.replace('ä', "%C3%A4");
        assert_eq!(upstream.last().target, expected);
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
        let reply = app
            .request(method, "/cp/orgs/x")
            .body("{\"a\":1}")
            .send()
            .await;
        assert_eq!(reply.status, 200, "{method}");
        let seen = upstream.last();
        assert_eq!(
            (seen.method.as_str(), &seen.body[..]),
            (method, &b"{\"a\":1}"[..])
        );
        assert_eq!(seen.header("content-length"), Some("7"));
    }
    assert_eq!(app.request("HEAD", "/cp/orgs").send().await.status, 200);
    let seen = upstream.last();
    assert_eq!(seen.method, "HEAD");
    assert_eq!(
        seen.header("transfer-encoding"),
        None,
        "a request without a body stays one"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_else_is_an_empty_404_that_nobody_behind_us_sees() {
    let (app, upstream) = start().await;
    for target in [
        "/cp/",
        "/cp/admin",
        "/cp/auth",
        "/cp/auth/",
        "/cp/orgsx",
        "/cp/tenants/config",
        "/cp/AUTH/login",
        "/cp/auth/../admin",
        "/cp/auth/./login",
        "/cp/auth/..",
        "/cp/./auth/login",
        "/cp//auth/login",
        "/cp/auth//login",
        "/cp/auth/%2e%2e/admin",
        "/cp/auth/%2E%2E/admin",
        "/cp/auth/.%2e/admin",
        "/cp/auth%2f..%2f..%2fadmin",
        "/cp/auth/%2Fadmin",
        "/cp/auth%5c..%5cadmin",
        "/cp/auth\\..\\admin",
        "/cp/auth/%252e%252e/admin",
        "/cp/auth/..;/admin",
        "/cp/auth/%00",
        "/cp/auth/x%",
        "/cp/auth/%2",
        "/cp/%61uth/../../admin",
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let answer = raw(&app, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{target}: {answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{target}: {answer}");
    }
    for method in ["TRACE", "CONNECT"] {
        let request =
            format!("{method} /cp/auth/x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let answer = raw(&app, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{method}: {answer}");
    }
    // Not even one that only looks like the prefix.
    for target in ["/cp", "/CP/auth/login", "/cpx/auth/login"] {
        app.get(target)
            .send()
            .await
            .assert_error(404, "404 page not found");
    }
    assert!(upstream.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_pass_and_where_it_came_from_is_ours_to_say() {
    let (app, upstream) = start().await;
    let reply = app
        .get("/cp/auth/me")
        .bearer("a-token")
        .header("cookie", "session=1; other=2")
        .header("x-custom", "kept")
        .header("x-molecule-org-slug", "acme")
        // Forged, and of the connection
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-forwarded-host", "evil.example")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-prefix", "/evil")
        .header("forwarded", "for=6.6.6.6")
        .header("x-real-ip", "6.6.6.6")
        .header("connection", "x-internal, keep-alive")
        .header("x-internal", "1")
        .header("keep-alive", "timeout=1")
        .header("te", "trailers")
        .header("proxy-authorization", "Basic x")
        .header("upgrade", "h2c")
        .send()
        .await;
    assert_eq!(reply.status, 200);
    let seen = upstream.last();
    let host = upstream.url.trim_start_matches("http://");
    for (name, value) in [
        ("authorization", Some("Bearer a-token")),
        ("cookie", Some("session=1; other=2")),
        ("x-custom", Some("kept")),
        ("x-molecule-org-slug", Some("acme")),
        ("host", Some(host)),
        ("x-forwarded-for", Some("127.0.0.1")),
        (
            "x-forwarded-host",
            Some(app.url.trim_start_matches("http://")),
        ),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-prefix", None),
        ("forwarded", None),
        ("x-real-ip", None),
        ("connection", None),
        ("x-internal", None),
        ("keep-alive", None),
        ("te", None),
        ("proxy-authorization", None),
        ("upgrade", None),
    ] {
        assert_eq!(seen.header(name), value, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trusted_proxy_in_front_is_passed_on() {
    let upstream = Upstream::start().await;
    let app = strict(Engine::Sqlite)
        .config(|config| {
            config.control_plane.upstream_url = Some(format!("{}/base/", upstream.url));
            config.server.trusted_proxies = vec!["127.0.0.1".to_owned()];
        })
        .start()
        .await;
    for (scheme, expected) in [("https", "https"), ("http", "http"), ("gopher", "http")] {
        app.get("/cp/orgs")
            .header("x-forwarded-for", "8.8.8.8, 203.0.113.9")
            .header("x-forwarded-proto", scheme)
            .send()
            .await;
        let seen = upstream.last();
        assert_eq!(seen.header("x-forwarded-for"), Some("203.0.113.9"));
        assert_eq!(seen.header("x-forwarded-proto"), Some(expected));
        assert_eq!(seen.target, "/base/cp/orgs");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_comes_back_without_what_is_not_the_clients() {
    let (app, upstream) = start().await;
    let origin = "http://localhost:3000";
    let reply = app
        .get("/cp/auth/special")
        .header("origin", origin)
        .send()
        .await;
    let all = |name: &str| -> Vec<_> {
        let values = reply.headers.get_all(name).iter();
        values.map(|value| value.to_str().expect("text")).collect()
    };
    assert_eq!(all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(all("vary"), ["Accept-Language", "Origin"]);
    assert_eq!(all("access-control-allow-origin"), [origin]);
    assert_eq!(all("x-public"), ["yes"]);
    assert!(all("x-internal").is_empty() && all("keep-alive").is_empty());
    // Redirects are the browser's business.
    upstream.seen();
    let reply = app.get("/cp/auth/redirect").send().await;
    assert_eq!(
        (reply.status, reply.header("location")),
        (302, Some("/elsewhere?x=1"))
    );
    assert_eq!(upstream.last().target, "/cp/auth/redirect");
    let reply = app.get("/cp/auth/teapot").send().await;
    assert_eq!(
        (reply.status, reply.text.as_str()),
        (418, "short and stout")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_is_not_there_is_a_502() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        format!("http://{}", listener.local_addr().expect("an address"))
    };
    // One that hangs up, one that talks nonsense, one that says too much
    let rude = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let rude_url = format!("http://{}", rude.local_addr().expect("an address"));
    let talking = tokio::spawn(async move {
        for answer in 0.. {
            let Ok((mut stream, _)) = rude.accept().await else {
                return;
            };
            let _ = match answer % 3 {
                0 => Ok(()),
                1 => stream.write_all(b"I am not a web server\r\n\r\n").await,
                _ => {
                    let endless = format!("HTTP/1.1 200 OK\r\n{}", "a: b\r\n".repeat(200_000));
                    stream.write_all(endless.as_bytes()).await
                }
            };
        }
    });
    for url in [&closed, &rude_url, &rude_url, &rude_url] {
        let app = app_before(url).await;
        let reply = app.get("/cp/auth/login?token=hunter2").send().await;
        assert_eq!(
            (reply.status, reply.text.as_str()),
            (502, "control plane unavailable")
        );
        assert_eq!(
            reply.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
        assert_eq!(app.get("/health").send().await.status, 200);
    }
    talking.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_hangs_is_a_502_in_time() {
    let (app, _upstream) = start().await;
    let started = Instant::now();
    let reply = app.get("/cp/auth/hang").send().await;
    assert_eq!(
        (reply.status, reply.text.as_str()),
        (502, "control plane unavailable")
    );
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_off_is_seen_to_break_off() {
    let (app, _upstream) = start().await;
    let client = reqwest::Client::new();
    // Cut by the upstream, and by our patience with one that falls silent
    for path in ["/cp/auth/cut", "/cp/auth/stall"] {
        let response = client
            .get(format!("{}{path}", app.url))
            .send()
            .await
            .expect("a head");
        assert_eq!(response.status(), 200);
        let body = timeout(PATIENCE, response.bytes()).await.expect("in time");
        assert!(
            body.is_err(),
            "{path}: half an answer passed for a whole one"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_may_take_longer_than_a_request() {
    let (app, _upstream) = start().await;
    let started = Instant::now();
    let reply = app.get("/cp/auth/drip").send().await;
    assert_eq!(reply.text, "drop drop drop drop drop drop ");
    assert!(started.elapsed() > Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_answer_flows_and_is_not_piled_up() {
    let (app, upstream) = start().await;
    let reply = reqwest::get(format!("{}/cp/auth/huge", app.url))
        .await
        .expect("a reply");
    assert_eq!(reply.bytes().await.expect("all of it").len(), HUGE);
    let all = upstream.chunks();
    // A reader that stops reading stops the upstream, too.
    let request = "GET /cp/auth/huge HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut lazy = connect(&app, request).await;
    read_until(&mut lazy, "200 OK").await;
    let mut made = upstream.chunks();
    eventually("the upstream waits", || async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let before = upstream.chunks();
        tokio::time::sleep(Duration::from_millis(300)).await;
        upstream.chunks() == before
    })
    .await;
    made = upstream.chunks().max(made) - all;
    assert!(
        made * 64 * 1024 < HUGE / 2,
        "{made} chunks were made for nobody"
    );
    // And one that leaves ends it.
    drop(lazy);
    assert_eq!(app.get("/health").send().await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_flow_at_once() {
    let (app, _upstream) = start().await;
    let head = "POST /cp/auth/echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut stream = connect(&app, head).await;
    for word in ["first", "second"] {
        let chunk = format!("{:x}\r\n{word}\r\n", word.len());
        stream.write_all(chunk.as_bytes()).await.expect("write");
        read_until(&mut stream, word).await;
    }
    stream.write_all(b"0\r\n\r\n").await.expect("write");
    read_until(&mut stream, "0\r\n\r\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_is_refused_in_words() {
    let (app, upstream) = start().await;
    let reply = app
        .get("/cp/auth/socket")
        .header("connection", "upgrade")
        .header("upgrade", "WebSocket")
        .send()
        .await;
    reply.assert_error(501, "connections through the proxy cannot be upgraded");
    assert!(upstream.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_upstream_there_is_no_such_route() {
    let app = strict(Engine::Sqlite).start().await;
    app.get("/cp/auth/login")
        .send()
        .await
        .assert_error(404, "404 page not found");
}
