//! Web pages of other origins.

use molecule_tests::{ADMIN, Engine, Reply, TestApp};

use crate::support::{raw, strict};

const KNOWN: &str = "https://canvas.example.org";

async fn app() -> TestApp {
    strict(Engine::Sqlite)
        .config(|config| {
            config.server.cors_origins = vec![
                "http://localhost:3000".to_owned(),
                // As people write them.
                " HTTPS://Canvas.Example.org ".to_owned(),
            ];
        })
        .start()
        .await
}

fn cors_headers(reply: &Reply) -> Vec<&str> {
    let names = reply
        .headers
        .keys()
        .map(reqwest::header::HeaderName::as_str);
    names
        .filter(|name| name.starts_with("access-control-"))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_origin_may_read_every_kind_of_answer() {
    let app = app().await;
    for (method, path, status) in [
        ("GET", "/health", 200),
        ("GET", "/workspaces", 401),
        ("GET", "/nothing", 404),
        ("PUT", "/health", 404),
    ] {
        for origin in [KNOWN, "http://localhost:3000"] {
            let reply = app
                .request(method, path)
                .header("origin", origin)
                .send()
                .await;
            assert_eq!(reply.status, status, "{path}");
            assert_eq!(reply.header("access-control-allow-origin"), Some(origin));
            assert_eq!(
                reply.header("access-control-allow-credentials"),
                Some("true")
            );
            assert_eq!(reply.header("vary"), Some("Origin"));
            assert_eq!(
                reply.header("access-control-expose-headers"),
                Some("X-RateLimit-Limit,X-RateLimit-Remaining,X-RateLimit-Reset,Retry-After")
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preflight_is_answered_before_anything_else() {
    let app = app().await;
    for path in [
        "/workspaces",
        "/registry/register",
        "/nothing",
        "/cp/x",
        "/ws",
    ] {
        let reply = app
            .request("OPTIONS", path)
            .header("origin", KNOWN)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization")
            .send()
            .await;
        assert_eq!((reply.status, reply.text.as_str()), (204, ""), "{path}");
        for (name, value) in [
            ("access-control-allow-origin", KNOWN),
            ("access-control-allow-credentials", "true"),
            (
                "access-control-allow-methods",
                "GET,POST,PUT,PATCH,DELETE,OPTIONS",
            ),
            (
                "access-control-allow-headers",
                "Origin,Content-Type,X-Workspace-Id,Authorization,X-Molecule-Org-Id,\
                 X-Molecule-Org-Slug,X-Timeout",
            ),
        ] {
            assert_eq!(reply.header(name), Some(value), "{name}");
        }
        let varies: Vec<_> = reply.headers.get_all("vary").iter().collect();
        assert_eq!(
            varies,
            [
                "Origin",
                "Access-Control-Request-Method",
                "Access-Control-Request-Headers"
            ]
        );
        assert_eq!(reply.header("access-control-max-age"), None);
        assert_eq!(
            reply.header("x-ratelimit-limit"),
            None,
            "it was not counted"
        );
    }
    // Without an origin it is a method that no route has.
    app.request("OPTIONS", "/health")
        .send()
        .await
        .assert_error(404, "404 page not found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_origin_gets_an_empty_403_and_changes_nothing() {
    let app = app().await;
    let before = app.database.dump().await;
    for origin in [
        "https://evil.example",
        "null",
        "http://canvas.example.org",
        "https://canvas.example.org:444",
        "https://canvas.example.org.evil.example",
        "https://canvas.example.org/",
        "HTTPS://CANVAS.EXAMPLE.ORG",
        "*",
        "file://",
    ] {
        for method in ["GET", "POST", "OPTIONS"] {
            let reply = app
                .request(method, "/workspaces")
                .bearer(ADMIN)
                .header("origin", origin)
                .json(serde_json::json!({ "name": "from a page" }))
                .send()
                .await;
            assert_eq!(
                (reply.status, reply.text.as_str()),
                (403, ""),
                "{method} {origin}"
            );
            assert_eq!(cors_headers(&reply), [""; 0], "{origin}");
            assert_eq!(reply.header("x-frame-options"), Some("DENY"));
        }
    }
    assert_eq!(app.database.dump().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_this_server_and_programs_skip_it() {
    let app = app().await;
    let host = app.url.trim_start_matches("http://").to_owned();
    for origin in [format!("http://{host}"), format!("https://{host}")] {
        let reply = app.get("/health").header("origin", &origin).send().await;
        assert_eq!(reply.status, 200);
        assert_eq!(cors_headers(&reply), [""; 0]);
    }
    let reply = app.get("/health").send().await;
    assert_eq!((reply.status, cors_headers(&reply)), (200, vec![]));
    // An origin that ends like the host is another one; so is a bare host.
    for origin in [
        format!("http://x{host}"),
        format!("http://{host}.evil"),
        host,
    ] {
        let reply = app.get("/health").header("origin", &origin).send().await;
        assert_eq!(reply.status, 403, "{origin}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strange_origin_headers_are_answered() {
    let app = app().await;
    for origin in [
        &b"\xff\xfe"[..],
        b"http://",
        b"",
        b"http://\xc3\xa4",
        b"a, b",
    ] {
        let mut request =
            b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\norigin: ".to_vec();
        request.extend_from_slice(origin);
        request.extend_from_slice(b"\r\n\r\n");
        let answer = raw(&app, &request).await;
        let expected = if origin.is_empty() {
            "HTTP/1.1 200"
        } else {
            "HTTP/1.1 403"
        };
        assert!(answer.starts_with(expected), "{origin:?}: {answer}");
    }
    // No host and no origin of ours: not the same.
    let answer = raw(&app, b"GET /health HTTP/1.0\r\norigin: http://\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 403"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_star_lets_every_page_read_but_never_with_cookies() {
    let app = strict(Engine::Sqlite)
        .config(|config| config.server.cors_origins = vec!["*".to_owned()])
        .start()
        .await;
    for method in ["GET", "OPTIONS"] {
        let reply = app
            .request(method, "/health")
            .header("origin", "https://any.example")
            .send()
            .await;
        assert!(reply.status == 200 || reply.status == 204);
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
        assert_eq!(reply.header("access-control-allow-credentials"), None);
    }
}
