use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::secret::redact_token_shapes;

/// Why a hook could not do its work, and what the server should make of it.
///
/// * [`Config`](HookErrorKind::Config): the operator must change something;
///   trying again cannot help. Returned while building, it stops the server.
/// * [`Transient`](HookErrorKind::Transient): an upstream is slow, down or
///   rate-limiting; the same call may succeed later, not before
///   [`retry_after`](HookError::retry_after).
/// * [`Permanent`](HookErrorKind::Permanent): this call will not succeed.
///
/// A mutator should prefer to *succeed without its variable* over failing on
/// transient trouble: an error keeps the workspace from starting.
///
/// `Display` prints the message with every credential shape masked; it does not
/// print the source, which [`chain`](HookError::chain) does for logs. Do not put
/// a secret, an upstream body or a path into the message.
///
/// ```
/// use molecule_hooks::HookError;
/// let error = HookError::transient("vault answered 503");
/// assert!(error.is_transient());
/// assert_eq!(error.to_string(), "vault answered 503");
/// ```
#[derive(Clone)]
pub struct HookError {
    kind: HookErrorKind,
    message: String,
    retry_after: Option<Duration>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The intent of a [`HookError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HookErrorKind {
    /// The operator's configuration is wrong.
    Config,
    /// Worth trying again later.
    Transient,
    /// Not worth trying again.
    Permanent,
}

impl HookError {
    /// An error only the operator can mend.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(HookErrorKind::Config, message)
    }

    /// An error that may go away by itself.
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(HookErrorKind::Transient, message)
    }

    /// An error that will not go away by itself.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self::new(HookErrorKind::Permanent, message)
    }

    fn new(kind: HookErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after: None,
            source: None,
        }
    }

    /// Keeps the cause for the log. It never reaches a client.
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Asks the server not to call again before this much time has passed
    /// (an upstream's `Retry-After`).
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// What the error means for the caller.
    pub fn kind(&self) -> HookErrorKind {
        self.kind
    }

    /// True for [`HookErrorKind::Transient`].
    pub fn is_transient(&self) -> bool {
        self.kind == HookErrorKind::Transient
    }

    /// How long the upstream asked us to wait, if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The message and every cause below it, joined with `: ` and masked: one
    /// line for the log.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut source = self.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        redact_token_shapes(&text)
    }
}

impl fmt::Display for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact_token_shapes(&self.message))
    }
}

impl fmt::Debug for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HookError::{:?}({:?})", self.kind, self.chain())
    }
}

impl StdError for HookError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|s| s as &(dyn StdError + 'static))
    }
}
