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
    pub(crate) async fn went_offline(&self, _id: Uuid) -> Result<bool> {
        Ok(false)
    }

    /// Puts an idle workspace to sleep; `force` also a busy one.
    ///
    /// # Errors
    /// The documented 404 and 409; 500 when its compute could not be stopped.
    pub(crate) async fn hibernate(&self, _id: Uuid, _force: bool) -> Result<()> {
        Ok(())
    }

    /// Wakes a hibernated workspace; true for the one caller that did it.
    pub(crate) async fn wake(&self, _id: Uuid) -> Result<bool> {
        Ok(false)
    }
}
