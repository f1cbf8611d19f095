//! When a token is served, refreshed, waited for and refused.

#![allow(clippy::unwrap_used)] // helpers of tests count as tests

use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use molecule_hooks::testing::FakeClock;
use molecule_hooks::{EMPTY_TOKEN, HookError, Token, TokenCache};
use tokio::sync::Semaphore;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// What the upstream does when it is asked next.
#[derive(Clone)]
enum Answer {
    /// A token that lives this long, called `t-<number of the call>`.
    For(Duration),
    Fail(HookError),
    Panic,
    Raw(Token),
}

/// An upstream whose answers a test chooses, and the cache in front of it.
struct Setup {
    time: FakeClock,
    calls: Arc<AtomicUsize>,
    answer: Arc<Mutex<Answer>>,
    open: Arc<Semaphore>,
    cache: TokenCache,
}

impl Setup {
    fn new() -> Self {
        let setup = Self::closed();
        setup.open.add_permits(Semaphore::MAX_PERMITS / 2);
        setup
    }

    /// An upstream that does not answer before `open` has permits.
    fn closed() -> Self {
        let time = FakeClock::new();
        let calls = Arc::new(AtomicUsize::new(0));
        let answer = Arc::new(Mutex::new(Answer::For(HOUR)));
        let open = Arc::new(Semaphore::new(0));
        let cache = {
            let (time, calls) = (time.clone(), Arc::clone(&calls));
            let (answer, open) = (Arc::clone(&answer), Arc::clone(&open));
            TokenCache::new(time.clock(), move || {
                let (time, calls) = (time.clone(), Arc::clone(&calls));
                let (answer, open) = (Arc::clone(&answer), Arc::clone(&open));
                async move {
                    let number = calls.fetch_add(1, Ordering::SeqCst) + 1;
                    let permit = open.acquire().await;
                    permit.map_err(|_| HookError::permanent("closed"))?.forget();
                    let answer = answer.lock().unwrap().clone();
                    match answer {
                        Answer::For(life) => {
                            Ok(Token::new(format!("t-{number}"), time.now() + life))
                        }
                        Answer::Fail(error) => Err(error),
                        Answer::Panic => panic!("on purpose"),
                        Answer::Raw(token) => Ok(token),
                    }
                }
            })
        };
        Self {
            time,
            calls,
            answer,
            open,
            cache,
        }
    }

    fn answer(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn fail(&self) {
        self.answer(Answer::Fail(HookError::transient("upstream is down")));
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn token(&self) -> String {
        let token = self.cache.get().await.expect("a token");
        assert!(token.expires_at > self.time.now(), "expired token");
        token.secret.expose().to_owned()
    }

    async fn error(&self) -> String {
        self.cache.get().await.expect_err("an error").to_string()
    }

    /// Waits for a background refresh to end.
    async fn settled(&self) {
        eventually("the refresh ends", || {
            format!("{:?}", self.cache).contains("refreshing: false")
        })
        .await;
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "timed out: {what}");
        tokio::task::yield_now().await;
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("in time")
}

#[tokio::test]
async fn nothing_is_minted_before_the_first_caller() {
    let setup = Setup::new();
    tokio::task::yield_now().await;
    assert_eq!(setup.calls(), 0);
    assert_eq!(setup.token().await, "t-1");
}

#[tokio::test]
async fn a_fresh_token_is_served_without_asking_again() {
    let setup = Setup::new();
    assert_eq!(setup.token().await, "t-1");
    setup.time.advance(54 * MINUTE);
    for _ in 0..100 {
        assert_eq!(setup.token().await, "t-1");
    }
    assert_eq!(setup.calls(), 1);
}

#[tokio::test]
async fn in_the_last_five_minutes_one_refresh_runs_in_the_background() {
    let setup = Setup::closed();
    setup.open.add_permits(1);
    assert_eq!(setup.token().await, "t-1");

    setup.time.advance(55 * MINUTE);
    for _ in 0..100 {
        assert_eq!(within(setup.token()).await, "t-1", "nobody waits");
    }
    eventually("the refresh starts", || setup.calls() == 2).await;
    setup.open.add_permits(1);
    setup.settled().await;

    assert_eq!(setup.token().await, "t-2");
    assert_eq!(setup.calls(), 2);
}

#[tokio::test]
async fn the_current_token_survives_a_failing_refresh_while_a_minute_is_left() {
    let setup = Setup::new();
    setup.token().await;
    setup.fail();
    setup.time.advance(56 * MINUTE);
    assert_eq!(setup.token().await, "t-1");
    setup.settled().await;
    setup.time.advance(3 * MINUTE - SECOND);
    assert_eq!(setup.token().await, "t-1");
    setup.settled().await;
    assert_eq!(setup.calls(), 3, "each try after the pause");
}

#[tokio::test]
async fn with_a_minute_or_less_left_callers_wait_and_get_the_error() {
    let setup = Setup::new();
    setup.token().await;
    setup.fail();
    setup.time.advance(59 * MINUTE);
    assert_eq!(setup.error().await, "upstream is down");
    assert_eq!(setup.calls(), 2);
}

#[tokio::test]
async fn with_a_minute_or_less_left_callers_wait_for_a_working_refresh() {
    let setup = Setup::new();
    setup.token().await;
    setup.time.advance(59 * MINUTE + 59 * SECOND);
    assert_eq!(setup.token().await, "t-2");
}

#[tokio::test]
async fn an_expired_token_is_never_served() {
    let setup = Setup::new();
    setup.token().await;
    setup.fail();
    setup.time.advance(HOUR);
    assert_eq!(setup.error().await, "upstream is down");
    setup.time.advance(10 * HOUR);
    assert_eq!(setup.error().await, "upstream is down");
    setup.answer(Answer::For(HOUR));
    setup.time.advance(MINUTE);
    assert_eq!(setup.token().await, "t-4");
}

#[tokio::test]
async fn a_token_that_expires_on_its_way_to_the_caller_is_replaced() {
    let setup = Setup::new();
    setup.answer(Answer::For(MINUTE));
    // Given a caller that started the mint, but is not scheduled when it ends.
    let mut caller = Box::pin(setup.cache.get());
    let first_poll = poll_fn(|context| Poll::Ready(caller.as_mut().poll(context).is_ready())).await;
    assert!(!first_poll);
    setup.settled().await;
    // When the token expires before it is.
    setup.time.advance(2 * MINUTE);
    // Then it gets another one.
    let token = within(caller).await.unwrap();
    assert_eq!(token.secret.expose(), "t-2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_callers_at_expiry_cause_one_mint() {
    let setup = Setup::closed();
    setup.open.add_permits(1);
    setup.token().await;
    setup.time.advance(HOUR);

    let mut callers = tokio::task::JoinSet::new();
    let waiting = Arc::new(AtomicUsize::new(0));
    for _ in 0..10_000 {
        let (cache, waiting) = (setup.cache.clone(), Arc::clone(&waiting));
        callers.spawn(async move {
            waiting.fetch_add(1, Ordering::SeqCst);
            cache.get().await
        });
    }
    eventually("all callers are there", || {
        waiting.load(Ordering::SeqCst) == 10_000
    })
    .await;
    setup.open.add_permits(10_000);

    while let Some(ended) = within(callers.join_next()).await {
        assert_eq!(ended.unwrap().unwrap().secret.expose(), "t-2");
    }
    assert_eq!(setup.calls(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_callers_share_one_failure() {
    let setup = Setup::new();
    setup.fail();
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let cache = setup.cache.clone();
        callers.spawn(async move { cache.get().await });
    }
    while let Some(ended) = within(callers.join_next()).await {
        assert!(ended.unwrap().is_err());
    }
    assert_eq!(setup.calls(), 1);
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_cancel_the_mint() {
    let setup = Setup::closed();
    let cache = setup.cache.clone();
    let caller = tokio::spawn(async move { cache.get().await });
    eventually("the mint starts", || setup.calls() == 1).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());

    setup.open.add_permits(1);
    assert_eq!(within(setup.token()).await, "t-1");
    assert_eq!(setup.calls(), 1);
}

#[tokio::test]
async fn after_a_failure_the_upstream_is_left_alone_for_five_seconds() {
    let setup = Setup::new();
    setup.fail();
    assert_eq!(setup.error().await, "upstream is down");
    setup.answer(Answer::For(HOUR));
    setup.time.advance(5 * SECOND - Duration::from_millis(1));
    assert_eq!(setup.error().await, "upstream is down");
    assert_eq!(setup.calls(), 1);
    setup.time.advance(SECOND + Duration::from_millis(1)); // the longest jitter
    assert_eq!(setup.token().await, "t-2");
}

#[tokio::test]
async fn the_wait_that_the_upstream_asked_for_is_kept() {
    let setup = Setup::new();
    let limited = HookError::transient("rate limited").with_retry_after(2 * MINUTE);
    setup.answer(Answer::Fail(limited));
    assert_eq!(setup.error().await, "rate limited");
    setup.time.advance(2 * MINUTE - SECOND);
    assert_eq!(setup.error().await, "rate limited");
    assert_eq!(setup.calls(), 1);
    setup.answer(Answer::For(HOUR));
    setup.time.advance(2 * SECOND);
    assert_eq!(setup.token().await, "t-2");
}

#[tokio::test]
async fn an_absurd_wait_counts_as_a_quarter_of_an_hour() {
    for wait in [24 * HOUR, Duration::MAX] {
        let setup = Setup::new();
        setup.answer(Answer::Fail(
            HookError::transient("rate limited").with_retry_after(wait),
        ));
        setup.error().await;
        setup.answer(Answer::For(HOUR));
        setup.time.advance(14 * MINUTE);
        assert_eq!(setup.error().await, "rate limited");
        setup.time.advance(MINUTE + SECOND);
        assert_eq!(setup.token().await, "t-2");
    }
}

#[tokio::test]
async fn a_clock_set_back_does_not_prolong_the_pause() {
    let setup = Setup::new();
    setup.fail();
    setup.error().await;
    setup.answer(Answer::For(HOUR));
    setup.time.set(setup.time.now() - 24 * HOUR);
    assert_eq!(setup.token().await, "t-2");
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_does_not_prolong_the_life_of_a_token() {
    // Given a token for an hour, and a clock that is then set back for good
    let setup = Setup::new();
    assert_eq!(setup.token().await, "t-1");
    setup.time.set(setup.time.now() - 24 * HOUR);

    // While its hour has not passed it is served
    tokio::time::advance(54 * MINUTE).await;
    assert_eq!(setup.token().await, "t-1");
    assert_eq!(setup.calls(), 1);

    // Then it is replaced, whatever the clock says
    tokio::time::advance(6 * MINUTE).await;
    assert_eq!(setup.token().await, "t-2");
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_was_ahead_for_a_moment_does_not_prolong_the_life_of_a_token() {
    // Given a token that was made while the clock was a day ahead
    let setup = Setup::new();
    let right = setup.time.now();
    setup.time.set(right + 24 * HOUR);
    assert_eq!(setup.token().await, "t-1");
    setup.time.set(right);
    assert_eq!(setup.token().await, "t-1");
    // Then it lives for its hour and not for the day
    tokio::time::advance(HOUR).await;
    setup.time.advance(HOUR);
    assert_eq!(setup.token().await, "t-2");
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_means_one_new_token_for_all() {
    let setup = Setup::new();
    assert_eq!(setup.token().await, "t-1");
    setup.time.advance(24 * HOUR);
    for _ in 0..10 {
        assert_eq!(setup.token().await, "t-2");
    }
    assert_eq!(setup.calls(), 2);
}

#[tokio::test]
async fn an_empty_token_is_an_error() {
    let setup = Setup::new();
    let expires_at = setup.time.now() + HOUR;
    setup.answer(Answer::Raw(Token::new("", expires_at)));
    assert_eq!(setup.error().await, EMPTY_TOKEN);
}

#[tokio::test]
async fn a_token_that_arrives_expired_is_an_error() {
    let setup = Setup::new();
    setup.answer(Answer::For(Duration::ZERO));
    assert_eq!(
        setup.error().await,
        "token provider returned an expired token"
    );
}

#[tokio::test]
async fn a_panic_in_the_future_is_an_error_and_the_next_mint_works() {
    let setup = Setup::new();
    setup.answer(Answer::Panic);
    assert_eq!(setup.error().await, "token provider panicked");
    setup.answer(Answer::For(HOUR));
    setup.time.advance(6 * SECOND);
    assert_eq!(setup.token().await, "t-2");
}

#[tokio::test]
async fn a_panic_before_the_future_is_an_error_too() {
    let time = FakeClock::new();
    let panics = Arc::new(AtomicBool::new(true));
    let (now, told) = (time.clone(), Arc::clone(&panics));
    let cache = TokenCache::new(time.clock(), move || {
        assert!(!told.load(Ordering::SeqCst), "on purpose");
        let token = Token::new("t-1", now.now() + HOUR);
        async move { Ok(token) }
    });
    let error = cache.get().await.unwrap_err();
    assert_eq!(error.to_string(), "token provider panicked");
    panics.store(false, Ordering::SeqCst);
    time.advance(6 * SECOND);
    assert!(cache.get().await.is_ok());
}

#[tokio::test]
async fn a_mint_may_look_at_its_own_cache() {
    let slot: Arc<Mutex<Option<TokenCache>>> = Arc::default();
    let time = FakeClock::new();
    let (own, now) = (Arc::clone(&slot), time.clone());
    let cache = TokenCache::new(time.clock(), move || {
        let seen = format!("{:?}", own.lock().unwrap());
        let token = Token::new(seen, now.now() + HOUR);
        async move { Ok(token) }
    });
    *slot.lock().unwrap() = Some(cache.clone());
    assert!(within(cache.get()).await.is_ok());
    slot.lock().unwrap().take();
}

#[tokio::test(start_paused = true)]
async fn a_mint_that_hangs_ends_after_thirty_seconds() {
    let setup = Setup::closed();
    let start = tokio::time::Instant::now();
    let error = setup.cache.get().await.unwrap_err();
    assert!(error.is_transient());
    assert_eq!(error.to_string(), "token provider did not answer in time");
    assert_eq!(start.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn the_windows_of_a_short_lived_token_shrink_with_it() {
    // 100 s of life: refreshed in the last 25 s, waited for in the last 5 s.
    let setup = Setup::new();
    setup.answer(Answer::For(100 * SECOND));
    assert_eq!(setup.token().await, "t-1");
    setup.time.advance(74 * SECOND);
    assert_eq!(setup.token().await, "t-1");
    setup.settled().await;
    assert_eq!(setup.calls(), 1);

    setup.fail();
    setup.time.advance(20 * SECOND);
    assert_eq!(setup.token().await, "t-1", "six seconds are left");
    setup.settled().await;
    assert_eq!(setup.calls(), 2);

    setup.time.advance(SECOND);
    assert_eq!(setup.error().await, "upstream is down");
}

struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn dropping_the_last_handle_cancels_the_refresh() {
    let started = Arc::new(Semaphore::new(0));
    let dropped = Arc::new(AtomicBool::new(false));
    let cache = {
        let (started, dropped) = (Arc::clone(&started), Arc::clone(&dropped));
        TokenCache::new(FakeClock::new().clock(), move || {
            let (started, guard) = (Arc::clone(&started), SetOnDrop(Arc::clone(&dropped)));
            async move {
                started.add_permits(1);
                std::future::pending::<()>().await;
                drop(guard);
                Err(HookError::permanent("never"))
            }
        })
    };
    let caller = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get().await.map(drop) }
    });
    let _ = within(started.acquire()).await.unwrap();
    caller.abort();
    let _ = caller.await;
    assert!(!dropped.load(Ordering::SeqCst), "a handle is left");

    drop(cache);
    eventually("the mint is dropped", || dropped.load(Ordering::SeqCst)).await;
}

#[test]
fn a_refresh_that_died_with_its_runtime_is_not_waited_for() {
    let setup = Setup::closed();
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let cache = setup.cache.clone();
    first.spawn(async move { cache.get().await });
    first.block_on(eventually("the mint starts", || setup.calls() == 1));
    drop(first);

    setup.open.add_permits(1);
    assert_eq!(runtime().block_on(within(setup.token())), "t-2");
}

#[tokio::test]
async fn no_form_of_the_cache_shows_the_token() {
    let setup = Setup::new();
    setup.token().await;
    assert!(!format!("{:?}", setup.cache).contains("t-1"));
    assert!(!format!("{:?}", setup.cache.get().await).contains("t-1"));
}
