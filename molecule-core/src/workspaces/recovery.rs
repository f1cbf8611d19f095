//! What an earlier run, a crash or a silent agent left behind.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::TimeDelta;
use serde_json::json;
use uuid::Uuid;

use super::lifecycle::is_asleep;
use super::model::Status;
use super::provision::NO_BACKEND;
use super::{Workspaces, store};
use crate::config::BackendChoice;
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
                Some(lease) => self.services.mark_failed(lease, NO_BACKEND, &[]).await,
                None => Ok(()),
            }
        };
        if let Err(error) = failing.await {
            tracing::error!(workspace.id = %id, ?error, "outcome not written");
        }
    }

    /// Fails workspaces whose agent was started and never registered.
    pub(super) async fn sweep_timed_out(&self) {
        let services = &self.services;
        let secs = services.config.workspaces.provision_timeout_secs;
        let limit = TimeDelta::seconds(i64::try_from(secs).unwrap_or(i64::MAX / 1000));
        let Some(before) = timestamp(&services.clock).checked_sub_signed(limit) else {
            return;
        };
        let rows = match store::timed_out(&services.db, before).await {
            Ok(rows) => rows,
            Err(error) => return tracing::warn!(%error, "timed-out provisions could not be listed"),
        };
        for row in rows {
            let payload = json!({
                "error": NEVER_REGISTERED,
                "timeout_secs": secs,
                "runtime": row.runtime,
                "source": "provision_timeout_sweep",
            });
            let failed = services.mark_timed_out(row.id, NEVER_REGISTERED, before, payload);
            if let Err(error) = failed.await {
                tracing::error!(workspace.id = %row.id, ?error, "timeout not written");
            }
        }
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
