//! The `backend.docker` section.

use std::collections::BTreeMap;
use std::path::PathBuf;

use molecule_hooks::Secret;
use serde::Deserialize;
use url::Url;

use super::backend::{ProcessConfig, non_empty_var};

/// Settings of the Docker backend.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DockerConfig {
    /// `unix:///path` or `tcp://host:port` of the daemon; none means the client
    /// default (`DOCKER_HOST`, else the local socket).
    pub host: Option<String>,
    /// Folder with `ca.pem`, `cert.pem` and `key.pem`; makes a `tcp://` daemon
    /// be spoken to over TLS, and only with a certificate that `ca.pem` vouches
    /// for. None means `DOCKER_CERT_PATH` (else `~/.docker`) when
    /// `DOCKER_TLS_VERIFY` is set, and no TLS otherwise.
    pub tls_dir: Option<PathBuf>,
    /// Bridge network that all workspaces join; created when missing.
    pub network: String,
    /// Prefix of `<prefix>/workspace-template-<runtime>:latest`, for example
    /// `ghcr.io/acme`. Without one, images of runtimes that [`images`](Self::images)
    /// does not name are built on this machine: see [`local_build`](Self::local_build).
    pub image_registry: Option<String>,
    /// Image per runtime; wins over registry and local build. Only a pin wins over it.
    pub images: BTreeMap<String, String>,
    /// `os/architecture` of the images, for example `linux/amd64`. Empty means what
    /// the daemon prefers; none means `linux/amd64` on an ARM Mac and what the daemon
    /// prefers elsewhere.
    pub image_platform: Option<String>,
    /// When not empty, pins of images are ignored: for developers who work on an
    /// image and want the one they built.
    pub image_local_override: Option<String>,
    /// Whether the server looks every five minutes for newer images of the runtimes
    /// and restarts who uses an older one.
    pub image_auto_refresh: bool,
    /// Name and password per registry host, for example `registry.acme.com:5000`.
    pub registries: BTreeMap<String, RegistryCredentials>,
    /// Name for `ghcr.io`; needs [`ghcr_token`](Self::ghcr_token).
    pub ghcr_user: Option<String>,
    /// Token for `ghcr.io`; needs [`ghcr_user`](Self::ghcr_user).
    pub ghcr_token: Option<Secret>,
    /// How images are built on this machine.
    pub local_build: LocalBuildConfig,
    /// Lets workspaces of tier 3 and 4 be what their tier means: privileged, in the
    /// process namespace of the host, and for tier 4 on the network of the host with
    /// the socket of the daemon. Whoever controls such an agent controls the host.
    /// Without this they only get the memory and processors of their tier.
    pub privileged_tiers: bool,
    /// Seconds that one call to the daemon may take (pulls excepted).
    pub timeout_secs: u64,
    /// Seconds that pulling or building an image may take. It is part of a
    /// provisioning, so `workspaces.provision_deadline_secs` bounds it too: a value
    /// above that deadline has no effect.
    pub pull_timeout_secs: u64,
    /// Memory limit in MiB for tiers 2, 3 and 4.
    pub memory_mb: [i64; 3],
    /// CPU shares for tiers 2, 3 and 4; 1024 is one CPU.
    pub cpu_shares: [i64; 3],
}

/// How a registry knows us.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryCredentials {
    /// Name of the account.
    pub username: String,
    /// Its password or token.
    pub password: Secret,
}

/// Building the images of runtimes from their repositories.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalBuildConfig {
    /// URL to which the name of a runtime is added to get its repository:
    /// `https://host/organisation/prefix-`. A token or a password in it is sent over
    /// `https` only, or to this machine itself. A name without a password is a token.
    pub repo_prefix: String,
    /// Token with which private repositories are read.
    pub token: Option<Secret>,
    /// Folder for sources; default `$XDG_CACHE_HOME/molecule/workspace-template-build`,
    /// else the same below `~/.cache`, else below the folder for temporary files. It must
    /// belong to the user of the server, and nobody else may swap what is in it.
    pub cache_dir: Option<PathBuf>,
    /// How many sources and images per runtime are kept, newest first.
    pub keep: usize,
}

impl LocalBuildConfig {
    /// The folder for sources: see [`cache_dir`](Self::cache_dir).
    pub fn source_dir(&self) -> PathBuf {
        const NAME: &str = "molecule/workspace-template-build";
        let cache = || non_empty_var("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || {
            std::env::home_dir()
                .filter(|home| home.is_absolute())
                .map(|home| home.join(".cache"))
        };
        let dir = self.cache_dir.clone();
        dir.or_else(|| Some(cache().or_else(home)?.join(NAME)))
            // One folder, not two: whoever owned the upper one could swap the lower.
            .unwrap_or_else(|| std::env::temp_dir().join(NAME.replace('/', "-")))
    }

    /// Where the git program is looked for: the `PATH` of the server.
    pub fn search_path(&self) -> String {
        ProcessConfig::search_path()
    }

    /// What is wrong with [`repo_prefix`](Self::repo_prefix), to follow its name.
    pub(crate) fn prefix_problem(&self) -> Option<&'static str> {
        let Ok(prefix) = Url::parse(self.repo_prefix.trim()) else {
            return Some("is not a URL");
        };
        if !matches!(prefix.scheme(), "http" | "https") || !prefix.has_host() {
            return Some("must begin with https:// or http://");
        }
        if prefix.query().is_some() || prefix.fragment().is_some() {
            return Some("must end with its path");
        }
        // The name of a runtime completes the last part.
        let parts: Vec<&str> = prefix.path().trim_start_matches('/').split('/').collect();
        match parts.split_last() {
            Some((_, before)) if !before.is_empty() && !before.contains(&"") => None,
            _ => Some(
                "names no organisation and repository: it must be \
                 https://host/organisation/prefix-",
            ),
        }
    }

    /// What is secret in [`repo_prefix`](Self::repo_prefix), as it stands there and
    /// decoded: the password, and the name where a token stands in its place.
    pub(crate) fn prefix_secrets(&self) -> Vec<Secret> {
        let Ok(prefix) = Url::parse(self.repo_prefix.trim()) else {
            return Vec::new();
        };
        let (name, password) = (prefix.username(), prefix.password().unwrap_or_default());
        let secret = match password {
            "" | "x-oauth-basic" => name,
            password => password,
        };
        match secret {
            "" => Vec::new(),
            secret => vec![Secret::new(secret), Secret::new(url_decoded(secret))],
        }
    }

    /// [`repo_prefix`](Self::repo_prefix) without name and password.
    fn shown_prefix(&self) -> String {
        let prefix = &self.repo_prefix;
        match (prefix.find("://"), prefix.rfind('@')) {
            (Some(start), Some(end)) if end > start => {
                format!("{}***{}", &prefix[..start + 3], &prefix[end..])
            }
            _ => prefix.clone(),
        }
    }
}

/// A part of a URL without its percent signs.
pub(crate) fn url_decoded(text: &str) -> String {
    // Unlike in a form, a plus is a plus here.
    let pair = format!("v={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(pair.as_bytes())
        .map(|(_, value)| value.into_owned())
        .next()
        .unwrap_or_default()
}

impl std::fmt::Debug for LocalBuildConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalBuildConfig")
            .field("repo_prefix", &self.shown_prefix())
            .field("token", &self.token)
            .field("cache_dir", &self.cache_dir)
            .field("keep", &self.keep)
            .finish()
    }
}

impl Default for LocalBuildConfig {
    fn default() -> Self {
        Self {
            repo_prefix: "https://git.moleculesai.app/molecule-ai/molecule-ai-workspace-template-"
                .to_owned(),
            token: None,
            cache_dir: None,
            keep: 3,
        }
    }
}

impl Default for DockerConfig {
    fn default() -> Self {
        Self {
            host: None,
            tls_dir: None,
            network: "molecule-monorepo-net".to_owned(),
            image_registry: None,
            images: BTreeMap::new(),
            image_platform: None,
            image_local_override: None,
            image_auto_refresh: false,
            registries: BTreeMap::new(),
            ghcr_user: None,
            ghcr_token: None,
            local_build: LocalBuildConfig::default(),
            privileged_tiers: false,
            timeout_secs: 30,
            pull_timeout_secs: 600,
            memory_mb: [512, 2048, 4096],
            cpu_shares: [1024, 2048, 4096],
        }
    }
}

impl DockerConfig {
    /// The address of the daemon: the configured one, else `DOCKER_HOST`, else
    /// the local socket.
    pub fn daemon_host(&self) -> String {
        self.host
            .clone()
            .or_else(|| non_empty_var("DOCKER_HOST"))
            .unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned())
    }

    /// The folder with the TLS material, when the daemon is spoken to over TLS:
    /// see [`tls_dir`](Self::tls_dir).
    pub fn daemon_tls_dir(&self) -> Option<PathBuf> {
        self.tls_dir.clone().or_else(|| {
            non_empty_var("DOCKER_TLS_VERIFY")?;
            non_empty_var("DOCKER_CERT_PATH")
                .map(PathBuf::from)
                .or_else(|| Some(std::env::home_dir()?.join(".docker")))
        })
    }

    /// The registry prefix without a slash at its end; none in local-build mode.
    pub fn registry_prefix(&self) -> Option<&str> {
        let prefix = self.image_registry.as_deref()?.trim_end_matches('/');
        (!prefix.is_empty()).then_some(prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_the_repository_prefix_is_not_shown() {
        let config = LocalBuildConfig {
            repo_prefix: "https://bot:p@ssw0rd@git.test/acme/template-".to_owned(),
            token: Some(Secret::new("t0ken-value")),
            ..LocalBuildConfig::default()
        };
        let shown = format!("{config:?} {config:#?}");
        assert!(
            shown.contains("https://***@git.test/acme/template-"),
            "{shown}"
        );
        for secret in ["p@ssw0rd", "ssw0rd", "bot", "t0ken-value"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn a_configured_folder_for_sources_wins() {
        let config = LocalBuildConfig {
            cache_dir: Some(PathBuf::from("/var/cache/molecule")),
            ..LocalBuildConfig::default()
        };
        assert_eq!(config.source_dir(), PathBuf::from("/var/cache/molecule"));
        let default = LocalBuildConfig::default().source_dir();
        assert!(
            default
                .to_string_lossy()
                .ends_with("workspace-template-build")
        );
    }
}
