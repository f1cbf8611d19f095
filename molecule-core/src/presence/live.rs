//! What is known of agents between their reports: reports not yet written, what
//! each one is doing, what it does itself. Small, and bounded by the workspaces
//! there are.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// The latest report of a workspace, as it will be written.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) at: DateTime<Utc>,
    pub(super) error_rate: f64,
    pub(super) sample_error: String,
    pub(super) active_tasks: i64,
    pub(super) uptime_seconds: i64,
    pub(super) current_task: String,
    pub(super) monthly_spend: i64,
    /// Since when the agent has nothing to do, as far as the unwritten reports
    /// know.
    pub(super) idle_since: Option<DateTime<Utc>>,
    /// It had something to do in an unwritten report: whatever the row says of its
    /// idleness is over.
    pub(super) was_busy: bool,
}

impl Report {
    /// Takes over what an earlier, unwritten report of the same workspace knows.
    fn follows(&mut self, earlier: &Self) {
        if self.monthly_spend == 0 {
            self.monthly_spend = earlier.monthly_spend;
        }
        self.was_busy |= earlier.was_busy;
        if self.active_tasks == 0 && earlier.active_tasks == 0 {
            self.idle_since = earlier.idle_since;
        }
    }
}

/// Work that a runtime says it does itself. Unknown names are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Capability {
    Heartbeat,
    Scheduler,
    Session,
    StatusMgmt,
    Retry,
    ActivityDecoration,
    ChannelDispatch,
}

impl Capability {
    pub(crate) const ALL: [Self; 7] = [
        Self::Heartbeat,
        Self::Scheduler,
        Self::Session,
        Self::StatusMgmt,
        Self::Retry,
        Self::ActivityDecoration,
        Self::ChannelDispatch,
    ];

    /// The name on the wire.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::Scheduler => "scheduler",
            Self::Session => "session",
            Self::StatusMgmt => "status_mgmt",
            Self::Retry => "retry",
            Self::ActivityDecoration => "activity_decoration",
            Self::ChannelDispatch => "channel_dispatch",
        }
    }

    fn bit(self) -> u8 {
        1 << (self as u8)
    }
}

/// What the latest heartbeat of a workspace said of its runtime.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Overrides {
    capabilities: u8,
    idle_timeout_secs: u32,
}

/// Longest silence that an agent may ask for.
const MAX_IDLE_TIMEOUT_SECS: i64 = 30 * 24 * 3600;

impl Overrides {
    /// From what an agent declared. A timeout of zero or less is none.
    pub(super) fn new<'a>(
        declared: impl IntoIterator<Item = (&'a str, bool)>,
        idle_timeout_secs: Option<i64>,
    ) -> Self {
        let mut overrides = Self::default();
        for (name, has) in declared {
            let known = Capability::ALL.into_iter().find(|c| c.as_str() == name);
            overrides.capabilities |= known.filter(|_| has).map_or(0, Capability::bit);
        }
        let secs = idle_timeout_secs
            .unwrap_or(0)
            .clamp(0, MAX_IDLE_TIMEOUT_SECS);
        overrides.idle_timeout_secs = u32::try_from(secs).unwrap_or_default();
        overrides
    }

    /// True when the runtime does this itself.
    pub(crate) fn has(self, capability: Capability) -> bool {
        self.capabilities & capability.bit() != 0
    }

    /// Silence after which a call to the agent is given up, if it wants another
    /// one than everybody.
    pub(crate) fn idle_timeout(self) -> Option<Duration> {
        (self.idle_timeout_secs > 0).then(|| Duration::from_secs(self.idle_timeout_secs.into()))
    }
}

/// What is kept of a workspace as long as it is there.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// Fingerprint of the current task; its text may be long.
    task: u64,
    overrides: Overrides,
    /// Fingerprint of what it says of its plugins and is stored; zero when nothing is
    /// known.
    plugins: u64,
}

/// The memory of this room. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Live {
    hasher: RandomState,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    unwritten: HashMap<Uuid, Report>,
    /// Others are on their way to the database.
    is_writing: bool,
    /// The last batch that was tried came back.
    write_failed: bool,
    known: HashMap<Uuid, Known>,
}

impl Live {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a report in; true when the current task changed.
    pub(super) fn merge(&self, id: Uuid, mut report: Report, overrides: Overrides) -> bool {
        let task = match report.current_task.as_str() {
            "" => 0,
            text => self.hasher.hash_one(text),
        };
        let mut state = self.state();
        let known = state.known.entry(id).or_default();
        let changed = known.task != task;
        (known.task, known.overrides) = (task, overrides);
        if let Some(earlier) = state.unwritten.get(&id) {
            report.follows(earlier);
        }
        state.unwritten.insert(id, report);
        changed
    }

    /// What the latest heartbeat said; nothing when there was none.
    pub(super) fn overrides(&self, id: Uuid) -> Overrides {
        (self.state().known.get(&id)).map_or_else(Overrides::default, |known| known.overrides)
    }

    /// A number for a text, never zero.
    pub(super) fn fingerprint(&self, text: &str) -> u64 {
        self.hasher.hash_one(text).max(1)
    }

    /// Fingerprint of what a workspace said of its plugins last.
    pub(super) fn plugins(&self, id: Uuid) -> u64 {
        self.state().known.get(&id).map_or(0, |known| known.plugins)
    }

    /// What a workspace says of its plugins is stored.
    pub(super) fn set_plugins(&self, id: Uuid, fingerprint: u64) {
        self.state().known.entry(id).or_default().plugins = fingerprint;
    }

    /// Another agent took over: what the one before declared does not bind it.
    pub(super) fn restarted(&self, id: Uuid) {
        if let Some(known) = self.state().known.get_mut(&id) {
            known.overrides = Overrides::default();
            known.plugins = 0;
        }
    }

    /// Drops what is known of a workspace that is gone.
    pub(super) fn forget(&self, id: Uuid) {
        let mut state = self.state();
        state.known.remove(&id);
        state.unwritten.remove(&id);
    }

    /// Drops what is known of workspaces that are gone.
    pub(super) fn retain(&self, is_there: impl Fn(Uuid) -> bool) {
        let mut state = self.state();
        state.known.retain(|id, _| is_there(*id));
        let (used, room) = (state.known.len(), state.known.capacity());
        if room > 64 && used < room / 4 {
            state.known.shrink_to_fit();
        }
    }

    /// Takes out everything that must be written.
    pub(super) fn take(&self) -> Batch<'_> {
        let mut state = self.state();
        state.is_writing = true;
        Batch {
            reports: std::mem::take(&mut state.unwritten),
            failed: false,
            live: self,
        }
    }

    /// True when the row of a workspace may be older than what its agent said.
    pub(super) fn may_hold(&self, id: Uuid) -> bool {
        let state = self.state();
        state.is_writing || state.unwritten.contains_key(&id)
    }

    /// True when what agents say does not reach the database.
    pub(super) fn is_stuck(&self) -> bool {
        self.state().write_failed
    }

    /// Ends a batch. Puts back what could not be written, below anything newer.
    fn put_back(&self, unwritten: HashMap<Uuid, Report>, failed: bool) {
        let mut state = self.state();
        state.is_writing = false;
        state.write_failed = failed;
        for (id, earlier) in unwritten {
            match state.unwritten.get_mut(&id) {
                Some(newer) => newer.follows(&earlier),
                None => drop(state.unwritten.insert(id, earlier)),
            }
        }
    }
}

/// Reports on their way to the database. What is left of them when it is dropped,
/// because writing failed or was cancelled, goes back.
pub(super) struct Batch<'a> {
    pub(super) reports: HashMap<Uuid, Report>,
    /// The database refused some of them.
    pub(super) failed: bool,
    live: &'a Live,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.live
            .put_back(std::mem::take(&mut self.reports), self.failed);
    }
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
