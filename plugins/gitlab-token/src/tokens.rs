use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use chrono::{DateTime, Days, NaiveTime, TimeDelta, Utc};
use molecule_hooks::{Clock, HookError, Token, tracing};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::api::{Api, Listed, Order};
use crate::config::Settings;

/// A revocation that failed is tried again after this long.
const RETRY: Duration = Duration::from_secs(60);
/// A revocation that was refused is tried again after this long, until the day that
/// GitLab knows has come: the right to revoke may be given back.
const REFUSED: TimeDelta = TimeDelta::hours(1);
/// After this long a request whose answer was lost has no effect any more.
const SETTLED: TimeDelta = TimeDelta::minutes(10);
/// So many lost answers are remembered.
const MOST_LOST: usize = 100;
/// The reaper looks this often at least, so that a suspended machine or a clock
/// that was set does not keep a token alive.
const LONGEST_REST: Duration = Duration::from_secs(600);
const SHORTEST_REST: Duration = Duration::from_secs(1);
/// Agents may be a little behind in fetching the next one.
const GRACE: TimeDelta = TimeDelta::seconds(30);

/// Makes tokens and sees to their end.
///
/// GitLab counts the life of a token in days. Ours end by the hour: a token is
/// revoked when the time we announced for it has passed, and the end that GitLab
/// knows is the net below, for tokens of a server that was stopped.
pub(crate) struct Tokens(Arc<Inner>);

struct Inner {
    api: Api,
    order: Order,
    life: TimeDelta,
    clock: Clock,
    made: Mutex<Vec<Ending>>,
    lost: Mutex<Vec<Lost>>,
    /// Wakes the reaper when there is more to do.
    more: Arc<Notify>,
    reaper: Mutex<Option<JoinHandle<()>>>,
}

/// A token that is to be revoked.
#[derive(Clone, Copy)]
struct Ending {
    id: u64,
    at: DateTime<Utc>,
    /// When it is dead anyway.
    dead_at: DateTime<Utc>,
}

/// A token that GitLab may have made although we did not get it.
#[derive(Clone)]
struct Lost {
    name: String,
    asked_at: DateTime<Utc>,
    dead_at: DateTime<Utc>,
}

impl Tokens {
    pub(crate) fn new(settings: Settings, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            api: settings.api,
            order: settings.order,
            life: settings.life,
            clock,
            made: Mutex::default(),
            lost: Mutex::default(),
            more: Arc::default(),
            reaper: Mutex::default(),
        }))
    }

    /// Makes one.
    pub(crate) async fn mint(&self) -> Result<Token, HookError> {
        let inner = &self.0;
        let now = inner.clock.now();
        let out_of_range = || HookError::permanent("the clock of this machine is out of range");
        let ends_at = now
            .checked_add_signed(inner.life)
            .ok_or_else(out_of_range)?;
        // It works until that day begins, so the day after the end is meant.
        let day = (ends_at + GRACE)
            .date_naive()
            .checked_add_days(Days::new(1))
            .ok_or_else(out_of_range)?;
        // Nothing is made anew while what an attempt left behind is not cleared away.
        if let Err(error) = inner.revoke_lost().await {
            if error.is_transient() {
                return Err(error);
            }
            tracing::warn!(
                error = %error.chain(),
                "gitlab-token: tokens cannot be listed; one whose making was not confirmed may live on"
            );
        }
        // The name tells the attempts apart, also those of several servers.
        let name = format!(
            "molecule {} {:016x}",
            now.format("%Y-%m-%d %H:%M:%S"),
            RandomState::new().hash_one(now)
        );
        let dead_at = day.and_time(NaiveTime::MIN).and_utc();
        let attempt = Attempt {
            inner,
            lost: Some(Lost {
                name: name.clone(),
                asked_at: now,
                dead_at,
            }),
        };
        let made = match inner.api.create(&name, &inner.order, day).await {
            Ok(made) => {
                attempt.settle();
                made
            }
            Err(not_made) => {
                if !not_made.is_unclear {
                    attempt.settle();
                }
                return Err(not_made.error);
            }
        };
        self.reap(Ending {
            id: made.id,
            at: ends_at + GRACE,
            dead_at,
        });
        let secret = made
            .token
            .filter(|token| !token.is_empty())
            .ok_or_else(|| HookError::permanent("gitlab answered without a token"))?;
        // An administrator may have set a shorter longest life than we asked for.
        let granted = made
            .expires_at
            .and_then(|day| day.and_hms_opt(0, 0, 0))
            .map_or(ends_at, |midnight| midnight.and_utc());
        let expires_at = ends_at.min(granted);
        tracing::info!(token.id = made.id, %expires_at, "gitlab-token: new access token");
        Ok(Token { secret, expires_at })
    }

    /// Has a token revoked when its time has come. The task ends with us.
    fn reap(&self, ending: Ending) {
        lock(&self.0.made).push(ending);
        wake(&self.0);
    }
}

/// A token that is being made. Unless its fate is clear in the end it is looked for
/// and revoked: also when the cache gives up and drops the request under way.
struct Attempt<'a> {
    inner: &'a Arc<Inner>,
    lost: Option<Lost>,
}

impl Attempt<'_> {
    /// It was made, or it was not.
    fn settle(mut self) {
        self.lost = None;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let Some(made) = self.lost.take() else { return };
        {
            let mut lost = lock(&self.inner.lost);
            if lost.len() >= MOST_LOST {
                lost.remove(0);
            }
            lost.push(made);
        }
        wake(self.inner);
    }
}

/// Has the reaper look now, and starts it if need be.
fn wake(inner: &Arc<Inner>) {
    let mut reaper = lock(&inner.reaper);
    if reaper.as_ref().is_none_or(JoinHandle::is_finished)
        // Something may be dropped after the runtime; nothing is left to do then.
        && let Ok(runtime) = Handle::try_current()
    {
        let more = Arc::clone(&inner.more);
        *reaper = Some(runtime.spawn(reap(Arc::downgrade(inner), more)));
    }
    inner.more.notify_one();
}

async fn reap(inner: Weak<Inner>, more: Arc<Notify>) {
    let mut failed = false;
    loop {
        let Some(rest) = inner.upgrade().map(|inner| inner.rest()) else {
            return;
        };
        let rest = if failed { RETRY } else { rest };
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = more.notified() => {}
        }
        let Some(inner) = inner.upgrade() else {
            return;
        };
        failed = !inner.revoke_ended().await;
        if let Err(error) = inner.revoke_lost().await {
            tracing::warn!(
                error = %error.chain(),
                "gitlab-token: tokens whose making was not confirmed cannot be looked for"
            );
        }
        failed |= !lock(&inner.lost).is_empty();
    }
}

impl Inner {
    fn rest(&self) -> Duration {
        let next = lock(&self.made).iter().map(|ending| ending.at).min();
        let left = next.map(|at| at - self.clock.now());
        left.map_or(LONGEST_REST, |left| left.to_std().unwrap_or_default())
            .clamp(SHORTEST_REST, LONGEST_REST)
    }

    /// Revokes what lost answers left behind. Forgets what was found, and what is not
    /// there and cannot come any more.
    async fn revoke_lost(&self) -> Result<(), HookError> {
        let lost = lock(&self.lost).clone();
        for Lost {
            name,
            asked_at,
            dead_at,
        } in lost
        {
            let now = self.clock.now();
            let is_settled = now - asked_at > SETTLED;
            let forget = || lock(&self.lost).retain(|known| known.name != name);
            let found = match self.api.find(&name).await {
                Ok(found) => found,
                Err(error) => {
                    if is_settled && !error.is_transient() {
                        forget();
                    }
                    return Err(error);
                }
            };
            for Listed { id, .. } in &found {
                let (id, at) = (*id, now + REFUSED);
                match self.api.revoke(id).await {
                    Ok(()) => tracing::info!(
                        token.id = id,
                        "gitlab-token: revoked a token whose making was not confirmed"
                    ),
                    Err(error) if error.is_transient() => return Err(error),
                    Err(_) => lock(&self.made).push(Ending { id, at, dead_at }),
                }
            }
            if is_settled || !found.is_empty() {
                forget();
            }
        }
        Ok(())
    }

    /// False when one could not be revoked and is to be tried again.
    async fn revoke_ended(&self) -> bool {
        let now = self.clock.now();
        let ended: Vec<Ending> = {
            let made = lock(&self.made);
            made.iter()
                .filter(|ending| ending.at <= now)
                .copied()
                .collect()
        };
        for ending in ended {
            match self.api.revoke(ending.id).await {
                Ok(()) => tracing::debug!(token.id = ending.id, "gitlab-token: token revoked"),
                Err(error) => {
                    tracing::warn!(
                        token.id = ending.id,
                        error = %error.chain(),
                        "gitlab-token: a token that ended could not be revoked"
                    );
                    if error.is_transient() {
                        return false;
                    }
                    if ending.dead_at > now {
                        let mut made = lock(&self.made);
                        for known in made.iter_mut().filter(|known| known.id == ending.id) {
                            known.at = now + REFUSED;
                        }
                        continue;
                    }
                }
            }
            lock(&self.made).retain(|known| known.id != ending.id);
        }
        true
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let reaper = self
            .reaper
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(reaper) = reaper.take() {
            reaper.abort();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind it is valid after every statement that could panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
