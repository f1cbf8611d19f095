use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use crate::config::HooksConfig;
use crate::descriptor::HookDescriptor;
use crate::env_map::{EnvMap, EnvSource};
use crate::env_mutator::{EnvMutator, WorkspaceContext};
use crate::error::HookError;
use crate::plugin_source::PluginSource;
use crate::source_descriptor::PluginSourceDescriptor;
use crate::token_provider::TokenProvider;

mod linked;

pub use linked::BUILD_THREAD;

/// The chain of hooks of one server, and the sources of plugins that hook crates
/// bring: an ordinary value, cheap to clone, shared by its clones.
///
/// [`from_linked`](Registry::from_linked) builds it from what was compiled in;
/// [`new`](Registry::new) and [`register`](Registry::register) build it by hand,
/// which is what tests do. An empty registry is a valid one: running it does
/// nothing.
///
/// ```
/// use molecule_hooks::{EnvMap, Registry, WorkspaceContext};
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let registry = Registry::new();
/// let mut env = EnvMap::new();
/// registry.run(&WorkspaceContext::new("7aa0"), &mut env).await.unwrap();
/// assert!(env.is_empty());
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Registry {
    hooks: Arc<RwLock<Vec<RegisteredHook>>>,
    sources: Arc<RwLock<Vec<Arc<dyn PluginSource>>>>,
    skipped: Arc<Vec<&'static str>>,
}

/// One entry of the chain.
#[derive(Clone)]
pub struct RegisteredHook {
    mutator: Arc<dyn EnvMutator>,
    version: String,
}

/// A hook of the chain failed. `Display` is `provisionhook "<name>": <cause>`.
#[derive(Debug, Clone, thiserror::Error)]
#[error("provisionhook {hook:?}: {cause}")]
#[non_exhaustive]
pub struct ChainError {
    /// Name of the hook.
    pub hook: String,
    /// What it said.
    #[source]
    pub cause: HookError,
}

impl ChainError {
    /// The failure of the hook called `hook`.
    pub fn new(hook: impl Into<String>, cause: HookError) -> Self {
        Self {
            hook: hook.into(),
            cause,
        }
    }
}

/// Everything that is wrong with the linked hooks and their configuration, one
/// entry per problem. `Display` prints them as a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegistryError {
    /// Whole sentences that name the hook, the cause and the fix.
    pub problems: Vec<String>,
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} problem(s) with the hooks of this server:",
            self.problems.len()
        )?;
        self.problems
            .iter()
            .try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl std::error::Error for RegistryError {}

impl Registry {
    /// An empty chain.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same chain with `mutator` at its end.
    pub fn with(self, mutator: impl EnvMutator) -> Self {
        self.register(Arc::new(mutator));
        self
    }

    /// Appends a hook. May be called at any time, from any thread; provisions
    /// under way keep the chain they started with. The same instance registered
    /// twice runs twice.
    pub fn register(&self, mutator: Arc<dyn EnvMutator>) {
        self.push(mutator, String::new());
    }

    /// Builds every hook and every source of plugins that is linked into this binary
    /// and configured.
    ///
    /// Order of the hooks: [`HooksConfig::order`], then the rest by name. Sources have
    /// none: their schemes tell them apart.
    ///
    /// # Errors
    /// All problems at once: two linked hooks or sources of one name, two sources of
    /// one scheme, a section or an order entry for one that is not linked, a section
    /// that does not decode, a build that failed.
    pub fn from_linked(config: &HooksConfig) -> Result<Self, RegistryError> {
        linked::Linked {
            hooks: &HookDescriptor::linked(),
            sources: &PluginSourceDescriptor::linked(),
        }
        .build(config)
    }

    /// Adds a source of workspace plugins. A server takes the sources there are when
    /// it starts; of two with one scheme the later one counts, also where the server
    /// brings a source of that scheme itself.
    pub fn register_source(&self, source: Arc<dyn PluginSource>) {
        self.sources
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(source);
    }

    /// The sources of workspace plugins, in the order they were registered.
    pub fn sources(&self) -> Vec<Arc<dyn PluginSource>> {
        self.sources
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How many hooks the chain has.
    pub fn len(&self) -> usize {
        self.snapshot().len()
    }

    /// True when the chain has no hook.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names, in the order they run.
    pub fn names(&self) -> Vec<String> {
        self.snapshot()
            .iter()
            .map(|hook| hook.name().to_owned())
            .collect()
    }

    /// Hooks and sources that are linked but not configured, and so not there.
    pub fn skipped(&self) -> &[&'static str] {
        &self.skipped
    }

    /// The chain as it is now.
    pub fn snapshot(&self) -> Vec<RegisteredHook> {
        self.hooks
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The first hook that can serve live tokens.
    pub fn first_token_provider(&self) -> Option<RegisteredHook> {
        self.snapshot()
            .into_iter()
            .find(|hook| hook.token_provider().is_some())
    }

    /// Runs the chain in order on `env`. The first error ends it; what earlier
    /// hooks wrote stays, what the failing one wrote does not.
    ///
    /// The server calls the hooks one by one instead, to add a deadline, a panic
    /// fence and telemetry to each.
    ///
    /// # Errors
    /// [`ChainError`], which names the hook.
    pub async fn run(
        &self,
        workspace: &WorkspaceContext,
        env: &mut EnvMap,
    ) -> Result<(), ChainError> {
        for hook in self.snapshot() {
            hook.apply(workspace, env)
                .await
                .map_err(|cause| ChainError::new(hook.name(), cause))?;
        }
        Ok(())
    }

    fn push(&self, mutator: Arc<dyn EnvMutator>, version: String) {
        self.hooks
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(RegisteredHook { mutator, version });
    }
}

impl RegisteredHook {
    /// The hook's own name.
    pub fn name(&self) -> &str {
        self.mutator.name()
    }

    /// Version of its crate; empty when it was registered by hand.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Its token capability, if it has one.
    pub fn token_provider(&self) -> Option<&dyn TokenProvider> {
        self.mutator.token_provider()
    }

    /// Calls the hook on a copy of `env` and takes the copy over only if the call
    /// succeeded, with the hook noted as the writer of what it wrote.
    ///
    /// # Errors
    /// The hook's own error; `env` is then unchanged.
    pub async fn apply(
        &self,
        workspace: &WorkspaceContext,
        env: &mut EnvMap,
    ) -> Result<(), HookError> {
        let mut copy = env.clone();
        let writer = EnvSource::Hook {
            name: self.name().to_owned(),
            version: self.version.clone(),
        };
        copy.set_writer(writer.clone());
        self.mutator.mutate_env(workspace, &mut copy).await?;
        copy.attribute(env, &writer);
        copy.set_writer(env.writer().clone());
        *env = copy;
        Ok(())
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").field(&self.names()).finish()
    }
}

impl fmt::Debug for RegisteredHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name(), self.version)
    }
}
