//! Repositories that were renamed: git hosts send to the new name.

use std::time::Duration;

use http::header::LOCATION;
use molecule_hooks::PluginSourceError;
use url::Url;

use super::spec::Repository;

/// What the answer may take.
const BOUND: Duration = Duration::from_secs(30);

/// Where the repository at `url` is now, if that is below the same base. git itself
/// follows nothing, or it would also go to other hosts.
pub(super) async fn follow(base: &str, url: &str) -> Result<String, PluginSourceError> {
    let asked = Url::parse(&format!("{url}/info/refs?service=git-upload-pack"));
    let asked = asked.map_err(|_| failed("the URL of the repository is none"))?;
    let mut client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        // As git, which does not see the environment either.
        .no_proxy()
        .timeout(BOUND);
    if asked.scheme() == "http" {
        // Without TLS nobody needs certificates, which small images do not have.
        client = client.tls_certs_only([]);
    }
    let client = client.build();
    let client = client.map_err(|_| failed("no HTTP client: are there CA certificates?"))?;
    // The body is not read.
    let answer = client.get(asked.clone()).send().await;
    let answer = answer.map_err(|_| failed("the git host does not say where it sends to"))?;
    let location = answer.headers().get(LOCATION);
    let location = location.and_then(|location| location.to_str().ok());
    let target = location.and_then(|location| asked.join(location).ok());
    let target = target.ok_or_else(|| failed("the git host does not say where it sends to"))?;
    renamed(base, &target).ok_or_else(|| failed("the git host sends to another place"))
}

/// The URL of the repository that a redirect leads to.
fn renamed(base: &str, target: &Url) -> Option<String> {
    let base_url = Url::parse(base).ok()?;
    let plain = target.username().is_empty() && target.password().is_none();
    if !plain || target.origin() != base_url.origin() {
        return None;
    }
    let below = base_url.path().trim_end_matches('/');
    let path = target.path().strip_prefix(below)?.strip_prefix('/')?;
    let path = path.strip_suffix("/info/refs")?;
    // Parsed again, so that what git is given has our form.
    let bare = path.strip_suffix(".git").unwrap_or(path);
    Some(Repository::parse(bare).ok()?.url(base))
}

fn failed(text: &str) -> PluginSourceError {
    PluginSourceError::Failed(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_repository_of_the_same_host_is_gone_to() {
        let base = "https://h.test:8443/git";
        let to = |target: &str| renamed(base, &Url::parse(target).unwrap());
        let new = Some("https://h.test:8443/git/new/name.git".to_owned());
        let query = "info/refs?service=git-upload-pack";
        for target in ["new/name.git", "new/name"] {
            assert_eq!(to(&format!("{base}/{target}/{query}")), new);
        }
        for other in [
            "https://other.test:8443/git/new/name.git",
            "https://h.test/git/new/name.git",
            "http://h.test:8443/git/new/name.git",
            "https://h.test:8443/elsewhere/new/name.git",
            "https://h.test:8443/gitnew/name.git",
            "https://h.test:8443/git/name.git",
            "https://h.test:8443/git/a/b/c.git",
            "https://user@h.test:8443/git/new/name.git",
            "https://h.test:8443/git/new/..%2f..",
            "https://h.test:8443/git/../x/new/name.git",
        ] {
            assert_eq!(to(&format!("{other}/{query}")), None, "{other}");
        }
        assert_eq!(to("https://h.test:8443/git/login"), None);
    }
}
