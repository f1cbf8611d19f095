//! Every long-running task of the server is spawned here: named, fenced against
//! panics, restarted with backoff, cancelled and awaited at shutdown.

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use molecule_hooks::Clock;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// A task that ran this long was healthy; its next failure starts from the first
/// backoff again.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// A round that takes ten periods, and at least this long, is told in the log.
const SLOW_ROUND: Duration = Duration::from_secs(60);

/// Owner of the server's tasks. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Supervisor {
    tracker: TaskTracker,
    cancel: CancellationToken,
    ticks: Arc<Mutex<BTreeMap<&'static str, Tick>>>,
    clock: Clock,
}

/// When a loop completed its last round, or was started if it never did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tick {
    /// By the server's clock.
    pub(crate) at: DateTime<Utc>,
    /// The same moment on a clock that nobody sets.
    pub(crate) since: Instant,
}

impl Supervisor {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            tracker: TaskTracker::new(),
            cancel: CancellationToken::new(),
            ticks: Arc::default(),
            clock,
        }
    }

    /// Fires when the server shuts down.
    pub(crate) fn token(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Calls `work` every `period` until shutdown, first at once. A panic is
    /// logged and the loop restarted with backoff; `work` logs its own errors.
    pub(crate) fn every<F, Fut>(&self, name: &'static str, period: Duration, work: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send,
    {
        // Nobody ever closes it.
        let (_, open) = watch::channel(true);
        self.every_while(name, period, open, work);
    }

    /// As [`every`](Self::every), but only while `gate` shows true: a gate that
    /// opens starts a round at once, and one that closes cancels the round under
    /// way.
    pub(crate) fn every_while<F, Fut>(
        &self,
        name: &'static str,
        period: Duration,
        gate: watch::Receiver<bool>,
        work: F,
    ) where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send,
    {
        // Even a first round that never ends is seen to be late.
        self.tick(name);
        let (this, work) = (self.clone(), Arc::new(work));
        self.run(name, move || {
            let (this, work, gate) = (this.clone(), Arc::clone(&work), gate.clone());
            async move { this.rounds(name, period, gate, work.as_ref()).await }
        });
    }

    /// Runs `work` until shutdown, which cancels it: a listener, a relay. When it
    /// panics or returns it is started again with backoff.
    pub(crate) fn run<F, Fut>(&self, name: &'static str, work: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send,
    {
        let this = self.clone();
        self.tracker.spawn(async move {
            let mut backoff = FIRST_BACKOFF;
            loop {
                let started = Instant::now();
                let fenced = AssertUnwindSafe(async { work().await }).catch_unwind();
                let ended = tokio::select! {
                    () = this.cancel.cancelled() => return,
                    ended = fenced => ended,
                };
                if started.elapsed() > HEALTHY_AFTER {
                    backoff = FIRST_BACKOFF;
                }
                let retry_in_secs = backoff.as_secs();
                match ended {
                    Ok(()) => tracing::warn!(task = name, retry_in_secs, "task ended by itself"),
                    Err(_) => {
                        tracing::error!(task = name, retry_in_secs, "task panicked");
                        count_panic(name);
                    }
                }
                tokio::select! {
                    () = this.cancel.cancelled() => return,
                    () = tokio::time::sleep(backoff) => {}
                }
                backoff = (backoff * 2).min(LONGEST_BACKOFF);
            }
        });
    }

    /// As [`run`](Self::run), but only while `gate` shows true: a gate that closes
    /// cancels the work, and one that opens starts it again.
    pub(crate) fn run_while<F, Fut>(&self, name: &'static str, gate: watch::Receiver<bool>, work: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send,
    {
        let work = Arc::new(work);
        self.run(name, move || {
            let (work, mut gate) = (Arc::clone(&work), gate.clone());
            async move {
                loop {
                    shows(&mut gate, true).await;
                    tokio::select! {
                        () = work() => return,
                        () = shows(&mut gate, false) => {}
                    }
                }
            }
        });
    }

    /// Runs one piece of work to its end, also past the request that asked for
    /// it. Shutdown waits for it, and the work itself must watch
    /// [`token`](Self::token) where it can take long.
    pub(crate) fn spawn<Fut>(&self, name: &'static str, work: Fut)
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(async move {
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                tracing::error!(task = name, "task panicked");
                count_panic(name);
            }
        });
    }

    /// Last completed round of each loop.
    pub(crate) fn ticks(&self) -> BTreeMap<&'static str, Tick> {
        self.ticks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn rounds<F, Fut>(
        &self,
        name: &'static str,
        period: Duration,
        mut gate: watch::Receiver<bool>,
        work: &F,
    ) where
        F: Fn() -> Fut + Sync,
        Fut: Future<Output = ()> + Send,
    {
        let slow_after = (period * 10).max(SLOW_ROUND);
        loop {
            let started = Instant::now();
            if *gate.borrow() {
                tokio::select! {
                    () = watched(name, slow_after, work()) => {}
                    // What it was doing is another server's business now.
                    () = shows(&mut gate, false) => {}
                }
            }
            self.tick(name);
            tokio::select! {
                () = tokio::time::sleep_until(started + period) => {}
                () = opens(&mut gate) => {}
            }
        }
    }

    fn tick(&self, name: &'static str) {
        let tick = Tick {
            at: self.clock.now(),
            since: Instant::now(),
        };
        self.ticks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, tick);
    }

    /// Cancels everything and waits until it ended or `deadline` passed. Returns
    /// how many tasks were left.
    pub(crate) async fn shutdown(&self, deadline: Duration) -> usize {
        self.cancel.cancel();
        self.tracker.close();
        let _ = tokio::time::timeout(deadline, self.tracker.wait()).await;
        self.tracker.len()
    }
}

fn count_panic(name: &'static str) {
    metrics::counter!("molecule_task_panics_total", "task" => name).increment(1);
}

/// Waits for a round and says so, again and again, while it does not end.
async fn watched(name: &'static str, slow_after: Duration, round: impl Future<Output = ()>) {
    let started = Instant::now();
    tokio::pin!(round);
    while tokio::time::timeout(slow_after, &mut round).await.is_err() {
        let running_secs = started.elapsed().as_secs();
        tracing::warn!(task = name, running_secs, "a round takes unusually long");
    }
}

/// Waits until the gate shows `wanted`.
async fn shows(gate: &mut watch::Receiver<bool>, wanted: bool) {
    if gate.wait_for(|open| *open == wanted).await.is_err() {
        // Nobody is left who could change it.
        pending::<()>().await;
    }
}

/// Waits until a gate that is or gets closed opens.
async fn opens(gate: &mut watch::Receiver<bool>) {
    shows(gate, false).await;
    shows(gate, true).await;
}

#[cfg(test)]
mod tests;
