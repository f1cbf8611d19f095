use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Dispatch;
use tracing::instrument::WithSubscriber;

use super::capture::Capture;
use super::findings::Findings;
use super::secrets::Secrets;
use super::watch::Watch;

/// How long the other tasks of a test have to get going.
const SETTLING: Duration = Duration::from_millis(50);

/// Runs calls as a server would: with a deadline, behind a panic fence, and with
/// their log kept.
pub(super) struct Fence {
    deadline: Duration,
    capture: Capture,
    dispatch: Dispatch,
    watch: Watch,
    tasks: usize,
}

/// How a fenced call ended.
pub(super) enum Ended<T> {
    Returned(T),
    Panicked,
    Late,
}

impl Fence {
    /// A fence; what runs on the runtime now is not the hook's.
    pub(super) async fn new(deadline: Duration) -> Self {
        // A server that the test has just started may start tasks of its own first.
        tokio::time::sleep(SETTLING).await;
        let capture = Capture::default();
        Self {
            deadline,
            dispatch: Dispatch::new(capture.clone()),
            capture,
            watch: Watch::default(),
            tasks: tasks(),
        }
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// True when a call kept its thread waiting: more of them would take for ever.
    pub(super) fn is_blocked(&self) -> bool {
        self.watch.too_long().is_some()
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
            let call = self.watch.over(call);
            tasks.spawn(call.with_subscriber(self.dispatch.clone()));
        }
        let mut ended = Vec::new();
        let end = Instant::now() + self.deadline;
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

    /// Polls a call up to `polls` times, with a short rest in between so that timers and
    /// sockets it waits for can get on, and drops it.
    pub(super) async fn run_and_drop<T>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
        polls: usize,
    ) -> Ended<()> {
        let mut call = Box::pin(call);
        self.run(async move {
            for _ in 0..polls {
                if poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_ready())).await {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
    }

    /// Notes what was watched over during all calls, after the last of them. `is_gone`:
    /// nobody else holds what was checked, so its tasks must end.
    pub(super) async fn close(self, is_gone: bool, secrets: &Secrets, findings: &mut Findings) {
        let blocked = self.watch.too_long();
        findings.require("blocks-the-thread", blocked.is_none(), || {
            format!(
                "a call kept its thread waiting for {} ms; use tokio's sockets, files, locks and \
                 timers, or tokio::task::spawn_blocking",
                blocked.unwrap_or_default().as_millis()
            )
        });
        if is_gone {
            let end = Instant::now() + self.deadline;
            while tasks() > self.tasks && Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let left = tasks().saturating_sub(self.tasks);
            findings.require("task-left-behind", left == 0, || {
                format!(
                    "{left} task(s) still run {:?} after it was dropped; keep their handles and \
                     abort them in Drop, or let them end when a channel closes",
                    self.deadline
                )
            });
        }
        findings.note("secret-in-error", Ok(()));
        secrets.check_log(&self.capture.text(), findings);
    }
}

/// How many tasks run on this runtime.
fn tasks() -> usize {
    Handle::try_current().map_or(0, |runtime| runtime.metrics().num_alive_tasks())
}
