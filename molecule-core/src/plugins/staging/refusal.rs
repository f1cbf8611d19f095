//! What clients are told about plugins that could not be staged.

use molecule_hooks::PluginSourceError;

use crate::error::Error;
use crate::plugins::source::SourceRef;
use crate::tree::TreeError;

/// What has no text of its own.
pub(in crate::plugins) const INSTALL_FAILED: &str = "plugin install failed";
const TOO_LARGE: &str = "staged plugin exceeds size limit";
const UNSUPPORTED: &str = "plugin tree contains unsupported file type";
const BAD_NAME: &str = "plugin tree contains an invalid file name";

/// The error for a spec that its source does not understand.
pub(super) fn invalid_spec(reference: &SourceRef, error: &PluginSourceError) -> Error {
    let text = match reference.scheme.as_str() {
        "local" => "invalid plugin name",
        _ => "invalid plugin source",
    };
    tracing::debug!(plugin.source = %reference, %error, "spec refused by its source");
    Error::invalid(text)
}

/// The error for a source that could not bring its plugin.
pub(super) fn fetch_failed(reference: &SourceRef, error: PluginSourceError) -> Error {
    let text = format!("failed to fetch plugin from {}", reference.scheme);
    let refused = match error {
        PluginSourceError::InvalidSpec(_) => return invalid_spec(reference, &error),
        PluginSourceError::NotFound(_) => {
            tracing::debug!(plugin.source = %reference, %error, "plugin not found");
            Error::not_found(text)
        }
        PluginSourceError::TooLarge(_) => {
            tracing::info!(plugin.source = %reference, %error, "plugin too large");
            Error::oversized(TOO_LARGE)
        }
        PluginSourceError::Unsupported(_) => {
            tracing::info!(plugin.source = %reference, %error, "plugin refused");
            Error::unprocessable(UNSUPPORTED)
        }
        PluginSourceError::TimedOut(_) => Error::gateway_timeout(text, error),
        _ => Error::bad_gateway(text, error),
    };
    refused.with("source", reference.to_string())
}

/// The error for a deadline that was hit while a source worked.
pub(in crate::plugins) fn fetch_timed_out(reference: &SourceRef) -> Error {
    let deadline = PluginSourceError::TimedOut("the deadline of the request".to_owned());
    fetch_failed(reference, deadline)
}

/// The error for a tree that cannot be used.
pub(super) fn tree_refused(reference: &SourceRef, error: TreeError) -> Error {
    let refused = match error {
        TreeError::TooLarge(what) => Error::oversized(TOO_LARGE).with("detail", what),
        TreeError::Unsupported { path, what } => Error::unprocessable(UNSUPPORTED)
            .with("detail", what)
            .with("path", path),
        TreeError::Name { path, what } => Error::unprocessable(BAD_NAME)
            .with("detail", what)
            .with("path", path),
        other => Error::internal(INSTALL_FAILED, other),
    };
    refused.with("source", reference.to_string())
}
