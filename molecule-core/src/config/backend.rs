//! The `backend` section.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

/// Where workspaces run.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackendConfig {
    /// Which backend to use.
    pub kind: BackendChoice,
    /// Settings of the Docker backend.
    pub docker: DockerConfig,
    /// Settings of the process backend.
    pub process: ProcessConfig,
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
    /// Prefix of `<prefix>/workspace-template-<runtime>:latest`.
    pub image_prefix: String,
    /// Image per runtime; wins over the prefix.
    pub images: BTreeMap<String, String>,
    /// Seconds that one call to the daemon may take (pulls excepted).
    pub timeout_secs: u64,
    /// Seconds that pulling an image may take. A pull is part of a provisioning,
    /// so `workspaces.provision_deadline_secs` bounds it too: a value above that
    /// deadline has no effect.
    pub pull_timeout_secs: u64,
    /// Memory limit in MiB for tiers 2, 3 and 4.
    pub memory_mb: [i64; 3],
    /// CPU shares for tiers 2, 3 and 4; 1024 is one CPU.
    pub cpu_shares: [i64; 3],
}

impl Default for DockerConfig {
    fn default() -> Self {
        Self {
            host: None,
            tls_dir: None,
            network: "molecule-monorepo-net".to_owned(),
            image_prefix: "ghcr.io/molecule-ai".to_owned(),
            images: BTreeMap::new(),
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

fn non_empty_var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
