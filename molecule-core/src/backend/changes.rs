//! What happens to compute by itself, for backends that tell.

use futures_util::stream::BoxStream;
use uuid::Uuid;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The compute of a workspace ended or was removed, by whomever. It may be running
    /// again: ask [`liveness`](super::WorkspaceBackend::liveness).
    Ended(Uuid),
    /// The compute of a workspace started.
    Started(Uuid),
    /// Something may have been missed: everything has to be looked at once.
    Missed,
}

/// Changes as they happen. It reconnects by itself and only ends when the backend is
/// shut down.
pub type Changes = BoxStream<'static, Change>;
