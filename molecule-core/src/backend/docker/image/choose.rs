//! Which image a runtime runs: a pin, the operator's own choice, one built here, one
//! of the registry.

use super::super::build;
use super::reference::Reference;
use crate::backend::{BackendError, ImageRequest, KNOWN_RUNTIMES};
use crate::config::backend::DockerConfig;

/// Where the images are that were published with the runtimes.
const PUBLIC_PREFIX: &str = "ghcr.io/molecule-ai";
/// Where images built on this machine are. No registry has that name.
const LOCAL_PREFIX: &str = "molecule-local";
/// What a workspace runs that names no runtime.
const DEFAULT_RUNTIME: &str = "langgraph";

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// A registry, or the daemon has it already.
    Reference(String),
    /// It is built on this machine.
    Build,
}

/// True when images that nobody named otherwise are built on this machine.
pub(super) fn builds_locally(config: &DockerConfig) -> bool {
    config.registry_prefix().is_none()
}

/// Looks nothing up.
pub(super) fn choose(
    config: &DockerConfig,
    request: &ImageRequest,
) -> Result<Choice, BackendError> {
    let runtime = known(config, &request.runtime)?;
    let configured = match config.images.get(runtime) {
        Some(image) => Some(checked(runtime, image)?),
        None => None,
    };
    if let Some(pin) = &request.pin {
        let image = configured.unwrap_or_else(|| published(config, runtime));
        let repository = Reference::parse(&image).name();
        return Ok(Choice::Reference(format!("{repository}@{pin}")));
    }
    match configured {
        Some(image) => Ok(Choice::Reference(image)),
        None if builds_locally(config) => Ok(Choice::Build),
        None => Ok(Choice::Reference(published(config, runtime))),
    }
}

/// The reference that a request leads to.
pub(super) fn reference(
    config: &DockerConfig,
    request: &ImageRequest,
) -> Result<String, BackendError> {
    match choose(config, request)? {
        Choice::Reference(reference) => Ok(reference),
        Choice::Build => Ok(format!(
            "{LOCAL_PREFIX}/workspace-template-{}:latest",
            request.runtime
        )),
    }
}

/// The runtime that is meant, if there is an image for it.
fn known<'a>(config: &DockerConfig, runtime: &'a str) -> Result<&'a str, BackendError> {
    if runtime.is_empty() {
        // What would be built is decided by the name of the runtime.
        return if builds_locally(config) {
            refuse("the workspace names no runtime".to_owned())
        } else {
            Ok(DEFAULT_RUNTIME)
        };
    }
    if config.images.contains_key(runtime) || KNOWN_RUNTIMES.contains(&runtime) {
        return Ok(runtime);
    }
    if builds_locally(config) {
        return Err(build::refusal(runtime));
    }
    let runtime: String = runtime.chars().take(64).collect();
    refuse(format!(
        "no image for runtime {runtime:?}: it is none of [{}] and backend.docker.images does not \
         name it",
        KNOWN_RUNTIMES.join(", ")
    ))
}

/// The image that was published for a known runtime.
fn published(config: &DockerConfig, runtime: &str) -> String {
    let prefix = config.registry_prefix().unwrap_or(PUBLIC_PREFIX);
    format!("{prefix}/workspace-template-{runtime}:latest")
}

fn checked(runtime: &str, image: &str) -> Result<String, BackendError> {
    let tagged = Reference::parse(image.trim()).with_tag();
    if image.trim().is_empty() {
        refuse(format!(
            "the image configured for runtime {runtime:?} is empty"
        ))
    } else if !Reference::parse(&tagged).is_plausible() {
        refuse(format!(
            "the image configured for runtime {runtime:?} is no reference; write one such as \
             registry.example.org/agent:1.2.3"
        ))
    } else {
        Ok(tagged)
    }
}

fn refuse<T>(reason: String) -> Result<T, BackendError> {
    Err(BackendError::Failed {
        operation: "choose image",
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ImageDigest;

    fn config(registry: Option<&str>, images: &[(&str, &str)]) -> DockerConfig {
        DockerConfig {
            image_registry: registry.map(str::to_owned),
            images: images
                .iter()
                .map(|(runtime, image)| ((*runtime).to_owned(), (*image).to_owned()))
                .collect(),
            ..DockerConfig::default()
        }
    }

    fn of(runtime: &str) -> ImageRequest {
        ImageRequest {
            runtime: runtime.to_owned(),
            pin: None,
        }
    }

    fn digest() -> String {
        format!("sha256:{}", "ab".repeat(32))
    }

    fn pinned(runtime: &str) -> ImageRequest {
        ImageRequest {
            pin: ImageDigest::parse(&digest()),
            ..of(runtime)
        }
    }

    #[track_caller]
    fn leads_to(config: &DockerConfig, request: &ImageRequest, expected: &str) {
        let choice = choose(config, request).unwrap();
        assert_eq!(choice, Choice::Reference(expected.to_owned()));
        assert_eq!(reference(config, request).unwrap(), expected);
    }

    #[track_caller]
    fn fails_with(config: &DockerConfig, request: &ImageRequest, expected: &str) {
        let error = choose(config, request).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn a_pin_wins_over_everything_and_keeps_the_repository() {
        let digest = digest();
        let own = [("hermes", "localhost:5000/own/hermes:1.2")];
        for config in [config(None, &own), config(Some("r.acme.com/x"), &own)] {
            let expected = format!("localhost:5000/own/hermes@{digest}");
            leads_to(&config, &pinned("hermes"), &expected);
        }
        let expected = format!("r.acme.com/x/workspace-template-codex@{digest}");
        leads_to(
            &config(Some("r.acme.com/x/"), &[]),
            &pinned("codex"),
            &expected,
        );
        // Without a registry there is only the public one that can have it
        let expected = format!("ghcr.io/molecule-ai/workspace-template-codex@{digest}");
        leads_to(&config(None, &[]), &pinned("codex"), &expected);
        // An older pin in the operator's own reference goes
        let own = [("own", "r.acme.com/own:2@sha256:00")];
        let expected = format!("r.acme.com/own@{digest}");
        leads_to(&config(None, &own), &pinned("own"), &expected);
    }

    #[test]
    fn the_operators_image_wins_over_build_and_registry() {
        let own = [
            ("langgraph", "local/agent"),
            ("own", "host:5000/own@sha256:ab"),
        ];
        for config in [config(None, &own), config(Some("r.acme.com"), &own)] {
            leads_to(&config, &of("langgraph"), "local/agent:latest");
            leads_to(&config, &of("own"), "host:5000/own@sha256:ab");
        }
    }

    #[test]
    fn without_a_registry_images_are_built() {
        for registry in [None, Some(""), Some("/")] {
            let config = config(registry, &[]);
            assert!(builds_locally(&config));
            for runtime in KNOWN_RUNTIMES {
                assert_eq!(choose(&config, &of(runtime)).unwrap(), Choice::Build);
            }
            assert_eq!(
                reference(&config, &of("codex")).unwrap(),
                "molecule-local/workspace-template-codex:latest"
            );
        }
    }

    #[test]
    fn a_registry_has_an_image_for_every_known_runtime() {
        let config = config(Some("123.dkr.ecr.aws.com/molecule-ai"), &[]);
        assert!(!builds_locally(&config));
        for runtime in KNOWN_RUNTIMES {
            let prefix = "123.dkr.ecr.aws.com/molecule-ai/workspace-template-";
            leads_to(&config, &of(runtime), &format!("{prefix}{runtime}:latest"));
        }
    }

    #[test]
    fn no_runtime_means_the_default_one_where_a_registry_has_it() {
        let registry = config(Some("r.acme.com"), &[]);
        leads_to(
            &registry,
            &of(""),
            "r.acme.com/workspace-template-langgraph:latest",
        );
        let own = config(Some("r.acme.com"), &[("langgraph", "own:1")]);
        leads_to(&own, &of(""), "own:1");
        for local in [config(None, &[]), config(None, &[("langgraph", "own:1")])] {
            fails_with(&local, &of(""), "names no runtime");
        }
    }

    #[test]
    fn a_runtime_without_image_says_so() {
        let registry = config(Some("r.acme.com"), &[]);
        fails_with(&registry, &of("cobol"), "no image for runtime \"cobol\"");
        fails_with(
            &registry,
            &pinned("cobol"),
            "no image for runtime \"cobol\"",
        );
        fails_with(&registry, &of("../../x"), "no image for runtime");
        // Where images are built, the text is the one of the build
        let local = config(None, &[("own", "own:1")]);
        for request in [of("cobol"), pinned("cobol")] {
            let expected = "local-build mode: ensure image for runtime \"cobol\": local-build: \
                            refusing to build unknown runtime \"cobol\" (must be one of [autogen, ";
            fails_with(&local, &request, expected);
        }
        leads_to(&local, &of("own"), "own:1");
    }

    #[test]
    fn an_unusable_image_of_the_operator_is_named_and_not_shown() {
        let bad = [
            ("a", ""),
            ("b", "https://user:hunter2@ghcr.io/b"),
            ("c", "  "),
        ];
        let config = config(Some("r.acme.com"), &bad);
        fails_with(&config, &of("a"), "configured for runtime \"a\" is empty");
        fails_with(&config, &of("c"), "configured for runtime \"c\" is empty");
        fails_with(
            &config,
            &of("b"),
            "configured for runtime \"b\" is no reference",
        );
        let error = choose(&config, &of("b")).unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }
}
