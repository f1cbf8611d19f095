//! Plugins in the containers of workspaces.
//!
//! A delivery is one upload and one exec. The upload puts the tree, owned by the agent's
//! user and with its marker as last file, next to its place, and a small program beside
//! it; the exec runs that program, which does the rest as the transaction that
//! [`transaction`](crate::backend::plugins::transaction) describes. Where it cannot run
//! (another processor, a volume without programs) a constant script for the shell of
//! the image does the same.
//!
//! Everything in a container is done as the agent's user, never as root: the folder
//! belongs to the agent, who could put anything in the place of what was brought. What
//! is said there is believed for the workspace it comes from and no further.

mod deliver;
mod files;
mod leftovers;
mod program;
mod remove;
mod seed;
mod staged;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use molecule_hooks::PluginName;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(super) use self::leftovers::{are_there, repair_later};
use self::program::{Operation, Program};
pub(super) use self::seed::Seeding;
use super::daemon::CallError;
use super::objects::{self, Found};
use super::{DockerBackend, Inner, names};
use crate::backend::plugins::{InstalledFile, InstalledPlugin, PluginRemoval};
use crate::backend::scrub::Scrubber;
use crate::backend::{
    BackendError, DeliveryError, InstanceRef, PluginDelivery, PluginTarget, RestoredListener,
};

/// What is being done, in errors.
const OPERATION: &str = "plugins";

#[async_trait]
impl PluginTarget for DockerBackend {
    async fn deliver(
        &self,
        instance: &InstanceRef,
        delivery: &PluginDelivery,
        cancel: &CancellationToken,
    ) -> Result<(), DeliveryError> {
        let (inner, workspace, delivery) = (
            Arc::clone(&self.inner),
            instance.workspace_id,
            delivery.clone(),
        );
        let work = |token| async move { deliver::run(&inner, workspace, delivery, &token).await };
        self.inner.tasks.run(cancel, work).await
    }

    async fn remove(
        &self,
        instance: &InstanceRef,
        removal: &PluginRemoval,
    ) -> Result<(), DeliveryError> {
        let (inner, workspace, removal) = (
            Arc::clone(&self.inner),
            instance.workspace_id,
            removal.clone(),
        );
        let work = |_| async move { remove::run(&inner, workspace, &removal).await };
        self.inner.tasks.run(&CancellationToken::new(), work).await
    }

    async fn list(&self, instance: &InstanceRef) -> Result<Vec<InstalledPlugin>, DeliveryError> {
        let (inner, workspace) = (Arc::clone(&self.inner), instance.workspace_id);
        let work = |_| async move {
            let container = running(&inner, workspace).await?;
            installed(&inner, workspace, &container).await
        };
        // A task of its own, too: what it brings for its work is to be removed again.
        self.inner.tasks.run(&CancellationToken::new(), work).await
    }

    async fn files(
        &self,
        instance: &InstanceRef,
        plugin: &PluginName,
    ) -> Result<Option<Vec<InstalledFile>>, DeliveryError> {
        let container = running(&self.inner, instance.workspace_id).await?;
        files::read(&self.inner.daemon, &container, plugin).await
    }

    async fn repair(&self, instance: &InstanceRef) -> Result<Vec<PluginName>, DeliveryError> {
        let (inner, workspace) = (Arc::clone(&self.inner), instance.workspace_id);
        let work = |_| async move {
            let container = running(&inner, workspace).await?;
            leftovers::repair(&inner, workspace, &container).await
        };
        self.inner.tasks.run(&CancellationToken::new(), work).await
    }

    fn on_restored(&self, listener: RestoredListener) {
        // Whoever was named first stays.
        let _ = self.inner.restored.set(listener);
    }
}

/// The running container of a workspace, by its id.
async fn running(inner: &Inner, workspace: Uuid) -> Result<String, DeliveryError> {
    for name in names::containers(workspace) {
        let found = objects::find(&inner.daemon, &name, &inner.instance).await;
        match found.map_err(failed)? {
            Found::Ours(id, container) => {
                let state = container.state.unwrap_or_default();
                let runs = state.running == Some(true)
                    && state.restarting != Some(true)
                    && state.paused != Some(true);
                return if runs {
                    Ok(id)
                } else {
                    Err(DeliveryError::NotRunning)
                };
            }
            Found::Foreign if name == names::container(workspace) => {
                return Err(DeliveryError::Backend(BackendError::Failed {
                    operation: OPERATION,
                    reason: "a container of this name belongs to another server".to_owned(),
                }));
            }
            Found::Foreign | Found::Nothing => {}
        }
    }
    Err(DeliveryError::NotRunning)
}

/// The plugins of a container. Costs one call where there never was any.
async fn installed(
    inner: &Inner,
    workspace: Uuid,
    container: &str,
) -> Result<Vec<InstalledPlugin>, DeliveryError> {
    if !leftovers::has_plugins(&inner.daemon, container).await? {
        return Ok(Vec::new());
    }
    let under_way = inner.deliveries.begin(workspace);
    let program = Program::new(inner, container, under_way.suffix());
    let told = program.bring_and_run(Operation::List).await?;
    Ok(told.plugins)
}

/// For a call that did not work.
fn failed(error: CallError) -> DeliveryError {
    // It ended, was paused or was removed since it was looked at.
    match error.is_container_missing() || error.is_conflict() {
        true => DeliveryError::NotRunning,
        false => error.into_backend(OPERATION, &Scrubber::plain()).into(),
    }
}

/// For a step that the daemon did not do.
fn step_failed(step: &'static str, error: CallError) -> DeliveryError {
    if error.is_disk_full() {
        return DeliveryError::Step {
            step,
            reason: "no space left on device".to_owned(),
        };
    }
    match (&error, failed(error.clone())) {
        (CallError::Status(..), DeliveryError::Backend(_)) => DeliveryError::Step {
            step,
            reason: error.text(&Scrubber::plain()),
        },
        (_, other) => other,
    }
}
