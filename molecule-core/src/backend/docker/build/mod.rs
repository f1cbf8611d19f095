//! Building images of runtimes on this machine.

use tokio_util::sync::CancellationToken;

use super::Inner;
use crate::backend::{BackendError, ObtainedImage, Progress};

/// Makes sure that the image of `runtime` is there, built from the newest commit of
/// its repository.
///
/// # Errors
/// [`BackendError`] when there is no usable image.
pub(in crate::backend::docker) async fn ensure(
    _inner: &Inner,
    _runtime: &str,
    _progress: &Progress,
    _cancel: &CancellationToken,
) -> Result<ObtainedImage, BackendError> {
    Err(BackendError::Failed {
        operation: "build image",
        reason: "this version builds no images; configure a registry".to_owned(),
    })
}
