//! The `plugins` section.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

/// Settings of workspace plugins: directories of skills and rules that are delivered
/// into running workspaces.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginsConfig {
    /// Folder of the plugins that `local://` names, one sub-folder each; default
    /// `plugins` beside `workspaces.templates_dir` if there are folders in it, else
    /// under the data directory.
    pub registry_dir: Option<PathBuf>,
    /// Largest body of an install request, in bytes.
    pub install_body_max_bytes: usize,
    /// Seconds that an install may take: fetching, checking and delivering; a day at
    /// most.
    pub install_timeout_secs: u64,
    /// Largest tree of a plugin, in bytes.
    pub max_dir_bytes: u64,
    /// Most files and folders of a plugin.
    pub max_entries: usize,
    /// Lets `github://owner/repo` without a revision be installed.
    pub allow_unpinned: bool,
    /// Refuses sources whose bytes can change under the same name: branches and tags.
    pub require_immutable_ref: bool,
    /// Where `github://owner/repo` is: `<url>/owner/repo.git`.
    pub github_url: String,
    /// Public keys whose signatures count: minisign keys, or `ed25519:<base64>`.
    pub trusted_keys: Vec<String>,
    /// What happens to a plugin without a good signature.
    pub require_signature: SignaturePolicy,
    /// Refuses installs while the allowlists cannot be read, instead of letting them
    /// pass.
    pub allowlist_fail_closed: bool,
    /// Seconds between two looks for newer revisions of tracked plugins; 0 never looks.
    pub drift_interval_secs: u64,
    /// Upstreams that are asked at once.
    pub drift_concurrency: usize,
}

/// What happens to a plugin without a signature by a trusted key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SignaturePolicy {
    /// Signatures are not looked at, unless a request brings one.
    #[default]
    Off,
    /// It is installed, and the log says so.
    Warn,
    /// It is refused.
    Enforce,
}

impl Default for PluginsConfig {
    fn default() -> Self {
        Self {
            registry_dir: None,
            install_body_max_bytes: 64 * 1024,
            install_timeout_secs: 300,
            max_dir_bytes: 100 * 1024 * 1024,
            max_entries: 20_000,
            allow_unpinned: false,
            require_immutable_ref: false,
            github_url: "https://github.com".to_owned(),
            trusted_keys: Vec::new(),
            require_signature: SignaturePolicy::Off,
            allowlist_fail_closed: false,
            drift_interval_secs: 3600,
            drift_concurrency: 4,
        }
    }
}

impl PluginsConfig {
    /// See [`install_timeout_secs`](Self::install_timeout_secs).
    pub fn install_timeout(&self) -> Duration {
        Duration::from_secs(self.install_timeout_secs)
    }
}
