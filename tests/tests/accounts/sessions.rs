//! Browser sessions, verified with a control plane that is not always well.

use std::time::{Duration, Instant};

use molecule_tests::support::{Agent, strict};
use molecule_tests::{ADMIN, Engine, Reply, TestApp};
use serde_json::json;

use crate::control_plane::{ControlPlane, GOOD, Mood};
use crate::time::MovableClock;

async fn server(control_plane: &ControlPlane, clock: &MovableClock) -> TestApp {
    strict(Engine::Sqlite)
        .clock(clock.clock())
        .config(|config| control_plane.configure(config))
        .start()
        .await
}

async fn ask(app: &TestApp, cookie: &str) -> Reply {
    app.get("/org/tokens").header("cookie", cookie).send().await
}

#[track_caller]
fn assert_unanswered(reply: &Reply) {
    reply.assert_error(503, "session could not be verified; retry shortly");
    assert!(reply.header("retry-after").is_some(), "{:?}", reply.headers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_is_asked_as_the_contract_says_and_its_yes_is_kept_for_half_a_minute() {
    let (control_plane, clock) = (ControlPlane::start().await, MovableClock::default());
    let app = server(&control_plane, &clock).await;
    for _ in 0..3 {
        assert_eq!(ask(&app, "theme=dark; session=good").await.status, 200);
    }
    let seen = control_plane.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].uri, "/cp/auth/tenant-member?slug=acme");
    assert_eq!(seen[0].cookie, "theme=dark; session=good");
    assert_eq!(
        seen[0].user_agent,
        "molecule-tenant-platform/session-verifier"
    );
    clock.advance_secs(29);
    assert_eq!(ask(&app, "theme=dark; session=good").await.status, 200);
    assert_eq!(control_plane.seen().len(), 1);
    clock.advance_secs(2);
    assert_eq!(ask(&app, "theme=dark; session=good").await.status, 200);
    assert_eq!(control_plane.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_site_presents_no_session() {
    let (control_plane, clock) = (ControlPlane::start().await, MovableClock::default());
    let app = strict(Engine::Sqlite)
        .clock(clock.clock())
        .config(|config| {
            control_plane.configure(config);
            config.server.cors_origins = vec!["*".to_owned(), "https://named.test".to_owned()];
        })
        .start()
        .await;
    let agent = Agent::start(&app, json!({ "name": "one" })).await;
    let of_workspace = format!("/workspaces/{}/tokens", agent.id);
    for path in ["/org/tokens", &of_workspace] {
        for (origin, is_let_in) in [
            (app.url.as_str(), true),
            ("https://named.test", true),
            ("https://other.test", false),
            ("https://named.test.other.test", false),
            ("null", false),
            ("*", false),
        ] {
            let request = app.get(path).header("cookie", GOOD);
            let reply = request.header("origin", origin).send().await;
            let expected = if is_let_in { 200 } else { 401 };
            assert_eq!(reply.status, expected, "{path} {origin}: {}", reply.text);
        }
    }
    // Who has a token needs no session.
    let request = app.get("/org/tokens").bearer(ADMIN);
    let reply = request.header("origin", "https://other.test").send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_no_is_kept_for_five_seconds() {
    let (control_plane, clock) = (ControlPlane::start().await, MovableClock::default());
    let app = server(&control_plane, &clock).await;
    for _ in 0..3 {
        ask(&app, "session=x")
            .await
            .assert_error(401, "admin auth required");
    }
    assert_eq!(control_plane.seen().len(), 1);
    clock.advance_secs(6);
    ask(&app, "session=x")
        .await
        .assert_error(401, "admin auth required");
    assert_eq!(control_plane.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_requests_of_one_browser_are_one_question() {
    let (control_plane, clock) = (ControlPlane::start().await, MovableClock::default());
    let app = server(&control_plane, &clock).await;
    control_plane.set_mood(Mood::Slow);
    let replies = futures_util::future::join_all((0..50).map(|_| ask(&app, GOOD))).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert_eq!(control_plane.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_that_does_not_answer_is_a_503_and_forgotten_at_once() {
    let (control_plane, clock) = (ControlPlane::start().await, MovableClock::default());
    let app = server(&control_plane, &clock).await;
    control_plane.set_mood(Mood::Fails);
    assert_unanswered(&ask(&app, GOOD).await);
    control_plane.set_mood(Mood::Silent);
    let started = Instant::now();
    assert_unanswered(&ask(&app, GOOD).await);
    let took = started.elapsed();
    // It was waited for, and not until it spoke: that takes a minute.
    assert!(
        (Duration::from_secs(2)..Duration::from_secs(50)).contains(&took),
        "{took:?}"
    );
    // A good bearer needs no session.
    let reply = app.get("/org/tokens").header("cookie", GOOD);
    assert_eq!(reply.bearer(ADMIN).send().await.status, 200);
    control_plane.set_mood(Mood::Honest);
    assert_eq!(ask(&app, GOOD).await.status, 200);

    // Nobody listens there any more.
    let _port = control_plane.stop().await;
    assert_unanswered(&ask(&app, "session=other").await);
    assert_eq!(ask(&app, GOOD).await.status, 200, "known for half a minute");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_membership_lets_nobody_in() {
    let (control_plane, clock) = (ControlPlane::start().await, MovableClock::default());
    let app = server(&control_plane, &clock).await;
    for mood in [Mood::Garbage, Mood::Huge, Mood::Redirects] {
        control_plane.set_mood(mood);
        let reply = ask(&app, GOOD).await;
        assert_eq!(reply.status, 401, "{mood:?}: {}", reply.text);
        clock.advance_secs(60);
    }
    let seen = control_plane.seen();
    assert!(
        seen.iter().all(|seen| seen.uri.starts_with("/cp/auth/")),
        "a cookie was taken elsewhere: {seen:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_with_made_up_cookies_cost_a_bounded_number_of_questions() {
    let (control_plane, clock) = (ControlPlane::start().await, MovableClock::default());
    let app = server(&control_plane, &clock).await;
    control_plane.set_mood(Mood::Silent);
    let asking = (0..150).map(|n| {
        let cookie = format!("session={n}");
        let app = &app;
        async move { ask(app, &cookie).await }
    });
    let replies = futures_util::future::join_all(asking).await;
    for reply in &replies {
        assert_unanswered(reply);
    }
    assert!(
        control_plane.seen().len() <= 64,
        "{}",
        control_plane.seen().len()
    );
    control_plane.set_mood(Mood::Honest);
    assert_eq!(ask(&app, GOOD).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_does_not_spoil_the_answer_for_others() {
    let (control_plane, clock) = (ControlPlane::start().await, MovableClock::default());
    let app = server(&control_plane, &clock).await;
    control_plane.set_mood(Mood::Slow);
    let leaving = tokio::time::timeout(Duration::from_millis(50), ask(&app, GOOD)).await;
    assert!(leaving.is_err());
    assert_eq!(ask(&app, GOOD).await.status, 200);
    assert_eq!(control_plane.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_organisation_cookies_mean_nothing_and_without_a_control_plane_no() {
    // No slug: there are no sessions here.
    let app = strict(Engine::Sqlite).start().await;
    let agent = Agent::start(&app, json!({ "name": "one" })).await;
    let ticket = |app: &TestApp, id: &str| {
        app.post("/ws/ticket", json!({ "workspace_id": id }))
            .header("cookie", GOOD)
    };
    let reply = ticket(&app, &agent.id).send().await;
    reply.assert_error(401, "missing workspace auth token");

    // A slug and nobody to ask: presented, and no good.
    let app = strict(Engine::Sqlite)
        .config(|config| config.control_plane.org_slug = Some("acme".to_owned()))
        .start()
        .await;
    let agent = Agent::start(&app, json!({ "name": "one" })).await;
    let reply = ticket(&app, &agent.id).send().await;
    reply.assert_error(401, "invalid session");
    let reply = ticket(&app, &agent.id).bearer(&agent.token).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    ask(&app, GOOD)
        .await
        .assert_error(401, "admin auth required");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_canvas_cookie_is_not_told_to_the_control_plane() {
    let (control_plane, clock) = (ControlPlane::start().await, MovableClock::default());
    let app = server(&control_plane, &clock).await;
    let reply = ask(&app, "molecule_canvas=1.x; session=good").await;
    assert_eq!(reply.status, 200);
    assert_eq!(control_plane.seen()[0].cookie, GOOD);
    ask(&app, "molecule_canvas=1.x")
        .await
        .assert_error(401, "admin auth required");
    assert_eq!(control_plane.seen().len(), 1);
}
