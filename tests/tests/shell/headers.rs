//! What every answer says to browsers, whoever gives it.

use molecule_core::config::BackendChoice;
use molecule_tests::{ADMIN, Engine, Reply, TestApp};
use serde_json::json;

use crate::support::{raw, strict};
use crate::upstream::Upstream;

const FIXED: [(&str, &str); 5] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    (
        "strict-transport-security",
        "max-age=31536000; includeSubDomains",
    ),
    ("referrer-policy", "strict-origin-when-cross-origin"),
    (
        "permissions-policy",
        "camera=(), microphone=(), geolocation=()",
    ),
];
const API: &str = "default-src 'self'";
const PAGE: &str = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' \
                    'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self' ws: wss:; \
                    font-src 'self' data:";

/// Method, path, a header; status and policy of the answer.
type Case = (
    &'static str,
    &'static str,
    Option<(&'static str, &'static str)>,
    u16,
    &'static str,
);

#[track_caller]
fn assert_secure(reply: &Reply, csp: &str, what: &str) {
    for (name, value) in FIXED.into_iter().chain([("content-security-policy", csp)]) {
        let values: Vec<_> = reply.headers.get_all(name).iter().collect();
        assert_eq!(values, [value], "{name} of {what}");
    }
    assert!(reply.header("x-request-id").is_some(), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_answer_carries_them() {
    let upstream = Upstream::start().await;
    let app = strict(Engine::Sqlite)
        .config(|config| {
            config.server.rate_limit = 40;
            config.server.request_timeout_secs = 2;
            config.server.canvas_proxy_url = Some(upstream.url.clone());
            config.control_plane.upstream_url = Some("http://127.0.0.1:9".to_owned());
        })
        .start()
        .await;
    let evil = ("origin", "https://evil.example");
    let page = ("origin", "http://localhost:3000");
    let table: &[Case] = &[
        ("GET", "/health", None, 200, API),
        ("HEAD", "/health", None, 200, API),
        ("GET", "/metrics", None, 200, API),
        ("GET", "/openapi.json", None, 200, PAGE),
        ("GET", "/readyz", None, 200, PAGE),
        ("GET", "/workspaces", None, 401, API),
        ("GET", "/workspaces/nope", None, 400, API),
        (
            "GET",
            "/workspaces/7aa08951-00d1-4c3e-9d6a-0123456789ab",
            None,
            404,
            API,
        ),
        ("PUT", "/health", None, 404, API),
        ("GET", "/health/", None, 301, API),
        ("POST", "/registry/register/", None, 307, API),
        ("POST", "/registry/register", None, 400, API),
        ("GET", "/health", Some(evil), 403, API),
        ("GET", "/", Some(evil), 403, PAGE),
        ("OPTIONS", "/workspaces", Some(page), 204, API),
        ("GET", "/some/screen", None, 200, PAGE),
        ("GET", "/workspaces/a/b/c/d", None, 200, API),
        ("GET", "/../etc", None, 404, PAGE),
        ("GET", "/cp/auth/login", None, 502, PAGE),
        ("GET", "/cp/admin", None, 404, PAGE),
        ("GET", "/x/hang", None, 502, PAGE),
    ];
    for (method, path, header, status, csp) in table {
        let mut request = app.request(method, path);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        // The client cleans its paths; the one with dots goes raw below.
        if path.contains("..") {
            let asked = format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
            let answer = raw(&app, asked.as_bytes()).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{path}: {answer}"
            );
            assert!(
                answer.contains(&format!("content-security-policy: {csp}\r\n")),
                "{answer}"
            );
            continue;
        }
        let reply = request.send().await;
        assert_eq!(reply.status, *status, "{method} {path}: {}", reply.text);
        assert_secure(&reply, csp, &format!("{method} {path}"));
    }
    let large = "x".repeat(2 * 1024 * 1024);
    let reply = app
        .post("/workspaces", json!({ "name": large }))
        .bearer(ADMIN)
        .send()
        .await;
    reply.assert_error(413, "request body too large");
    assert_secure(&reply, API, "413");
    loop {
        let reply = app.get("/workspaces").send().await;
        assert_secure(&reply, API, "401 or 429");
        if reply.status == 429 {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_depends_on_the_first_segment_alone() {
    let app = TestApp::builder(Engine::Sqlite)
        .config(|config| {
            config.control_plane.org_id = Some("org".to_owned());
            config.backend.kind = BackendChoice::None;
        })
        .start()
        .await;
    for prefix in [
        "workspaces",
        "registry",
        "health",
        "admin",
        "metrics",
        "settings",
        "bundles",
        "org",
        "orgs",
        "templates",
        "plugins",
        "webhooks",
        "channels",
        "ws",
        "events",
        "approvals",
    ] {
        for path in [
            format!("/{prefix}"),
            format!("/{prefix}/x/y"),
            format!("/{prefix}?a=/b"),
        ] {
            let reply = app.get(&path).send().await;
            assert_eq!(reply.header("content-security-policy"), Some(API), "{path}");
        }
        for path in [
            format!("/{prefix}x"),
            format!("/x/{prefix}"),
            format!("/{}", prefix.to_uppercase()),
        ] {
            let reply = app.get(&path).send().await;
            assert_eq!(
                reply.header("content-security-policy"),
                Some(PAGE),
                "{path}"
            );
        }
    }
    for path in ["/", "/canvas/viewport", "/instructions", "/cp/auth/x"] {
        let reply = app.get(path).send().await;
        assert_eq!(
            reply.header("content-security-policy"),
            Some(PAGE),
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_answers_may_say_something_else() {
    let upstream = Upstream::start().await;
    let app = strict(Engine::Sqlite)
        .config(|config| config.server.canvas_proxy_url = Some(upstream.url.clone()))
        .start()
        .await;
    let reply = app.get("/a/page").send().await;
    assert_eq!(reply.text, "page");
    for (name, value) in [
        ("content-security-policy", "default-src 'none'"),
        ("x-frame-options", "SAMEORIGIN"),
        ("x-content-type-options", "nosniff"),
    ] {
        let values: Vec<_> = reply.headers.get_all(name).iter().collect();
        assert_eq!(values, [value], "{name}");
    }
}
