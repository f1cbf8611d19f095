//! The `backend` section.

use std::path::PathBuf;

use serde::Deserialize;

pub(crate) use super::docker::url_decoded;
pub use super::docker::{DockerConfig, LocalBuildConfig, RegistryCredentials};

/// Where workspaces run.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackendConfig {
    /// Which backend to use.
    pub kind: BackendChoice,
    /// Compute and storage that no row knows of is removed, unless it is more than
    /// five workspaces and more than this share of all that the backend holds: then
    /// the database is more likely the wrong one. 100 removes it always.
    pub orphan_limit_percent: u8,
    /// Settings of the Docker backend.
    pub docker: DockerConfig,
    /// Settings of the process backend.
    pub process: ProcessConfig,
}

impl Default for BackendConfig {
    fn default() -> Self {
        Self {
            kind: BackendChoice::default(),
            orphan_limit_percent: 20,
            docker: DockerConfig::default(),
            process: ProcessConfig::default(),
        }
    }
}

/// Values of `backend.kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BackendChoice {
    /// A control plane if an organisation id is set, else Docker if a daemon
    /// answers, else none.
    #[default]
    Auto,
    /// Docker; start-up fails when no daemon answers.
    Docker,
    /// Child processes of this server; never in production.
    Process,
    /// External agents only.
    None,
    /// A control plane.
    ControlPlane,
}

/// Settings of the process backend.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessConfig {
    /// Program and arguments that run an agent. It gets the workspace's
    /// environment, `PORT`, and nothing of the server's own environment but
    /// `PATH`.
    pub command: Vec<String>,
    /// Folder for the workspaces' files; default `<data_dir>/process`.
    pub dir: Option<PathBuf>,
}

impl ProcessConfig {
    /// The `PATH` that agents get: the server's own.
    pub fn search_path() -> String {
        non_empty_var("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".to_owned())
    }
}

pub(super) fn non_empty_var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
