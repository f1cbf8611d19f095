//! What a backend must offer to be put through the suite.

use std::fmt::Write as _;
use std::sync::Arc;

use async_trait::async_trait;
use molecule_core::backend::{
    BackendError, ConfigFile, InstanceRef, Liveness, StartSpec, WorkspaceAccess, WorkspaceBackend,
};
use uuid::Uuid;

/// Planted into environment and files; must never come back in an error.
pub(crate) const SECRET: &str = "planted-secret-0123456789";
/// The same, with a line break.
pub(crate) const SECRET_LINES: &str = "planted-first-line\nplanted-second-line";

/// A backend with everything that belongs to it, of its own instance, cleaned up
/// when dropped.
#[async_trait]
pub(crate) trait Fixture: Send + Sync + Sized + 'static {
    /// `None` when the tests of this backend are switched off.
    async fn new() -> Option<Self>;
    /// The backend under test.
    fn backend(&self) -> Arc<dyn WorkspaceBackend>;
    /// The backend of the same server after a restart.
    fn restarted(&self) -> Arc<dyn WorkspaceBackend>;
    /// The backend of another server on the same machine.
    fn stranger(&self) -> Arc<dyn WorkspaceBackend>;
    /// Ends the compute without the backend.
    async fn kill_compute(&self, workspace: Uuid);
    /// Makes every look at this workspace fail, until [`mend`](Self::mend).
    async fn damage(&self, workspace: Uuid);
    /// Takes [`damage`](Self::damage) back.
    async fn mend(&self, workspace: Uuid);
    /// Everything of this fixture that is still there.
    async fn leftovers(&self) -> Vec<String>;
    /// User and group that config files must have.
    fn file_owner(&self) -> (u32, u32);
    /// Runs a shell script as the running agent would, in its config directory;
    /// `busybox` is `$B`.
    async fn script(&self, workspace: Uuid, script: &str);
    /// Where the agent finds its configuration.
    fn config_path(&self, workspace: Uuid) -> String;
}

/// A plain workspace, with secrets in environment and files.
pub(crate) fn spec() -> StartSpec {
    StartSpec {
        workspace_id: Uuid::new_v4(),
        runtime: "langgraph".to_owned(),
        tier: 2,
        platform_url: "http://platform.test:8080".to_owned(),
        env: vec![
            ("API_KEY".to_owned(), SECRET.into()),
            ("PRIVATE_KEY".to_owned(), SECRET_LINES.into()),
        ],
        template_dir: None,
        template_root: None,
        files: vec![
            file("config.yaml", "name: test\n", 0o644),
            file(".auth_token", SECRET, 0o600),
        ],
        workspace_dir: None,
        workspace_access: WorkspaceAccess::None,
        existing_config: None,
        reset_session: false,
        image_pin: None,
        image: None,
        plugins: molecule_core::backend::Plugins::none(),
        progress: molecule_core::backend::Progress::none(),
    }
}

/// A workspace whose agent ends as soon as it starts.
pub(crate) fn short_lived() -> StartSpec {
    with_env(spec(), "TEST_EXIT", "7")
}

pub(crate) fn with_env(mut spec: StartSpec, name: &str, value: &str) -> StartSpec {
    spec.env.push((name.to_owned(), value.into()));
    spec
}

pub(crate) fn file(path: &str, content: &str, mode: u32) -> ConfigFile {
    ConfigFile {
        path: path.to_owned(),
        content: content.as_bytes().to_vec(),
        mode,
    }
}

pub(crate) async fn liveness(backend: &Arc<dyn WorkspaceBackend>, workspace: Uuid) -> Liveness {
    backend.liveness(&InstanceRef::of(workspace)).await
}

/// Fails when an error shows a planted secret in any way it can be printed.
pub(crate) fn assert_free_of_secrets(error: BackendError) {
    let mut text = format!("{error}\n{error:?}\n{error:#?}\n");
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        let _ = writeln!(text, "{cause}\n{cause:?}");
        source = cause.source();
    }
    let _ = write!(text, "{:?}", anyhow::Error::new(error));
    for secret in [SECRET, "planted-first-line", "planted-second-line"] {
        assert!(!text.contains(secret), "a secret shows: {text}");
    }
}
