//! What a registry is told about who asks.

use bollard::auth::DockerCredentials;
use molecule_hooks::Secret;

use crate::config::backend::DockerConfig;

/// The registry that the GHCR settings are for, and no other.
const GHCR: &str = "ghcr.io";

/// The credentials for the registry at `host`, which is in lower case. They go to no
/// other host: the daemon is only given them together with a reference of this one.
pub(super) fn for_host(config: &DockerConfig, host: &str) -> Option<DockerCredentials> {
    let configured = config
        .registries
        .iter()
        .find(|(known, _)| canonical(known) == host)
        .map(|(_, account)| (account.username.as_str(), &account.password));
    let ghcr = || {
        let (user, token) = (config.ghcr_user.as_deref()?, config.ghcr_token.as_ref()?);
        (host == GHCR).then_some((user, token))
    };
    let (user, password) = configured.or_else(ghcr)?;
    let (user, password) = (user.trim(), password.expose().trim());
    (!user.is_empty() && !password.is_empty()).then(|| DockerCredentials {
        username: Some(user.to_owned()),
        password: Some(password.to_owned()),
        serveraddress: Some(host.to_owned()),
        ..DockerCredentials::default()
    })
}

/// Every password and token, so that no text repeats one.
pub(super) fn secrets(config: &DockerConfig) -> Vec<String> {
    let passwords = config.registries.values().map(|account| &account.password);
    passwords
        .chain(&config.ghcr_token)
        .chain(&config.local_build.token)
        .map(Secret::expose)
        .map(|secret| secret.trim().to_owned())
        .collect()
}

fn canonical(host: &str) -> String {
    let host = host.trim().to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::backend::RegistryCredentials;

    fn config() -> DockerConfig {
        let account = |name: &str| RegistryCredentials {
            username: name.to_owned(),
            password: format!("{name}-password").into(),
        };
        DockerConfig {
            registries: [
                ("registry.acme.com:5000".to_owned(), account("acme")),
                ("Index.docker.io".to_owned(), account("hub")),
            ]
            .into(),
            ghcr_user: Some(" bot ".to_owned()),
            ghcr_token: Some("ghp_token\n".into()),
            ..DockerConfig::default()
        }
    }

    fn user_at(config: &DockerConfig, host: &str) -> Option<String> {
        let found = for_host(config, host)?;
        assert_eq!(found.serveraddress.as_deref(), Some(host));
        found.username
    }

    #[test]
    fn every_host_gets_its_own_credentials_and_no_other() {
        let config = config();
        assert_eq!(user_at(&config, "ghcr.io").as_deref(), Some("bot"));
        assert_eq!(user_at(&config, "docker.io").as_deref(), Some("hub"));
        assert_eq!(
            user_at(&config, "registry.acme.com:5000").as_deref(),
            Some("acme")
        );
        for host in [
            "registry.acme.com",
            "acme.com:5000",
            "ghcr.io.evil.com",
            "evil-ghcr.io",
            "ghcr.io:8443",
            "localhost:5000",
        ] {
            assert_eq!(user_at(&config, host), None, "{host}");
        }
        let token = for_host(&config, "ghcr.io").unwrap().password;
        assert_eq!(token.as_deref(), Some("ghp_token"));
    }

    #[test]
    fn an_entry_for_ghcr_wins_over_the_two_variables() {
        let mut config = config();
        let account = RegistryCredentials {
            username: "other".to_owned(),
            password: "other-password".into(),
        };
        config.registries.insert("ghcr.io".to_owned(), account);
        assert_eq!(user_at(&config, "ghcr.io").as_deref(), Some("other"));
    }

    #[test]
    fn half_an_account_is_none() {
        for (user, token) in [
            (Some("bot"), None),
            (None, Some("t")),
            (Some(" "), Some("t")),
        ] {
            let config = DockerConfig {
                ghcr_user: user.map(str::to_owned),
                ghcr_token: token.map(Secret::from),
                ..DockerConfig::default()
            };
            assert!(for_host(&config, "ghcr.io").is_none());
        }
    }

    #[test]
    fn every_secret_is_known() {
        let mut secrets = secrets(&config());
        secrets.sort();
        assert_eq!(secrets, ["acme-password", "ghp_token", "hub-password"]);
    }
}
