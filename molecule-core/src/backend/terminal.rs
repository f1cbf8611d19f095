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

/// Terminals: a capability that not every backend has.
#[async_trait]
pub trait Terminal: Send + Sync {
    /// Starts a shell in the compute of a workspace.
    ///
    /// # Errors
    /// [`BackendError::Failed`] when nothing runs or there is no shell in it;
    /// others when the backend could not tell.
    async fn open(
        &self,
        instance: &InstanceRef,
        size: TerminalSize,
    ) -> Result<TerminalSession, BackendError>;
}

/// A shell that runs. Dropping it ends the shell.
pub struct TerminalSession {
    /// What it prints, masked by nobody; ends with the shell.
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

    /// Ends the shell and what it started.
    async fn close(&self);
}
