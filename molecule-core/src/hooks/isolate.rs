//! The fence around code of a hook.

use std::any::Any;

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

/// How a call ended that has no result.
pub(super) enum Ended {
    /// With what it panicked with.
    Panicked(Box<dyn Any + Send>),
    /// With the runtime.
    Cancelled,
}

/// Runs `work` on a thread of its own, in the caller's span. A hook that blocks
/// would otherwise stop every task and timer of the runtime's thread, its own
/// deadline among them.
///
/// Dropped, this drops `work` too, as soon as that lets go of its thread.
pub(super) async fn isolated<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, Ended> {
    let caller = CancellationToken::new();
    let (gone, _guard) = (caller.clone(), caller.drop_guard());
    let (runtime, span) = (Handle::current(), Span::current());
    let mut thread = JoinSet::new();
    thread.spawn_blocking(move || {
        // A plain loop around the future; it may await whatever tasks may.
        let work = async move { gone.run_until_cancelled(work).await };
        runtime.block_on(work.instrument(span))
    });
    match thread.join_next().await {
        Some(Ok(Some(result))) => Ok(result),
        Some(Err(end)) => Err(end
            .try_into_panic()
            .map_or(Ended::Cancelled, Ended::Panicked)),
        Some(Ok(None)) | None => Err(Ended::Cancelled),
    }
}
