//! What a configuration is made into.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use molecule_hooks::Secret;

use super::StartError;
use crate::backend::{DockerBackend, NoBackend, ProcessBackend, SharedBackend};
use crate::config::{BackendChoice, Config, ConfigError};
use crate::hooks::hook_secrets;
use crate::secrets::{Cipher, EncryptionKey};

/// Agents are near or not there.
const AGENT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Every secret an operator configured, for the redactor.
pub(super) fn configured_secrets(config: &Config) -> Vec<Secret> {
    let mut secrets = hook_secrets(&config.hooks);
    secrets.extend(config.auth.admin_token.clone());
    secrets.extend(config.secrets.encryption_key.clone());
    secrets.extend(config.secrets.previous_encryption_keys.clone());
    let docker = &config.backend.docker;
    secrets.extend(docker.ghcr_token.clone());
    secrets.extend(docker.local_build.token.clone());
    secrets.extend(docker.local_build.prefix_secrets());
    let accounts = docker.registries.values();
    secrets.extend(accounts.map(|account| account.password.clone()));
    let url = config.database_url();
    if let Ok(url) = url::Url::parse(url.expose()) {
        if let Some(password) = url.password() {
            // As it stands in the URL, and as the database knows it.
            let pair = format!("p={}", password.replace('+', "%2B"));
            let decoded = url::form_urlencoded::parse(pair.as_bytes());
            secrets.extend(decoded.map(|(_, value)| Secret::new(value)));
            secrets.push(Secret::new(password));
        }
        let parameters = url.query_pairs().filter(|(name, _)| name == "password");
        secrets.extend(parameters.map(|(_, value)| Secret::new(value)));
    }
    secrets
}

/// The client for calls to agents.
pub(super) fn agents() -> Result<reqwest::Client, StartError> {
    reqwest::Client::builder()
        .connect_timeout(AGENT_CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(|error| StartError::Backend(format!("calls to agents: {error}")))
}

/// The cipher of the configured keys.
pub(crate) fn cipher(config: &Config) -> Result<Cipher, StartError> {
    let parse = |text: &Secret| EncryptionKey::parse(text.expose());
    let invalid = |field: &str, problem: String| {
        StartError::from(ConfigError::single(format!("secrets.{field}: {problem}")))
    };
    let current = (config.secrets.encryption_key.as_ref().map(parse))
        .transpose()
        .map_err(|error| invalid("encryption_key", error.to_string()))?;
    let previous: Result<Vec<_>, _> = config
        .secrets
        .previous_encryption_keys
        .iter()
        .map(parse)
        .collect();
    let previous =
        previous.map_err(|error| invalid("previous_encryption_keys", error.to_string()))?;
    Cipher::new(current.as_ref(), &previous)
        .map_err(|error| invalid("encryption_key", error.to_string()))
}

/// `auto` takes Docker if a daemon answers; a backend named by the operator must
/// work.
pub(crate) async fn choose_backend(
    config: &Config,
    instance: &str,
) -> Result<SharedBackend, StartError> {
    let docker = || DockerBackend::connect(config.backend.docker.clone(), instance.to_owned());
    match config.backend.kind {
        BackendChoice::None => Ok(Arc::new(NoBackend)),
        BackendChoice::Process => {
            let dir = config.backend.process.dir.clone();
            let dir = dir.unwrap_or_else(|| config.data_dir.0.join("process"));
            let dir =
                std::path::absolute(dir).map_err(|error| StartError::Backend(error.to_string()))?;
            let process = config.backend.process.clone();
            let process: SharedBackend =
                Arc::new(ProcessBackend::new(process, dir, instance.to_owned())?);
            process.check().await?;
            Ok(process)
        }
        BackendChoice::Docker => {
            let docker: SharedBackend = Arc::new(docker()?);
            docker.check().await?;
            Ok(docker)
        }
        // Validation refused an organisation id and `control_plane` already.
        BackendChoice::Auto | BackendChoice::ControlPlane => {
            let docker: SharedBackend = match docker() {
                Ok(docker) => Arc::new(docker),
                Err(_) => return Ok(Arc::new(NoBackend)),
            };
            match docker.check().await {
                Ok(_) => Ok(docker),
                Err(_) => Ok(Arc::new(NoBackend)),
            }
        }
    }
}

pub(super) fn platform_url(
    config: &Config,
    backend: &SharedBackend,
    address: SocketAddr,
) -> String {
    match &config.server.platform_url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("http://{}:{}", backend.platform_host(), address.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RegistryCredentials;

    #[test]
    fn the_redactor_learns_every_secret_of_the_docker_section() {
        let mut config = Config::default();
        let docker = &mut config.backend.docker;
        docker.ghcr_token = Some("ghcr-secret".into());
        docker.local_build.token = Some("git-secret".into());
        let account = RegistryCredentials {
            username: "u".to_owned(),
            password: "registry-secret".into(),
        };
        docker.registries.insert("r.acme.com".to_owned(), account);
        let knows = |config: &Config, secret: &str| {
            let known = configured_secrets(config);
            known.iter().any(|known| known.expose() == secret)
        };
        for secret in ["ghcr-secret", "git-secret", "registry-secret"] {
            assert!(knows(&config, secret), "{secret}");
        }
        for (userinfo, secret) in [
            ("pre%66ix-secret", "prefix-secret"),
            ("pre%66ix-secret", "pre%66ix-secret"),
            ("prefix-secret:x-oauth-basic", "prefix-secret"),
            ("bot:prefix-secret", "prefix-secret"),
        ] {
            let prefix = format!("https://{userinfo}@git.test/acme/x-");
            config.backend.docker.local_build.repo_prefix = prefix;
            assert!(knows(&config, secret), "{userinfo}");
            assert!(!knows(&config, "bot"), "a name is no secret");
        }
    }
}
