use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

use super::capture::Capture;

/// Runs calls as a server would: with a deadline, behind a panic fence, and with
/// their log kept.
pub(super) struct Fence {
    deadline: Duration,
    capture: Capture,
    dispatch: Dispatch,
}

/// How a fenced call ended.
pub(super) enum Ended<T> {
    Returned(T),
    Panicked,
    Late,
}

impl Fence {
    pub(super) fn new(deadline: Duration) -> Self {
        let capture = Capture::default();
        Self {
            deadline,
            dispatch: Dispatch::new(capture.clone()),
            capture,
        }
    }

    pub(super) fn log(&self) -> String {
        self.capture.text()
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Ended<T> {
        let mut ended = self.run_all([call]).await;
        ended.pop().unwrap_or(Ended::Late)
    }

    /// Runs all calls at once; the deadline is for all of them together.
    pub(super) async fn run_all<T: Send + 'static, F>(
        &self,
        calls: impl IntoIterator<Item = F>,
    ) -> Vec<Ended<T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        for call in calls {
            tasks.spawn(call.with_subscriber(self.dispatch.clone()));
        }
        let mut ended = Vec::new();
        let end = tokio::time::Instant::now() + self.deadline;
        while !tasks.is_empty() {
            match tokio::time::timeout_at(end, tasks.join_next()).await {
                Ok(Some(Ok(value))) => ended.push(Ended::Returned(value)),
                Ok(Some(Err(_))) => ended.push(Ended::Panicked),
                Ok(None) => break,
                Err(_) => {
                    // The tasks still running end with the set.
                    ended.extend((0..tasks.len()).map(|_| Ended::Late));
                    break;
                }
            }
        }
        ended
    }
}
