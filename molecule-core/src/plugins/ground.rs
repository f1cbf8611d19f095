//! The ground on which plugins come and go: a running workspace, for as long as nothing
//! else happens to it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Plugins;
use super::locks::Inside;
use super::store::target::{self, Target};
use crate::backend::{DeliveryError, InstanceRef, Liveness, PluginTarget};
use crate::error::{Error, Kind, Result};
use crate::workspaces::Turn;

/// Looking whether a workspace runs may take this long.
const LOOK_TIMEOUT: Duration = Duration::from_secs(15);
/// A workspace that somebody else boots is looked at again after this time.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
pub(super) const OPERATIONS: &str = "molecule_plugin_operations_total";
pub(super) const STEPS: &str = "molecule_plugin_step_duration_seconds";

/// A running workspace that plugins can be changed in.
pub(super) struct Ground<'a> {
    pub(super) row: Target,
    pub(super) instance: InstanceRef,
    pub(super) target: &'a dyn PluginTarget,
    _turn: Turn,
}

impl Plugins {
    /// Runs `work` to its end, also when the caller leaves.
    pub(super) async fn detached<T, F>(&self, name: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (send, done) = oneshot::channel();
        self.services.supervisor.spawn(name, async move {
            // Nobody listens when the client left; the work is done all the same.
            let _ = send.send(work.await);
        });
        done.await
            .unwrap_or_else(|error| Err(Error::internal("plugin deliver failed", error)))
    }

    /// Takes the turn of a workspace and looks, once, whether it runs.
    ///
    /// # Errors
    /// 503 `workspace container not running`, also when nobody can tell.
    pub(super) async fn ground(
        &self,
        inside: &Inside,
        cancel: &CancellationToken,
    ) -> Result<Ground<'_>> {
        let services = &self.services;
        let workspace = inside.place().workspace;
        let (turn, row) = tokio::select! {
            quiet = self.quiet(workspace, cancel) => quiet?,
            () = cancel.cancelled() => {
                tracing::info!(workspace.id = %workspace, "workspace had no turn for a plugin in time");
                return Err(not_running());
            }
        };
        let row = row.filter(|row| !row.external && !row.is_removed());
        let (Some(row), Some(target)) = (row, services.backend.plugins()) else {
            return Err(not_running());
        };
        let instance = InstanceRef {
            workspace_id: workspace,
            instance_id: row.instance_id.clone(),
        };
        match self.is_running(&instance).await {
            true => Ok(Ground {
                row,
                instance,
                target,
                _turn: turn,
            }),
            false => Err(not_running()),
        }
    }

    /// The turn of a workspace that nobody boots. Boots of this server hold the turn
    /// themselves; those of other servers, and those that only have their row so far,
    /// are waited for.
    async fn quiet(
        &self,
        workspace: Uuid,
        cancel: &CancellationToken,
    ) -> Result<(Turn, Option<Target>)> {
        loop {
            let turn = self.services.workspaces.turn(workspace, cancel).await;
            let row = target::target(&self.services.db, workspace).await?;
            if !row.as_ref().is_some_and(Target::is_booting) {
                return Ok((turn, row));
            }
            drop(turn);
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Whether there is compute to work in. A backend that cannot tell is logged as
    /// such, and counts as no.
    pub(super) async fn is_running(&self, instance: &InstanceRef) -> bool {
        let id = instance.workspace_id;
        let looking = self.services.backend.liveness(instance);
        match tokio::time::timeout(LOOK_TIMEOUT, looking).await {
            Ok(Liveness::Running) => true,
            Ok(Liveness::Stopped | Liveness::Missing) => false,
            Ok(Liveness::Unknown(error)) => {
                let error = self.describe(&DeliveryError::Backend(error));
                tracing::warn!(workspace.id = %id, error, "it cannot be told whether the workspace runs; counted as not running");
                false
            }
            Err(_) => {
                tracing::warn!(workspace.id = %id, "it took too long to tell whether the workspace runs; counted as not running");
                false
            }
        }
    }

    /// Requests a restart; true when there will be one.
    pub(super) async fn restart(
        &self,
        workspace: Uuid,
        plugin: &str,
        after: Option<Duration>,
    ) -> bool {
        let workspaces = &self.services.workspaces;
        let requested = workspaces.request_plugin_restart(workspace, after.unwrap_or_default());
        match requested.await {
            Ok(requested) => requested,
            Err(error) => {
                tracing::error!(workspace.id = %workspace, plugin.name = plugin, ?error, "restart for a plugin could not be requested");
                false
            }
        }
    }

    /// From now on an agent restarts that began without a plugin which came back.
    pub(super) fn restart_what_is_restored(&self) {
        let Some(target) = self.services.backend.plugins() else {
            return;
        };
        // The backend is among the services.
        let services = Arc::downgrade(&self.services);
        target.on_restored(Box::new(move |workspace| {
            let Some(services) = services.upgrade() else {
                return;
            };
            let own = Arc::clone(&services);
            services.supervisor.spawn("plugin-restored", async move {
                let requested = own.workspaces.request_plugin_restart(workspace, Duration::ZERO);
                if let Err(error) = requested.await {
                    tracing::error!(workspace.id = %workspace, ?error, "restart for a plugin that came back could not be requested");
                }
            });
        }));
    }

    /// For the log.
    pub(super) fn describe(&self, error: &DeliveryError) -> String {
        self.services.redactor.redact(&error.to_string())
    }
}

/// There is nothing to deliver to.
pub(super) fn not_running() -> Error {
    Error::not_now("workspace container not running")
}

/// Notes how long a step took.
pub(super) fn step(name: &'static str, began: Instant) {
    metrics::histogram!(STEPS, "step" => name).record(began.elapsed().as_secs_f64());
}

/// A bounded word for the metrics.
pub(super) fn outcome_of(error: &Error) -> &'static str {
    match error.kind() {
        Kind::Conflict => "in_progress",
        Kind::Unavailable => "unavailable",
        Kind::Invalid | Kind::Forbidden | Kind::Unprocessable | Kind::TooLarge => "refused",
        Kind::NotFound => "not_found",
        Kind::BadGateway | Kind::GatewayTimeout => "source_failed",
        _ => "failed",
    }
}
