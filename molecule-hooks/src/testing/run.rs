use crate::env_map::EnvMap;
use crate::env_mutator::{EnvMutator, WorkspaceContext};
use crate::error::HookError;
use crate::registry::{ChainError, Registry};

/// Runs one hook the way a server does, on an environment that starts as
/// `pairs`, and returns the environment it leaves.
///
/// # Errors
/// [`ChainError`] when the hook fails, and when a pair is one that
/// [`EnvMap::set`] refuses.
pub async fn run_hook<'a>(
    hook: impl EnvMutator,
    workspace: &WorkspaceContext,
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<EnvMap, ChainError> {
    let mut env = EnvMap::new();
    for (name, value) in pairs {
        env.set(name, value)
            .map_err(|error| ChainError::new(hook.name(), HookError::from(error)))?;
    }
    Registry::new().with(hook).run(workspace, &mut env).await?;
    Ok(env)
}
