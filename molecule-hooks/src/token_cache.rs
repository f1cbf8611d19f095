use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::Instrument;

use crate::clock::Clock;
use crate::env_mutator::WorkspaceContext;
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
const FAILURE_PAUSE: TimeDelta = TimeDelta::seconds(5);
/// An upstream's `Retry-After` counts up to this.
const LONGEST_PAUSE: TimeDelta = TimeDelta::minutes(15);
/// Pauses are lengthened by up to this much, so that many servers do not come
/// back in step.
const JITTER: TimeDelta = TimeDelta::seconds(1);
/// A workspace that boots waits this long. Shorter than the server's usual deadline
/// for a hook (10 s), whose passing would keep the workspace from starting.
const BOOT_PATIENCE: Duration = Duration::from_secs(8);
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
/// * A clock that is set back, or was ahead for a moment, does not prolong a token's
///   life.
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
    /// When it came, by the clock and by one that nobody can set.
    came_at: DateTime<Utc>,
    came: Instant,
}

impl Cached {
    /// The time that counts for this token: what the clock shows, or what it would
    /// show had nobody set it back since the token came.
    fn now(&self, shown: DateTime<Utc>) -> DateTime<Utc> {
        let passed = TimeDelta::from_std(self.came.elapsed()).unwrap_or(TimeDelta::MAX);
        let unset = self.came_at.checked_add_signed(passed);
        shown.max(unset.unwrap_or(DateTime::<Utc>::MAX_UTC))
    }
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
    /// Must be called inside a tokio runtime with time enabled.
    ///
    /// # Errors
    /// Whatever the last mint returned; a transient error when it took longer
    /// than 30 seconds, a permanent one when it panicked or returned an empty or
    /// expired token.
    pub async fn get(&self) -> Minted {
        // A second look is needed only if the refresh ended with the runtime it
        // ran on, or its token expired before this caller was scheduled.
        for _ in 0..2 {
            let mut done = match self.look() {
                Look::Ready(answer) => return answer,
                Look::Wait(done) => done,
            };
            let minted = match done.wait_for(Option::is_some).await {
                Ok(minted) => minted.clone(),
                Err(_) => None,
            };
            match minted {
                Some(Ok(token)) if token.expires_at <= self.0.clock.now() => {}
                Some(minted) => return minted,
                None => {}
            }
        }
        Err(HookError::transient("token refresh was interrupted"))
    }

    /// A token for a workspace that boots, for
    /// [`mutate_env`](crate::EnvMutator::mutate_env) of the hook called `hook`.
    ///
    /// Waits eight seconds at most. `None` means that there is none for now, because of
    /// trouble that passes: the log has a warning, and the workspace better boots
    /// without than not at all. The refresh goes on, for the next one.
    ///
    /// # Errors
    /// A permanent error, with `hook` in front, when trying again would not help.
    pub async fn get_for_boot(
        &self,
        hook: &str,
        workspace: &WorkspaceContext,
    ) -> Result<Option<Token>, HookError> {
        let minted = tokio::time::timeout(BOOT_PATIENCE, self.get())
            .await
            .unwrap_or_else(|_| Err(HookError::transient("no answer yet")));
        match minted {
            Ok(token) => Ok(Some(token)),
            Err(error) if error.is_transient() => {
                tracing::warn!(
                    workspace.id = %workspace.id,
                    error = %error.chain(),
                    "{hook}: no token for now; the workspace boots without a new one"
                );
                Ok(None)
            }
            // Only transient errors have a source to carry over.
            Err(error) => Err(HookError::permanent(format!("{hook}: {error}"))),
        }
    }

    fn look(&self) -> Look {
        let now = self.0.clock.now();
        let mut state = self.0.lock();
        let current = (state.current.clone())
            .map(|cached| (cached.now(now), cached))
            .filter(|(now, cached)| *now < cached.token.expires_at);
        let paused = state
            .failure
            .as_ref()
            .filter(|f| now < f.until && f.until - now <= LONGEST_PAUSE + JITTER)
            .map(|f| f.error.clone());
        if let Some((now, cached)) = &current {
            let fresh = *now < cached.refresh_at;
            let usable = *now < cached.wait_at;
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
        // A closed channel means that the task died with its runtime; it will
        // never answer, so it must not be joined.
        if let Some(flight) = state.flight.as_ref().filter(|f| !f.is_dead()) {
            return flight.done.clone();
        }
        let (send, done) = watch::channel(None);
        let mint = Arc::clone(&self.0.mint);
        let inner = Arc::downgrade(&self.0);
        let clock = self.0.clock.clone();
        // In the span of who asked first, so that its lines say whose token it is.
        let refreshing = async move {
            let minted = run_mint(mint, &clock).await;
            Inner::settle(&inner, &minted);
            send.send_replace(Some(minted));
        };
        let task = tokio::spawn(refreshing.in_current_span());
        state.flight = Some(Flight {
            done: done.clone(),
            task: task.abort_handle(),
        });
        done
    }
}

impl Flight {
    fn is_dead(&self) -> bool {
        self.done.has_changed().is_err()
    }
}

enum Look {
    Ready(Minted),
    Wait(watch::Receiver<Option<Minted>>),
}

async fn run_mint(mint: Arc<Mint>, clock: &Clock) -> Minted {
    // A task of its own, so that a panic ends there; aborted with us. The
    // closure itself runs in it too: it is not ours and may panic as well.
    let mut task = tokio::task::JoinSet::new();
    task.spawn(async move { mint().await }.in_current_span());
    let token = match tokio::time::timeout(MINT_TIMEOUT, task.join_next()).await {
        Err(_) => {
            return Err(HookError::transient(
                "token provider did not answer in time",
            ));
        }
        Ok(Some(Ok(minted))) => minted?,
        Ok(Some(Err(end))) if end.is_panic() => {
            return Err(HookError::permanent("token provider panicked"));
        }
        Ok(Some(Err(_)) | None) => {
            return Err(HookError::transient("token refresh was interrupted"));
        }
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
                    came_at: now,
                    came: Instant::now(),
                });
                state.failure = None;
            }
            Err(error) => {
                let asked = error.retry_after().unwrap_or_default();
                // A wait too long to be represented is certainly the longest.
                let asked = TimeDelta::from_std(asked).unwrap_or(LONGEST_PAUSE);
                let pause = asked.clamp(FAILURE_PAUSE, LONGEST_PAUSE) + jitter();
                // In the background nobody else would say so.
                tracing::warn!(
                    error = error.chain(),
                    pause_secs = pause.num_seconds(),
                    "token refresh failed"
                );
                state.failure = Some(Failure {
                    error: error.clone(),
                    until: now + pause,
                });
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = state.flight.take() {
            flight.task.abort();
        }
    }
}

fn jitter() -> TimeDelta {
    JITTER / 1000 * (RandomState::new().hash_one(0_u8) % 1000) as i32
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
