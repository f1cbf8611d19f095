//! Paths and methods that are nearly a route.

use molecule_tests::{ADMIN, Engine, TestApp};

use crate::support::{raw, strict};

const ID: &str = "7aa08951-00d1-4c3e-9d6a-0123456789ab";

async fn app() -> TestApp {
    strict(Engine::Sqlite).start().await
}

/// Status line and `Location` of a request that no client library cleans.
async fn ask(app: &TestApp, method: &str, target: &str) -> (u16, Option<String>) {
    let request = format!("{method} {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let answer = raw(app, request.as_bytes()).await;
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let location = answer
        .lines()
        .find_map(|line| line.strip_prefix("location: "));
    (
        status.unwrap_or_else(|| panic!("{target}: {answer}")),
        location.map(str::to_owned),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slash_too_many_redirects_to_the_route() {
    let app = app().await;
    for (method, target, status, to) in [
        ("GET", "/health/", 301, "/health"),
        ("HEAD", "/health/", 301, "/health"),
        ("GET", "/workspaces/", 301, "/workspaces"),
        (
            "GET",
            "/workspaces/?limit=5&x=%2F",
            301,
            "/workspaces?limit=5&x=%2F",
        ),
        ("POST", "/workspaces/", 307, "/workspaces"),
        (
            "POST",
            "/registry/register/?a=b",
            307,
            "/registry/register?a=b",
        ),
        ("DELETE", "/workspaces/a%20b/", 307, "/workspaces/a%20b"),
    ] {
        let expected = (status, Some(to.to_owned()));
        assert_eq!(
            ask(&app, method, target).await,
            expected,
            "{method} {target}"
        );
    }
    // Where it leads, the body arrives.
    let reply = app
        .request("POST", "/registry/register/")
        .body("{}")
        .send()
        .await;
    assert_eq!(reply.header("location"), Some("/registry/register"));
    assert_eq!(reply.text, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slash_elsewhere_is_no_route_and_never_another_host() {
    let app = app().await;
    for (method, target) in [
        ("GET", "/"),
        ("GET", "//"),
        ("GET", "//health"),
        ("GET", "//health/"),
        ("GET", "//evil.example/"),
        ("GET", "//evil.example/workspaces/"),
        ("GET", "/\\evil.example/"),
        ("GET", "/health//"),
        ("GET", "/nothing/"),
        ("GET", "/registry/register/"),
        ("PUT", "/workspaces/"),
        ("BREW", "/workspaces/"),
        ("OPTIONS", "/workspaces/"),
        ("GET", "/workspaces//"),
        ("GET", "/./health"),
        ("GET", "/x/../health"),
        ("GET", "/HEALTH"),
        ("GET", "/health;x=1"),
        ("GET", "/health%2F"),
        ("GET", "/%68ealth"),
    ] {
        assert_eq!(
            ask(&app, method, target).await,
            (404, None),
            "{method} {target}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_method_is_a_404_and_head_answers_like_get() {
    let app = app().await;
    for (method, path) in [
        ("PUT", "/health"),
        ("POST", "/metrics"),
        ("GET", "/registry/register"),
        ("TRACE", "/workspaces"),
        ("BREW", "/workspaces"),
        ("PATCH", "/workspaces"),
    ] {
        let reply = app.request(method, path).bearer(ADMIN).send().await;
        reply.assert_error(404, "404 page not found");
    }
    for (path, status) in [
        ("/health", 200),
        ("/workspaces", 401),
        (&*format!("/workspaces/{ID}"), 404),
        ("/nothing", 404),
    ] {
        let get = app.get(path).send().await;
        let head = app.request("HEAD", path).send().await;
        assert_eq!((get.status, head.status), (status, status), "{path}");
        assert_eq!(head.text, "");
        assert_eq!(
            head.header("content-type"),
            get.header("content-type"),
            "{path}"
        );
        assert_eq!(
            head.header("content-length"),
            get.header("content-length"),
            "{path}"
        );
    }
    // A route for POST only has no HEAD.
    assert_eq!(
        app.request("HEAD", "/registry/register")
            .send()
            .await
            .status,
        404
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_that_are_no_path_are_answered() {
    let app = app().await;
    for (method, target) in [
        ("OPTIONS", "*"),
        ("GET", "http://evil.example/nothing"),
        ("CONNECT", "evil.example:443"),
    ] {
        let request = format!("{method} {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let answer = raw(&app, request.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 4"),
            "{method} {target}: {answer}"
        );
    }
    // The absolute form names the path it means.
    assert_eq!(ask(&app, "GET", "http://evil.example/health").await.0, 200);
}
