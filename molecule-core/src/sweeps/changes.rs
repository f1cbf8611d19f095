//! Acting on what the backend tells by itself, at once.
//!
//! What is told is a hint and never believed: whoever it is about is looked at as in
//! any other round. Of many hints about one workspace few looks are made, and a
//! storm of them is answered with one list of everything.

mod queue;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use self::queue::{Due, Hint, Pending};
use super::health::Seen;
use super::{LOOK_AT_ONCE, Sweeps, store};
use crate::backend::{Change, Changes};
use crate::workspaces::Absence;

/// Between two looks at everything that nobody planned.
const FULL_LOOKS_APART: Duration = Duration::from_secs(5);

/// What is to be looked at, shared by who hears of it and who looks.
#[derive(Default)]
struct Queue {
    pending: Mutex<Pending>,
    /// Told when there is more to look at.
    one: Notify,
    /// Told when everything is to be looked at.
    all: Notify,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, change: &Change) {
        self.lock().put(change, Instant::now());
        self.one.notify_one();
        self.all.notify_one();
    }
}

impl Sweeps {
    /// Acts on changes as long as the backend tells any.
    pub(super) async fn follow_changes(&self) {
        let Some(changes) = self.services.backend.changes() else {
            return;
        };
        let queue = Queue::default();
        // Reading never waits for looking: a daemon drops who reads slowly.
        tokio::select! {
            () = hear(changes, &queue) => {}
            () = self.look_at_some(&queue) => {}
            () = self.look_at_all(&queue) => {}
        }
    }

    async fn look_at_some(&self, queue: &Queue) {
        let mut looks = FuturesUnordered::new();
        loop {
            let now = Instant::now();
            let mut later = None;
            while looks.len() < LOOK_AT_ONCE {
                match queue.lock().next(now) {
                    Due::Now(hint) => looks.push(self.look_at(hint, queue)),
                    Due::At(at) => {
                        later = Some(at);
                        break;
                    }
                    Due::Never => break,
                }
            }
            tokio::select! {
                Some(()) = looks.next() => {}
                () = wait_until(later) => {}
                () = queue.one.notified(), if looks.len() < LOOK_AT_ONCE => {}
            }
        }
    }

    async fn look_at(&self, hint: Hint, queue: &Queue) {
        let services = &self.services;
        let row = match store::hosted_one(&services.db, hint.id).await {
            Ok(Some(row)) => row,
            // Stopped, paused, restarted, removed: by us. Or missed already.
            Ok(None) if hint.started => return services.workspaces.came_back(hint.id).await,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(workspace.id = %hint.id, %error, "end not looked into");
                return queue.put(&Change::Missed);
            }
        };
        match self.examine(row, Absence::Ended).await {
            // It came back by itself, perhaps with another port.
            Seen::There if hint.started => services.workspaces.refresh_url_now(hint.id).await,
            Seen::There | Seen::Gone => {}
            // A look at everything tells of the trouble.
            Seen::Unknown(_) => queue.put(&Change::Missed),
        }
    }

    async fn look_at_all(&self, queue: &Queue) {
        let mut earliest = None;
        loop {
            queue.all.notified().await;
            if !queue.lock().is_all_due() {
                continue;
            }
            wait_if(earliest).await;
            let Some(asked_at) = queue.lock().take_all() else {
                continue;
            };
            earliest = Some(Instant::now() + FULL_LOOKS_APART);
            if !self.sweep_gone(asked_at.elapsed(), Absence::Ended).await {
                // Whatever was missed is still to be found.
                queue.put(&Change::Missed);
            }
        }
    }
}

async fn hear(mut changes: Changes, queue: &Queue) {
    while let Some(change) = changes.next().await {
        queue.put(&change);
    }
}

/// For ever without a time.
async fn wait_until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Not at all without a time.
async fn wait_if(at: Option<Instant>) {
    if let Some(at) = at {
        sleep_until(at).await;
    }
}
