//! The cookie by which a server knows its own canvas.

use molecule_tests::support::{Agent, strict};
use molecule_tests::{ADMIN, Engine, TestApp, TestAppBuilder};
use serde_json::json;

use crate::time::MovableClock;

fn with_canvas() -> TestAppBuilder {
    strict(Engine::Sqlite)
        .config(|config| config.server.canvas_proxy_url = Some("http://127.0.0.1:9".to_owned()))
}

async fn open(app: &TestApp) -> String {
    let reply = app
        .request("POST", "/canvas/session")
        .bearer(ADMIN)
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let cookie = reply.header("set-cookie").expect("a cookie");
    cookie.split(';').next().expect("a pair").to_owned()
}

async fn status_with(app: &TestApp, agent: &Agent, cookie: &str) -> u16 {
    app.get(&format!("/workspaces/{}/tokens", agent.id))
        .header("cookie", cookie)
        .header("origin", &app.url)
        .send()
        .await
        .status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cookie_is_kept_from_scripts_and_other_sites_and_ends_after_eight_hours() {
    let clock = MovableClock::default();
    let app = with_canvas().clock(clock.clock()).start().await;
    let agent = Agent::start(&app, json!({ "name": "one" })).await;
    let reply = app
        .request("POST", "/canvas/session")
        .bearer(ADMIN)
        .send()
        .await;
    assert_eq!(
        reply.json(),
        json!({ "status": "opened", "expires_in": 28800 })
    );
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let set = reply.header("set-cookie").expect("a cookie").to_owned();
    assert!(
        set.ends_with("; Path=/; Max-Age=28800; HttpOnly; SameSite=Strict"),
        "{set}"
    );
    assert!(!set.contains(ADMIN));
    let reply = app.request("POST", "/canvas/session").bearer(ADMIN);
    let reply = reply.header("x-forwarded-proto", "https").send().await;
    let secure = reply.header("set-cookie").expect("a cookie");
    assert!(secure.ends_with("; Secure"), "{secure}");

    let cookie = set.split(';').next().expect("a pair");
    assert_eq!(status_with(&app, &agent, cookie).await, 200);
    clock.advance_secs(8 * 3600 - 60);
    assert_eq!(status_with(&app, &agent, cookie).await, 200);
    clock.advance_secs(61);
    assert_eq!(status_with(&app, &agent, cookie).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_clears_the_cookie_and_needs_no_right() {
    let app = with_canvas().start().await;
    let reply = app.delete("/canvas/session").send().await;
    assert_eq!(reply.json(), json!({ "status": "closed" }));
    let set = reply.header("set-cookie").expect("a cookie");
    assert_eq!(
        set,
        "molecule_canvas=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_administrator_opens_one_and_another_token_signs_another() {
    let app = with_canvas().start().await;
    let agent = Agent::start(&app, json!({ "name": "one" })).await;
    let post = || app.request("POST", "/canvas/session");
    post().send().await.assert_error(401, "admin auth required");
    let reply = post().bearer(&agent.token).send().await;
    reply.assert_error(401, "invalid admin auth token");
    let cookie = open(&app).await;
    // The cookie alone does not prolong itself.
    let reply = post()
        .header("cookie", &cookie)
        .header("origin", &app.url)
        .send()
        .await;
    reply.assert_error(401, "admin auth required");
    assert_eq!(status_with(&app, &agent, &cookie).await, 200);

    let (database, dir) = app.shutdown().await;
    let app = with_canvas()
        .admin_token("another-administrator-token")
        .start_on(database, dir)
        .await;
    assert_eq!(status_with(&app, &agent, &cookie).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_outlives_a_revoked_org_token_or_the_cookie() {
    let app = with_canvas().start().await;
    let agent = Agent::start(&app, json!({ "name": "one" })).await;
    let minted = app
        .post("/org/tokens", json!({}))
        .bearer(ADMIN)
        .send()
        .await;
    let org = minted.json()["auth_token"]
        .as_str()
        .expect("a token")
        .to_owned();
    // An org token opens no session that would count after its revocation.
    let reply = app
        .request("POST", "/canvas/session")
        .bearer(&org)
        .send()
        .await;
    assert!(reply.header("set-cookie").is_none());
    reply.assert_error(403, "org tokens cannot open a canvas session");
    // The cookie makes no token that would count after its end.
    let cookie = open(&app).await;
    let path = format!("/workspaces/{}/tokens", agent.id);
    let mint = || app.request("POST", &path);
    let reply = mint().header("cookie", &cookie).header("origin", &app.url);
    reply
        .send()
        .await
        .assert_error(403, "the canvas cannot mint tokens");
    let reply = mint().bearer(&org).send().await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    assert_eq!(status_with(&app, &agent, &cookie).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_canvas_or_an_administrator_there_is_no_cookie() {
    let with = with_canvas().start().await;
    let cookie = open(&with).await;
    let without = strict(Engine::Sqlite).start().await;
    let agent = Agent::start(&without, json!({ "name": "one" })).await;
    let reply = without
        .request("POST", "/canvas/session")
        .bearer(ADMIN)
        .send()
        .await;
    reply.assert_error(404, "canvas sessions are not enabled");
    // The same key, and still nothing.
    assert_eq!(status_with(&without, &agent, &cookie).await, 401);

    let development = TestApp::builder(Engine::Sqlite)
        .config(|config| config.server.canvas_proxy_url = Some("http://127.0.0.1:9".to_owned()))
        .start()
        .await;
    let reply = development.request("POST", "/canvas/session").send().await;
    reply.assert_error(404, "canvas sessions are not enabled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_in_front_may_rename_the_host() {
    let app = with_canvas()
        .config(|config| {
            config.server.external_url = Some("https://molecule.example/app".to_owned());
        })
        .start()
        .await;
    let agent = Agent::start(&app, json!({ "name": "one" })).await;
    let cookie = open(&app).await;
    let path = format!("/workspaces/{}/tokens", agent.id);
    for (referer, status) in [
        ("https://molecule.example/x", 200),
        ("https://molecule.example.evil.test/", 401),
        ("https://molecule.example:444/", 401),
    ] {
        let request = app.get(&path).header("cookie", &cookie);
        let reply = request.header("referer", referer).send().await;
        assert_eq!(reply.status, status, "{referer}: {}", reply.text);
    }
}
