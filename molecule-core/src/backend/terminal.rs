//! An interactive shell next to an agent, for backends that have one.

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio::io::AsyncWrite;

use super::{BackendError, InstanceRef};

/// Size of a terminal in characters; both 1 to 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Characters per line.
    pub cols: u16,
    /// Lines.
    pub rows: u16,
}

/// As whom a shell runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TerminalUser {
    /// The user of the container, usually root: for operators.
    Operator,
    /// The user that agents run as, who gains nothing by having a shell.
    Agent,
}

/// Why there is no shell.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TerminalError {
    /// The compute of the workspace does not run.
    #[error("nothing runs that a shell could be started in")]
    NotRunning,
    /// What runs there brings no shell.
    #[error("no shell")]
    NoShell,
    /// The backend could not do it.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Terminals: a capability that not every backend has.
#[async_trait]
pub trait Terminal: Send + Sync {
    /// Starts a shell in the compute of a workspace. A caller that does not wait for
    /// it leaves none behind.
    ///
    /// # Errors
    /// [`TerminalError`].
    async fn open(
        &self,
        instance: &InstanceRef,
        user: TerminalUser,
        size: TerminalSize,
    ) -> Result<TerminalSession, TerminalError>;
}

/// A shell that runs. Dropping it ends the shell.
pub struct TerminalSession {
    /// What it prints, masked by nobody; ends with the shell. Read only as fast as
    /// it is polled.
    pub output: BoxStream<'static, Result<Bytes, BackendError>>,
    /// What is typed.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
    /// Everything else.
    pub control: Box<dyn TerminalControl>,
}

/// What can be done with a shell besides typing.
#[async_trait]
pub trait TerminalControl: Send + Sync {
    /// Changes its size.
    ///
    /// # Errors
    /// [`BackendError`] when the backend refused.
    async fn resize(&self, size: TerminalSize) -> Result<(), BackendError>;

    /// The exit code of a shell that ended; none while it runs or when unknown.
    async fn exit_code(&self) -> Option<i64>;

    /// Ends the shell and what was started in it, also in the background, and
    /// returns when that is done or given up. A second call has nothing to do.
    async fn close(&self);
}
