//! A server of one organisation.

use molecule_core::config::BackendChoice;
use molecule_tests::{ADMIN, Engine, Reply, TestApp};
use serde_json::json;

use crate::support::{registration, strict};

const ORG: &str = "org-7aa08951";

async fn app() -> TestApp {
    strict(Engine::Sqlite)
        .config(|config| {
            config.control_plane.org_id = Some(format!(" {ORG} "));
            config.backend.kind = BackendChoice::None;
        })
        .start()
        .await
}

#[track_caller]
fn assert_hidden(reply: &Reply, what: &str) {
    assert_eq!((reply.status, reply.text.as_str()), (404, ""), "{what}");
    // It is still our answer.
    assert_eq!(reply.header("x-frame-options"), Some("DENY"), "{what}");
    assert!(reply.header("x-request-id").is_some(), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_name_the_organisation_finds_nothing() {
    let app = app().await;
    for path in [
        "/",
        "/workspaces",
        "/readyz/",
        "/ws",
        "/registry/update-card",
        "/registry/discover/x",
        "/admin/liveness",
        "/openapi.json",
        "/nothing",
        // Not the exempt ones.
        "/health/",
        "/HEALTH",
        "/registry/register/",
        "/registry/heartbeat/x",
        "/cp",
        "/metrics/",
    ] {
        let reply = app.get(path).bearer(ADMIN).send().await;
        assert_hidden(&reply, path);
    }
    for (name, value) in [
        ("x-molecule-org-id", ""),
        ("x-molecule-org-id", "org-7aa0895"),
        ("x-molecule-org-id", "org-7aa08951x"),
        ("x-molecule-org-id", "ORG-7AA08951"),
        ("x-molecule-org-slug", ORG),
        ("fly-replay-src", ORG),
        ("fly-replay-src", "state=other"),
        ("fly-replay-src", "xstate=org-7aa08951"),
        ("fly-replay-src", "state=other;state=org-7aa08951"),
        ("fly-replay-src", "instance=a;region=b"),
    ] {
        let reply = app
            .get("/workspaces")
            .bearer(ADMIN)
            .header(name, value)
            .send()
            .await;
        assert_hidden(&reply, &format!("{name}: {value}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_names_it_gets_what_others_get_without_a_guard() {
    let app = app().await;
    for (name, value) in [
        ("x-molecule-org-id", ORG),
        ("fly-replay-src", "state=org-7aa08951"),
        (
            "fly-replay-src",
            "instance=a; region=b ; state=org-7aa08951 ; t=1",
        ),
    ] {
        let reply = app
            .get("/workspaces")
            .bearer(ADMIN)
            .header(name, value)
            .send()
            .await;
        assert_eq!(reply.status, 200, "{name}: {value}");
        // The guard lets in; it gives no rights.
        let reply = app.get("/workspaces").header(name, value).send().await;
        reply.assert_error(401, "admin auth required");
        let reply = app.get("/nothing").header(name, value).send().await;
        reply.assert_error(404, "404 page not found");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_checks_and_agents_need_not_name_it() {
    let app = app().await;
    assert_eq!(app.get("/health").send().await.status, 200);
    assert_eq!(app.get("/metrics").send().await.status, 200);
    assert_eq!(app.get("/readyz").send().await.status, 200);
    let id = "7aa08951-00d1-4c3e-9d6a-0123456789ab";
    let reply = app
        .post("/registry/register", registration(id))
        .send()
        .await;
    reply.assert_error(404, "workspace not found");
    let reply = app
        .post("/registry/heartbeat", json!({ "workspace_id": id }))
        .send()
        .await;
    assert_ne!((reply.status, reply.text.as_str()), (404, ""));
    // No control plane is configured: the guard passes, no route is there.
    app.get("/cp/auth/login")
        .send()
        .await
        .assert_error(404, "404 page not found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_referers_and_origins_gain_nothing() {
    // Given a server that serves a canvas, for which the reference believes these
    let app = strict(Engine::Sqlite)
        .config(|config| {
            config.control_plane.org_id = Some(ORG.to_owned());
            config.backend.kind = BackendChoice::None;
            config.server.canvas_proxy_url = Some("http://127.0.0.1:9".to_owned());
        })
        .start()
        .await;
    let (page, host) = (format!("{}/canvas", app.url), app.url.clone());
    for headers in [
        vec![("referer", page.as_str())],
        vec![("origin", host.as_str())],
        vec![("referer", page.as_str()), ("origin", host.as_str())],
    ] {
        for path in ["/workspaces", "/canvas/viewport", "/"] {
            let mut request = app.get(path);
            for (name, value) in &headers {
                request = request.header(name, value);
            }
            assert_hidden(&request.send().await, path);
        }
    }
    // Nor rights, where the organisation is known.
    let reply = app
        .get("/workspaces")
        .header("x-molecule-org-id", ORG)
        .header("referer", &page)
        .header("origin", &host)
        .send()
        .await;
    reply.assert_error(401, "admin auth required");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_are_told_by_cors_before_the_guard_is_asked() {
    let app = app().await;
    let reply = app
        .get("/workspaces")
        .header("origin", "https://evil.example")
        .send()
        .await;
    assert_eq!(reply.status, 403);
    let origin = "http://localhost:3000";
    let reply = app
        .request("OPTIONS", "/workspaces")
        .header("origin", origin)
        .send()
        .await;
    assert_eq!(
        reply.status, 204,
        "a preflight cannot name the organisation"
    );
    let reply = app.get("/workspaces").header("origin", origin).send().await;
    assert_hidden(&reply, "a page that does not name it");
    assert_eq!(reply.header("access-control-allow-origin"), Some(origin));
}
