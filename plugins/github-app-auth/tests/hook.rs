//! The hook as the server calls it: booting workspaces and caching.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod common;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{World, eventually};
use futures_util::future::join_all;
use github_stand_in::Behaviour;
use molecule_hooks::{HookErrorKind, TokenScope};

#[tokio::test]
async fn a_boot_sets_both_variables_as_secrets_and_overwrites() {
    let world = World::new().await;
    let (result, env) = world.boot().await;
    result.unwrap();
    let token = env.get("GITHUB_TOKEN").unwrap();
    assert!(token.starts_with("ghs_"));
    assert_eq!(env.get("GH_TOKEN"), Some(token));
    assert!(env.is_secret("GITHUB_TOKEN") && env.is_secret("GH_TOKEN"));
    assert_eq!(env.len(), 2);
}

#[tokio::test]
async fn boots_and_token_routes_share_one_token() {
    let world = World::new().await;
    let (_, env) = world.boot().await;
    let served = world.token().await.unwrap();
    assert_eq!(env.get("GITHUB_TOKEN"), Some(served.secret.expose()));
    for name in ["GITHUB_TOKEN", "GH_TOKEN"] {
        assert_eq!(env.expires_at(name), Some(served.expires_at), "{name}");
    }
    assert_eq!(world.github.calls(), 1);
    let provider = world.hook.token_provider().unwrap();
    assert_eq!(provider.scope(), TokenScope::Shared);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_callers_cause_one_exchange() {
    let world = World::new().await;
    let tokens = join_all((0..50).map(|_| world.token())).await;
    let first = tokens[0].as_ref().unwrap().secret.expose();
    assert!(
        tokens
            .iter()
            .all(|token| token.as_ref().unwrap().secret.expose() == first)
    );
    assert_eq!(world.github.calls(), 1);
}

#[tokio::test]
async fn a_token_is_renewed_in_its_last_five_minutes_and_after_its_end() {
    let world = World::new().await;
    let first = world.token().await.unwrap();

    world.clock.advance(50);
    let same = world.token().await.unwrap();
    assert_eq!(first.secret, same.secret);
    assert_eq!(world.github.calls(), 1);

    world.clock.advance(6);
    let still = world.token().await.unwrap();
    assert_eq!(first.secret, still.secret, "served while it is renewed");
    // Its answer must be in before the clock moves on: it would come too late.
    let deadline = Instant::now() + Duration::from_secs(60);
    while world.token().await.unwrap().secret == first.secret {
        assert!(Instant::now() < deadline, "it is renewed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.github.calls(), 2);

    world.clock.advance(120);
    let second = world.token().await.unwrap();
    assert_ne!(first.secret, second.secret);
    assert!(second.expires_at > world.clock.now());
}

#[tokio::test]
async fn a_live_token_outlasts_trouble_at_github() {
    let world = World::new().await;
    let first = world.token().await.unwrap();
    world.github.set_behaviour(Behaviour::refuse(503, "down"));

    world.clock.advance(56);
    world.token().await.unwrap();
    eventually("it tried to renew", || world.github.calls() == 2).await;
    let still = world.token().await.unwrap();
    assert_eq!(first.secret, still.secret);

    world.clock.advance(10);
    let error = world.token().await.unwrap_err();
    assert!(error.is_transient(), "an expired token is never served");
}

#[tokio::test]
async fn github_is_left_alone_for_as_long_as_it_asked() {
    let world = World::new().await;
    let busy = Behaviour::refuse(429, "slow down").with_header("retry-after", "600");
    world.github.set_behaviour(busy);
    for _ in 0..3 {
        world.token().await.unwrap_err();
    }
    world.clock.advance(9);
    world.token().await.unwrap_err();
    assert_eq!(world.github.calls(), 1);

    world.github.set_behaviour(Behaviour::default());
    world.clock.advance(2);
    world.token().await.unwrap();
    assert_eq!(world.github.calls(), 2);
}

#[tokio::test]
async fn transient_trouble_lets_the_workspace_boot_with_what_it_had() {
    for behaviour in [
        Behaviour::refuse(503, "down"),
        Behaviour::refuse(429, "slow down"),
        Behaviour::Truncated,
    ] {
        let world = World::new().await;
        world.github.set_behaviour(behaviour);
        let (result, env) = world.boot().await;
        result.unwrap();
        assert_eq!(env.get("GITHUB_TOKEN"), Some("stored-by-hand"));
        assert!(!env.contains("GH_TOKEN"));
    }
}

#[tokio::test]
async fn misconfiguration_stops_the_boot() {
    for (code, message) in [(401, "Bad credentials"), (404, "Not Found")] {
        let world = World::new().await;
        world.github.set_behaviour(Behaviour::refuse(code, message));
        let (result, env) = world.boot().await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), HookErrorKind::Permanent);
        assert_eq!(
            error.to_string(),
            format!("github-app-auth: access_tokens returned {code}: {message}")
        );
        assert_eq!(env.get("GITHUB_TOKEN"), Some("stored-by-hand"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_boot_gives_up_before_the_deadline_of_a_hook() {
    let world = World::new().await;
    world.github.set_behaviour(Behaviour::Hang);
    let started = tokio::time::Instant::now();
    let (result, env) = world.boot().await;
    result.unwrap();
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(env.get("GITHUB_TOKEN"), Some("stored-by-hand"));
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_tells_what_happened_and_no_secret() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let guard = molecule_hooks::tracing::subscriber::set_default(subscriber);

    let world = World::new().await;
    let (_, env) = world.boot().await;
    let token = env.get("GITHUB_TOKEN").unwrap().to_owned();
    world.clock.advance(120);
    let down = Behaviour::refuse(503, "down ghs_PLANTEDPLANTED");
    world.github.set_behaviour(down);
    world.boot().await.0.unwrap();
    drop(guard);

    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("new installation token"), "{text}");
    assert!(text.contains("the workspace boots without a new one"));
    assert!(text.contains("access_tokens returned 503"));
    assert!(text.contains("7aa08951-00d0-4000-8000-000000000001"));
    for secret in [token.as_str(), "PLANTED", "eyJ", "Bearer "] {
        assert!(!text.contains(secret), "{secret} is in the log: {text}");
    }
}
