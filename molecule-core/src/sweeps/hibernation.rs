//! Workspaces that idle for as long as they asked to be put to sleep after.

use chrono::TimeDelta;
use futures_util::StreamExt;
use uuid::Uuid;

use super::store::{self, Idle};
use super::{ACT_AT_ONCE, PAGE, Sweeps};
use crate::error::Kind;
use crate::store::timestamp;

impl Sweeps {
    /// One round: puts to sleep who did nothing for `hibernation_idle_minutes`.
    pub(super) async fn sweep_idle(&self) {
        if let Err(error) = self.sweep_idle_pages().await {
            tracing::warn!(%error, "idle workspaces could not be listed");
        }
    }

    async fn sweep_idle_pages(&self) -> sqlx::Result<()> {
        let services = &self.services;
        let now = timestamp(&services.clock);
        let mut after = Uuid::nil();
        loop {
            let rows = store::idle(&services.db, now, after, PAGE).await?;
            let Some(last) = rows.last() else {
                return Ok(());
            };
            after = last.id;
            let is_last_page = rows.len() < PAGE as usize;
            let sleepy = rows.into_iter().filter(|row| {
                // A number of minutes beyond the calendar never passes.
                let allowed = TimeDelta::try_minutes(row.hibernation_idle_minutes);
                allowed.is_some_and(|allowed| now - row.idle_since >= allowed)
            });
            futures_util::stream::iter(sleepy)
                .for_each_concurrent(ACT_AT_ONCE, |row| self.put_to_sleep(row))
                .await;
            if is_last_page {
                return Ok(());
            }
        }
    }

    async fn put_to_sleep(&self, row: Idle) {
        let services = &self.services;
        // It may have begun something that is not written yet.
        if services.presence.may_hold_heartbeat_of(row.id) {
            return;
        }
        match services.workspaces.hibernate(row.id, false).await {
            Ok(()) => tracing::info!(workspace.id = %row.id, "idle workspace put to sleep"),
            // It woke up, or somebody changed it in between.
            Err(error) if matches!(error.kind(), Kind::Conflict | Kind::NotFound) => {}
            Err(error) => {
                tracing::warn!(workspace.id = %row.id, ?error, "idle workspace not put to sleep");
            }
        }
    }
}
