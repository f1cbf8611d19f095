//! Which image a workspace runs, and getting it onto the daemon.

use std::time::Duration;

use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;

use super::daemon::{CallError, Daemon};
use crate::backend::scrub::Scrubber;
use crate::backend::{BackendError, KNOWN_RUNTIMES};
use crate::config::backend::DockerConfig;

/// Where the images are that were published with the runtimes.
const DEFAULT_PREFIX: &str = "ghcr.io/molecule-ai";

const OPERATION: &str = "choose image";

/// The image of `runtime`: the operator's own choice, else the default below the
/// prefix.
pub(super) fn reference(config: &DockerConfig, runtime: &str) -> Result<String, BackendError> {
    let refuse = |reason: String| {
        Err(BackendError::Failed {
            operation: OPERATION,
            reason,
        })
    };
    if runtime.is_empty() {
        return refuse("the workspace names no runtime".to_owned());
    }
    if let Some(image) = config.images.get(runtime) {
        if image.is_empty() {
            return refuse(format!(
                "the image configured for runtime {runtime:?} is empty"
            ));
        }
        return Ok(with_tag(image));
    }
    if !KNOWN_RUNTIMES.contains(&runtime) {
        let runtime: String = runtime.chars().take(64).collect();
        return refuse(format!(
            "no image for runtime {runtime:?}: it is none of [{}] and \
             backend.docker.images does not name it",
            KNOWN_RUNTIMES.join(", ")
        ));
    }
    let prefix = config.registry_prefix().unwrap_or(DEFAULT_PREFIX);
    Ok(format!("{prefix}/workspace-template-{runtime}:latest"))
}

/// Without a tag, a pull would fetch every tag there is.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

/// What came of looking for an image.
pub(super) enum Image {
    /// The daemon has it.
    Present,
    /// It has not, and the pull did not help.
    Missing(CallError),
}

/// Makes sure that the daemon has `image`, pulling it when it is missing.
pub(super) async fn ensure(
    daemon: &Daemon,
    image: &str,
    pull_timeout: Duration,
) -> Result<Image, CallError> {
    match daemon.call(|client| client.inspect_image(image)).await {
        Ok(_) => return Ok(Image::Present),
        Err(error) if error.is_image_missing() => {}
        Err(error) => return Err(error),
    }
    tracing::info!(image, "pulling image");
    let pulled = pull(daemon, image, pull_timeout).await;
    // A pull can report an error and still have brought the image, or end well
    // and have brought another one.
    match daemon.call(|client| client.inspect_image(image)).await {
        Ok(_) => Ok(Image::Present),
        Err(error) if error.is_image_missing() => Ok(Image::Missing(pulled.err().unwrap_or(error))),
        Err(error) => Err(error),
    }
}

async fn pull(daemon: &Daemon, image: &str, bound: Duration) -> Result<(), CallError> {
    let options = CreateImageOptionsBuilder::default()
        .from_image(image)
        .build();
    daemon
        .call_within(bound, |client| async move {
            let mut progress = client.create_image(Some(options), None, None);
            while let Some(step) = progress.next().await {
                step?;
            }
            Ok(())
        })
        .await
}

/// The error of a start whose image is not there.
pub(super) fn missing(
    image: &str,
    runtime: &str,
    cause: &CallError,
    scrub: &Scrubber,
) -> BackendError {
    BackendError::Failed {
        operation: "find image",
        reason: format!(
            "docker image \"{image}\" not found after pull attempt — verify GHCR visibility for \
             {runtime} and that the tenant has internet access (underlying error: {})",
            cause.text(scrub)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(images: &[(&str, &str)]) -> DockerConfig {
        DockerConfig {
            images: images
                .iter()
                .map(|(runtime, image)| ((*runtime).to_owned(), (*image).to_owned()))
                .collect(),
            ..DockerConfig::default()
        }
    }

    #[test]
    fn an_operators_image_wins_over_the_default_one() {
        let config = config(&[
            ("langgraph", "local/agent"),
            ("own", "host:5000/own@sha256:ab"),
        ]);
        assert_eq!(
            reference(&config, "langgraph").unwrap(),
            "local/agent:latest"
        );
        assert_eq!(
            reference(&config, "own").unwrap(),
            "host:5000/own@sha256:ab"
        );
        assert_eq!(
            reference(&config, "codex").unwrap(),
            "ghcr.io/molecule-ai/workspace-template-codex:latest"
        );
    }

    #[test]
    fn a_tag_is_added_only_where_there_is_none() {
        assert_eq!(with_tag("localhost:5000/r"), "localhost:5000/r:latest");
        assert_eq!(with_tag("localhost:5000/r:1"), "localhost:5000/r:1");
    }

    #[test]
    fn a_runtime_without_image_says_so() {
        let error = reference(&config(&[]), "cobol").unwrap_err();
        assert!(
            error.to_string().contains("no image for runtime \"cobol\""),
            "{error}"
        );
        let error = reference(&config(&[]), "").unwrap_err();
        assert!(error.to_string().contains("names no runtime"), "{error}");
    }
}
