//! Servers that are killed, requests that are given up, clocks that jump.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use molecule_hook_gitlab_token as _;
use molecule_hooks::testing::gitlab::GitlabStandIn;
use molecule_hooks::testing::{FakeClock, Fault};
use molecule_hooks::{HookError, HooksConfig, RegisteredHook, Registry, Token, TokenRequest};
use serde_json::json;

const MANAGER: &str = "glpat-of-the-maintainer";
const HOUR: Duration = Duration::from_secs(3600);
const DEADLINE: Duration = Duration::from_secs(60);

/// A GitLab by a clock of its own.
async fn gitlab(clock: &FakeClock) -> GitlabStandIn {
    let gitlab = GitlabStandIn::start_with_clock(MANAGER, clock.clock())
        .await
        .unwrap();
    gitlab.add_project("team/app");
    gitlab
}

/// The hook of a server that was just started.
fn start(gitlab: &GitlabStandIn, clock: &FakeClock) -> Arc<RegisteredHook> {
    let section = json!({
        "url": gitlab.url(), "token": MANAGER, "project": "team/app", "timeout_secs": 30,
    });
    let mut config = HooksConfig::new().with_section("gitlab-token", section);
    config.context.clock = clock.clock();
    let registry = Registry::from_linked(&config).unwrap();
    Arc::new(registry.snapshot().pop().expect("the hook is configured"))
}

async fn token(hook: &RegisteredHook) -> Result<Token, HookError> {
    let provider = hook.token_provider().expect("it provides tokens");
    provider.token(&TokenRequest::admin()).await
}

async fn eventually(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Lets GitLab make a token whose answer does not arrive yet.
async fn ask_in_vain(gitlab: &GitlabStandIn, hook: &Arc<RegisteredHook>) {
    gitlab.break_down(Fault::Slow(Duration::from_secs(600)));
    let asking = Arc::clone(hook);
    tokio::spawn(async move { token(&asking).await.map(drop) });
    eventually("it is made", || gitlab.tokens().len() == 1).await;
    gitlab.mend();
}

#[tokio::test]
async fn what_a_killed_server_left_is_dead_by_the_day_that_gitlab_knows() {
    let clock = FakeClock::new();
    for in_the_middle in [false, true] {
        // Given a server that was killed with a token, or while one was made
        let gitlab = gitlab(&clock).await;
        let killed = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let hook = start(&gitlab, &clock);
        if in_the_middle {
            gitlab.break_down(Fault::Slow(Duration::from_secs(600)));
        }
        let asking = Arc::clone(&hook);
        let asked = killed.spawn(async move { token(&asking).await.map(drop) });
        eventually("it is made", || gitlab.tokens().len() == 1).await;
        if !in_the_middle {
            asked.await.unwrap().unwrap();
        }
        killed.shutdown_background();
        drop(hook);
        gitlab.mend();
        let left = gitlab.tokens().remove(0);

        // When the next one starts
        let next = start(&gitlab, &clock);
        let served = token(&next).await.unwrap();

        // Then it leaves alone what agents may still use, and makes its own
        assert_eq!(gitlab.live_tokens().len(), 2);
        assert_ne!(served.secret.expose(), left.token);
        // And a day after its end the other one is dead without anybody's doing
        clock.advance(8 * HOUR + 24 * HOUR);
        let live = gitlab.live_tokens();
        assert!(!live.iter().any(|token| token.id == left.id), "{live:?}");
        assert!(!gitlab.tokens()[0].revoked);
    }
}

#[tokio::test]
async fn a_token_whose_making_was_given_up_is_looked_for_and_revoked() {
    // Given a GitLab that makes a token and does not answer before the server gives up
    let clock = FakeClock::new();
    let gitlab = gitlab(&clock).await;
    let hook = start(&gitlab, &clock);
    ask_in_vain(&gitlab, &hook).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();

    // Then it is revoked although nobody asks again
    eventually("it is revoked", || gitlab.tokens()[0].revoked).await;

    // And the next one is good
    clock.advance(Duration::from_secs(60));
    let served = token(&hook).await.unwrap();
    let live = gitlab.live_tokens();
    assert_eq!(live.len(), 1, "{live:?}");
    assert_eq!(live[0].token, served.secret.expose());
}

#[tokio::test]
async fn a_clock_set_back_costs_no_token_and_revokes_none() {
    let right = FakeClock::new();
    let gitlab = gitlab(&right).await;
    let clock = FakeClock::at(right.now() + TimeDelta::hours(2));
    let hook = start(&gitlab, &clock);
    let first = token(&hook).await.unwrap();

    clock.set(clock.now() - TimeDelta::hours(1));

    assert_eq!(token(&hook).await.unwrap().secret, first.secret);
    assert_eq!(gitlab.upstream().request_count(), 1);
    assert_eq!(gitlab.live_tokens().len(), 1);
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_means_one_new_token_and_an_end_of_the_old_one() {
    // Given a GitLab whose own clock does not jump
    let right = FakeClock::new();
    let gitlab = gitlab(&right).await;
    let clock = FakeClock::at(right.now());
    let hook = start(&gitlab, &clock);
    let first = token(&hook).await.unwrap();

    clock.advance(24 * HOUR);

    let second = token(&hook).await.unwrap();
    assert_ne!(second.secret, first.secret);
    assert_eq!(token(&hook).await.unwrap().secret, second.secret);
    eventually("the first one is revoked", || gitlab.tokens()[0].revoked).await;
    assert_eq!(gitlab.live_tokens().len(), 1);

    // And the one that was made meanwhile is served on when the clock is set right
    clock.set(right.now());
    assert_eq!(token(&hook).await.unwrap().secret, second.secret);
    assert_eq!(gitlab.tokens().len(), 2);
}
