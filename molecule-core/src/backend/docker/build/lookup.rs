//! Asking the git host for the commit at the head of the branch.

use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION};
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::error::BuildError;
use super::source::Repository;
use crate::git::CommitId;

/// What a whole answer may take.
const BOUND: Duration = Duration::from_secs(30);
/// Longest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// The part of the answer that counts.
#[derive(Deserialize)]
struct Branch {
    commit: Commit,
}

#[derive(Deserialize)]
struct Commit {
    id: String,
}

/// Asks git hosts. Follows no redirect, so a token goes nowhere else.
pub(super) struct Lookup {
    client: OnceCell<reqwest::Client>,
    bound: Duration,
}

impl Lookup {
    pub(super) fn new() -> Self {
        Self {
            client: OnceCell::new(),
            bound: BOUND,
        }
    }

    /// The commit that the branch of `repository` has now.
    pub(super) async fn head(
        &self,
        runtime: &str,
        repository: &Repository,
    ) -> Result<CommitId, BuildError> {
        let found = match tokio::time::timeout(self.bound, self.ask(runtime, repository)).await {
            Ok(found) => found,
            Err(_) => Err(BuildError::Trouble(format!(
                "HEAD lookup at {} did not answer within {} s",
                repository.branch_shown,
                self.bound.as_secs()
            ))),
        };
        let wrap = |text: String| {
            format!(
                "local-build: cannot determine HEAD sha for runtime {runtime:?} at {}: {text}",
                repository.shown
            )
        };
        found.map_err(|error| match error {
            BuildError::Refused(text) => BuildError::Refused(wrap(text)),
            BuildError::Trouble(text) => BuildError::Trouble(wrap(text)),
            other => other,
        })
    }

    async fn ask(&self, runtime: &str, repository: &Repository) -> Result<CommitId, BuildError> {
        let at = &repository.branch_shown;
        let client = self
            .client
            .get_or_try_init(|| async { client(repository.branch_url.scheme() == "https") })
            .await?;
        let mut request = client
            .get(repository.branch_url.clone())
            .header(ACCEPT, "application/json");
        if let Some(credentials) = &repository.credentials {
            let mut value = HeaderValue::from_str(credentials.api.expose())
                .map_err(|_| BuildError::Refused("the token cannot be sent".to_owned()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        // The library's errors hold the URL, which here is not a secret, but the text of
        // whatever went wrong below is not ours to pass on.
        let unreachable = |error: &reqwest::Error| {
            let why = if error.is_connect() {
                "cannot be reached"
            } else {
                "broke off"
            };
            BuildError::Trouble(format!("HEAD lookup at {at} {why}"))
        };
        let mut answer = request.send().await.map_err(|error| unreachable(&error))?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                return Err(BuildError::Refused(format!(
                    "repo not found at {at} — runtime {runtime:?} may not be mirrored to Gitea, \
                     or it is private and MOLECULE_GITEA_TOKEN is not set"
                )));
            }
            code @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                return Err(BuildError::Refused(format!(
                    "auth failure ({}) at {at} — verify MOLECULE_GITEA_TOKEN if private repo",
                    code.as_u16()
                )));
            }
            code => {
                let text = format!("HEAD lookup at {at} returned {}", code.as_u16());
                let later = code.is_server_error() || code == StatusCode::TOO_MANY_REQUESTS;
                return Err(if later {
                    BuildError::Trouble(text)
                } else {
                    BuildError::Refused(text)
                });
            }
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| unreachable(&error))? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(BuildError::Refused(format!(
                    "HEAD lookup at {at} answered with more than 64 KiB"
                )));
            }
            body.extend_from_slice(&chunk);
        }
        commit(&body).ok_or_else(|| {
            BuildError::Refused(format!("HEAD lookup at {at} answered without a commit id"))
        })
    }
}

fn commit(body: &[u8]) -> Option<CommitId> {
    let branch: Branch = serde_json::from_slice(body).ok()?;
    CommitId::parse(&branch.commit.id)
}

fn client(tls: bool) -> Result<reqwest::Client, BuildError> {
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        // As git, which does not see the environment either.
        .no_proxy();
    if !tls {
        // Without TLS nobody needs certificates, which small images do not have.
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(|_| {
        BuildError::Refused("no HTTP client: this machine may have no CA certificates".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_commit_of_the_branch_counts() {
        let sha = "0123456789abcdef0123456789abcdef01234567";
        let good =
            format!(r#"{{"name":"main","id":"x","commit":{{"id":"{sha}","message":"id"}}}}"#);
        assert_eq!(commit(good.as_bytes()).unwrap().as_str(), sha);
        for bad in [
            format!(r#"{{"id":"{sha}"}}"#),
            format!(r#"{{"commit":"{sha}"}}"#),
            format!(r#"{{"commit":{{"id":["{sha}"]}}}}"#),
            r#"{"commit":{"id":"abc"}}"#.to_owned(),
            format!(r#""commit":{{"id":"{sha}"}}"#),
            "<html>".to_owned(),
        ] {
            assert!(commit(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_a_commit_or_none(body in any::<Vec<u8>>()) {
            let _ = commit(&body);
        }

        #[test]
        fn a_commit_is_found_again(sha in "[0-9a-f]{40}", message in any::<String>()) {
            let body = serde_json::json!({ "commit": { "message": message, "id": sha } });
            let found = commit(body.to_string().as_bytes());
            prop_assert_eq!(found.map(|found| found.as_str().to_owned()), Some(sha));
        }
    }
}
