//! The sections of the configuration but `backend`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use molecule_hooks::{HooksConfig, Secret};
use serde::Deserialize;
use serde_json::Value;

/// What kind of installation this is. Read from `MOLECULE_ENV`, any case; an
/// unset variable means production, the safe reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Environment {
    /// `development`, `dev`, `local`: one person's machine. Without an
    /// administrator token every door is open.
    #[serde(alias = "dev", alias = "local")]
    Development,
    /// `staging`, `stage`, `test`: as production, but a missing encryption key is
    /// only a warning.
    #[serde(alias = "stage", alias = "test")]
    Staging,
    /// `production`, `prod`: an administrator token and an encryption key are
    /// required.
    #[default]
    #[serde(alias = "prod")]
    Production,
}

impl Environment {
    /// The canonical name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Staging => "staging",
            Self::Production => "production",
        }
    }
}

/// The HTTP server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// Address to listen on.
    pub address: IpAddr,
    /// Port to listen on; 0 lets the system choose.
    pub port: u16,
    /// URL under which agents reach this server.
    pub platform_url: Option<String>,
    /// URL under which external agents reach this server.
    pub external_url: Option<String>,
    /// Largest request body in bytes; the registry routes take a quarter of it.
    pub max_body_bytes: usize,
    /// Seconds a request may take.
    pub request_timeout_secs: u64,
    /// Seconds that a shutdown may take in all.
    pub shutdown_timeout_secs: u64,
    /// Origins of web pages that may call the API, such as `https://canvas.example.org`.
    /// `*` allows all of them, but without their visitors' cookies.
    pub cors_origins: Vec<String>,
    /// Requests per minute and caller: the holder of a valid credential, else an
    /// address. Not counted in development without an administrator token.
    pub rate_limit: u64,
    /// Networks (CIDR) of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are
    /// believed.
    pub trusted_proxies: Vec<String>,
    /// Where requests for unknown routes go: the web canvas.
    pub canvas_proxy_url: Option<String>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            address: IpAddr::from([0, 0, 0, 0]),
            port: 8080,
            platform_url: None,
            external_url: None,
            max_body_bytes: 1024 * 1024,
            request_timeout_secs: 60,
            shutdown_timeout_secs: 30,
            cors_origins: vec![
                "http://localhost:3000".to_owned(),
                "http://localhost:3001".to_owned(),
            ],
            rate_limit: 600,
            trusted_proxies: Vec::new(),
            canvas_proxy_url: None,
        }
    }
}

/// Where rows are kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatabaseConfig {
    /// `sqlite://path` or `postgres://…`; default `<data_dir>/molecule.db`.
    pub url: Option<Secret>,
    /// Connections in the pool.
    pub max_connections: u32,
    /// Seconds to wait for a connection or for a lock before a request fails.
    pub timeout_secs: u64,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            url: None,
            max_connections: 10,
            timeout_secs: 10,
        }
    }
}

/// Who is an administrator.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// The administrator token.
    pub admin_token: Option<Secret>,
    /// File that holds the administrator token.
    pub admin_token_file: Option<PathBuf>,
    /// Without an administrator token, let any workspace token act as one
    /// outside development. The reference platform's old behaviour; unsafe.
    pub legacy_workspace_admin: bool,
    /// Serve `GET /admin/workspaces/:id/test-token` outside development too.
    pub test_tokens: bool,
}

/// How secrets are encrypted.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecretsConfig {
    /// 32 bytes, as base64, 64 hex digits or raw.
    pub encryption_key: Option<Secret>,
    /// File that holds the encryption key.
    pub encryption_key_file: Option<PathBuf>,
    /// Earlier keys, which only decrypt; `secrets rotate` makes them unnecessary.
    pub previous_encryption_keys: Vec<Secret>,
    /// File with earlier keys, one a line.
    pub previous_encryption_keys_file: Option<PathBuf>,
}

/// The SaaS control plane.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlPlaneConfig {
    /// Organisation this server belongs to; setting it selects the control-plane
    /// backend.
    pub org_id: Option<String>,
    /// Short name of the organisation, with which browser sessions are verified.
    pub org_slug: Option<String>,
    /// Where `/cp/*` is forwarded and sessions are verified.
    pub upstream_url: Option<String>,
}

/// Creation and provisioning of workspaces.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkspacesConfig {
    /// Folder of workspace templates, one sub-folder each.
    pub templates_dir: Option<PathBuf>,
    /// Runtime of a workspace created without one.
    pub default_runtime: String,
    /// Host folder mounted as `/workspace` when a workspace names none.
    pub workspace_dir: Option<PathBuf>,
    /// URL of the awareness service, handed to agents.
    pub awareness_url: Option<String>,
    /// Seconds the server may take to start the compute of one workspace. Where
    /// workspaces run images, which may have to be pulled or built first, it is the time
    /// that its agent would have to register if that is more.
    pub provision_deadline_secs: u64,
    /// Seconds that a start of a workspace from an image may go without any sign of
    /// progress before it counts as stuck.
    pub provision_quiet_secs: u64,
    /// Seconds a started agent has to register. Unset, its template and runtime say.
    pub provision_timeout_secs: Option<u64>,
    /// Provisions that may run at once.
    pub provision_concurrency: usize,
    /// Seconds without a heartbeat after which a workspace is offline.
    pub liveness_timeout_secs: u64,
    /// The same for external workspaces.
    pub remote_stale_after_secs: u64,
    /// Automatic restarts per minute that this server starts at most.
    pub restarts_per_minute: u32,
    /// Seconds after which a terminal ends in which nothing was typed or printed.
    pub terminal_idle_secs: u64,
}

impl Default for WorkspacesConfig {
    fn default() -> Self {
        Self {
            templates_dir: None,
            default_runtime: "langgraph".to_owned(),
            workspace_dir: None,
            awareness_url: None,
            provision_deadline_secs: 720,
            provision_quiet_secs: 240,
            provision_timeout_secs: None,
            provision_concurrency: 8,
            liveness_timeout_secs: 180,
            remote_stale_after_secs: 90,
            restarts_per_minute: 60,
            terminal_idle_secs: 900,
        }
    }
}

/// How long history is kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Days that activity is kept.
    pub activity_days: u32,
    /// Days that structure events are kept.
    pub events_days: u32,
    /// Hours between two clean-ups.
    pub interval_hours: u32,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            activity_days: 7,
            events_days: 30,
            interval_hours: 6,
        }
    }
}

/// The hooks of this server.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HooksSection {
    /// Names in the order they run; the rest follow by name.
    pub order: Vec<String>,
    /// Seconds one call of a hook may take.
    pub timeout_secs: u64,
    /// Seconds per hook, where they differ.
    pub timeouts_secs: BTreeMap<String, u64>,
    /// Seconds that building one hook may take when the server starts.
    pub build_timeout_secs: u64,
    /// One section per hook.
    pub config: BTreeMap<String, Value>,
    /// Process environment, from which hooks take the variables they declare.
    #[serde(skip)]
    pub env: BTreeMap<String, String>,
}

impl Default for HooksSection {
    fn default() -> Self {
        Self {
            order: Vec::new(),
            timeout_secs: 10,
            timeouts_secs: BTreeMap::new(),
            build_timeout_secs: 60,
            config: BTreeMap::new(),
            env: BTreeMap::new(),
        }
    }
}

impl HooksSection {
    pub(super) fn to_hooks_config(&self) -> HooksConfig {
        let mut hooks = HooksConfig::new();
        hooks.order.clone_from(&self.order);
        hooks.sections.clone_from(&self.config);
        hooks.env.clone_from(&self.env);
        hooks.build_timeout = Duration::from_secs(self.build_timeout_secs);
        hooks
    }
}

impl std::fmt::Debug for HooksSection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HooksSection")
            .field("order", &self.order)
            .field("timeout_secs", &self.timeout_secs)
            .field("timeouts_secs", &self.timeouts_secs)
            .field("build_timeout_secs", &self.build_timeout_secs)
            .field("config", &self.config.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// Logs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Lines for people or JSON for machines.
    pub format: LogFormat,
    /// A `tracing` filter such as `info` or `molecule_core=debug`.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::default(),
            filter: "info".to_owned(),
        }
    }
}

/// Shape of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LogFormat {
    /// One readable line per event.
    #[default]
    Human,
    /// One JSON object per event.
    Json,
}
