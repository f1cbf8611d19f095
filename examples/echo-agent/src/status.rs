//! What the agent is doing right now, as its heartbeats report it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Counters shared by the server and the heartbeat loop.
pub(crate) struct Status {
    started: Instant,
    active: AtomicU64,
}

impl Status {
    /// A fresh status; uptime counts from here.
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            active: AtomicU64::new(0),
        }
    }

    /// Counts a task until the returned guard is dropped.
    pub(crate) fn begin_task(&self) -> TaskGuard<'_> {
        self.active.fetch_add(1, Ordering::Relaxed);
        TaskGuard(self)
    }

    /// Messages being answered.
    pub(crate) fn active_tasks(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// Whole seconds since the start.
    pub(crate) fn uptime_seconds(&self) -> u64 {
        self.started.elapsed().as_secs()
    }
}

/// Ends its task when dropped, also when the task panics.
pub(crate) struct TaskGuard<'a>(&'a Status);

impl Drop for TaskGuard<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_counts_while_its_guard_lives() {
        let status = Status::new();
        let outer = status.begin_task();
        drop(status.begin_task());
        assert_eq!(status.active_tasks(), 1);
        drop(outer);
        assert_eq!(status.active_tasks(), 0);
    }
}
