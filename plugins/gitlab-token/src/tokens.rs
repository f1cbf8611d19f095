use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use chrono::{DateTime, Days, TimeDelta, Utc};
use molecule_hooks::{Clock, HookError, Token, tracing};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::api::{Api, Order};
use crate::config::Settings;

/// A revocation that failed is tried again after this long.
const RETRY: Duration = Duration::from_secs(60);
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
    /// Wakes the reaper when there is more to do.
    more: Arc<Notify>,
    reaper: Mutex<Option<JoinHandle<()>>>,
}

/// A token that is to be revoked.
#[derive(Clone, Copy)]
struct Ending {
    id: u64,
    at: DateTime<Utc>,
}

impl Tokens {
    pub(crate) fn new(settings: Settings, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            api: settings.api,
            order: settings.order,
            life: settings.life,
            clock,
            made: Mutex::default(),
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
        let name = format!("molecule {}", now.format("%Y-%m-%d %H:%M:%S"));
        let made = inner.api.create(&name, &inner.order, day).await?;
        self.reap(Ending {
            id: made.id,
            at: ends_at + GRACE,
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
        let mut reaper = lock(&self.0.reaper);
        if reaper.as_ref().is_none_or(JoinHandle::is_finished) {
            let more = Arc::clone(&self.0.more);
            *reaper = Some(tokio::spawn(reap(Arc::downgrade(&self.0), more)));
        }
        self.0.more.notify_one();
    }
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
    }
}

impl Inner {
    fn rest(&self) -> Duration {
        let next = lock(&self.made).iter().map(|ending| ending.at).min();
        let left = next.map(|at| at - self.clock.now());
        left.map_or(LONGEST_REST, |left| left.to_std().unwrap_or_default())
            .clamp(SHORTEST_REST, LONGEST_REST)
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
