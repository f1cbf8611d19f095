//! The runner around the registry: what a host owes the hooks and its operator.
//!
//! Order comes from the registry. Added here, per call: a thread of its own, a
//! deadline, a panic fence, a span, metrics, and a log line with the *names* of what changed. A
//! hook that fails changes nothing; the failure names it in the log while clients
//! get a fixed text.

mod configured;
mod credentials;
mod isolate;
pub(crate) mod routes;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use molecule_hooks::{ChainError, EnvMap, HookError, RegisteredHook, Registry, WorkspaceContext};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

pub(crate) use configured::hook_secrets;
pub(crate) use credentials::Credentials;
use isolate::{Ended, isolated};

use crate::config::HooksSection;
use crate::redact::Redactor;

/// Runs the chain for one workspace. Cheap to clone.
#[derive(Clone)]
pub(crate) struct HookRunner {
    registry: Registry,
    timeouts: Arc<Timeouts>,
    redactor: Redactor,
}

/// What else bounds the calls of a dry run.
#[derive(Clone)]
struct DryRun {
    until: Instant,
    /// Held by each call until it really ended, which for a hook that blocks may
    /// be long after its deadline: dry runs cannot use up the threads.
    slot: Arc<OwnedSemaphorePermit>,
}

struct Timeouts {
    default: Duration,
    by_name: BTreeMap<String, Duration>,
}

impl HookRunner {
    pub(crate) fn new(registry: Registry, config: &HooksSection, redactor: Redactor) -> Self {
        let by_name = config
            .timeouts_secs
            .iter()
            .map(|(name, secs)| (name.clone(), Duration::from_secs(*secs)))
            .collect();
        let default = Duration::from_secs(config.timeout_secs);
        Self {
            registry,
            timeouts: Arc::new(Timeouts { default, by_name }),
            redactor,
        }
    }

    /// Runs every hook in order on `env`.
    ///
    /// # Errors
    /// The first failure, with the hook's name: its own error, its panic or its
    /// expired deadline.
    pub(crate) async fn run(
        &self,
        workspace: &WorkspaceContext,
        env: &mut EnvMap,
    ) -> Result<(), ChainError> {
        self.chain(workspace, env, None).await
    }

    /// As [`run`](Self::run) for a boot that is only asked about: over by `until`,
    /// and holding `slot` for as long as code of a hook runs.
    ///
    /// # Errors
    /// As [`run`](Self::run); `env` is then what the hooks before the failing one
    /// left.
    pub(crate) async fn dry_run(
        &self,
        workspace: &WorkspaceContext,
        env: &mut EnvMap,
        until: Instant,
        slot: OwnedSemaphorePermit,
    ) -> Result<(), ChainError> {
        let slot = Arc::new(slot);
        self.chain(workspace, env, Some(&DryRun { until, slot }))
            .await
    }

    async fn chain(
        &self,
        workspace: &WorkspaceContext,
        env: &mut EnvMap,
        dry: Option<&DryRun>,
    ) -> Result<(), ChainError> {
        for hook in self.registry.snapshot() {
            let span =
                tracing::info_span!("hook", hook.name = hook.name(), workspace.id = workspace.id);
            self.call(&hook, workspace, env, dry)
                .instrument(span)
                .await
                .map_err(|cause| ChainError::new(hook.name(), cause))?;
        }
        Ok(())
    }

    async fn call(
        &self,
        hook: &RegisteredHook,
        workspace: &WorkspaceContext,
        env: &mut EnvMap,
        dry: Option<&DryRun>,
    ) -> Result<(), HookError> {
        let configured = self
            .timeouts
            .by_name
            .get(hook.name())
            .copied()
            .unwrap_or(self.timeouts.default);
        let before = env.clone();
        let started = Instant::now();
        let left = dry.map(|dry| dry.until.saturating_duration_since(started));
        let limit = left.map_or(configured, |left| configured.min(left));
        // Everything owned: the thread may outlive the call for a while.
        let (theirs, workspace, mut copy) = (hook.clone(), workspace.clone(), env.clone());
        let slot = dry.map(|dry| Arc::clone(&dry.slot));
        let work = async move {
            let _slot = slot;
            theirs.apply(&workspace, &mut copy).await?;
            Ok(copy)
        };
        let result = match tokio::time::timeout(limit, isolated(work)).await {
            Ok(Ok(result)) => result,
            Ok(Err(Ended::Panicked(panic))) => {
                Err(HookError::permanent(self.describe_panic(panic.as_ref())))
            }
            Ok(Err(Ended::Cancelled)) => Err(HookError::transient("was interrupted")),
            Err(_) => Err(HookError::transient(format!(
                "did not finish within {} s (hooks.timeout_secs); where it needs longer, set \
                 hooks.timeouts_secs.{}",
                limit.as_secs(),
                hook.name()
            ))),
        };
        let result = result.map(|changed| *env = changed);
        self.note(hook.name(), started.elapsed(), &result);
        for (name, value) in env.iter().filter(|(name, _)| env.is_secret(name)) {
            if before.get(name) == Some(value) {
                continue;
            }
            // Neither a token nor a value that nothing may ever use pushes out the
            // stored ones.
            match dry.is_some() || env.expires_at(name).is_some() {
                true => self.redactor.learn_passing(value),
                false => self.redactor.learn(value),
            }
        }
        if result.is_ok() {
            let changed = before.changed_names(env).join(" ");
            tracing::info!(changed, "hook ran");
        }
        result
    }

    fn describe_panic(&self, panic: &(dyn std::any::Any + Send)) -> String {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        format!(
            "panicked: {}; this is a bug in the hook, and without its section or its `use` line \
             workspaces start without it",
            self.redactor.redact(text)
        )
    }

    fn note(&self, hook: &str, took: Duration, result: &Result<(), HookError>) {
        let outcome = if result.is_ok() { "ok" } else { "error" };
        let labels = [("hook", hook.to_owned()), ("outcome", outcome.to_owned())];
        metrics::counter!("molecule_hook_calls_total", &labels).increment(1);
        metrics::histogram!("molecule_hook_duration_seconds", "hook" => hook.to_owned())
            .record(took.as_secs_f64());
    }
}
