//! Tokens of agents that run nowhere, and tickets nobody came with.

use std::collections::HashSet;
use std::time::Duration;

use chrono::TimeDelta;
use uuid::Uuid;

use super::inventory::shared_within;
use super::{PAGE, Sweeps, store};
use crate::store::timestamp;

/// A token that was not used for this long is left over, if nothing runs that
/// could use it.
const UNUSED_FOR: TimeDelta = TimeDelta::minutes(5);

impl Sweeps {
    /// One round: revokes left-over tokens. A backend that cannot list its
    /// workspaces stops the round; one that holds none does not.
    ///
    /// Safe for who sleeps: whatever starts an agent gives it a new token. Spared
    /// are workspaces that this platform never started, whose agents run elsewhere.
    pub(super) async fn sweep_tokens(&self, period: Duration) {
        // The health sweep tells about a backend in trouble.
        let Ok(listing) = self.listing(shared_within(period)).await else {
            return;
        };
        let hosted: HashSet<Uuid> = listing
            .managed
            .iter()
            .filter(|item| item.compute)
            .map(|item| item.workspace_id)
            .collect();
        if let Err(error) = self.revoke_unused(&hosted).await {
            tracing::warn!(%error, "left-over tokens could not be revoked");
        }
    }

    async fn revoke_unused(&self, hosted: &HashSet<Uuid>) -> sqlx::Result<()> {
        let services = &self.services;
        let now = timestamp(&services.clock);
        let before = now - UNUSED_FOR;
        let mut after = Uuid::nil();
        loop {
            let ids = store::with_unused_tokens(&services.db, before, after, PAGE).await?;
            let Some(last) = ids.last() else {
                return Ok(());
            };
            after = *last;
            for id in ids.iter().filter(|id| !hosted.contains(id)) {
                let revoked = store::revoke_unused(&services.db, *id, before, now).await?;
                if revoked > 0 {
                    services.auth.forget(*id);
                    tracing::info!(workspace.id = %id, revoked, "tokens without an agent revoked");
                }
            }
            if ids.len() < PAGE as usize {
                return Ok(());
            }
        }
    }

    /// One round: forgets WebSocket tickets that are too old to be used.
    pub(super) async fn sweep_tickets(&self) {
        let services = &self.services;
        let now = timestamp(&services.clock);
        if let Err(error) = store::delete_tickets(&services.db, now).await {
            tracing::warn!(%error, "old tickets could not be deleted");
        }
    }
}
