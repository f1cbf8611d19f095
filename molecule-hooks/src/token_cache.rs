use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::clock::Clock;
use crate::error::HookError;
use crate::token_provider::Token;

type Minted = Result<Token, HookError>;
type Mint = dyn Fn() -> Pin<Box<dyn Future<Output = Minted> + Send>> + Send + Sync;

/// A refresh starts this long before expiry, or a quarter of the token's life
/// before it when that is shorter.
const REFRESH_WINDOW: TimeDelta = TimeDelta::minutes(5);
/// A token with less than this left (or a fifth of its window) is not handed
/// out without trying to refresh first.
const LEAST_REMAINING: TimeDelta = TimeDelta::seconds(60);
/// After a failure nobody asks the upstream again for this long, plus up to a
/// second of jitter, or for as long as the upstream itself asked.
const FAILURE_PAUSE: Duration = Duration::from_secs(5);
/// An upstream's `Retry-After` counts up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);
/// One mint may take this long.
const MINT_TIMEOUT: Duration = Duration::from_secs(30);

/// Keeps one short-lived token fresh, for any number of callers.
///
/// * Inside the refresh window (the last five minutes) callers get the current
///   token at once while one refresh runs in the background.
/// * Without a usable token they wait for that one refresh. A caller that goes
///   away does not cancel it.
/// * If a refresh fails, the current token is served while more than a minute of
///   it is left; after that callers get the error, and the upstream is left
///   alone for five seconds or for as long as it asked.
/// * An empty or expired token from the upstream is an error; an expired token
///   is never returned.
///
/// Dropping the last handle cancels a refresh under way.
///
/// ```
/// use molecule_hooks::{Clock, Token, TokenCache};
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let clock = Clock::system();
/// let expires_at = clock.now() + std::time::Duration::from_secs(3600);
/// let cache = TokenCache::new(clock, move || async move { Ok(Token::new("t-1", expires_at)) });
/// assert_eq!(cache.get().await.unwrap().secret.expose(), "t-1");
/// # }
/// ```
#[derive(Clone)]
pub struct TokenCache(Arc<Inner>);

struct Inner {
    clock: Clock,
    mint: Arc<Mint>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<Cached>,
    flight: Option<Flight>,
    failure: Option<Failure>,
}

#[derive(Clone)]
struct Cached {
    token: Token,
    refresh_at: DateTime<Utc>,
    wait_at: DateTime<Utc>,
}

struct Flight {
    done: watch::Receiver<Option<Minted>>,
    task: AbortHandle,
}

struct Failure {
    error: HookError,
    until: DateTime<Utc>,
}

impl TokenCache {
    /// A cache that calls `mint` whenever it needs a new token, at most once at
    /// a time. The first call happens in the first [`get`](TokenCache::get).
    pub fn new<F, Fut>(clock: Clock, mint: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Minted> + Send + 'static,
    {
        Self(Arc::new(Inner {
            clock,
            mint: Arc::new(move || Box::pin(mint())),
            state: Mutex::default(),
        }))
    }

    /// A token that is valid now.
    ///
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// Whatever the last mint returned; a transient error when it took longer
    /// than 30 seconds, a permanent one when it panicked or returned an empty or
    /// expired token.
    pub async fn get(&self) -> Minted {
        let mut done = match self.look() {
            Look::Ready(answer) => return answer,
            Look::Wait(done) => done,
        };
        let answer = match done.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone(),
            Err(_) => None,
        };
        answer.unwrap_or_else(|| Err(HookError::transient("token refresh was cancelled")))
    }

    fn look(&self) -> Look {
        let now = self.0.clock.now();
        let mut state = self.0.lock();
        let current = state.current.clone().filter(|c| now < c.token.expires_at);
        let paused = state
            .failure
            .as_ref()
            .filter(|f| now < f.until)
            .map(|f| f.error.clone());
        if let Some(cached) = &current {
            let fresh = now < cached.refresh_at;
            let usable = now < cached.wait_at;
            if usable && !fresh && paused.is_none() {
                self.refresh(&mut state);
            }
            if usable {
                return Look::Ready(Ok(cached.token.clone()));
            }
        }
        if let Some(error) = paused {
            return Look::Ready(Err(error));
        }
        Look::Wait(self.refresh(&mut state))
    }

    /// Joins the refresh under way or starts one.
    fn refresh(&self, state: &mut State) -> watch::Receiver<Option<Minted>> {
        if let Some(flight) = &state.flight {
            return flight.done.clone();
        }
        let (send, done) = watch::channel(None);
        let mint = (self.0.mint)();
        let inner = Arc::downgrade(&self.0);
        let clock = self.0.clock.clone();
        let task = tokio::spawn(async move {
            let minted = run_mint(mint, &clock).await;
            Inner::settle(&inner, &minted);
            send.send_replace(Some(minted));
        });
        state.flight = Some(Flight {
            done: done.clone(),
            task: task.abort_handle(),
        });
        done
    }
}

enum Look {
    Ready(Minted),
    Wait(watch::Receiver<Option<Minted>>),
}

async fn run_mint(mint: Pin<Box<dyn Future<Output = Minted> + Send>>, clock: &Clock) -> Minted {
    // A task of its own, so that a panic ends there; aborted with us.
    let mut task = tokio::task::JoinSet::new();
    task.spawn(mint);
    let token = match tokio::time::timeout(MINT_TIMEOUT, task.join_next()).await {
        Err(_) => {
            return Err(HookError::transient(
                "token provider did not answer in time",
            ));
        }
        Ok(Some(Ok(minted))) => minted?,
        Ok(Some(Err(_)) | None) => return Err(HookError::permanent("token provider panicked")),
    };
    if token.secret.is_empty() {
        return Err(HookError::permanent(EMPTY_TOKEN));
    }
    if token.expires_at <= clock.now() {
        return Err(HookError::permanent(
            "token provider returned an expired token",
        ));
    }
    Ok(token)
}

/// Message of the error for a provider that returned the empty string.
pub const EMPTY_TOKEN: &str = "token provider returned an empty token";

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is valid after every statement that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(inner: &Weak<Inner>, minted: &Minted) {
        let Some(inner) = inner.upgrade() else { return };
        let now = inner.clock.now();
        let mut state = inner.lock();
        state.flight = None;
        match minted {
            Ok(token) => {
                let life = token.expires_at - now;
                let window = REFRESH_WINDOW.min(life / 4);
                state.current = Some(Cached {
                    token: token.clone(),
                    refresh_at: token.expires_at - window,
                    wait_at: token.expires_at - LEAST_REMAINING.min(window / 5),
                });
                state.failure = None;
            }
            Err(error) => {
                let asked = error.retry_after().unwrap_or_default().min(LONGEST_PAUSE);
                let pause = FAILURE_PAUSE.max(asked) + jitter();
                state.failure = Some(Failure {
                    error: error.clone(),
                    until: now + TimeDelta::from_std(pause).unwrap_or(REFRESH_WINDOW),
                });
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(flight) = self.lock().flight.take() {
            flight.task.abort();
        }
    }
}

/// Up to a second, so that many servers do not come back in step.
fn jitter() -> Duration {
    Duration::from_millis(RandomState::new().hash_one(0_u8) % 1000)
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("TokenCache")
            .field(
                "expires_at",
                &state.current.as_ref().map(|c| c.token.expires_at),
            )
            .field("refreshing", &state.flight.is_some())
            .finish()
    }
}
