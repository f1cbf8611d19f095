//! `GET …/github-installation-token`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use molecule_hooks::testing::FakeClock;
use molecule_hooks::{HookError, Token, TokenRequest, TokenScope};
use molecule_tests::hooks::{FnHook, FnTokens};
use molecule_tests::{ADMIN, Engine, Reply, TestApp, eventually, on_both_engines};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::support::{Agent, strict};

const ADMIN_PATH: &str = "/admin/github-installation-token";

async fn ask(app: &TestApp) -> Reply {
    app.get(ADMIN_PATH).bearer(ADMIN).send().await
}

/// What a scripted provider was asked and how it answers.
#[derive(Clone)]
struct Upstream {
    calls: Arc<AtomicUsize>,
    down: Arc<AtomicBool>,
    /// Permits to answer.
    gate: Arc<Semaphore>,
    clock: FakeClock,
}

impl Upstream {
    fn new() -> Self {
        Self {
            calls: Arc::default(),
            down: Arc::default(),
            gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            clock: FakeClock::new(),
        }
    }

    /// One that answers only when told to.
    fn held() -> Self {
        Self {
            gate: Arc::new(Semaphore::new(0)),
            ..Self::new()
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// A provider of numbered tokens that live an hour.
    fn provider(&self, scope: TokenScope) -> FnTokens {
        self.provider_failing_with(scope, || HookError::transient("upstream answered 503"))
    }

    fn provider_failing_with(&self, scope: TokenScope, error: fn() -> HookError) -> FnTokens {
        let this = self.clone();
        FnTokens::new(scope, move |request: TokenRequest| {
            let this = this.clone();
            async move {
                let call = this.calls.fetch_add(1, Ordering::SeqCst) + 1;
                let _permit = this.gate.acquire().await;
                if this.down.load(Ordering::SeqCst) {
                    return Err(error());
                }
                let whom = request
                    .workspace
                    .map_or("admin".to_owned(), |workspace| workspace.name);
                Ok(Token::new(
                    format!("ghs_{call}_{whom}"),
                    this.clock.now() + TimeDelta::hours(1),
                ))
            }
        })
    }
}

async fn app_with(upstream: &Upstream, scope: TokenScope) -> TestApp {
    strict(Engine::Sqlite)
        .hook(upstream.provider(scope))
        .clock(upstream.clock.clock())
        .start()
        .await
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("a time")
}

on_both_engines! {
    async fn both_endpoints_answer_the_same_compact_bytes(engine: Engine) {
        let clock = FakeClock::at(at("2026-04-17T22:00:00Z"));
        let provider = FnTokens::new(TokenScope::Shared, |_| async {
            Ok(Token::new("ghs_abc", at("2026-04-17T22:50:00.987654Z")))
        });
        let app = strict(engine)
            .hook(provider)
            .clock(clock.clock())
            .start()
            .await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        let replies = [
            ask(&app).await,
            app.get(&agent.token_path())
                .bearer(&agent.token)
                .send()
                .await,
            app.get(&agent.token_path()).bearer(ADMIN).send().await,
        ];
        for reply in replies {
            assert_eq!(
                (reply.status, reply.text.as_str()),
                (
                    200,
                    r#"{"token":"ghs_abc","expires_at":"2026-04-17T22:50:00Z"}"#
                )
            );
            assert_eq!(reply.header("cache-control"), Some("no-store"));
            assert_eq!(
                reply.header("content-type"),
                Some("application/json; charset=utf-8")
            );
        }
        assert!(!app.database.dump().await.contains("ghs_abc"));
    }

    async fn without_a_provider_there_is_nothing_to_find(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        ask(&app)
            .await
            .assert_error(404, "no GitHub App configured");
        app.get(&agent.token_path())
            .bearer(&agent.token)
            .send()
            .await
            .assert_error(404, "no GitHub App configured");
        let app = strict(engine)
            .hook(FnHook::new("plain", |_, _| Ok(())))
            .start()
            .await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        ask(&app)
            .await
            .assert_error(404, "no token provider registered");
        app.get(&agent.token_path())
            .bearer(&agent.token)
            .send()
            .await
            .assert_error(404, "no token provider registered");
    }

    async fn an_administrator_asks_for_workspaces_that_exist(engine: Engine) {
        let upstream = Upstream::new();
        let app = strict(engine)
            .hook(upstream.provider(TokenScope::PerWorkspace))
            .clock(upstream.clock.clock())
            .start()
            .await;
        for id in ["7aa08951-00d1-4c3e-9d6a-0123456789ab", "nope"] {
            let path = format!("/workspaces/{id}/github-installation-token");
            app.get(&path)
                .bearer(ADMIN)
                .send()
                .await
                .assert_error(404, "workspace not found");
        }
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        assert_eq!(
            app.get(&agent.token_path())
                .bearer(ADMIN)
                .send()
                .await
                .status,
            200
        );
        // Whatever was cached goes with the workspace.
        assert_eq!(
            app.delete(&format!("/workspaces/{}", agent.id))
                .bearer(ADMIN)
                .send()
                .await
                .status,
            200
        );
        app.get(&agent.token_path())
            .bearer(ADMIN)
            .send()
            .await
            .assert_error(404, "workspace not found");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_failure_of_a_provider_is_a_500_with_a_fixed_text() {
    type Mint = fn() -> Result<Token, HookError>;
    let table: [(Mint, &str); 5] = [
        (
            || {
                Err(HookError::transient(
                    "https://internal.example said ghs_secret0123456789",
                ))
            },
            "token refresh failed",
        ),
        (
            || Err(HookError::config("key file /etc/secret.pem")),
            "token refresh failed",
        ),
        (
            || Ok(Token::new("", Utc::now() + TimeDelta::hours(1))),
            "token refresh failed: empty token",
        ),
        (
            || Ok(Token::new("ghs_old", Utc::now() - TimeDelta::seconds(1))),
            "token refresh failed",
        ),
        (|| panic!("secret panic text"), "token refresh failed"),
    ];
    for (mint, text) in table {
        let app = strict(Engine::Sqlite)
            .hook(FnTokens::new(
                TokenScope::Shared,
                move |_| async move { mint() },
            ))
            .start()
            .await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        for reply in [
            ask(&app).await,
            app.get(&agent.token_path())
                .bearer(&agent.token)
                .send()
                .await,
        ] {
            assert_eq!(
                (reply.status, reply.text),
                (500, json!({ "error": text }).to_string())
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_hangs_holds_nobody_longer_than_a_request_may_take() {
    let upstream = Upstream::held();
    let app = strict(Engine::Sqlite)
        .hook(upstream.provider(TokenScope::Shared))
        .clock(upstream.clock.clock())
        .config(|config| config.server.request_timeout_secs = 1)
        .start()
        .await;
    ask(&app).await.assert_error(500, "internal error");
    assert_eq!(app.get("/health").send().await.status, 200);
    // The refresh went on; its answer serves the next caller.
    upstream.gate.add_permits(1);
    assert_eq!(ask(&app).await.json()["token"], "ghs_1_admin");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_served_until_its_last_minute_while_the_upstream_is_down() {
    let upstream = Upstream::new();
    let app = app_with(&upstream, TokenScope::Shared).await;
    let first = ask(&app).await;
    assert_eq!(first.json()["token"], "ghs_1_admin");
    upstream.down.store(true, Ordering::SeqCst);

    // In the last five minutes a refresh is tried in the background.
    upstream.clock.advance(Duration::from_secs(56 * 60));
    let stale = ask(&app).await;
    assert_eq!(
        (stale.status, &stale.text),
        (200, &first.text),
        "with its real end"
    );
    eventually("a refresh was tried", || async { upstream.calls() == 2 }).await;
    upstream.clock.advance(Duration::from_secs(60));
    assert_eq!(ask(&app).await.text, first.text);

    // In the last minute nobody gets it any more.
    upstream.clock.advance(Duration::from_secs(135));
    ask(&app).await.assert_error(500, "token refresh failed");
    upstream.down.store(false, Ordering::SeqCst);
    upstream.clock.advance(Duration::from_secs(10));
    assert_eq!(ask(&app).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_callers_cause_one_refresh() {
    let upstream = Upstream::held();
    let app = app_with(&upstream, TokenScope::Shared).await;
    let agent = Agent::start(&app, json!({ "name": "one" })).await;
    let calls = (0..200).map(|n| match n % 2 {
        0 => app.get(ADMIN_PATH).bearer(ADMIN).send(),
        _ => app.get(&agent.token_path()).bearer(&agent.token).send(),
    });
    let release = async {
        eventually("the refresh begins", || async { upstream.calls() > 0 }).await;
        // Some callers wait for it by now, the others come later.
        for _ in 0..20 {
            assert_eq!(app.get("/health").send().await.status, 200);
        }
        upstream.gate.add_permits(1);
    };
    let (replies, ()) = tokio::join!(futures_util::future::join_all(calls), release);
    for reply in replies {
        assert_eq!(
            (reply.status, &reply.json()["token"]),
            (200, &json!("ghs_1_admin")),
            "{}",
            reply.text
        );
    }
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_leaves_does_not_end_the_refresh() {
    let upstream = Upstream::held();
    let app = app_with(&upstream, TokenScope::Shared).await;
    let address = app.url.strip_prefix("http://").expect("an address");
    let mut stream = TcpStream::connect(address).await.expect("connect");
    let request =
        format!("GET {ADMIN_PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("write");
    eventually("the refresh begins", || async { upstream.calls() == 1 }).await;
    drop(stream);
    for _ in 0..20 {
        assert_eq!(app.get("/health").send().await.status, 200);
    }
    upstream.gate.add_permits(1);
    assert_eq!(ask(&app).await.json()["token"], "ghs_1_admin");
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failure_the_upstream_is_left_alone_for_a_while() {
    let upstream = Upstream::new();
    upstream.down.store(true, Ordering::SeqCst);
    let app = app_with(&upstream, TokenScope::Shared).await;
    for _ in 0..5 {
        ask(&app).await.assert_error(500, "token refresh failed");
        upstream.clock.advance(Duration::from_millis(900));
    }
    assert_eq!(upstream.calls(), 1);
    upstream.clock.advance(Duration::from_secs(3));
    upstream.down.store(false, Ordering::SeqCst);
    assert_eq!(ask(&app).await.status, 200);
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_upstreams_own_wish_to_be_left_alone_is_honoured() {
    let upstream = Upstream::new();
    upstream.down.store(true, Ordering::SeqCst);
    let provider = upstream.provider_failing_with(TokenScope::Shared, || {
        HookError::transient("rate limited").with_retry_after(Duration::from_secs(60))
    });
    let app = strict(Engine::Sqlite)
        .hook(provider)
        .clock(upstream.clock.clock())
        .start()
        .await;
    ask(&app).await.assert_error(500, "token refresh failed");
    upstream.clock.advance(Duration::from_secs(59));
    ask(&app).await.assert_error(500, "token refresh failed");
    assert_eq!(upstream.calls(), 1);
    upstream.clock.advance(Duration::from_secs(3));
    ask(&app).await.assert_error(500, "token refresh failed");
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_token_is_minted_once_and_for_nobody_in_particular() {
    let upstream = Upstream::new();
    let app = app_with(&upstream, TokenScope::Shared).await;
    let one = Agent::start(&app, json!({ "name": "one" })).await;
    let two = Agent::start(&app, json!({ "name": "two" })).await;
    for request in [
        app.get(&one.token_path()).bearer(&one.token),
        app.get(&two.token_path()).bearer(&two.token),
        app.get(ADMIN_PATH).bearer(ADMIN),
    ] {
        assert_eq!(request.send().await.json()["token"], "ghs_1_admin");
    }
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workspaces_own_token_is_minted_for_it_and_shown_to_no_other() {
    let upstream = Upstream::new();
    let app = app_with(&upstream, TokenScope::PerWorkspace).await;
    let one = Agent::start(&app, json!({ "name": "one" })).await;
    let two = Agent::start(&app, json!({ "name": "two" })).await;
    for _ in 0..2 {
        let token = |reply: Reply| {
            reply.json()["token"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        assert_eq!(
            token(app.get(&one.token_path()).bearer(&one.token).send().await),
            "ghs_1_one"
        );
        assert_eq!(
            token(app.get(&two.token_path()).bearer(&two.token).send().await),
            "ghs_2_two"
        );
        assert_eq!(token(ask(&app).await), "ghs_3_admin");
        // One workspace, however its id is spelled.
        let shouted = format!(
            "/workspaces/{}/github-installation-token",
            one.id.to_uppercase()
        );
        assert_eq!(
            token(app.get(&shouted).bearer(ADMIN).send().await),
            "ghs_1_one"
        );
    }
    assert_eq!(upstream.calls(), 3);
}
