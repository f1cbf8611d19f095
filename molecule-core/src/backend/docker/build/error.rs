//! Why there is no image.

use crate::backend::BackendError;

/// Shared by everybody who waits for one build, so it holds texts only. They are
/// masked and name no file of this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BuildError {
    /// The same again will fail the same way, until somebody changes something.
    #[error("{0}")]
    Refused(String),
    /// It may work later.
    #[error("{0}")]
    Trouble(String),
    /// It took too long, or nothing was heard of it for too long.
    #[error("{0}")]
    TimedOut(String),
    /// Nobody waits for it any longer.
    #[error("cancelled")]
    Cancelled,
}

impl BuildError {
    /// As the error of the backend. Names no registry: there is none to fall back to.
    pub(super) fn into_backend(self, runtime: &str) -> BackendError {
        const OPERATION: &str = "build image";
        let text = format!("local-build mode: ensure image for runtime {runtime:?}: {self}");
        match self {
            Self::Refused(_) => BackendError::Failed {
                operation: OPERATION,
                reason: text,
            },
            Self::Trouble(_) => BackendError::Unavailable {
                operation: OPERATION,
                source: anyhow::Error::msg(text),
            },
            Self::TimedOut(_) => {
                // The error itself has no room for what was waited for.
                tracing::warn!(runtime, error = text, "an image was not built in time");
                BackendError::Timeout {
                    operation: OPERATION,
                }
            }
            Self::Cancelled => BackendError::Cancelled,
        }
    }
}
