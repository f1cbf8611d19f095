//! One typed configuration, built once: defaults, then `molecule.yaml`, then the
//! process environment. Nothing else in the server reads the environment.

pub mod backend;
mod docker;
mod environment;
mod example;
mod load;
mod plugins;
mod sections;
mod suggest;
#[cfg(test)]
mod tests;
mod validate;

use std::path::PathBuf;

use molecule_hooks::{HooksConfig, Secret};
use serde::Deserialize;

pub use backend::{
    BackendChoice, BackendConfig, DockerConfig, LocalBuildConfig, ProcessConfig,
    RegistryCredentials,
};
pub use environment::{ENV_VARS, EnvVar};
pub use example::example;
pub use load::{ConfigError, Sources};
pub use plugins::{PluginsConfig, SignaturePolicy};
pub use sections::{
    AuthConfig, ControlPlaneConfig, DatabaseConfig, Environment, HooksSection, LogConfig,
    LogFormat, RetentionConfig, SecretsConfig, ServerConfig, WorkspacesConfig,
};

/// Everything an operator can set. Build it with [`Config::load`] or, in tests
/// and embeddings, start from [`Config::default`] and change fields.
///
/// Unknown keys are refused; values of secret fields never show in `Debug`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Development, staging or production.
    pub environment: Environment,
    /// Folder for everything the server writes itself.
    pub data_dir: DataDir,
    /// The HTTP server.
    pub server: ServerConfig,
    /// Where rows are kept.
    pub database: DatabaseConfig,
    /// Who is an administrator.
    pub auth: AuthConfig,
    /// How secrets are encrypted.
    pub secrets: SecretsConfig,
    /// Where workspaces run.
    pub backend: BackendConfig,
    /// The SaaS control plane.
    pub control_plane: ControlPlaneConfig,
    /// Creation and provisioning of workspaces.
    pub workspaces: WorkspacesConfig,
    /// Plugins of workspaces.
    pub plugins: PluginsConfig,
    /// How long history is kept.
    pub retention: RetentionConfig,
    /// The hooks of this server.
    pub hooks: HooksSection,
    /// Logs.
    pub log: LogConfig,
    /// What of the environment makes no sense and was ignored; the log says so when the
    /// server starts.
    #[serde(skip)]
    pub warnings: Vec<String>,
}

/// A folder path with the default `data`.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct DataDir(pub PathBuf);

impl Default for DataDir {
    fn default() -> Self {
        Self(PathBuf::from("data"))
    }
}

impl Config {
    /// Reads `molecule.yaml` (or the file named by `MOLECULE_CONFIG`) and the
    /// process environment.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem found, each naming the field, the cause
    /// and the fix.
    pub fn load() -> Result<Self, ConfigError> {
        Self::from_sources(Sources::of_process(None))
    }

    /// Builds a configuration from explicit sources.
    ///
    /// # Errors
    /// As [`load`](Config::load).
    pub fn from_sources(sources: Sources) -> Result<Self, ConfigError> {
        let (config, problems) = load::load(sources);
        match problems.is_empty() {
            true => Ok(config),
            false => Err(ConfigError { problems }),
        }
    }

    /// The configuration as far as it can be read, and what is wrong with it: for
    /// callers that have more problems to report.
    pub(crate) fn with_problems(sources: Sources) -> (Self, Vec<String>) {
        load::load(sources)
    }

    /// Checks the rules beyond types.
    ///
    /// # Errors
    /// [`ConfigError`] with every problem found.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let problems = validate::problems(self);
        match problems.is_empty() {
            true => Ok(()),
            false => Err(ConfigError { problems }),
        }
    }

    /// The development mode of the contract: no administrator token and the
    /// environment says development. Requests without credentials are let in.
    pub fn is_fail_open(&self) -> bool {
        self.environment == Environment::Development && self.auth.admin_token.is_none()
    }

    /// The database URL; SQLite under the data directory by default.
    pub fn database_url(&self) -> Secret {
        match &self.database.url {
            Some(url) => url.clone(),
            None => Secret::new(format!(
                "sqlite://{}",
                self.data_dir.0.join("molecule.db").display()
            )),
        }
    }

    /// What [`Registry::from_linked`](molecule_hooks::Registry::from_linked)
    /// wants.
    pub fn hooks_config(&self) -> HooksConfig {
        self.hooks.to_hooks_config()
    }
}
