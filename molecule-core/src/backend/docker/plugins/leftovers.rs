//! What a crash left in the volume of a workspace.

use std::sync::Arc;
use std::time::Duration;

use bollard::query_parameters::ContainerArchiveInfoOptionsBuilder;
use molecule_hooks::PluginName;
use tokio::time::timeout;
use uuid::Uuid;

use super::super::Inner;
use super::super::container::CONFIG_PATH;
use super::super::daemon::{CallError, Daemon};
use super::failed;
use super::files::{self, is_empty};
use super::program::{Operation, Program};
use crate::backend::plugins::{
    MARKER_BYTES, MARKER_FILE, PLUGINS_FOLDER, PREVIOUS_FOLDER, STAGING_FOLDER, UnderWay,
};
use crate::backend::{DeliveryError, WantedPlugin};

/// What a repair after a start may take.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(300);
/// The bits of Go's file mode that say that something is no regular file.
const IRREGULAR: u32 = 0x8f28_0000;

/// Repairs a running container.
pub(super) async fn repair(
    inner: &Inner,
    workspace: Uuid,
    container: &str,
) -> Result<Vec<PluginName>, DeliveryError> {
    if !has_plugins(&inner.daemon, container).await? {
        return Ok(Vec::new());
    }
    let under_way = inner.deliveries.begin(workspace);
    let program = Program::new(inner, container, under_way.suffix());
    repair_with(&program, &under_way, workspace).await
}

/// Repairs as part of a change that is under way.
pub(super) async fn repair_with(
    program: &Program<'_>,
    under_way: &UnderWay,
    workspace: Uuid,
) -> Result<Vec<PluginName>, DeliveryError> {
    let _turn = under_way.turn().await;
    let cutoff = under_way.cutoff();
    let told = program.bring_and_run(Operation::Repair { cutoff }).await?;
    told.log(workspace);
    Ok(told.restored)
}

/// Repairs a container that was just started, by whomever, in the background. Its agent
/// has looked for its plugins by then: the listener hears of those that come back.
pub(in super::super) fn repair_later(inner: &Arc<Inner>, workspace: Uuid, container: String) {
    let (owned, closing) = (Arc::clone(inner), inner.tasks.closing().clone());
    inner.tasks.spawn(async move {
        let work = async {
            let _room = owned.repairs.acquire().await;
            let repairing = async {
                match are_there(&owned.daemon, &container).await {
                    true => repair(&owned, workspace, &container).await,
                    false => Ok(Vec::new()),
                }
            };
            timeout(REPAIR_TIMEOUT, repairing).await
        };
        let repaired = tokio::select! {
            repaired = work => repaired,
            () = closing.cancelled() => return,
        };
        match repaired {
            Ok(Ok(restored)) if restored.is_empty() => {}
            Ok(Ok(_)) => {
                if let Some(listener) = owned.restored.get() {
                    listener(workspace);
                }
            }
            // It ended again.
            Ok(Err(DeliveryError::NotRunning)) => {}
            Ok(Err(error)) => {
                tracing::warn!(workspace.id = %workspace, %error, "leftovers of plugins stay");
            }
            Err(_) => {
                tracing::warn!(workspace.id = %workspace, "repairing plugins takes too long");
            }
        }
    });
}

/// True when one of the hidden folders of a container, running or not, holds anything.
pub(in super::super) async fn are_there(daemon: &Daemon, container: &str) -> bool {
    let [staging, previous] = [STAGING_FOLDER, PREVIOUS_FOLDER]
        .map(|folder| format!("{CONFIG_PATH}/{PLUGINS_FOLDER}/{folder}"));
    let (staging, previous) = tokio::join!(
        is_empty(daemon, container, &staging),
        is_empty(daemon, container, &previous)
    );
    // A daemon that cannot say is no reason to do anything.
    [staging, previous].contains(&Some(false))
}

/// False when a container, running or not, has no folder of plugins.
pub(super) async fn has_plugins(daemon: &Daemon, container: &str) -> Result<bool, DeliveryError> {
    let path = format!("{CONFIG_PATH}/{PLUGINS_FOLDER}");
    let mode = mode_of(daemon, container, &path).await.map_err(failed)?;
    Ok(mode.is_some())
}

/// True when a container, running or not, has the plugin with the marker that it should
/// have.
pub(super) async fn is_complete(
    daemon: &Daemon,
    container: &str,
    wanted: &WantedPlugin,
) -> Result<bool, CallError> {
    let plugin = &wanted.name;
    let path = format!("{CONFIG_PATH}/{PLUGINS_FOLDER}/{plugin}/{MARKER_FILE}");
    let mode = mode_of(daemon, container, &path).await?;
    let is_there = mode.is_some_and(|mode| mode & IRREGULAR == 0);
    if !is_there || wanted.tree_sha256.is_none() {
        return Ok(is_there);
    }
    let marker = files::one(daemon, container, &path, MARKER_BYTES).await?;
    Ok(marker.is_some_and(|marker| wanted.is_met_by(&marker.content)))
}

/// The mode of an entry, as Go writes it; `None` when there is none.
async fn mode_of(daemon: &Daemon, container: &str, path: &str) -> Result<Option<u32>, CallError> {
    let options = ContainerArchiveInfoOptionsBuilder::default()
        .path(path)
        .build();
    let found = daemon
        .call(|client| client.get_container_archive_info(container, Some(options)))
        .await;
    match found {
        Ok(found) => Ok(Some(found.file_mode)),
        // An answer to this question has no text that could say more. Some daemons call
        // a file where a folder should be an error of theirs.
        Err(CallError::Status(404, _)) => Ok(None),
        Err(CallError::Status(500, text))
            if text.is_empty() || text.contains("not a directory") =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
