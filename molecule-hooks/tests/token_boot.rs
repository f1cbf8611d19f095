//! What a booting workspace gets of a token cache.

#![allow(clippy::unwrap_used)] // helpers of tests count as tests

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use molecule_hooks::testing::FakeClock;
use molecule_hooks::tracing::field::{Field, Visit};
use molecule_hooks::tracing::span::{Attributes, Id, Record};
use molecule_hooks::tracing::subscriber::DefaultGuard;
use molecule_hooks::tracing::{self, Event, Level, Metadata, Subscriber};
use molecule_hooks::{HookError, HookErrorKind, Token, TokenCache, WorkspaceContext};
use tokio::sync::Semaphore;

const HOUR: Duration = Duration::from_secs(3600);

/// The warnings of this thread while the guard lives.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Warnings {
    fn record() -> (Self, DefaultGuard) {
        let warnings = Self::default();
        let guard = tracing::subscriber::set_default(warnings.clone());
        (warnings, guard)
    }

    /// Those since the last look.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!("{field}={value:?} "));
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// A cache whose upstream answers `answer` once `open` has permits.
fn cache(open: &Arc<Semaphore>, answer: Result<(), HookError>) -> (TokenCache, Arc<AtomicUsize>) {
    let time = FakeClock::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let (open, counted) = (Arc::clone(open), Arc::clone(&calls));
    let cache = TokenCache::new(time.clock(), move || {
        let (open, answer) = (Arc::clone(&open), answer.clone());
        let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
        let expires_at = time.now() + HOUR;
        async move {
            open.acquire().await.unwrap().forget();
            answer.map(|()| Token::new(format!("t-{number}"), expires_at))
        }
    });
    (cache, calls)
}

fn workspace() -> WorkspaceContext {
    WorkspaceContext::new("7aa08951-00d0-4000-8000-000000000001")
}

fn is_boot_warning(line: &str) -> bool {
    line.contains("gitlab-token: no token for now; the workspace boots without a new one")
}

#[tokio::test]
async fn a_boot_gets_the_token_that_everybody_gets() {
    let (warnings, _guard) = Warnings::record();
    let (cache, calls) = cache(&Arc::new(Semaphore::new(9)), Ok(()));
    let booted = cache.get_for_boot("gitlab-token", &workspace()).await;
    let served = cache.get().await.unwrap();
    assert_eq!(booted.unwrap().unwrap().secret, served.secret);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(warnings.take(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_late_is_for_the_next_boot() {
    // Given an upstream that does not answer yet
    let (warnings, _guard) = Warnings::record();
    let open = Arc::new(Semaphore::new(0));
    let (cache, calls) = cache(&open, Ok(()));

    // When a workspace boots
    let started = tokio::time::Instant::now();
    let booted = cache.get_for_boot("gitlab-token", &workspace()).await;

    // Then it waits for less than the usual deadline of a hook and goes on without
    assert!(booted.unwrap().is_none());
    assert_eq!(started.elapsed().as_secs(), 8);
    let said = warnings.take();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(is_boot_warning(&said[0]), "{said:?}");
    assert!(said[0].contains("no answer yet"), "{said:?}");
    assert!(said[0].contains(&workspace().id), "{said:?}");

    // And the answer of that one request is there for the next boot
    open.add_permits(1);
    let next = cache.get_for_boot("gitlab-token", &workspace()).await;
    assert_eq!(next.unwrap().unwrap().secret.expose(), "t-1");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(warnings.take(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn many_boots_that_wait_share_one_request_and_one_deadline() {
    let open = Arc::new(Semaphore::new(0));
    let (cache, calls) = cache(&open, Ok(()));
    let started = tokio::time::Instant::now();
    let mut boots = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let cache = cache.clone();
        boots.spawn(async move { cache.get_for_boot("gitlab-token", &workspace()).await });
    }
    while let Some(booted) = boots.join_next().await {
        assert!(booted.unwrap().unwrap().is_none());
    }
    assert_eq!(started.elapsed().as_secs(), 8);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn trouble_that_passes_is_a_warning_and_no_token() {
    let (warnings, _guard) = Warnings::record();
    let trouble = HookError::transient("create a token: status 503");
    let (cache, _) = cache(&Arc::new(Semaphore::new(9)), Err(trouble));
    let booted = cache.get_for_boot("gitlab-token", &workspace()).await;
    assert!(booted.unwrap().is_none());
    let said = warnings.take();
    let boots: Vec<_> = said.iter().filter(|line| is_boot_warning(line)).collect();
    assert_eq!(boots.len(), 1, "{said:?}");
    assert!(boots[0].contains("create a token: status 503"), "{said:?}");
}

#[tokio::test]
async fn an_error_that_stays_stops_the_boot_under_the_name_of_the_hook() {
    let (warnings, _guard) = Warnings::record();
    let refusal = HookError::permanent("create a token: status 401: Unauthorized");
    let (cache, _) = cache(&Arc::new(Semaphore::new(9)), Err(refusal));
    let error = cache
        .get_for_boot("gitlab-token", &workspace())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), HookErrorKind::Permanent);
    assert_eq!(
        error.to_string(),
        "gitlab-token: create a token: status 401: Unauthorized"
    );
    let said = warnings.take();
    assert!(!said.iter().any(|line| is_boot_warning(line)), "{said:?}");
}
