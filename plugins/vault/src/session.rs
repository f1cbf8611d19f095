use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use molecule_hooks::{Clock, HookError, Secret, Token, TokenCache, tracing};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::api::{Api, Grant};
use crate::login::Login;

/// A token without an end is looked at again after this long.
const ENDLESS: TimeDelta = TimeDelta::hours(24);
/// The keeper looks this often at least, so that a suspended machine or a clock
/// that was set does not cost the token.
const LONGEST_REST: Duration = Duration::from_secs(600);
const SHORTEST_REST: Duration = Duration::from_millis(250);
/// The same margin that the cache renews in.
const RENEWAL_MARGIN: TimeDelta = TimeDelta::minutes(5);

/// The token we work with: logged in for once, renewed in the background before
/// its lease ends, replaced when it cannot be renewed any more.
pub(crate) struct Session(Arc<Inner>);

struct Inner {
    minter: Arc<Minter>,
    clock: Clock,
    cache: Mutex<TokenCache>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

struct Minter {
    api: Arc<Api>,
    login: Login,
    clock: Clock,
    lease: Mutex<Option<Lease>>,
}

#[derive(Clone)]
struct Lease {
    token: Secret,
    asked: Asked,
    ends_at: DateTime<Utc>,
    /// Its life as it was granted last.
    life: TimeDelta,
    /// Its life when it was new.
    first_life: TimeDelta,
    renewable: bool,
}

impl Session {
    /// A session that logs in when it is first needed.
    pub(crate) fn new(api: Arc<Api>, login: Login, clock: Clock) -> Self {
        let minter = Arc::new(Minter {
            api,
            login,
            clock: clock.clone(),
            lease: Mutex::default(),
        });
        Self(Arc::new(Inner {
            cache: Mutex::new(cache(&minter)),
            clock,
            minter,
            keeper: Mutex::default(),
        }))
    }

    /// A token that Vault should take now.
    pub(crate) async fn token(&self) -> Result<Secret, HookError> {
        let cache = lock(&self.0.cache).clone();
        let token = cache.get().await?;
        self.keep();
        Ok(token.secret)
    }

    /// Forgets a token that Vault does not take any more, so that the next caller
    /// logs in.
    pub(crate) fn discard(&self, token: &Secret) {
        let mut lease = lock(&self.0.minter.lease);
        if lease.as_ref().is_some_and(|lease| lease.token == *token) {
            *lease = None;
            *lock(&self.0.cache) = cache(&self.0.minter);
        }
    }

    /// Starts the task that renews the token while nobody asks for it. It ends
    /// with the session.
    fn keep(&self) {
        let mut keeper = lock(&self.0.keeper);
        if keeper.as_ref().is_none_or(JoinHandle::is_finished) {
            *keeper = Some(tokio::spawn(keep_alive(Arc::downgrade(&self.0))));
        }
    }
}

fn cache(minter: &Arc<Minter>) -> TokenCache {
    let minter = Arc::clone(minter);
    let clock = minter.clock.clone();
    TokenCache::new(clock, move || {
        let minter = Arc::clone(&minter);
        async move { minter.mint().await }
    })
}

async fn keep_alive(session: Weak<Inner>) {
    loop {
        let Some(rest) = session.upgrade().map(|session| session.rest()) else {
            return;
        };
        tokio::time::sleep(rest).await;
        let Some(cache) = session
            .upgrade()
            .map(|session| lock(&session.cache).clone())
        else {
            return;
        };
        // Renews when it is time; the cache itself says what went wrong.
        let _ = cache.get().await;
    }
}

impl Inner {
    /// How long the keeper may sleep.
    fn rest(&self) -> Duration {
        let Some(lease) = lock(&self.minter.lease).clone() else {
            return LONGEST_REST.min(Duration::from_secs(30));
        };
        let until = lease.left(self.clock.now()) - RENEWAL_MARGIN.min(lease.life / 4);
        until
            .to_std()
            .unwrap_or_default()
            .clamp(SHORTEST_REST, LONGEST_REST)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let keeper = self
            .keeper
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(keeper) = keeper.take() {
            keeper.abort();
        }
    }
}

impl Minter {
    /// Renews the lease we have, or logs in.
    async fn mint(&self) -> Result<Token, HookError> {
        let asked = Asked::now(&self.clock);
        let known = lock(&self.lease).clone();
        let is_alive = |lease: &Lease| lease.left(asked.at) > TimeDelta::zero();
        if let Some(known) = known.filter(|lease| lease.renewable && is_alive(lease)) {
            match self.api.renew(&known.token).await {
                Ok(grant) => {
                    let renewed = Lease {
                        first_life: known.first_life,
                        ..Lease::new(grant, asked)
                    };
                    // Near its longest life Vault renews for ever shorter times.
                    let is_long = renewed.life >= known.first_life / 4;
                    if is_long || !self.login.can_repeat() {
                        tracing::debug!(ends_at = %renewed.ends_at, "vault: token renewed");
                        return Ok(self.keep(renewed));
                    }
                }
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "vault: the token cannot be renewed");
                }
            }
        }
        let asked = Asked::now(&self.clock);
        let grant = self.login.grant(&self.api).await?;
        let lease = Lease::new(grant, asked);
        tracing::info!(
            ends_at = %lease.ends_at,
            renewable = lease.renewable,
            "vault: logged in"
        );
        Ok(self.keep(lease))
    }

    fn keep(&self, lease: Lease) -> Token {
        let token = Token::new(lease.token.expose(), lease.ends_at);
        *lock(&self.lease) = Some(lease);
        token
    }
}

/// When a lease was asked for, by the clock and by one that nobody can set.
#[derive(Clone, Copy)]
struct Asked {
    at: DateTime<Utc>,
    then: Instant,
}

impl Asked {
    fn now(clock: &Clock) -> Self {
        Self {
            at: clock.now(),
            then: Instant::now(),
        }
    }
}

impl Lease {
    /// `asked` is from before the request: the end is rather early than late.
    fn new(grant: Grant, asked: Asked) -> Self {
        let life = match grant.lease_duration {
            0 => ENDLESS,
            secs => i64::try_from(secs)
                .ok()
                .and_then(TimeDelta::try_seconds)
                .unwrap_or(ENDLESS),
        };
        Self {
            token: grant.client_token,
            asked,
            ends_at: (asked.at)
                .checked_add_signed(life)
                .unwrap_or(asked.at + ENDLESS),
            life,
            first_life: life,
            renewable: grant.renewable,
        }
    }

    /// What is left of it, whether or not the clock was set back meanwhile.
    fn left(&self, now: DateTime<Utc>) -> TimeDelta {
        let passed = TimeDelta::from_std(self.asked.then.elapsed()).unwrap_or(TimeDelta::MAX);
        (self.ends_at - now).min(self.life - passed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind it is valid after every statement that could panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
