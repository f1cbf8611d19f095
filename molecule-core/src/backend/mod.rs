//! Where workspaces run: one trait, several implementations, one contract suite.
//!
//! A backend knows containers or processes; it knows no database, no HTTP and no
//! domain room. Whoever calls it decides what to store and what to tell clients:
//! a [`BackendError`] is for the log only.

mod changes;
mod console;
pub mod docker;
mod environment;
mod fact;
mod images;
mod plugins;
pub mod process;
mod progress;
mod scrub;
mod tasks;
mod template;
mod terminal;
mod undo;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use molecule_hooks::Secret;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use changes::{Change, Changes};
pub use console::{Console, MAX_CONSOLE_BYTES};
pub use docker::DockerBackend;
pub use fact::{Fact, FactLevel};
pub use images::{ImageDigest, ImageRequest, ImageUser, Images, KNOWN_RUNTIMES, ObtainedImage};
pub use plugins::{
    DeliveryError, InstalledFile, InstalledPlugin, MARKER_FILE, PLUGINS_FOLDER, PREVIOUS_FOLDER,
    PluginDelivery, PluginRemoval, PluginSupplies, PluginSupply, PluginTarget, Plugins,
    RestoredListener, STAGING_FOLDER, SupplyResult, WantedPlugin,
};
pub use process::ProcessBackend;
pub use progress::{Phase, Progress, Step};
pub use terminal::{
    Terminal, TerminalControl, TerminalError, TerminalSession, TerminalSize, TerminalUser,
};
pub(crate) use undo::UndoStack;

/// Starts, stops and watches the compute and the storage of workspaces.
///
/// All methods are safe to call concurrently, also for one workspace; the caller
/// serialises what must not overlap. None of them panics.
#[async_trait]
pub trait WorkspaceBackend: Send + Sync + 'static {
    /// Which implementation this is.
    fn kind(&self) -> BackendKind;

    /// Host name under which an agent started here reaches this server, when the
    /// operator configured no platform URL.
    fn platform_host(&self) -> &'static str;

    /// Creates storage, puts [`StartSpec::files`] in place, then starts the
    /// agent. An older instance of the same workspace is replaced; its storage is
    /// kept and the files are written over it.
    ///
    /// # Errors
    /// [`BackendError`]. A failed or cancelled start leaves behind nothing that
    /// it created itself.
    async fn start(
        &self,
        spec: &StartSpec,
        cancel: &CancellationToken,
    ) -> Result<Instance, BackendError>;

    /// What the agent gets from the platform itself, whatever its workspace says;
    /// without a value where only a start decides it. For telling what a start
    /// would do: starting does not ask.
    fn forced_env(&self, spec: &StartSpec) -> Vec<(String, Option<String>)> {
        let known = |(name, value)| (name, Some(value));
        platform_env(spec, "/configs")
            .into_iter()
            .map(known)
            .collect()
    }

    /// Ends the compute of a workspace and keeps its storage. Succeeds when there
    /// is none, or when it is already being removed.
    ///
    /// # Errors
    /// [`BackendError`] when the compute may still be running.
    async fn stop(&self, instance: &InstanceRef) -> Result<(), BackendError>;

    /// Whether the compute runs. The only function that may decide that it does
    /// not: see [`Liveness`].
    async fn liveness(&self, instance: &InstanceRef) -> Liveness;

    /// URL at which this server reaches the running agent now, which may not be
    /// the one [`start`](Self::start) told: it can change whenever the compute
    /// restarts by itself. `None` when it is not known, when nothing runs, when
    /// the compute belongs to another server, or when it is not the one that
    /// [`InstanceRef::instance_id`] names.
    ///
    /// # Errors
    /// [`BackendError`] when the backend could not look.
    async fn url(&self, _instance: &InstanceRef) -> Result<Option<String>, BackendError> {
        Ok(None)
    }

    /// A file of the workspace's config directory, 256 KiB at most, as its compute
    /// (running or stopped) sees it. `None` when there is no such file or nothing to
    /// look into.
    ///
    /// # Errors
    /// [`BackendError`] when the backend could not look.
    async fn read_config(
        &self,
        _workspace_id: Uuid,
        _path: &str,
    ) -> Result<Option<Vec<u8>>, BackendError> {
        Ok(None)
    }

    /// URL at which other agents on this backend reach the agent of a workspace of
    /// this tier that runs here, without looking whether it does. `None` where that is
    /// the URL at which this server reaches it.
    fn internal_url(&self, _workspace_id: Uuid, _tier: u8) -> Option<String> {
        None
    }

    /// Deletes the storage of a stopped workspace. Succeeds when there is none.
    ///
    /// # Errors
    /// [`BackendError`] when storage may be left.
    async fn remove_storage(&self, workspace_id: Uuid) -> Result<(), BackendError>;

    /// Everything on this backend that this server's database owns: compute or
    /// storage, running or not.
    ///
    /// # Errors
    /// [`BackendError`]; an error never means "nothing there".
    async fn list_managed(&self) -> Result<Vec<ManagedInstance>, BackendError>;

    /// The same for those with compute; whether there is storage need not be true in
    /// it. Works where a backend can list its compute and nothing else.
    ///
    /// # Errors
    /// [`BackendError`]; an error never means "nothing there".
    async fn list_compute(&self) -> Result<Vec<ManagedInstance>, BackendError> {
        self.list_managed().await
    }

    /// Asks the backend whether it would work, for `doctor` and `/readyz`.
    /// Answers with a short description such as `Docker 28.2.2`.
    ///
    /// # Errors
    /// [`BackendError`] saying what is missing.
    async fn check(&self) -> Result<String, BackendError>;

    /// What workspaces print, if this backend can tell.
    fn console(&self) -> Option<&dyn Console> {
        None
    }

    /// The images of runtimes, if this backend runs images.
    fn images(&self) -> Option<&dyn Images> {
        None
    }

    /// Shells next to agents, if this backend has them.
    fn terminal(&self) -> Option<&dyn Terminal> {
        None
    }

    /// Plugins in running workspaces, if this backend can deliver them.
    fn plugins(&self) -> Option<&dyn PluginTarget> {
        None
    }

    /// What happens to compute from now on, if this backend tells. Without it, who
    /// wants to know has to look often.
    fn changes(&self) -> Option<Changes> {
        None
    }

    /// What an operator should know about this backend, for `doctor`: versions,
    /// space, what can be reached.
    async fn facts(&self) -> Vec<Fact> {
        Vec::new()
    }

    /// Ends what the backend itself runs (watchers, for instance). Workspaces
    /// keep running across a restart of the server.
    async fn shutdown(&self) {}
}

/// The implementations that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BackendKind {
    /// Containers on a Docker daemon.
    Docker,
    /// Child processes of this server, without isolation; development only.
    Process,
    /// No compute: external agents only.
    None,
}

impl BackendKind {
    /// The name used in configuration and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Process => "process",
            Self::None => "none",
        }
    }
}

/// Everything a backend needs to boot one workspace. `Debug` shows no value of
/// the environment and no file content.
#[derive(Debug, Clone)]
pub struct StartSpec {
    /// The workspace.
    pub workspace_id: Uuid,
    /// Agent runtime; chooses the image.
    pub runtime: String,
    /// Isolation tier, 1 to 4.
    pub tier: u8,
    /// URL under which the agent reaches this server, no trailing slash.
    pub platform_url: String,
    /// The environment after secrets, identity and hooks, without the platform's
    /// own variables: see [`platform_env`].
    pub env: Vec<(String, Secret)>,
    /// Folder copied into the config directory before [`files`](Self::files).
    pub template_dir: Option<PathBuf>,
    /// Where a template must lie once its links are resolved; anywhere without it.
    pub template_root: Option<PathBuf>,
    /// Files for the config directory, written before the agent starts.
    pub files: Vec<ConfigFile>,
    /// Folder of this machine to mount as `/workspace`.
    pub workspace_dir: Option<PathBuf>,
    /// What the agent may do with it.
    pub workspace_access: WorkspaceAccess,
    /// Set when the workspace ran before and keeps the files of its config
    /// directory; [`template_dir`](Self::template_dir) is `None` then.
    pub existing_config: Option<ExistingConfig>,
    /// Discard what the agent remembers of earlier sessions, where the backend
    /// keeps it apart from the config directory.
    pub reset_session: bool,
    /// Content of the image, when an administrator pinned the one of the runtime;
    /// ignored by backends without images.
    pub image_pin: Option<ImageDigest>,
    /// The image that was obtained for this start, which is used as long as it is
    /// there; `None` lets the backend obtain one. Ignored by backends without images.
    pub image: Option<ObtainedImage>,
    /// The plugins it should have when its agent starts: what is missing is delivered
    /// before. One that cannot be had does not fail the start.
    pub plugins: Plugins,
    /// Where to tell how the start gets on.
    pub progress: Progress,
}

/// How a workspace that keeps its files is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingConfig {
    /// Template to copy if the config directory holds no `config.yaml` any more.
    /// Without one the start fails with [`BackendError::NoConfig`] then.
    pub fallback: Option<PathBuf>,
}

/// One file for the config directory.
#[derive(Clone)]
pub struct ConfigFile {
    /// Path below the config directory: relative, no `..`.
    pub path: String,
    /// Its bytes.
    pub content: Vec<u8>,
    /// Permission bits, for example `0o600`.
    pub mode: u32,
}

impl std::fmt::Debug for ConfigFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ({} bytes, {:o})",
            self.path,
            self.content.len(),
            self.mode
        )
    }
}

/// Access of an agent to the host folder mounted as `/workspace`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WorkspaceAccess {
    /// A volume of its own instead of the host folder.
    #[default]
    None,
    /// The host folder, read-only.
    ReadOnly,
    /// The host folder.
    ReadWrite,
}

/// A started workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The backend's own id for it: container id, process id.
    pub instance_id: String,
    /// URL at which this server reaches the agent.
    pub url: String,
    /// Content of the image it runs, as a registry names it; none when that is not
    /// known or there is no image.
    pub image_digest: Option<ImageDigest>,
}

/// Names an instance for [`stop`](WorkspaceBackend::stop),
/// [`liveness`](WorkspaceBackend::liveness) and [`url`](WorkspaceBackend::url).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRef {
    /// The workspace.
    pub workspace_id: Uuid,
    /// What [`Instance::instance_id`] was, if it is known.
    pub instance_id: Option<String>,
}

impl InstanceRef {
    /// A reference by workspace id alone.
    pub fn of(workspace_id: Uuid) -> Self {
        Self {
            workspace_id,
            instance_id: None,
        }
    }
}

/// Whether compute runs. Only [`Stopped`](Self::Stopped) and
/// [`Missing`](Self::Missing) ever justify a destructive action.
#[derive(Debug)]
pub enum Liveness {
    /// It runs.
    Running,
    /// It exists and does not run.
    Stopped,
    /// It does not exist.
    Missing,
    /// The backend could not say. Not dead.
    Unknown(BackendError),
}

/// Stands for the instance of a server whose database is not known yet: it owns
/// nothing, and nothing is another one's.
pub(crate) const NO_INSTANCE: &str = "doctor";

/// Something a backend holds for this server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedInstance {
    /// The workspace it belongs to.
    pub workspace_id: Uuid,
    /// True when there is a container or process, running or not.
    pub compute: bool,
    /// Whether that container or process runs, when a list can tell. Only `Some(true)`
    /// says anything for sure: ask [`liveness`](WorkspaceBackend::liveness) before
    /// calling anybody dead.
    pub running: Option<bool>,
    /// What [`Instance::instance_id`] was for that container or process; `None`
    /// without compute, or when the backend cannot tell.
    pub instance_id: Option<String>,
    /// True when compute was made and never started: a start that is under way, or what
    /// a backend made after the start that asked for it was taken back.
    pub unstarted: bool,
    /// True when there is storage.
    pub storage: bool,
}

/// Why a backend could not do what it was asked. For logs: the text may name
/// images and volumes, never secrets or file contents.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// There is no backend.
    #[error("provisioner: no backend configured")]
    NotConfigured,
    /// The backend cannot be reached, or answered that it is in trouble.
    #[error("{operation}: backend unavailable")]
    Unavailable {
        /// What was being done.
        operation: &'static str,
        /// What the client library said.
        #[source]
        source: anyhow::Error,
    },
    /// The backend refused, or the workspace cannot run there.
    #[error("{operation} failed: {reason}")]
    Failed {
        /// What was being done.
        operation: &'static str,
        /// Why it failed.
        reason: String,
    },
    /// The operation did not end in time.
    #[error("{operation} timed out")]
    Timeout {
        /// What was being done.
        operation: &'static str,
    },
    /// The config directory holds no `config.yaml` and there is nothing to recover
    /// it from.
    #[error("no config.yaml to start with")]
    NoConfig,
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl BackendError {
    /// True when the same call may succeed later without anyone changing
    /// anything.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. } | Self::Timeout { .. } | Self::Cancelled
        )
    }

    /// A bounded word for metrics and provisioning records.
    pub fn class(&self) -> &'static str {
        match self {
            Self::NotConfigured => "no_backend",
            Self::Unavailable { .. } => "backend_unavailable",
            Self::Failed { .. } => "backend_refused",
            Self::Timeout { .. } => "timeout",
            Self::NoConfig => "no_config",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The variables every agent gets from the platform. They come last, so that
/// nothing an operator or hook writes replaces them.
pub fn platform_env(spec: &StartSpec, config_path: &str) -> Vec<(String, String)> {
    let url = spec.platform_url.clone();
    [
        ("WORKSPACE_ID", spec.workspace_id.to_string()),
        ("WORKSPACE_CONFIG_PATH", config_path.to_owned()),
        ("PLATFORM_URL", url.clone()),
        ("MOLECULE_URL", url),
        ("TIER", spec.tier.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Variables the platform suggests; secrets and hooks may replace them.
pub const DEFAULT_ENV: &[(&str, &str)] = &[("PLUGINS_DIR", "/plugins"), ("PYTHONPATH", "/app")];

/// The backend of a server that runs no compute. Starting fails, stopping has
/// nothing to do, and nothing is ever known to be dead.
#[derive(Debug, Default)]
pub struct NoBackend;

#[async_trait]
impl WorkspaceBackend for NoBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::None
    }

    fn platform_host(&self) -> &'static str {
        "localhost"
    }

    async fn start(&self, _: &StartSpec, _: &CancellationToken) -> Result<Instance, BackendError> {
        Err(BackendError::NotConfigured)
    }

    async fn stop(&self, _: &InstanceRef) -> Result<(), BackendError> {
        Ok(())
    }

    async fn liveness(&self, _: &InstanceRef) -> Liveness {
        Liveness::Unknown(BackendError::NotConfigured)
    }

    async fn remove_storage(&self, _: Uuid) -> Result<(), BackendError> {
        Ok(())
    }

    async fn list_managed(&self) -> Result<Vec<ManagedInstance>, BackendError> {
        Err(BackendError::NotConfigured)
    }

    async fn check(&self) -> Result<String, BackendError> {
        Ok("none: external agents only".to_owned())
    }
}

/// A backend as the rest of the server holds it.
pub type SharedBackend = Arc<dyn WorkspaceBackend>;
