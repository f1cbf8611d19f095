//! Pulling an image through the daemon.

use std::sync::Arc;
use std::time::Duration;

use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, timeout};

use super::super::Inner;
use super::super::daemon::CallError;
use super::credentials;
use super::flights::{Pulled, Steps};
use super::layers::Layers;
use super::platform::Platform;
use super::reference::Reference;
use crate::backend::{ImageDigest, Progress};

/// A pull without a sign of life for this long has died.
const QUIET: Duration = Duration::from_secs(240);
/// A registry that has not answered after this time keeps nobody waiting who could
/// do with an older copy.
const PATIENCE_WITH_COPY: Duration = Duration::from_secs(10);
/// How often progress is told at most.
const PACE: Duration = Duration::from_secs(1);

/// Pulls `reference`, or waits for whoever does already. `has_copy` means that the
/// image is there and a registry that does not answer is no disaster.
pub(super) async fn shared(
    inner: &Arc<Inner>,
    reference: &str,
    has_copy: bool,
    progress: &Progress,
) -> Pulled {
    let first_sign = if has_copy { PATIENCE_WITH_COPY } else { QUIET };
    let begin = |steps: Steps| {
        let (inner, reference) = (Arc::clone(inner), reference.to_owned());
        async move { pull(&inner, &reference, first_sign, &steps).await }.boxed()
    };
    inner.images.flights.share(reference, progress, begin).await
}

async fn pull(inner: &Inner, reference: &str, first_sign: Duration, steps: &Steps) -> Pulled {
    tracing::info!(image = reference, "pulling image");
    steps.send_replace(Some(Layers::default().step()));
    let bound = Duration::from_secs(inner.config.pull_timeout_secs.max(1));
    let pulled = timeout(bound, drain(inner, reference, first_sign, steps)).await;
    pulled.unwrap_or(Err(CallError::Timeout))
}

/// Reads what the daemon says to its end: it reports most failures in there.
async fn drain(inner: &Inner, reference: &str, first_sign: Duration, steps: &Steps) -> Pulled {
    let client = inner.daemon.client().await?;
    let platform = Platform::of(&inner.config).map(|platform| platform.to_string());
    let options = CreateImageOptionsBuilder::default()
        .from_image(reference)
        .platform(platform.as_deref().unwrap_or_default())
        .build();
    let host = Reference::parse(reference).host();
    let account = credentials::for_host(&inner.config, &host);
    let mut lines = client.create_image(Some(options), None, account);

    let (mut layers, mut digest) = (Layers::default(), None);
    let mut told: Option<Instant> = None;
    let mut quiet = first_sign;
    loop {
        let line = match timeout(quiet, lines.next()).await {
            Ok(Some(line)) => line?,
            Ok(None) => return Ok(digest),
            Err(_) => return Err(CallError::Timeout),
        };
        quiet = QUIET;
        // The library recognises an error only when it has a text.
        if line.error_detail.is_some() {
            return Err(CallError::Broken("the pull failed".to_owned()));
        }
        layers.note(&line);
        if let Some(found) = line.status.as_deref().and_then(told_digest) {
            digest = Some(found);
        }
        if told.is_none_or(|told| told.elapsed() >= PACE) {
            steps.send_replace(Some(layers.step()));
            told = Some(Instant::now());
        }
    }
}

/// The digest in the line with which the daemon ends a pull.
fn told_digest(status: &str) -> Option<ImageDigest> {
    ImageDigest::parse(status.strip_prefix("Digest: ")?.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_digest_is_taken_from_the_last_lines() {
        let hex = "ab".repeat(32);
        let found = told_digest(&format!("Digest: sha256:{hex}")).unwrap();
        assert_eq!(found.as_str(), format!("sha256:{hex}"));
        for other in [
            "Digest: sha256:ab",
            "Status: Image is up to date",
            "",
            "Digest:",
        ] {
            assert!(told_digest(other).is_none(), "{other}");
        }
    }
}
