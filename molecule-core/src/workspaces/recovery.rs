//! What an earlier run, a crash or a silent agent left behind.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use super::delete::Cleared;
use super::model::Status;
use super::provision::NO_BACKEND;
use super::store::lease::Again;
use super::store::lifecycle as sql;
use super::store::timeouts::Waiting;
use super::{Workspaces, store, timeouts};
use crate::backend::{InstanceRef, Liveness};
use crate::config::BackendChoice;
use crate::error::Result;
use crate::store::timestamp;

/// Documented text of the timeout sweep.
const NEVER_REGISTERED: &str = "provisioning timed out — container started but never called \
     /registry/register. Check container logs and network connectivity to the platform.";

/// An agent whose compute came back by itself is not restarted before this.
const TIME_TO_REGISTER: TimeDelta = TimeDelta::seconds(60);

/// Why a workspace that the backend holds is nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Orphan {
    /// Its row says that it was removed.
    Removed,
    /// It has no row.
    Unknown,
}

impl Orphan {
    /// A word for logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Unknown => "without_row",
        }
    }
}

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

    /// The compute of a workspace started, and not by us perhaps. Where it was missed,
    /// its agent gets time to register before it is replaced; and its address is
    /// looked up.
    pub(crate) async fn came_back(&self, id: Uuid) {
        let services = &self.services;
        let row = match store::find(&services.db, id).await {
            Ok(row) => row,
            Err(error) => return tracing::warn!(workspace.id = %id, %error, "start not noted"),
        };
        let Some((row, instance_id)) = row.and_then(|row| {
            let instance_id = row.instance_id.clone()?;
            Some((row, instance_id))
        }) else {
            return;
        };
        if row.external || row.status() != Status::Offline {
            return;
        }
        let instance = InstanceRef {
            workspace_id: id,
            instance_id: Some(instance_id.clone()),
        };
        // Only the one that was started for this row has an address.
        let Ok(Some(url)) = services.backend.url(&instance).await else {
            return;
        };
        let later = timestamp(&services.clock) + TIME_TO_REGISTER;
        let noted = async {
            if sql::spare(&services.db, id, &instance_id, later).await? {
                tracing::info!(workspace.id = %id, "compute came back by itself");
                store::refresh_url(&services.db, id, &instance_id, &url).await?;
            }
            Ok::<(), sqlx::Error>(())
        };
        if let Err(error) = noted.await {
            tracing::warn!(workspace.id = %id, %error, "start not noted");
        }
    }

    /// Removes what the backend holds for a workspace that is none any more. False
    /// when the row says otherwise by now, when the backend cannot look, and when
    /// something is left.
    ///
    /// # Errors
    /// When the row cannot be read.
    pub(crate) async fn clear_orphan(&self, id: Uuid, orphan: Orphan) -> Result<bool> {
        let services = &self.services;
        if self.provisioner.is_under_way(id) {
            return Ok(false);
        }
        // Not next to a delete, and not before the end of a boot.
        let _pass = self.provisioner.gate().enter(id).await;
        let is_orphan = match (store::status(&services.db, id).await?, orphan) {
            (Some(status), Orphan::Removed) => status == Status::Removed.as_str(),
            (None, Orphan::Unknown) => true,
            _ => false,
        };
        if !is_orphan {
            return Ok(false);
        }
        if let Liveness::Unknown(error) = services.backend.liveness(&InstanceRef::of(id)).await {
            let error = services.describe(error);
            tracing::warn!(workspace.id = %id, error, "orphan not removed: the backend cannot look");
            return Ok(false);
        }
        tracing::warn!(workspace.id = %id, reason = orphan.as_str(), "removing orphan");
        Ok(services.remove_compute(id).await == Cleared::All)
    }
}

impl Workspaces {
    /// Removes compute that was made for a failed workspace after its start had given
    /// up, unless it is being started by now.
    pub(crate) async fn clear_late(&self, id: Uuid) {
        if self.provisioner.is_under_way(id) {
            return;
        }
        let _pass = self.provisioner.gate().enter(id).await;
        match store::status(&self.services.db, id).await {
            Ok(Some(status)) if status == Status::Failed.as_str() => {
                tracing::warn!(workspace.id = %id, "removing compute that was made too late");
                self.services.stop_compute(id).await;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(workspace.id = %id, %error, "late compute not removed; will retry");
            }
        }
    }
}

/// So many seconds ago, or as long ago as can be.
fn before(now: DateTime<Utc>, secs: u64) -> DateTime<Utc> {
    let ago = i64::try_from(secs).ok().and_then(TimeDelta::try_seconds);
    ago.and_then(|ago| now.checked_sub_signed(ago))
        .unwrap_or(DateTime::UNIX_EPOCH)
}
