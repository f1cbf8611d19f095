//! Where the source of a runtime is, and what we say to get it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use molecule_hooks::Secret;
use sha2::{Digest, Sha256};
use url::{Host, Url};

use super::error::BuildError;
use super::mask::Mask;
use crate::config::backend::{LocalBuildConfig, url_decoded};

/// The branch that is built.
pub(super) const BRANCH: &str = "main";

/// Values of the `Authorization` header, for the two doors of a git host.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    /// For its API.
    pub(super) api: Secret,
    /// For git itself.
    pub(super) git: Secret,
}

/// The configured place of all runtimes' sources.
pub(super) struct Origin {
    /// Without name, password, query and fragment.
    prefix: Url,
    has_userinfo: bool,
    credentials: Option<Credentials>,
    mask: Mask,
}

/// The source of one runtime.
#[derive(Debug)]
pub(super) struct Repository {
    /// What git is given. Holds no credentials.
    pub(super) clone_url: String,
    /// Where the API tells about the branch. Holds no credentials.
    pub(super) branch_url: Url,
    /// Scheme, host and port of both.
    pub(super) host: String,
    /// [`clone_url`](Self::clone_url) for texts.
    pub(super) shown: String,
    /// [`branch_url`](Self::branch_url) for texts.
    pub(super) branch_shown: String,
    /// What is sent along; nothing over a connection that others can read.
    pub(super) credentials: Option<Credentials>,
}

impl Repository {
    /// A short name for the place, for labels: which one it is, not where.
    pub(super) fn fingerprint(&self) -> String {
        let hash = Sha256::digest(self.clone_url.as_bytes());
        hash.iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

impl Origin {
    /// What the configuration says. Fails when it cannot be used.
    pub(super) fn of(config: &LocalBuildConfig) -> Result<Self, BuildError> {
        let token = config
            .token
            .as_ref()
            .map(|token| Secret::new(token.expose().trim()));
        let token = token.filter(|token| !token.is_empty());
        if let Some(problem) = config.prefix_problem() {
            return Err(refused(&format!(
                "backend.docker.local_build.repo_prefix {problem}"
            )));
        }
        let mut prefix = Url::parse(config.repo_prefix.trim())
            .map_err(|_| refused("backend.docker.local_build.repo_prefix is not a URL"))?;
        let userinfo = userinfo(&prefix);
        let has_userinfo = userinfo.is_some();
        let _ = (prefix.set_username(""), prefix.set_password(None));
        let mut secrets: Vec<Secret> = token.iter().cloned().collect();
        if let Some(token) = &token {
            secrets.push(Secret::new(format!("oauth2:{}", token.expose())));
        }
        if let Some((name, password)) = &userinfo {
            secrets.push(Secret::new(format!("{name}:{password}")));
        }
        secrets.extend(config.prefix_secrets());
        let credentials = match (&token, &userinfo) {
            (Some(token), _) => Some(Credentials {
                api: Secret::new(format!("token {}", token.expose())),
                git: basic("oauth2", token.expose()),
            }),
            (None, Some((name, password))) => Some(Credentials {
                api: basic(name, password),
                git: basic(name, password),
            }),
            (None, None) => None,
        };
        if let Some(credentials) = &credentials
            && HeaderValue::from_str(credentials.api.expose()).is_err()
        {
            return Err(refused(
                "the token of backend.docker.local_build has characters that cannot be sent",
            ));
        }
        let credentials = credentials.filter(|_| {
            let private = is_private(&prefix);
            if !private {
                tracing::warn!(
                    host = prefix.host_str(),
                    "the token for sources is not sent: it would go through plain HTTP"
                );
            }
            private
        });
        Ok(Self {
            prefix,
            has_userinfo,
            credentials,
            mask: Mask::of(&secrets),
        })
    }

    /// Knows everything secret about this place.
    pub(super) fn mask(&self) -> &Mask {
        &self.mask
    }

    /// Where the source of a known runtime is.
    pub(super) fn repository(&self, runtime: &str) -> Result<Repository, BuildError> {
        let mut clone_url = self.prefix.clone();
        clone_url.set_path(&format!("{}{runtime}", self.prefix.path()));
        let incomplete = || {
            refused(
                "backend.docker.local_build.repo_prefix names no organisation and repository: \
                 it must be https://host/organisation/prefix-",
            )
        };
        let path = clone_url.path().trim_start_matches('/').to_owned();
        let parts: Vec<&str> = path.split('/').collect();
        let [before @ .., organisation, name] = &parts[..] else {
            return Err(incomplete());
        };
        if parts.iter().any(|part| part.is_empty()) {
            return Err(incomplete());
        }
        let mut branch_url = clone_url.clone();
        // A git host may live below a folder.
        let below: String = before.iter().map(|part| format!("/{part}")).collect();
        branch_url.set_path(&format!(
            "{below}/api/v1/repos/{organisation}/{name}/branches/{BRANCH}"
        ));
        Ok(Repository {
            host: clone_url.origin().ascii_serialization(),
            shown: self.shown(&clone_url),
            branch_shown: self.shown(&branch_url),
            clone_url: clone_url.into(),
            branch_url,
            credentials: self.credentials.clone(),
        })
    }

    fn shown(&self, url: &Url) -> String {
        let text = url.as_str();
        let text = match text.split_once("://") {
            Some((scheme, rest)) if self.has_userinfo => format!("{scheme}://***@{rest}"),
            _ => text.to_owned(),
        };
        self.mask.hide(&text)
    }
}

/// Whether only the two ends can read what is sent there.
fn is_private(url: &Url) -> bool {
    url.scheme() == "https"
        || match url.host() {
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        }
}

/// Name and password of a URL, decoded.
fn userinfo(url: &Url) -> Option<(String, String)> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    Some((
        url_decoded(url.username()),
        url_decoded(url.password().unwrap_or_default()),
    ))
}

fn basic(name: &str, password: &str) -> Secret {
    Secret::new(format!(
        "Basic {}",
        STANDARD.encode(format!("{name}:{password}"))
    ))
}

fn refused(text: &str) -> BuildError {
    BuildError::Refused(format!("local-build: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(prefix: &str, token: Option<&str>) -> LocalBuildConfig {
        LocalBuildConfig {
            repo_prefix: prefix.to_owned(),
            token: token.map(Secret::new),
            ..LocalBuildConfig::default()
        }
    }

    fn repository(prefix: &str) -> Result<Repository, BuildError> {
        Origin::of(&config(prefix, None))?.repository("codex")
    }

    #[test]
    fn repository_and_branch_follow_from_the_prefix() {
        for (prefix, clone, branch) in [
            (
                "https://git.test/acme/template-",
                "https://git.test/acme/template-codex",
                "https://git.test/api/v1/repos/acme/template-codex/branches/main",
            ),
            (
                "http://127.0.0.1:3000/git/acme/",
                "http://127.0.0.1:3000/git/acme/codex",
                "http://127.0.0.1:3000/git/api/v1/repos/acme/codex/branches/main",
            ),
        ] {
            let found = repository(prefix).unwrap();
            assert_eq!(
                (found.clone_url.as_str(), found.branch_url.as_str()),
                (clone, branch)
            );
        }
        let default = Origin::of(&LocalBuildConfig::default()).unwrap();
        assert_eq!(
            default.repository("langgraph").unwrap().clone_url,
            "https://git.moleculesai.app/molecule-ai/molecule-ai-workspace-template-langgraph"
        );
    }

    #[test]
    fn a_prefix_that_names_no_repository_is_refused() {
        for prefix in [
            "",
            "git.test/acme/x-",
            "https://",
            "https://git.test",
            "https://git.test/",
            "https://git.test/template-",
            "https://git.test//template-",
            "https://git.test/acme//x-",
            "https://git.test/acme/../x-",
            "file:///srv/git/acme/x-",
            "ssh://git@git.test/acme/x-",
            "ext::sh -c touch% /tmp/x",
            "https://git.test/acme/x-?y=",
            "https://git.test/acme/x-#y",
        ] {
            let error = repository(prefix).unwrap_err();
            assert!(
                error.to_string().starts_with("local-build: "),
                "{prefix}: {error}"
            );
        }
    }

    #[test]
    fn a_token_goes_through_tls_or_to_this_machine_only() {
        let sent = |prefix: &str| {
            let origin = Origin::of(&config(prefix, Some(" t0ken-value\n"))).unwrap();
            origin.repository("codex").unwrap().credentials
        };
        for prefix in [
            "https://git.test/a/b-",
            "http://127.9.9.9:1/a/b-",
            "http://[::1]/a/b-",
            "http://localhost:3000/a/b-",
        ] {
            let credentials = sent(prefix).unwrap();
            assert_eq!(credentials.api.expose(), "token t0ken-value");
            let expected = format!("Basic {}", STANDARD.encode("oauth2:t0ken-value"));
            assert_eq!(credentials.git.expose(), expected);
        }
        for prefix in [
            "http://git.test/a/b-",
            "http://10.0.0.1/a/b-",
            "http://localhost.test/a/b-",
        ] {
            assert!(sent(prefix).is_none(), "{prefix}");
        }
    }

    #[test]
    fn a_password_in_the_prefix_is_used_and_never_shown() {
        let prefix = "https://bot:p%40ss+w0rd@git.test/acme/x-";
        let origin = Origin::of(&config(prefix, None)).unwrap();
        let found = origin.repository("codex").unwrap();
        assert_eq!(found.clone_url, "https://git.test/acme/x-codex");
        assert_eq!(found.shown, "https://***@git.test/acme/x-codex");
        let expected = format!("Basic {}", STANDARD.encode("bot:p@ss+w0rd"));
        assert_eq!(found.credentials.as_ref().unwrap().git.expose(), expected);
        assert!(!format!("{found:?}").contains("w0rd"), "{found:?}");
        assert_eq!(origin.mask().hide("say p@ss+w0rd"), "say ***");
    }

    #[test]
    fn a_token_in_place_of_the_name_is_used_and_never_shown() {
        for prefix in [
            "https://t0k%65n-value@git.test/acme/x-",
            "https://t0k%65n-value:@git.test/acme/x-",
            "https://t0k%65n-value:x-oauth-basic@git.test/acme/x-",
        ] {
            let origin = Origin::of(&config(prefix, None)).unwrap();
            let found = origin.repository("codex").unwrap();
            assert_eq!(found.shown, "https://***@git.test/acme/x-codex");
            let git = &found.credentials.as_ref().unwrap().git;
            assert_eq!(origin.mask().hide(git.expose()), "Basic ***", "{prefix}");
            for said in ["no such user: t0ken-value", "no such user: t0k%65n-value"] {
                assert_eq!(origin.mask().hide(said), "no such user: ***", "{prefix}");
            }
        }
    }

    #[test]
    fn a_token_that_could_smuggle_a_header_is_refused() {
        let config = config("https://git.test/a/b-", Some("token\r\nX-Other: 1"));
        assert!(Origin::of(&config).is_err());
    }

    #[test]
    fn the_fingerprint_tells_places_apart() {
        let one = repository("https://git.test/a/b-").unwrap().fingerprint();
        let other = repository("https://git.test/a/c-").unwrap().fingerprint();
        assert_eq!(one.len(), 16);
        assert_ne!(one, other);
    }

    proptest! {
        #[test]
        fn any_prefix_is_taken_or_refused(prefix in ".{0,60}") {
            let _ = repository(&prefix);
            let _ = repository(&format!("https://h/{prefix}"));
        }
    }
}
