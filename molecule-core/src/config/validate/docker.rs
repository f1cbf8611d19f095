//! Rules of the `backend.docker` section.

use molecule_hooks::Secret;

use crate::config::DockerConfig;

/// One sentence per problem. Wrong values are not repeated: what stands in the wrong
/// place may be a secret.
pub(super) fn problems(docker: &DockerConfig, found: &mut Vec<String>) {
    let mut limits = docker.memory_mb.iter().chain(&docker.cpu_shares);
    if limits.any(|limit| *limit <= 0) {
        found.push("backend.docker: memory_mb and cpu_shares must be positive".to_owned());
    }
    if docker.network.is_empty() {
        found.push("backend.docker.network: must not be empty".to_owned());
    }
    if docker
        .image_registry
        .as_deref()
        .is_some_and(|prefix| !is_prefix(prefix))
    {
        found.push(
            "backend.docker.image_registry (MOLECULE_IMAGE_REGISTRY): is no prefix of images; \
             write host and path without scheme and tag, such as ghcr.io/acme"
                .to_owned(),
        );
    }
    if docker
        .image_platform
        .as_deref()
        .is_some_and(|platform| !is_platform(platform))
    {
        found.push(
            "backend.docker.image_platform (MOLECULE_IMAGE_PLATFORM): is no platform; write \
             os/architecture, such as linux/amd64, or nothing for no preference"
                .to_owned(),
        );
    }
    local_build(docker, found);
    accounts(docker, found);
}

fn local_build(docker: &DockerConfig, found: &mut Vec<String>) {
    let local_build = &docker.local_build;
    if let Some(problem) = local_build.prefix_problem() {
        found.push(format!(
            "backend.docker.local_build.repo_prefix (MOLECULE_LOCAL_TEMPLATE_REPO_PREFIX): {problem}"
        ));
    }
    let is_unsendable = |token: &Secret| {
        token
            .expose()
            .trim()
            .contains(|c: char| c.is_ascii_control())
    };
    if local_build.token.as_ref().is_some_and(is_unsendable) {
        found.push(
            "backend.docker.local_build.token (MOLECULE_GITEA_TOKEN): has characters that cannot \
             be sent"
                .to_owned(),
        );
    }
}

fn accounts(docker: &DockerConfig, found: &mut Vec<String>) {
    for (entry, (host, account)) in (1..).zip(&docker.registries) {
        if !is_host(host.trim()) {
            found.push(format!(
                "backend.docker.registries: entry {entry} is no host; write host or host:port \
                 without scheme and path, such as registry.example.org:5000"
            ));
        }
        if account.username.trim().is_empty() || is_blank(&account.password) {
            found.push(format!(
                "backend.docker.registries: entry {entry} needs a username and a password"
            ));
        }
    }
    let has_user = docker
        .ghcr_user
        .as_deref()
        .is_some_and(|user| !user.trim().is_empty());
    let has_token = docker
        .ghcr_token
        .as_ref()
        .is_some_and(|token| !is_blank(token));
    match (has_user, has_token) {
        (true, false) => found.push(
            "backend.docker.ghcr_token (GHCR_TOKEN): is required with ghcr_user (GHCR_USER)"
                .to_owned(),
        ),
        (false, true) => found.push(
            "backend.docker.ghcr_user (GHCR_USER): is required with ghcr_token (GHCR_TOKEN)"
                .to_owned(),
        ),
        _ => {}
    }
}

fn is_blank(secret: &Secret) -> bool {
    secret.expose().trim().is_empty()
}

/// A name or an address, with or without a port.
fn is_host(text: &str) -> bool {
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let address = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let is_address = |inner: &str| inner.parse::<std::net::Ipv6Addr>().is_ok();
    let is_name = |host: &str| {
        let ends = |c: char| c.is_ascii_alphanumeric();
        host.starts_with(ends) && host.ends_with(ends) && host.chars().all(name)
    };
    let known = address.map_or_else(|| is_name(host), is_address);
    known && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// What can stand before `/workspace-template-<runtime>:latest`. An empty one means
/// that images are built.
fn is_prefix(text: &str) -> bool {
    let text = text.trim_end_matches('/');
    let mut parts = text.split('/');
    let first = parts.next().unwrap_or_default();
    let plain = |part: &str| {
        let outer = |c: char| matches!(c, 'a'..='z' | '0'..='9');
        let inner = |c: char| outer(c) || matches!(c, '.' | '_' | '-');
        let ends = part.starts_with(outer) && part.ends_with(outer);
        ends && part.chars().all(inner) && !part.contains("..")
    };
    text.is_empty() || ((is_host(first) || plain(first)) && parts.all(plain))
}

/// A platform, or a half of one, which is as good as none.
fn is_platform(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    let text = text.trim();
    text.chars().all(plain) && text.split('/').count() <= 3 && !text.contains("//")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RegistryCredentials;

    fn with(change: impl FnOnce(&mut DockerConfig)) -> Vec<String> {
        let mut config = DockerConfig::default();
        change(&mut config);
        let mut found = Vec::new();
        problems(&config, &mut found);
        found
    }

    #[track_caller]
    fn names(found: &[String], field: &str) {
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(field), "{found:?}");
        assert!(!found[0].contains("hunter2"), "{found:?}");
    }

    #[test]
    fn a_prefix_of_images_has_neither_scheme_nor_tag() {
        for good in [
            "",
            "/",
            "ghcr.io/acme",
            "ghcr.io/acme/",
            "localhost:5000",
            "127.0.0.1:5000/a/b_c",
            "[::1]:5000/a",
            "acme",
            "123.dkr.ecr.eu-west-1.amazonaws.com/molecule-ai",
        ] {
            let found = with(|config| config.image_registry = Some(good.to_owned()));
            assert_eq!(found, [""; 0], "{good}");
        }
        for bad in [
            "https://ghcr.io/acme",
            "ghcr.io/acme:latest",
            "acme:latest",
            "user:hunter2@ghcr.io/acme",
            "ghcr.io/Acme",
            "ghcr.io//acme",
            "ghcr.io/a b",
            "ghcr.io/acme@sha256:ab",
            "ghcr.io/..",
            "ghcr.io/../acme",
            "../acme",
            "..",
            "ghcr.io/-acme",
            "ghcr.io/acme.",
            "-ghcr.io/acme",
        ] {
            let found = with(|config| config.image_registry = Some(bad.to_owned()));
            names(&found, "backend.docker.image_registry");
        }
    }

    #[test]
    fn a_registry_is_named_by_its_host_alone() {
        let account = |password: &str| RegistryCredentials {
            username: "u".to_owned(),
            password: password.into(),
        };
        let with_host = |host: &str| {
            with(|config| {
                config.registries.insert(host.to_owned(), account("p"));
            })
        };
        for good in [
            "ghcr.io",
            "localhost:5000",
            "[::1]:5000",
            "[::1]",
            "Registry.Acme.com",
        ] {
            assert_eq!(with_host(good), [""; 0], "{good}");
        }
        for bad in [
            "",
            "https://ghcr.io",
            "ghcr.io/acme",
            "u:hunter2@ghcr.io",
            "ghcr.io:many",
            "ghcr.io:",
            "::1",
        ] {
            names(&with_host(bad), "backend.docker.registries: entry 1 ");
        }
        let found = with(|config| {
            config.registries.insert("ghcr.io".to_owned(), account(" "));
        });
        names(&found, "backend.docker.registries: entry 1 needs");
    }

    #[test]
    fn a_prefix_of_repositories_names_an_organisation_on_a_git_host() {
        let with_prefix =
            |prefix: &str| with(|config| config.local_build.repo_prefix = prefix.to_owned());
        for good in [
            "https://git.test/acme/template-",
            "http://127.0.0.1:3000/git/acme/",
            "https://bot:hunter2@git.test/acme/x-",
        ] {
            assert_eq!(with_prefix(good), [""; 0], "{good}");
        }
        for bad in [
            "",
            "hunter2@git.test/acme/x-",
            "https://",
            "https://git.test/x-",
            "https://hunter2@git.test/acme//x-",
            "https://git.test/acme/../x-",
            "ssh://hunter2@git.test/acme/x-",
            "https://git.test/acme/x-?token=hunter2",
            "https://git.test/acme/x-#y",
        ] {
            names(&with_prefix(bad), "backend.docker.local_build.repo_prefix");
        }
        let token = |token: &str| with(|config| config.local_build.token = Some(token.into()));
        assert_eq!(token(" hunter2\n"), [""; 0]);
        names(
            &token("hunter2\r\nX-Other: 1"),
            "backend.docker.local_build.token",
        );
    }

    #[test]
    fn user_and_token_of_ghcr_come_together() {
        let found = with(|config| config.ghcr_user = Some("bot".to_owned()));
        names(&found, "backend.docker.ghcr_token");
        let found = with(|config| config.ghcr_token = Some("hunter2".into()));
        names(&found, "backend.docker.ghcr_user");
        let found = with(|config| {
            config.ghcr_user = Some("bot".to_owned());
            config.ghcr_token = Some("hunter2".into());
        });
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn a_platform_is_a_platform_or_nothing() {
        for good in [
            "",
            "linux/amd64",
            "linux/arm/v7",
            "linux",
            "linux/",
            "/amd64",
        ] {
            let found = with(|config| config.image_platform = Some(good.to_owned()));
            assert_eq!(found, [""; 0], "{good}");
        }
        for bad in [
            "linux amd64",
            "linux/amd64,linux/arm64",
            "a/b/c/d",
            "linux//amd64",
            "--x=1",
        ] {
            let found = with(|config| config.image_platform = Some(bad.to_owned()));
            names(&found, "backend.docker.image_platform");
        }
    }
}
