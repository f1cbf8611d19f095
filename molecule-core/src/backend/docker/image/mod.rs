//! Which image a workspace runs, and getting it onto the daemon.

mod choose;
mod credentials;
mod flights;
mod layers;
mod platform;
mod pull;
mod reference;
mod stale;
mod users;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::models::ImageInspect;
use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use self::choose::Choice;
use self::flights::{Flights, Patience};
use self::platform::Platform;
pub(in crate::backend::docker) use self::reference::Reference;
use self::stale::Stale;
use super::daemon::CallError;
use super::{DockerBackend, Inner, build};
use crate::backend::scrub::Scrubber;
use crate::backend::{
    BackendError, ImageDigest, ImageRequest, ImageUser, Images, ObtainedImage, Progress,
};
use crate::config::backend::DockerConfig;

const FIND: &str = "find image";
const PULL: &str = "pull image";
/// What the registry gets to say which content it has.
const LATEST_BOUND: Duration = Duration::from_secs(10);
/// How many failed pulls are tried again at once.
const RETRIES_AT_ONCE: usize = 4;

/// What is remembered about images.
pub(super) struct State {
    flights: Flights,
    stale: Stale,
    scrub: Scrubber,
}

impl State {
    pub(super) fn new(config: &DockerConfig) -> Self {
        Self {
            flights: Flights::default(),
            stale: Stale::default(),
            scrub: Scrubber::knowing(&credentials::secrets(config)),
        }
    }
}

/// The reference that a request leads to; nothing is looked up.
pub(super) fn reference(
    config: &DockerConfig,
    request: &ImageRequest,
) -> Result<String, BackendError> {
    choose::reference(config, request)
}

/// Makes sure that the image is there; see [`Images::obtain`].
pub(super) async fn obtain(
    inner: &Arc<Inner>,
    request: &ImageRequest,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<ObtainedImage, BackendError> {
    match choose::choose(&inner.config, request)? {
        Choice::Build => build::ensure(inner, &request.runtime, progress, cancel).await,
        Choice::Reference(reference) => {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(BackendError::Cancelled),
                obtained = look_or_pull(inner, &request.runtime, reference, progress) => obtained,
            }
        }
    }
}

/// The platform that a container of this image is created for; none when the daemon
/// may choose. What is built here is made for a platform of its own.
pub(super) fn platform(
    config: &DockerConfig,
    request: &ImageRequest,
) -> Result<Option<String>, BackendError> {
    platform_on(platform::IS_APPLE_SILICON, config, request)
}

fn platform_on(
    apple_silicon: bool,
    config: &DockerConfig,
    request: &ImageRequest,
) -> Result<Option<String>, BackendError> {
    Ok(match choose::choose(config, request)? {
        Choice::Build => build::platform(config).map(str::to_owned),
        Choice::Reference(_) => {
            Platform::on(apple_silicon, config).map(|platform| platform.to_string())
        }
    })
}

/// An image that was obtained earlier, as the daemon has it now; none when it is gone.
pub(super) async fn still_there(
    inner: &Inner,
    given: &ObtainedImage,
) -> Result<Option<ObtainedImage>, BackendError> {
    let found = look(inner, &given.reference).await?;
    Ok(found.map(|image| {
        let told = given.digest.clone();
        // One that never was in a registry has no name there now.
        let digest = told.and_then(|told| digest(&given.reference, &image, Some(told)));
        ObtainedImage {
            digest,
            ..given.clone()
        }
    }))
}

async fn look_or_pull(
    inner: &Arc<Inner>,
    runtime: &str,
    reference: String,
    progress: &Progress,
) -> Result<ObtainedImage, BackendError> {
    let stale = &inner.images.stale;
    let moving = Reference::parse(&reference).is_moving();
    let platform = Platform::of(&inner.config);
    let fits = |image: &ImageInspect| platform.as_ref().is_none_or(|wanted| wanted.fits(image));

    let copy = look(inner, &reference).await?.filter(fits);
    if let Some(copy) = &copy {
        let rests = moving && stale.rests(&reference, runtime);
        if !moving || rests {
            return Ok(obtained(reference, copy, None, rests));
        }
    }
    let patience = copy.as_ref().map(|_| pull::WITH_COPY);
    let pulled = pull::shared(inner, &reference, patience, progress).await;
    // A pull can report an error and still have brought the image, or end well and
    // have brought another one.
    let Some(image) = look(inner, &reference).await? else {
        let nothing = || CallError::Broken("the pull brought no image".to_owned());
        let cause = pulled.err().unwrap_or_else(nothing);
        let scrub = &inner.images.scrub;
        return Err(missing(&reference, runtime, &cause, scrub));
    };
    if let Some(wanted) = platform.as_ref().filter(|wanted| !wanted.fits(&image)) {
        let reason = match pulled {
            Err(cause) => format!(
                " and could not be pulled: {}",
                cause.text(&inner.images.scrub)
            ),
            Ok(_) => String::new(),
        };
        return Err(BackendError::Failed {
            operation: FIND,
            reason: format!(
                "docker image \"{reference}\" is for {} and not for {wanted}{reason}",
                platform::of_image(&image)
            ),
        });
    }
    match pulled {
        Ok(told) => {
            stale.succeeded(&reference, image.id.as_deref());
            Ok(obtained(reference, &image, told, false))
        }
        Err(error) => {
            tracing::warn!(
                image = %reference,
                error = error.text(&inner.images.scrub),
                "the image could not be pulled; using the copy that is there"
            );
            if moving {
                stale.failed(&reference, Some(runtime), image.id.as_deref());
            }
            Ok(obtained(reference, &image, None, moving))
        }
    }
}

/// What the daemon has under `reference`.
async fn look(inner: &Inner, reference: &str) -> Result<Option<ImageInspect>, BackendError> {
    let found = inner
        .daemon
        .call(|client| client.inspect_image(reference))
        .await;
    match found {
        Ok(image) => Ok(Some(image)),
        Err(error) if error.is_image_missing() => Ok(None),
        Err(error) => Err(error.into_backend(FIND, &inner.images.scrub)),
    }
}

fn obtained(
    reference: String,
    image: &ImageInspect,
    told: Option<ImageDigest>,
    stale: bool,
) -> ObtainedImage {
    ObtainedImage {
        digest: digest(&reference, image, told),
        reference,
        stale,
    }
}

/// The content of an image as the registry of `reference` names it. One image can
/// have several such names; `told` is the one that a pull ended with.
fn digest(reference: &str, image: &ImageInspect, told: Option<ImageDigest>) -> Option<ImageDigest> {
    let reference = Reference::parse(reference);
    let wanted = reference.digest().and_then(ImageDigest::parse).or(told);
    let mut known = image
        .repo_digests
        .iter()
        .flatten()
        .map(|known| Reference::parse(known))
        .filter(|known| known.is_of_same_repository(&reference))
        .filter_map(|known| ImageDigest::parse(known.digest()?))
        .peekable();
    let first = known.peek().cloned();
    known.find(|known| Some(known) == wanted.as_ref()).or(first)
}

/// The error of a start whose image is not there.
pub(super) fn missing(
    image: &str,
    runtime: &str,
    cause: &CallError,
    scrub: &Scrubber,
) -> BackendError {
    BackendError::Failed {
        operation: FIND,
        reason: format!(
            "docker image \"{image}\" not found after pull attempt — verify GHCR visibility for \
             {runtime} and that the tenant has internet access (underlying error: {})",
            cause.text(scrub)
        ),
    }
}

/// The reference that a registry may have for a runtime.
fn in_registry(config: &DockerConfig, runtime: &str) -> Result<String, BackendError> {
    let request = ImageRequest {
        runtime: runtime.to_owned(),
        pin: None,
    };
    match choose::choose(config, &request)? {
        Choice::Reference(reference) => Ok(reference),
        Choice::Build => Err(BackendError::Failed {
            operation: PULL,
            reason: "the image is built on this machine and in no registry".to_owned(),
        }),
    }
}

/// Pulls an image and answers with what is there then.
async fn pull_again(
    inner: &Arc<Inner>,
    reference: String,
    patience: Option<Patience>,
) -> Result<ObtainedImage, BackendError> {
    let scrub = &inner.images.scrub;
    let pulled = pull::shared(inner, &reference, patience, &Progress::none()).await;
    let told = pulled.map_err(|error| error.into_backend(PULL, scrub))?;
    let image = look(inner, &reference).await?.ok_or_else(|| {
        let nothing = CallError::Broken("the pull brought no image".to_owned());
        nothing.into_backend(PULL, scrub)
    })?;
    inner
        .images
        .stale
        .succeeded(&reference, image.id.as_deref());
    Ok(obtained(reference, &image, told, false))
}

impl DockerBackend {
    /// Ends work on images with its caller and with the backend.
    async fn while_open<T>(
        &self,
        cancel: &CancellationToken,
        work: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(BackendError::Cancelled),
            () = self.inner.tasks.closing().cancelled() => Err(BackendError::Cancelled),
            done = work => done,
        }
    }
}

#[async_trait]
impl Images for DockerBackend {
    fn builds_locally(&self) -> bool {
        choose::builds_locally(&self.inner.config)
    }

    fn reference(&self, request: &ImageRequest) -> Result<String, BackendError> {
        reference(&self.inner.config, request)
    }

    async fn obtain(
        &self,
        request: &ImageRequest,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<ObtainedImage, BackendError> {
        // A build takes back what it began, so it is told and not dropped.
        let token = self.inner.tasks.closing().child_token();
        let _guard = token.clone().drop_guard();
        let mut work = std::pin::pin!(obtain(&self.inner, request, progress, &token));
        tokio::select! {
            biased;
            obtained = &mut work => obtained,
            () = cancel.cancelled() => {
                token.cancel();
                work.await
            }
        }
    }

    async fn refresh(
        &self,
        runtime: &str,
        cancel: &CancellationToken,
    ) -> Result<ObtainedImage, BackendError> {
        let reference = in_registry(&self.inner.config, runtime)?;
        self.while_open(cancel, pull_again(&self.inner, reference, None))
            .await
    }

    async fn latest(&self, runtime: &str) -> Result<ImageDigest, BackendError> {
        const OPERATION: &str = "ask registry";
        let inner = &self.inner;
        let reference = in_registry(&inner.config, runtime)?;
        let account = credentials::for_host(&inner.config, &Reference::parse(&reference).host());
        let found = inner
            .daemon
            .call_within(LATEST_BOUND, |client| {
                client.inspect_registry_image(&reference, account)
            })
            .await
            .map_err(|error| error.into_backend(OPERATION, &inner.images.scrub))?;
        let digest = found.descriptor.digest.as_deref();
        digest
            .and_then(ImageDigest::parse)
            .ok_or_else(|| BackendError::Failed {
                operation: OPERATION,
                reason: "the registry named no digest".to_owned(),
            })
    }

    async fn users_of(&self, runtime: &str) -> Result<Vec<ImageUser>, BackendError> {
        let request = ImageRequest {
            runtime: runtime.to_owned(),
            pin: None,
        };
        let reference = reference(&self.inner.config, &request)?;
        users::of_repository(&self.inner, &reference)
            .await
            .map_err(|error| error.into_backend("list users of image", &self.inner.images.scrub))
    }

    async fn retry_stale(&self, cancel: &CancellationToken) -> Vec<String> {
        let stale = &self.inner.images.stale;
        let retries = futures_util::stream::iter(stale.references()).for_each_concurrent(
            RETRIES_AT_ONCE,
            |reference| async move {
                let patience = Some(pull::WITH_COPY);
                if let Err(error) = pull_again(&self.inner, reference.clone(), patience).await {
                    tracing::debug!(image = %reference, %error, "the image still cannot be pulled");
                    stale.failed(&reference, None, None);
                }
            },
        );
        let retries = async {
            retries.await;
            Ok(())
        };
        // Whatever was brought before a cancellation counts.
        let _ = self.while_open(cancel, retries).await;
        stale.take_renewed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(digests: &[String]) -> ImageInspect {
        ImageInspect {
            repo_digests: Some(digests.to_vec()),
            ..ImageInspect::default()
        }
    }

    fn sha(letter: &str) -> String {
        format!("sha256:{}", letter.repeat(64))
    }

    #[test]
    fn the_digest_is_the_one_of_the_references_own_repository() {
        let (a, b, c) = (sha("a"), sha("b"), sha("c"));
        let image = image(&[
            format!("ghcr.io/acme/other@{c}"),
            format!("ghcr.io/acme/agent@{a}"),
            format!("ghcr.io/acme/agent@{b}"),
        ]);
        let found = |reference: &str, told: Option<&String>| {
            let told = told.and_then(|told| ImageDigest::parse(told));
            digest(reference, &image, told).map(|digest| digest.to_string())
        };
        assert_eq!(found("ghcr.io/acme/agent:1", None), Some(a.clone()));
        assert_eq!(found("ghcr.io/acme/agent:1", Some(&b)), Some(b.clone()));
        assert_eq!(found("ghcr.io/acme/agent:1", Some(&c)), Some(a.clone()));
        assert_eq!(found(&format!("ghcr.io/acme/agent@{b}"), None), Some(b));
        assert_eq!(found("ghcr.io/acme/agent-2:1", Some(&a)), None);
        assert_eq!(digest("agent:1", &ImageInspect::default(), None), None);
    }

    #[test]
    fn a_container_has_the_platform_that_its_image_was_made_for() {
        let config = |platform: Option<&str>| DockerConfig {
            image_platform: platform.map(str::to_owned),
            images: [("own".to_owned(), "r.acme.com/own:1".to_owned())].into(),
            ..DockerConfig::default()
        };
        let of = |runtime: &str, apple_silicon, configured| {
            let request = ImageRequest {
                runtime: runtime.to_owned(),
                pin: None,
            };
            platform_on(apple_silicon, &config(configured), &request).unwrap()
        };
        let amd = Some("linux/amd64".to_owned());
        // Built by the daemon for itself
        assert_eq!(of("codex", true, None), None);
        assert_eq!(of("codex", false, None), None);
        // Taken from a registry
        assert_eq!(of("own", true, None), amd);
        assert_eq!(of("own", false, None), None);
        for runtime in ["codex", "own"] {
            assert_eq!(of(runtime, true, Some("linux/amd64")), amd);
            assert_eq!(of(runtime, true, Some("")), None);
        }
    }

    #[test]
    fn the_text_about_a_missing_image_is_the_contracts() {
        let cause = CallError::Status(404, "manifest unknown; password hunter2-hunter2".to_owned());
        let scrub = Scrubber::knowing(&["hunter2-hunter2".to_owned()]);
        let error = missing("r.acme.com/a:1", "hermes", &cause, &scrub).to_string();
        let expected = "docker image \"r.acme.com/a:1\" not found after pull attempt — verify GHCR \
                        visibility for hermes and that the tenant has internet access (underlying \
                        error: status 404: manifest unknown";
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
