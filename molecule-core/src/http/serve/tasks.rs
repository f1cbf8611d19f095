//! The tasks of all connections, so that they can be awaited and aborted.

use std::future::Future;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

/// One task per connection, and one per request of an HTTP/2 connection. Cheap to
/// clone.
#[derive(Clone, Default)]
pub(super) struct Tasks(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    running: JoinSet<()>,
    closed: bool,
}

impl Tasks {
    /// Runs a task, unless [`close`](Self::close) was called.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut inner = self.inner();
        if inner.closed {
            return;
        }
        // The results of those that ended would pile up.
        while let Some(ended) = inner.running.try_join_next() {
            if ended.is_err_and(|error| error.is_panic()) {
                tracing::error!("a connection's task panicked");
            }
        }
        inner.running.spawn(task);
    }

    /// Waits for all tasks up to `bound`, then aborts the rest and waits for their
    /// end up to `patience`. Returns how many were aborted.
    pub(super) async fn finish(&self, bound: Duration, patience: Duration) -> usize {
        let mut running = JoinSet::new();
        let all = async {
            loop {
                running = mem::take(&mut self.inner().running);
                if running.is_empty() {
                    return;
                }
                while running.join_next().await.is_some() {}
            }
        };
        let _ = tokio::time::timeout(bound, all).await;
        let mut late = self.close();
        let count = running.len() + late.len();
        let aborted = async {
            running.shutdown().await;
            late.shutdown().await;
        };
        if tokio::time::timeout(patience, aborted).await.is_err() {
            tracing::warn!("aborted connections did not end in time");
        }
        count
    }

    /// Takes no tasks any more. Those that run are aborted with what is returned.
    pub(super) fn close(&self) -> JoinSet<()> {
        let mut inner = self.inner();
        inner.closed = true;
        mem::take(&mut inner.running)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}
