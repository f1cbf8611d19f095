//! Images of runtimes: choosing, obtaining and renewing them, for backends that
//! run images.

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{BackendError, Progress};

/// Runtimes for which there are images by their name alone.
pub const KNOWN_RUNTIMES: &[&str] = &[
    "autogen",
    "claude-code",
    "codex",
    "crewai",
    "deepagents",
    "gemini-cli",
    "hermes",
    "langgraph",
    "openclaw",
];

/// Content of an image: `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageDigest(String);

impl ImageDigest {
    /// The digest that `text` writes; none if it writes something else.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:")?;
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (hex.len() == 64 && hex.bytes().all(is_hex)).then(|| Self(text.to_owned()))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which image is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRequest {
    /// The runtime.
    pub runtime: String,
    /// The content an administrator decided on. It is taken from the repository of
    /// the runtime and wins over every other choice.
    pub pin: Option<ImageDigest>,
}

/// An image that the backend has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObtainedImage {
    /// What it was asked for with.
    pub reference: String,
    /// Its content as a registry names it; none for an image that never was in one.
    pub digest: Option<ImageDigest>,
    /// True when a newer one may exist: the pull failed and an older copy was there.
    pub stale: bool,
}

/// A workspace and the image its compute was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUser {
    /// The workspace.
    pub workspace_id: Uuid,
    /// Reference with which the compute was made.
    pub reference: String,
}

/// Images: a capability that not every backend has.
#[async_trait]
pub trait Images: Send + Sync {
    /// True when images that nobody named otherwise are built on this machine. There
    /// is nothing to refresh or to watch then.
    fn builds_locally(&self) -> bool;

    /// The reference that a request leads to; nothing is looked up. In local-build
    /// mode it is a name without content, because the commit is not known yet.
    ///
    /// # Errors
    /// [`BackendError::Failed`] when no image is known for the runtime.
    fn reference(&self, request: &ImageRequest) -> Result<String, BackendError>;

    /// Makes sure that the image is there: looks, pulls or builds. Nothing that runs
    /// is touched. Concurrent calls for one image share the work.
    ///
    /// # Errors
    /// [`BackendError`] when there is no usable image.
    async fn obtain(
        &self,
        request: &ImageRequest,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<ObtainedImage, BackendError>;

    /// Pulls the image of a runtime whatever is there.
    ///
    /// # Errors
    /// [`BackendError`] when the pull failed; an older copy stays.
    async fn refresh(
        &self,
        runtime: &str,
        cancel: &CancellationToken,
    ) -> Result<ObtainedImage, BackendError>;

    /// The content that the registry has under the reference of a runtime now.
    ///
    /// # Errors
    /// [`BackendError`] when the registry did not say.
    async fn latest(&self, runtime: &str) -> Result<ImageDigest, BackendError>;

    /// Workspaces of this server whose compute, running or not, was made of an image
    /// of exactly the repository of `runtime`, whatever its tag or digest.
    ///
    /// # Errors
    /// [`BackendError`]; an error never means "nobody".
    async fn users_of(&self, runtime: &str) -> Result<Vec<ImageUser>, BackendError>;

    /// Tries pulls again that failed while an older copy was used. Answers with the
    /// runtimes whose image is newer now.
    async fn retry_stale(&self, cancel: &CancellationToken) -> Vec<String>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_written_in_one_way_only() {
        let hex = "0123456789abcdef".repeat(4);
        assert!(ImageDigest::parse(&format!("sha256:{hex}")).is_some());
        for wrong in [
            String::new(),
            hex.clone(),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{}", &hex[1..]),
            format!("sha512:{hex}"),
            format!("sha256:{hex}0"),
        ] {
            assert!(ImageDigest::parse(&wrong).is_none(), "{wrong:?}");
        }
    }
}
