//! Restarts: by people over HTTP, and by themselves.
//!
//! Whoever changes something that a running agent must see sets
//! `restart_requested_at` of the row in the transaction of the change, then calls
//! [`poke_restarts`](Workspaces::poke_restarts). The runner turns requests into
//! boots, one per workspace at a time and not more per minute than the budget
//! allows; a boot takes the request just before it reads secrets, so of many
//! requests the last is always seen, and no crash loses one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use serde_json::json;
use uuid::Uuid;

use super::boot::Boot;
use super::gate::{PATIENCE, Pass};
use super::model::Status;
use super::status::Trigger;
use super::store::lease::Lease;
use super::store::lifecycle::{self as sql, BootFrom};
use super::{Services, Workspaces};
use super::{restart_context, store};
use crate::error::{Error, Result};
use crate::events::EventType;
use crate::store::timestamp;

/// Requests looked at in one round.
const ROUND: i64 = 200;
/// A request below a paused workspace waits so long for another look.
const POSTPONE: TimeDelta = TimeDelta::seconds(60);
/// Deaths further apart have nothing to do with each other.
const CRASH_MEMORY: Duration = Duration::from_secs(15 * 60);
/// A workspace that dies again waits this long, then twice as long, and so on.
const FIRST_BACKOFF_SECS: i64 = 60;
const LONGEST_BACKOFF_SECS: i64 = 600;
/// What ended just now is not replaced before this: a container that is restarted
/// behind our back ends first.
const GRACE: TimeDelta = TimeDelta::seconds(3);
/// What another server's clock may be ahead of this one's.
const CLOCK_SLACK: TimeDelta = TimeDelta::seconds(60);
/// A backend that works says so within this time.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// Visitors who were asked to leave are waited for so long in one round.
const LEAVING: Duration = Duration::from_secs(5);
/// Restarts of one round begin at most so far apart from their turn.
const JITTER_MS: u128 = 200;

/// Why a workspace counts as offline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absence {
    /// Its compute is gone, and with it the address of its agent.
    Gone,
    /// The same, but it ended only just now: somebody may be restarting it by hand.
    Ended,
    /// Its agent says nothing.
    Silent,
}

impl Absence {
    /// How long it may last before something is done.
    fn grace(self) -> TimeDelta {
        match self {
            Self::Ended => GRACE,
            Self::Gone | Self::Silent => TimeDelta::zero(),
        }
    }
}

/// What the runner remembers.
#[derive(Clone)]
pub(super) struct Restarts(Arc<Inner>);

struct Inner {
    running: AtomicBool,
    again: AtomicBool,
    budget: Mutex<Budget>,
    crashes: Mutex<HashMap<Uuid, (u32, Instant)>>,
    /// Since when somebody is inside each time a requested restart is to begin.
    held_up: Mutex<HashMap<Uuid, Instant>>,
}

/// A token bucket.
struct Budget {
    per_second: f64,
    most: f64,
    left: f64,
    at: Instant,
}

impl Budget {
    /// None when one more may start, else how long to wait for it.
    fn take(&mut self, now: Instant) -> Option<Duration> {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.left = (self.left + earned).min(self.most);
        self.at = now;
        // Who has to wait has taken its place already.
        self.left -= 1.0;
        (self.left < 0.0).then(|| Duration::from_secs_f64(-self.left / self.per_second))
    }
}

impl Restarts {
    pub(super) fn new(per_minute: u32) -> Self {
        let most = (f64::from(per_minute) / 10.0).max(1.0);
        Self(Arc::new(Inner {
            running: AtomicBool::new(false),
            again: AtomicBool::new(false),
            budget: Mutex::new(Budget {
                per_second: f64::from(per_minute) / 60.0,
                most,
                left: most,
                at: Instant::now(),
            }),
            crashes: Mutex::default(),
            held_up: Mutex::default(),
        }))
    }

    /// Seconds that a workspace which dies now would wait for its restart.
    fn backoff(&self, id: Uuid) -> i64 {
        let crashes = self
            .0
            .crashes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let earlier = crashes
            .get(&id)
            .filter(|(_, at)| at.elapsed() < CRASH_MEMORY);
        earlier.map_or(0, |(count, _)| {
            (FIRST_BACKOFF_SECS << count.saturating_sub(1).min(8)).min(LONGEST_BACKOFF_SECS)
        })
    }

    /// Remembers a death.
    fn died(&self, id: Uuid) {
        let mut crashes = self
            .0
            .crashes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        crashes.retain(|_, (_, at)| at.elapsed() < CRASH_MEMORY);
        let (count, at) = crashes.entry(id).or_insert((0, Instant::now()));
        *at = Instant::now();
        *count += 1;
    }

    /// Somebody is inside of a workspace that is to restart: for how long, over all the
    /// times that this was found.
    fn held_up(&self, id: Uuid) -> Duration {
        let now = Instant::now();
        let since = *self.waiting().entry(id).or_insert(now);
        now.saturating_duration_since(since)
    }

    /// It restarts.
    fn goes_on(&self, id: Uuid) {
        self.waiting().remove(&id);
    }

    /// Only these are to restart.
    fn forget_others(&self, due: &[Uuid]) {
        self.waiting().retain(|id, _| due.contains(id));
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Uuid, Instant>> {
        (self.0.held_up.lock()).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the runner begin again, also when it panicked.
struct Running(Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Release);
    }
}

impl Workspaces {
    /// Looks for requested restarts soon instead of at the next round.
    pub(crate) fn poke_restarts(&self) {
        let restarts = &self.restarts.0;
        restarts.again.store(true, Ordering::Release);
        if restarts.running.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = self.clone();
        self.services
            .supervisor
            .spawn("requested-restarts", async move {
                let restarts = Arc::clone(&this.restarts.0);
                let running = Running(Arc::clone(&restarts));
                while restarts.again.swap(false, Ordering::AcqRel) {
                    this.run_requested().await;
                }
                drop(running);
                // Somebody may have asked between the two.
                if restarts.again.load(Ordering::Acquire) {
                    this.poke_restarts();
                }
            });
    }

    /// Starts what was requested, within the budget.
    async fn run_requested(&self) {
        let services = &self.services;
        let cancel = services.supervisor.token();
        if !services.leader.is_leader() || services.has_no_backend() {
            return;
        }
        let now = timestamp(&services.clock);
        let furthest = now + TimeDelta::seconds(LONGEST_BACKOFF_SECS) + CLOCK_SLACK;
        let due = match sql::due_restarts(&services.db, now, furthest, ROUND).await {
            Ok(due) => due,
            Err(error) => return tracing::warn!(%error, "requested restarts could not be listed"),
        };
        self.restarts.forget_others(&due);
        // Requests wait for a backend that is away; boots would fail for good.
        if due.is_empty() || !services.backend_answers().await {
            return;
        }
        for id in due {
            // Its turn comes when that is done.
            if self.provisioner.is_under_way(id) {
                continue;
            }
            let wait = {
                let mut budget =
                    (self.restarts.0.budget.lock()).unwrap_or_else(PoisonError::into_inner);
                budget.take(Instant::now())
            };
            let wait = wait.unwrap_or_default() + jitter(id);
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            if let Err(error) = self.restart_requested(id).await {
                tracing::error!(workspace.id = %id, ?error, "requested restart not started");
            }
        }
    }

    async fn restart_requested(&self, id: Uuid) -> Result<()> {
        let services = &self.services;
        if sql::paused_ancestor(&services.db, id).await?.is_some() {
            let later = timestamp(&services.clock) + POSTPONE;
            return Ok(sql::postpone_restart(&services.db, id, later).await?);
        }
        let Some(row) = store::find(&services.db, id).await? else {
            return Ok(());
        };
        let from = BootFrom {
            trigger: Trigger::AutoRestart,
            requested: true,
        };
        let before = restart_context::Before::of(services, &row).await;
        let boot = Boot::again(row.booted_at.is_some()).automatic();
        // Something may have begun since this round was listed, and may take many
        // minutes. The request stays, and the other workspaces do not wait for it.
        let Some(pass) = self.enter_for_request(id).await else {
            return Ok(());
        };
        if self.boot_inside(pass, id, &boot, from).await? {
            tracing::info!(workspace.id = %id, from = %row.status(), "restarting as requested");
            metrics::counter!("molecule_restarts_total", "cause" => "requested").increment(1);
            self.tell_context(before);
        }
        Ok(())
    }

    /// Enters if nobody is inside. Visitors who were there each time for longer than
    /// they may keep somebody waiting are asked to leave.
    async fn enter_for_request(&self, id: Uuid) -> Option<Pass> {
        let gate = self.provisioner.gate();
        let pass = match gate.try_enter(id) {
            Some(pass) => Some(pass),
            None if self.restarts.held_up(id) < PATIENCE => None,
            // Bounded: it may be no visitor.
            None => (tokio::time::timeout(LEAVING, gate.enter_to_end(id)).await).ok(),
        };
        if pass.is_some() {
            self.restarts.goes_on(id);
        }
        pass
    }

    /// Begins a boot of a workspace that exists: row, event, background work.
    /// False when the row allows it no more, or another server provisions it.
    pub(super) async fn boot(&self, id: Uuid, boot: &Boot, from: BootFrom) -> Result<bool> {
        let pass = self.provisioner.gate().enter(id).await;
        self.boot_inside(pass, id, boot, from).await
    }

    /// The same for who has entered the gate of the workspace.
    async fn boot_inside(&self, pass: Pass, id: Uuid, boot: &Boot, from: BootFrom) -> Result<bool> {
        let services = &self.services;
        let now = timestamp(&services.clock);
        let mut tx = services.db.begin().await?;
        let until = self.provisioner.lease_until();
        let Some(begun) = sql::begin_boot(&mut tx, id, boot, from, now, until).await? else {
            return Ok(false);
        };
        let payload = json!({ "name": begun.name, "tier": begun.tier, "runtime": begun.runtime });
        let recorded =
            services
                .events
                .record(&mut tx, EventType::WorkspaceProvisioning, id, payload);
        let event = recorded.await?;
        tx.commit().await?;
        services.directory.forget(id);
        services.events.publish(event);
        let lease: Lease = begun.lease(id);
        self.provisioner.spawn_with(lease, pass);
        Ok(true)
    }

    /// `POST /workspaces/:id/restart` of a hosted workspace, once its source is
    /// known.
    ///
    /// # Errors
    /// 404 `workspace not found`; 409 below a paused workspace, or when it is
    /// paused or going to sleep; 503 `provisioner not available`.
    pub(crate) async fn restart(
        &self,
        id: Uuid,
        request: super::RestartRequest,
    ) -> Result<super::Restarting> {
        let this = self.clone();
        self.detached("restart-workspace", async move {
            this.restart_now(id, request).await
        })
        .await
    }

    async fn restart_now(
        &self,
        id: Uuid,
        request: super::RestartRequest,
    ) -> Result<super::Restarting> {
        let services = &self.services;
        let lookup = |error: Error| error.says("lookup failed");
        let row = store::find(&services.db, id)
            .await
            .map_err(Error::from)
            .map_err(lookup)?;
        let not_found = || Error::not_found("workspace not found");
        let mut row = row
            .filter(|row| row.status() != Status::Removed)
            .ok_or_else(not_found)?;
        if row.external {
            return Ok(super::Restarting::Noop {
                runtime: row.runtime,
            });
        }
        self.refuse_below_paused(id).await?;
        match row.status() {
            Status::Paused => {
                return Err(Error::conflict("workspace is paused — resume it first"));
            }
            Status::Hibernating => {
                return Err(Error::conflict(
                    "workspace is going to sleep — please retry",
                ));
            }
            _ => {}
        }
        if services.has_no_backend() {
            return Err(Error::not_now("provisioner not available"));
        }
        if let Some(runtime) = services.runtime_of_agent(&row).await {
            let now = timestamp(&services.clock);
            sql::set_runtime(&services.db, id, &runtime, now)
                .await
                .map_err(Error::from)
                .map_err(lookup)?;
            row.runtime = runtime;
        }
        let (boot, config_dir) = services.restart_source(&row, &request).await;
        let before = restart_context::Before::of(services, &row).await;
        // A provision of this server under way starts over from here.
        self.provisioner.cancel(id).await;
        let from = BootFrom {
            trigger: Trigger::Restart,
            requested: false,
        };
        if self.boot(id, &boot, from).await.map_err(lookup)? {
            tracing::info!(workspace.id = %id, config_dir, "restarting by hand");
            metrics::counter!("molecule_restarts_total", "cause" => "manual").increment(1);
            self.tell_context(before);
        } else {
            self.restart_after_the_other_server(id)
                .await
                .map_err(lookup)?;
        }
        Ok(super::Restarting::Begun {
            config_dir,
            reset_session: boot.reset_session,
        })
    }

    /// Another server provisions the workspace now: the restart follows.
    async fn restart_after_the_other_server(&self, id: Uuid) -> Result<()> {
        let services = &self.services;
        let now = timestamp(&services.clock);
        if sql::request_restart(&services.db, id, now).await? {
            self.poke_restarts();
            return Ok(());
        }
        match store::status(&services.db, id).await?.as_deref() {
            None | Some("removed") => Err(Error::not_found("workspace not found")),
            _ => Err(Error::conflict(
                "workspace changed in the meantime — please retry",
            )),
        }
    }

    /// Tells the restarted agent what happened, once it is back.
    fn tell_context(&self, before: restart_context::Before) {
        let services = Arc::clone(&self.services);
        self.services
            .supervisor
            .spawn("restart-context", restart_context::tell(services, before));
    }

    /// The compute of an online or degraded workspace is gone, or its agent is
    /// silent: marks it `offline` (`awaiting_agent` when external), records
    /// `WORKSPACE_OFFLINE` and requests a restart, later if it keeps dying. False
    /// when the row had another status by then.
    pub(crate) async fn went_offline(&self, id: Uuid, why: Absence) -> Result<bool> {
        let this = self.clone();
        self.detached("workspace-offline", async move {
            this.went_offline_now(id, why).await
        })
        .await
    }

    async fn went_offline_now(&self, id: Uuid, why: Absence) -> Result<bool> {
        let services = &self.services;
        let now = timestamp(&services.clock);
        let mut tx = services.db.begin().await?;
        let restart_at = match services.has_no_backend() {
            true => None,
            false => Some(
                now + why
                    .grace()
                    .max(TimeDelta::seconds(self.restarts.backoff(id))),
            ),
        };
        let gone = why != Absence::Silent;
        let Some(external) = sql::go_offline(&mut tx, id, now, restart_at, gone).await? else {
            return Ok(false);
        };
        let recorded = services
            .events
            .record(&mut tx, EventType::WorkspaceOffline, id, json!({}));
        let event = recorded.await?;
        tx.commit().await?;
        self.restarts.died(id);
        services.directory.forget(id);
        tracing::warn!(workspace.id = %id, external, ?why, "workspace went offline");
        let reason = match why {
            Absence::Gone | Absence::Ended => "gone",
            Absence::Silent => "silent",
        };
        metrics::counter!("molecule_workspaces_offline_total", "reason" => reason).increment(1);
        services.events.publish(event);
        self.poke_restarts();
        Ok(true)
    }
}

impl Services {
    async fn backend_answers(&self) -> bool {
        let check = tokio::time::timeout(CHECK_TIMEOUT, self.backend.check());
        matches!(check.await, Ok(Ok(_)))
    }
}

/// Spreads restarts that were requested together. A workspace's own id is random
/// enough.
fn jitter(id: Uuid) -> Duration {
    Duration::from_millis(u64::try_from(id.as_u128() % JITTER_MS).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_allows_a_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut budget = Budget {
            per_second: 1.0,
            most: 6.0,
            left: 6.0,
            at: start,
        };
        let mut now = start;
        let mut times = Vec::new();
        for _ in 0..16 {
            now += budget.take(now).unwrap_or_default();
            times.push((now - start).as_secs_f64().round() as u64);
        }
        assert_eq!(times[..6], [0; 6], "a burst");
        let then: Vec<u64> = (1..=10).collect();
        assert_eq!(times[6..], then, "then one a second");
        let later = now + Duration::from_secs(1000);
        let again = (0..10).filter(|_| budget.take(later).is_none()).count();
        assert_eq!(again, 6, "what was not used is not hoarded");
    }

    #[test]
    fn who_keeps_dying_waits_longer_and_longer() {
        let restarts = Restarts::new(60);
        let id = Uuid::new_v4();
        let dies = |_| {
            let wait = restarts.backoff(id);
            assert_eq!(restarts.backoff(id), wait, "asking is not dying");
            restarts.died(id);
            wait
        };
        let waits: Vec<i64> = (0..7).map(dies).collect();
        assert_eq!(waits, [0, 60, 120, 240, 480, 600, 600]);
        assert_eq!(restarts.backoff(Uuid::new_v4()), 0);
    }
}
