//! Every long-running task of the server is spawned here: named, fenced against
//! panics, restarted with backoff, cancelled and awaited at shutdown.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use molecule_hooks::Clock;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// A loop that ran this long was healthy; its next failure starts from the first
/// backoff again.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// Owner of the server's tasks. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Supervisor {
    tracker: TaskTracker,
    cancel: CancellationToken,
    ticks: Arc<Mutex<BTreeMap<&'static str, DateTime<Utc>>>>,
    clock: Clock,
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
        let this = self.clone();
        self.tracker.spawn(async move {
            let mut backoff = FIRST_BACKOFF;
            loop {
                let started = Instant::now();
                let ticking = async {
                    let mut timer = tokio::time::interval(period);
                    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                    loop {
                        timer.tick().await;
                        work().await;
                        this.tick(name);
                    }
                };
                let fenced = AssertUnwindSafe(ticking).catch_unwind();
                tokio::select! {
                    () = this.cancel.cancelled() => return,
                    // The loop itself never ends, so this arm is a panic.
                    _ = fenced => {}
                }
                if started.elapsed() > HEALTHY_AFTER {
                    backoff = FIRST_BACKOFF;
                }
                tracing::error!(
                    task = name,
                    retry_in_secs = backoff.as_secs(),
                    "task panicked"
                );
                metrics::counter!("molecule_task_panics_total", "task" => name).increment(1);
                tokio::select! {
                    () = this.cancel.cancelled() => return,
                    () = tokio::time::sleep(backoff) => {}
                }
                backoff = (backoff * 2).min(LONGEST_BACKOFF);
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
                metrics::counter!("molecule_task_panics_total", "task" => name).increment(1);
            }
        });
    }

    /// Last completed round of each loop.
    pub(crate) fn ticks(&self) -> BTreeMap<&'static str, DateTime<Utc>> {
        self.ticks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn tick(&self, name: &'static str) {
        let now = self.clock.now();
        self.ticks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, now);
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
