//! What a machine printed, for backends that can tell.

use async_trait::async_trait;

use super::{BackendError, InstanceRef};

/// Most bytes of console output that reach a client.
pub const MAX_CONSOLE_BYTES: usize = 256 * 1024;

/// Console output of the compute of a workspace: a capability that not every backend
/// has.
#[async_trait]
pub trait Console: Send + Sync {
    /// The latest output, not masked. Of more than [`MAX_CONSOLE_BYTES`] the caller
    /// shows the last whole lines; an implementation reads no more than it needs for
    /// that. Empty when nothing was printed, or nothing runs.
    ///
    /// # Errors
    /// [`BackendError`] when the backend could not look.
    async fn read(&self, instance: &InstanceRef) -> Result<String, BackendError>;
}
