//! What an earlier run, a crash or a silent agent left behind.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use super::lifecycle::is_asleep;
use super::model::Status;
use super::provision::NO_BACKEND;
use super::store::lease::Again;
use super::store::timeouts::Waiting;
use super::{Workspaces, store, timeouts};
use crate::config::BackendChoice;
use crate::error::Result;
use crate::store::timestamp;

/// Documented text of the timeout sweep.
const NEVER_REGISTERED: &str = "provisioning timed out — container started but never called \
     /registry/register. Check container logs and network connectivity to the platform.";

/// Remembers what was seen without a row, so that nothing is reaped on one
/// sighting.
#[derive(Clone, Default)]
pub(super) struct Sweeper(Arc<Mutex<HashSet<Uuid>>>);

impl Workspaces {
    /// Starts over every provision whose server died: clears its compute, then
    /// provisions from the row. A graceful shutdown and `kill -9` look the same
    /// from here.
    pub(super) async fn recover_abandoned(&self) {
        let services = &self.services;
        let now = timestamp(&services.clock);
        let ids = match store::lease::abandoned(&services.db, now).await {
            Ok(ids) => ids,
            Err(error) => return tracing::warn!(%error, "abandoned provisions could not be listed"),
        };
        for id in ids {
            if self.provisioner.is_under_way(id) {
                continue;
            }
            if !services.has_no_backend() {
                self.provisioner.take_over(id);
                continue;
            }
            // With `auto`, Docker may only be late: the next start finds it.
            if services.config.backend.kind == BackendChoice::None {
                self.fail_unstartable(id).await;
            }
        }
    }

    async fn fail_unstartable(&self, id: Uuid) {
        let failing = async {
            match self.provisioner.claim_to_fail(id).await? {
                Some(lease) => {
                    self.services
                        .mark_failed(lease, NO_BACKEND, &[], Again::default())
                        .await
                }
                None => Ok(()),
            }
        };
        if let Err(error) = failing.await {
            tracing::error!(workspace.id = %id, ?error, "outcome not written");
        }
    }

    /// Fails workspaces whose agent was started and did not register in the time that
    /// its runtime has for it.
    pub(super) async fn sweep_timed_out(&self) {
        let services = &self.services;
        let now = timestamp(&services.clock);
        let configured = services.config.workspaces.provision_timeout_secs;
        // A page at a time: those that have more time must not hide the others.
        let mut last = Uuid::nil();
        loop {
            let shortest = timeouts::shortest_secs(configured);
            let page = store::timeouts::waiting(&services.db, before(now, shortest), last).await;
            let rows = match page {
                Ok(rows) => rows,
                Err(error) => {
                    return tracing::warn!(%error, "timed-out provisions could not be listed");
                }
            };
            for row in &rows {
                if let Err(error) = self.fail_if_timed_out(row, now).await {
                    tracing::error!(workspace.id = %row.id, ?error, "timeout not written");
                }
            }
            match rows.last() {
                Some(row) => last = row.id,
                None => return,
            }
        }
    }

    async fn fail_if_timed_out(&self, row: &Waiting, now: DateTime<Utc>) -> Result<()> {
        let services = &self.services;
        let secs = services.provision_timeout_secs(&row.runtime, row.provision_timeout_secs);
        let before = before(now, secs);
        if row.since >= before {
            return Ok(());
        }
        let payload = json!({
            "error": NEVER_REGISTERED,
            "timeout_secs": secs,
            "runtime": row.runtime,
            "source": "provision_timeout_sweep",
        });
        let mut tx = services.db.begin().await?;
        let text = NEVER_REGISTERED;
        let failed = store::timeouts::fail(&mut tx, row.id, text, now, before).await?;
        services.announce_failed(tx, failed, row.id, payload).await
    }

    /// Removes compute and storage that belong to this database and to no living
    /// workspace: of removed rows at once, without a row on the second sighting.
    pub(super) async fn sweep_orphans(&self, sweeper: &Sweeper) {
        let services = &self.services;
        if services.has_no_backend() {
            return;
        }
        let managed = match services.backend.list_managed().await {
            Ok(managed) => managed,
            Err(error) => {
                return tracing::warn!(error = %services.describe(error), "backend could not be listed");
            }
        };
        let mut without_row = HashSet::new();
        for item in managed {
            let id = item.workspace_id;
            let status = match store::status(&services.db, id).await {
                Ok(status) => status,
                Err(error) => return tracing::warn!(%error, "orphans could not be told"),
            };
            if status.as_deref().is_some_and(is_asleep) && item.compute {
                // A stop that failed, or a start that was overtaken by a pause.
                tracing::warn!(workspace.id = %id, "stopping compute of a workspace that sleeps");
                self.stop_sleeping(id).await;
                continue;
            }
            let orphan = match status {
                // The name itself: a status of a newer server is no reason to reap.
                Some(status) => status == Status::Removed.as_str(),
                None => {
                    without_row.insert(id);
                    sweeper
                        .0
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .contains(&id)
                }
            };
            if orphan && !self.provisioner.is_under_way(id) {
                tracing::warn!(workspace.id = %id, compute = item.compute, storage = item.storage, "removing orphan");
                services.remove_compute(id).await;
            }
        }
        *sweeper.0.lock().unwrap_or_else(PoisonError::into_inner) = without_row;
    }
}

/// So many seconds ago, or as long ago as can be.
fn before(now: DateTime<Utc>, secs: u64) -> DateTime<Utc> {
    let ago = i64::try_from(secs).ok().and_then(TimeDelta::try_seconds);
    ago.and_then(|ago| now.checked_sub_signed(ago))
        .unwrap_or(DateTime::UNIX_EPOCH)
}
