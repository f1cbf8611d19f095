//! What others do with a running workspace: taking a turn in it, and asking for a
//! restart because of what they left there.

use std::time::Duration;

use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Workspaces;
use super::gate::Turn;
use super::store::lifecycle as sql;
use crate::error::Result;
use crate::store::timestamp;

impl Workspaces {
    /// Waits until nothing else happens to a workspace on this server, and keeps it so
    /// until the turn is dropped. `leave` fires when it should be dropped soon:
    /// somebody wants to pause, delete or restart the workspace.
    pub(crate) async fn turn(&self, id: Uuid, leave: &CancellationToken) -> Turn {
        self.provisioner.gate().visit(id, leave).await
    }

    /// Requests a restart so long from now, because the agent must see what was
    /// delivered or removed. False when there is nothing to restart: the workspace is
    /// removed, external or asleep, or it is below one that is paused.
    ///
    /// Like every request it is a time in the row: it outlives this server, and a boot
    /// that begins in the meantime fulfils it.
    pub(crate) async fn request_plugin_restart(&self, id: Uuid, after: Duration) -> Result<bool> {
        let services = &self.services;
        if services.has_no_backend() || sql::paused_ancestor(&services.db, id).await?.is_some() {
            return Ok(false);
        }
        let wait = TimeDelta::from_std(after).unwrap_or_default();
        let at = timestamp(&services.clock) + wait;
        if !sql::request_restart(&services.db, id, at).await? {
            return Ok(false);
        }
        let (this, cancel) = (self.clone(), services.supervisor.token());
        services.supervisor.spawn("plugin-restart", async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = tokio::time::sleep(after) => this.poke_restarts(),
            }
        });
        Ok(true)
    }
}
