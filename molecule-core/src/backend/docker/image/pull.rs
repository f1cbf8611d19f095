//! Pulling an image through the daemon.

use std::sync::Arc;
use std::time::Duration;

use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::{FutureExt, StreamExt};
use tokio::time::{Instant, timeout};

use super::super::Inner;
use super::super::daemon::CallError;
use super::credentials;
use super::flights::{Patience, Pulled, Steps};
use super::layers::Layers;
use super::platform::Platform;
use super::reference::Reference;
use crate::backend::{ImageDigest, Progress};

/// A pull without a sign of life for this long has died. Shorter than a provision may
/// be quiet by default: it is to end with what the pull has to say.
const QUIET: Duration = Duration::from_secs(180);
/// A registry keeps nobody waiting for long who could do with an older copy.
pub(super) const WITH_COPY: Patience = Patience {
    first_sign: Duration::from_secs(10),
    silence: Duration::from_secs(60),
};
/// How often progress is told at most.
const PACE: Duration = Duration::from_secs(1);

/// Pulls `reference`, or waits for whoever does already. Who has `patience` waits no
/// longer than that, whatever the others do.
pub(super) async fn shared(
    inner: &Arc<Inner>,
    reference: &str,
    patience: Option<Patience>,
    progress: &Progress,
) -> Pulled {
    let begin = |steps: Steps| {
        let (inner, reference) = (Arc::clone(inner), reference.to_owned());
        async move { pull(&inner, &reference, &steps).await }.boxed()
    };
    let flights = &inner.images.flights;
    flights.share(reference, patience, progress, begin).await
}

async fn pull(inner: &Inner, reference: &str, steps: &Steps) -> Pulled {
    tracing::info!(image = reference, "pulling image");
    steps.tell(Layers::default().step());
    let bound = Duration::from_secs(inner.config.pull_timeout_secs.max(1));
    let pulled = timeout(bound, drain(inner, reference, steps)).await;
    pulled.unwrap_or(Err(CallError::Timeout))
}

/// Reads what the daemon says to its end: it reports most failures in there.
async fn drain(inner: &Inner, reference: &str, steps: &Steps) -> Pulled {
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
    loop {
        let line = match timeout(QUIET, lines.next()).await {
            Ok(Some(line)) => line?,
            Ok(None) => return Ok(digest),
            Err(_) => return Err(CallError::Timeout),
        };
        steps.sign();
        // The library recognises an error only when it has a text.
        if line.error_detail.is_some() {
            return Err(CallError::Broken("the pull failed".to_owned()));
        }
        layers.note(&line);
        if let Some(found) = line.status.as_deref().and_then(told_digest) {
            digest = Some(found);
        }
        if told.is_none_or(|told| told.elapsed() >= PACE) {
            steps.tell(layers.step());
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
