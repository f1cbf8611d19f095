use async_trait::async_trait;

use crate::env_map::EnvMap;
use crate::error::HookError;
use crate::token_provider::TokenProvider;

/// Writes environment variables into a workspace just before it boots.
///
/// # Life of a hook
/// | step | called | may do I/O |
/// |---|---|---|
/// | linked | the binary names the crate: `use my_hook as _;` | no |
/// | configured | its section is decoded and [validated](crate::HookConfig::validate) | no |
/// | built | the function given to [`register_hook!`](crate::register_hook) runs, once per start-up (and once per `config check`) | short reads |
/// | called | [`mutate_env`](EnvMutator::mutate_env), once per boot of each workspace, concurrently | yes, within the deadline |
/// | shut down | dropped, together with any task it owns | no |
///
/// # Rules
/// * The server gives each call a deadline (10 s unless configured otherwise)
///   and drops the future when it passes. Hold no lock across an `.await`.
/// * A panic counts as an error. An error stops the boot of this workspace:
///   fail open on transient trouble, fail only on misconfiguration.
/// * Changes count only if the call returns `Ok`; after an error the map is as
///   it was before this hook.
#[async_trait]
pub trait EnvMutator: Send + Sync + 'static {
    /// Stable identifier, lower-kebab, equal to the name given to
    /// [`register_hook!`](crate::register_hook). Appears in errors and in the
    /// boot log.
    fn name(&self) -> &str;

    /// Reads and changes the environment of one workspace.
    ///
    /// # Errors
    /// Any error aborts the chain; the workspace does not start.
    async fn mutate_env(
        &self,
        workspace: &WorkspaceContext,
        env: &mut EnvMap,
    ) -> Result<(), HookError>;

    /// The live token this hook can also serve, if it can. The first hook of
    /// the chain that answers `Some` backs the token-refresh endpoints.
    fn token_provider(&self) -> Option<&dyn TokenProvider> {
        None
    }
}

/// What a hook may know about the workspace it is called for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkspaceContext {
    /// The workspace's UUID, lower case with dashes.
    pub id: String,
    /// Its display name.
    pub name: String,
    /// Free text such as `pmm-lead`; none when it was created without one.
    pub role: Option<String>,
    /// Isolation tier, 1 to 4.
    pub tier: u8,
    /// Agent runtime, for example `langgraph`.
    pub runtime: String,
    /// Template folder it was created from.
    pub template: Option<String>,
    /// Model asked for at creation.
    pub model: Option<String>,
    /// UUID of the parent workspace; none for a root.
    pub parent_id: Option<String>,
}

impl WorkspaceContext {
    /// A context with this id, no role, tier 2 and an empty name: what a test
    /// needs. Set the other fields as needed.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            tier: 2,
            ..Self::default()
        }
    }

    /// Sets the role.
    pub fn with_role(mut self, role: impl Into<String>) -> Self {
        self.role = Some(role.into());
        self
    }

    /// Sets the display name.
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
}
