//! The tasks of a backend, which end with it.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::BackendError;

/// What work that is under way gets to take back what it did at shutdown.
const SHUTDOWN_BOUND: Duration = Duration::from_secs(20);

/// A handle on the tasks of one backend; clones share them.
#[derive(Clone, Default)]
pub(super) struct Tasks {
    tracker: TaskTracker,
    closing: CancellationToken,
}

impl Tasks {
    /// Runs work as a task of its own and waits for it. A caller that goes away,
    /// `cancel` and the end of the backend cancel the token that the work is given; it
    /// still takes back what it did.
    ///
    /// # Errors
    /// Those of the work; [`BackendError::Cancelled`] without any work when it is too
    /// late for it, and when it panicked.
    pub(super) async fn run<T, E, F>(
        &self,
        cancel: &CancellationToken,
        work: impl FnOnce(CancellationToken) -> F,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<BackendError> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        if cancel.is_cancelled() || self.closing.is_cancelled() {
            return Err(BackendError::Cancelled.into());
        }
        let token = self.closing.child_token();
        let _guard = token.clone().drop_guard();
        let mut task = self.tracker.spawn(work(token.clone()));
        let ended = tokio::select! {
            ended = &mut task => ended,
            () = cancel.cancelled() => {
                token.cancel();
                task.await
            }
        };
        ended.unwrap_or_else(|_| Err(BackendError::Cancelled.into()))
    }

    /// Runs work that nobody waits for, except the end of the backend. It ends by
    /// itself when [`closing`](Self::closing) fires.
    pub(super) fn spawn<F>(&self, work: F)
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(work);
    }

    /// As [`spawn`](Self::spawn), from a thread that need not belong to the runtime.
    pub(super) fn spawn_on<F>(&self, work: F, runtime: &Handle) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn_on(work, runtime)
    }

    /// Fires when the backend ends.
    pub(super) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Tells all tasks to end.
    pub(super) fn close(&self) {
        self.closing.cancel();
        self.tracker.close();
    }

    /// Tells all tasks to end, and waits for them as long as is sensible.
    pub(super) async fn shutdown(&self) {
        self.close();
        let ended = tokio::time::timeout(SHUTDOWN_BOUND, self.tracker.wait()).await;
        if ended.is_err() {
            tracing::warn!("work on a workspace did not end in time for the shutdown");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Done = Result<(), BackendError>;

    /// Work that ends when it is told to, and says so.
    async fn until_told(token: CancellationToken, told: CancellationToken) -> Done {
        token.cancelled().await;
        told.cancel();
        Err(BackendError::Cancelled)
    }

    #[tokio::test]
    async fn work_goes_on_to_its_end_when_its_caller_leaves_or_cancels() {
        let (tasks, never) = (Tasks::default(), CancellationToken::new());
        let told = CancellationToken::new();
        let own = told.clone();
        let work = tasks.run(&never, |token| until_told(token, own));
        assert!(
            tokio::time::timeout(Duration::from_millis(20), work)
                .await
                .is_err()
        );
        told.cancelled().await;

        let (cancel, told) = (CancellationToken::new(), CancellationToken::new());
        let (own, soon) = (told.clone(), cancel.clone());
        tasks.spawn(async move { soon.cancel() });
        let ended: Done = tasks.run(&cancel, |token| until_told(token, own)).await;
        assert!(matches!(ended, Err(BackendError::Cancelled)));
        assert!(told.is_cancelled(), "it was waited for");
    }

    #[tokio::test]
    async fn nothing_begins_once_it_is_too_late() {
        let (tasks, never) = (Tasks::default(), CancellationToken::new());
        let panics: Done = tasks.run(&never, |_| async { panic!("a test") }).await;
        assert!(matches!(panics, Err(BackendError::Cancelled)));
        tasks.shutdown().await;
        let late: Done = tasks.run(&never, |_| async { panic!("it began") }).await;
        assert!(matches!(late, Err(BackendError::Cancelled)));
    }
}
