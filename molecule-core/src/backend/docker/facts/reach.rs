//! Whether images can be had: their registries, or what building them needs.
//!
//! Asked from this machine, which may see another network than the daemon's.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::StatusCode;
use reqwest::redirect::Policy;
use url::{Host, Url};

use super::super::{Inner, build};
use super::{bad, doubtful, good};
use crate::backend::{Fact, FactLevel, KNOWN_RUNTIMES};
use crate::config::backend::DockerConfig;

const TIMEOUT: Duration = Duration::from_secs(5);
/// Registries that are asked.
const MOST: usize = 8;
/// What references without a host mean.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// Facts about everything that the configuration takes images from. Sends no
/// credentials.
pub(super) async fn facts(inner: &Inner) -> Vec<Fact> {
    let config = &inner.config;
    let mut hosts: BTreeSet<String> = (config.images.values())
        .filter_map(|image| host_of(image))
        .collect();
    let prefix = config.registry_prefix();
    hosts.extend(prefix.map(|prefix| host_of(prefix).unwrap_or_else(|| DOCKER_HUB.to_owned())));
    let mut found = join_all(hosts.iter().take(MOST).map(|host| registry(host))).await;
    let are_all_named = KNOWN_RUNTIMES
        .iter()
        .all(|runtime| config.images.contains_key(*runtime));
    if prefix.is_none() && !are_all_named {
        let (git, repositories) = tokio::join!(git(inner), repositories(config));
        found.extend([git, repositories]);
    }
    // Who named images can work without building any.
    if !config.images.is_empty() {
        for fact in &mut found {
            if fact.level == FactLevel::Bad {
                fact.level = FactLevel::Doubtful;
            }
        }
    }
    found
}

/// The host in a reference, when it names one: `registry.acme.com:5000/a/b`.
fn host_of(reference: &str) -> Option<String> {
    let (first, _) = match reference.split_once('/') {
        Some(parts) => parts,
        // A prefix may be nothing but a host.
        None if reference.contains(['.', ':']) && !reference.contains('@') => (reference, ""),
        None => return None,
    };
    let is_host = first.contains(['.', ':']) || first == "localhost";
    is_host.then(|| first.to_owned())
}

async fn registry(host: &str) -> Fact {
    const WHAT: &str = "registry";
    let Some(url) = registry_url(host) else {
        return bad(
            WHAT,
            "the host of an image reference makes no sense",
            "look at backend.docker.image_registry and backend.docker.images",
        );
    };
    match ask(url).await {
        Ok(StatusCode::OK | StatusCode::UNAUTHORIZED) => good(WHAT, format!("{host} answers")),
        Ok(status) => doubtful(
            WHAT,
            format!(
                "{host} answers {} and not as a registry does",
                status.as_u16()
            ),
            "look at backend.docker.image_registry (MOLECULE_IMAGE_REGISTRY)",
        ),
        Err(reason) => doubtful(
            WHAT,
            format!("{host} cannot be reached from this machine: {reason}"),
            "images that the daemon has are used as they are; new ones cannot be pulled",
        ),
    }
}

/// Where a registry answers. As the daemon does, one on this machine is asked
/// without TLS.
fn registry_url(host: &str) -> Option<Url> {
    let url = Url::parse(&format!("https://{host}/v2/")).ok()?;
    let is_local = match url.host()? {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(address) => IpAddr::from(address).is_loopback(),
        Host::Ipv6(address) => IpAddr::from(address).is_loopback(),
    };
    // The parser drops the default port of a scheme, so the scheme comes first.
    let scheme = if is_local { "http" } else { "https" };
    let url = Url::parse(&format!("{scheme}://{host}/v2/")).ok()?;
    (url.username().is_empty() && url.password().is_none() && url.path() == "/v2/").then_some(url)
}

async fn repositories(config: &DockerConfig) -> Fact {
    const WHAT: &str = "repositories";
    const ADVICE: &str = "images are built from there: look at the network, or set \
                          backend.docker.image_registry (MOLECULE_IMAGE_REGISTRY) to pull them";
    let base = Url::parse(&config.local_build.repo_prefix).ok();
    let root = base.as_ref().and_then(|url| {
        let mut root = url.join("/").ok()?;
        // What may stand there is a credential.
        root.set_username("").ok()?;
        root.set_password(None).ok()?;
        matches!(root.scheme(), "http" | "https").then_some(root)
    });
    let Some(root) = root else {
        return bad(
            WHAT,
            "backend.docker.local_build.repo_prefix is no URL",
            ADVICE,
        );
    };
    let host = root.host_str().unwrap_or_default().to_owned();
    match ask(root).await {
        Ok(_) => good(WHAT, format!("{host} answers")),
        Err(reason) => bad(WHAT, format!("{host} cannot be reached: {reason}"), ADVICE),
    }
}

/// The status that a server answers with; else a word that names no address.
async fn ask(url: Url) -> Result<StatusCode, &'static str> {
    let client = reqwest::Client::builder()
        .redirect(Policy::none())
        .connect_timeout(TIMEOUT)
        .timeout(TIMEOUT)
        .build()
        .map_err(|_| "no TLS")?;
    match client.get(url).send().await {
        // The body is nobody's business.
        Ok(response) => Ok(response.status()),
        Err(error) if error.is_timeout() => Err("no answer in time"),
        Err(error) if error.is_connect() => Err("no connection"),
        Err(_) => Err("no answer"),
    }
}

async fn git(inner: &Inner) -> Fact {
    const WHAT: &str = "git";
    const ADVICE: &str = "images are built from repositories: install git on this machine, or set \
                          backend.docker.image_registry (MOLECULE_IMAGE_REGISTRY) to pull them";
    match tokio::time::timeout(TIMEOUT, build::git_version(inner)).await {
        Ok(Ok(version)) => good(WHAT, version.trim().trim_start_matches("git ")),
        Ok(Err(reason)) => bad(WHAT, reason, ADVICE),
        Err(_) => bad(WHAT, "does not end in time", ADVICE),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_reference_names_a_host_or_means_the_hub() {
        for (reference, host) in [
            ("ghcr.io/acme", Some("ghcr.io")),
            ("ghcr.io/acme/agent:1", Some("ghcr.io")),
            ("localhost/agent", Some("localhost")),
            ("127.0.0.1:5000/a/b@sha256:ab", Some("127.0.0.1:5000")),
            ("registry.acme.com:5000", Some("registry.acme.com:5000")),
            ("acme/agent", None),
            ("agent", None),
            ("", None),
        ] {
            assert_eq!(host_of(reference).as_deref(), host, "{reference}");
        }
    }

    #[test]
    fn only_registries_of_this_machine_are_asked_without_tls() {
        for (host, url) in [
            ("ghcr.io", "https://ghcr.io/v2/"),
            ("localhost:5000", "http://localhost:5000/v2/"),
            ("127.0.0.1:443", "http://127.0.0.1:443/v2/"),
            ("127.9.9.9:80", "http://127.9.9.9/v2/"),
            ("[::1]:5000", "http://[::1]:5000/v2/"),
            ("localhost.evil.com", "https://localhost.evil.com/v2/"),
        ] {
            assert_eq!(registry_url(host).unwrap().as_str(), url);
        }
        for bad in ["", "user:word@host", "a b", "a/b", "a?b"] {
            assert!(registry_url(bad).is_none(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_reference_is_asked_with_credentials(host in "\\PC{0,40}") {
            if let Some(url) = registry_url(&host) {
                prop_assert!(url.username().is_empty() && url.password().is_none());
            }
        }
    }
}
