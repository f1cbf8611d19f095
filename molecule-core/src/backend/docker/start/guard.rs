//! How the steps of a start are guarded: what a cancellation means for a call to
//! the daemon, and what is remembered for taking it back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::timeout;
use uuid::Uuid;

use super::super::Inner;
use super::super::daemon::CallError;
use super::Start;
use crate::backend::UndoStack;

/// How long a cancelled start waits for the answer to a request that changes
/// something, so that it knows what there is to undo.
const SETTLE: Duration = Duration::from_secs(5);

impl Start {
    /// Remembers how to take back what is about to be made. The flag it answers
    /// with says whether the daemon has answered the request to make it.
    pub(super) fn undo_with(
        &self,
        undo: &mut UndoStack,
        step: &'static str,
        name: String,
        take_back: impl FnOnce(
            Arc<Inner>,
            String,
            Uuid,
            bool,
        ) -> BoxFuture<'static, Result<(), CallError>>
        + Send
        + 'static,
    ) -> Arc<AtomicBool> {
        let settled = Arc::new(AtomicBool::new(true));
        let (inner, attempt, flag) = (Arc::clone(&self.inner), self.attempt, Arc::clone(&settled));
        let scrub = Arc::clone(&self.scrub);
        undo.push(step, async move {
            take_back(inner, name, attempt, flag.load(Ordering::Acquire))
                .await
                .map_err(|error| error.text(&scrub))
        });
        settled
    }

    /// A call that changes nothing, or nothing that outlives the container:
    /// given up at once on cancellation.
    pub(super) async fn read<T>(
        &self,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(CallError::Cancelled),
            result = call => result,
        }
    }

    /// A call that changes something: on cancellation its answer is awaited for
    /// a moment, because the daemon finishes what it began.
    pub(super) async fn write<T>(
        &self,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        if self.cancel.is_cancelled() {
            return Err(CallError::Cancelled);
        }
        let mut call = std::pin::pin!(call);
        tokio::select! {
            biased;
            result = &mut call => return result,
            () = self.cancel.cancelled() => {}
        }
        let _ = timeout(SETTLE, call).await;
        Err(CallError::Cancelled)
    }

    /// [`write`](Self::write) that notes whether the daemon answered.
    pub(super) async fn write_settling<T>(
        &self,
        settled: &AtomicBool,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        if self.cancel.is_cancelled() {
            return Err(CallError::Cancelled);
        }
        settled.store(false, Ordering::Release);
        let noting = async {
            let result = call.await;
            let answered = result.as_ref().map_or_else(CallError::is_answer, |_| true);
            settled.store(answered, Ordering::Release);
            result
        };
        self.write(noting).await
    }
}
