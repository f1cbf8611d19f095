//! `DELETE /workspaces/:id`: rows first, then compute and storage, detached from
//! the request.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::store::Descendant;
use super::{Services, Workspaces, store};
use crate::backend::InstanceRef;
use crate::error::{Error, Result};
use crate::events::{Event, EventType};
use crate::store::{Tx, begin_again, timestamp};

/// Compute of one workspace must end within this time.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Workspaces stopped at once.
const PARALLEL_STOPS: usize = 8;

/// What a delete marked: the workspace first, then everything below it, also what
/// an earlier delete left running.
struct Removal {
    all: Vec<Uuid>,
    cascade_deleted: usize,
}

/// The documented reply.
pub(crate) struct DeleteOutcome {
    pub(crate) status: &'static str,
    pub(crate) cascade_deleted: usize,
}

impl Workspaces {
    /// Removes a workspace and everything below it.
    ///
    /// From here on the rows say `removed`, whatever happens to the compute: late
    /// heartbeats and registers find nothing. Compute that could not be stopped is
    /// reported, keeps its storage and can be deleted again.
    ///
    /// # Errors
    /// 409 `confirmation_required` with the children; 500 `failed to check
    /// children`; 500 with `removed_count` and `stop_failures`; 500 `purge failed`.
    pub(crate) async fn delete(
        &self,
        id: Uuid,
        confirm: bool,
        purge: bool,
    ) -> Result<DeleteOutcome> {
        if !confirm {
            self.ask_for_confirmation(id).await?;
        }
        let (send, done) = oneshot::channel();
        let this = self.clone();
        self.services
            .supervisor
            .spawn("delete-workspace", async move {
                let outcome = this.delete_now(id, purge).await;
                if let Err(error) = &outcome {
                    tracing::error!(workspace.id = %id, ?error, "delete incomplete");
                }
                // Nobody listens when the client left; the work is done all the same.
                let _ = send.send(outcome);
            });
        done.await
            .unwrap_or_else(|error| Err(Error::internal("failed to delete workspace", error)))
    }

    async fn ask_for_confirmation(&self, id: Uuid) -> Result<()> {
        let children = store::children(&self.services.db, id)
            .await
            .map_err(|error| Error::from(error).says("failed to check children"))?;
        if children.is_empty() {
            return Ok(());
        }
        let list: Vec<Value> = children
            .iter()
            .map(|c| json!({ "id": c.id, "name": c.name }))
            .collect();
        Err(Error::conflict("confirmation_required")
            .with("status", "confirmation_required")
            .with(
                "message",
                "This workspace has sub-workspaces. Delete with ?confirm=true to cascade delete.",
            )
            .with("children_count", children.len())
            .with("children", list))
    }

    async fn delete_now(&self, id: Uuid, purge: bool) -> Result<DeleteOutcome> {
        let services = &self.services;
        let Removal {
            all,
            cascade_deleted,
        } = begin_again(|| self.mark_removed(id)).await?;
        let stops = stream::iter(all.clone())
            .map(|id| self.clear_compute(id))
            .buffer_unordered(PARALLEL_STOPS);
        let failures: Vec<Uuid> = stops.filter_map(std::future::ready).collect().await;
        if !failures.is_empty() {
            let list: Vec<String> = failures.iter().map(Uuid::to_string).collect();
            let text = format!(
                "workspace marked removed, but {} stop call(s) failed — please retry: stop {}",
                list.len(),
                list.join(", stop ")
            );
            return Err(Error::internal(text, anyhow::anyhow!("compute still runs"))
                .with("removed_count", all.len())
                .with("stop_failures", list.len()));
        }
        if !purge {
            return Ok(DeleteOutcome {
                status: "removed",
                cascade_deleted,
            });
        }
        let purging = async {
            let mut tx = services.db.begin().await?;
            for id in &all {
                store::purge(&mut tx, *id).await?;
            }
            tx.commit().await
        };
        purging
            .await
            .map_err(|error: sqlx::Error| Error::from(error).says("purge failed"))?;
        Ok(DeleteOutcome {
            status: "purged",
            cascade_deleted,
        })
    }

    /// Marks the workspace and everything below it, with an event for each that was
    /// live. Its row is locked first, so that nothing is put below it meanwhile.
    async fn mark_removed(&self, id: Uuid) -> Result<Removal> {
        let services = &self.services;
        let now = timestamp(&services.clock);
        let mut tx = services.db.begin().await?;
        // Nobody moves a workspace while its relatives are locked one by one.
        store::update::lock_hierarchy(&mut tx).await?;
        let was_live = store::lock_live(&mut tx, id).await?;
        let mut all = vec![id];
        let mut live = Vec::new();
        self.remove_row(&mut tx, id, now).await?;
        loop {
            let below = store::descendants(&mut tx, id).await?;
            let fresh: Vec<Descendant> = below
                .into_iter()
                .filter(|below| !all.contains(&below.id))
                .collect();
            if fresh.is_empty() {
                break;
            }
            for below in fresh {
                self.remove_row(&mut tx, below.id, now).await?;
                all.push(below.id);
                if !below.removed {
                    live.push(below.id);
                }
            }
        }
        let mut events = Vec::new();
        for child in &live {
            events.push(self.record_removal(&mut tx, *child, json!({})).await?);
        }
        if was_live {
            let payload = json!({ "cascade_deleted": live.len() });
            events.push(self.record_removal(&mut tx, id, payload).await?);
        }
        tx.commit().await?;
        for id in &all {
            services.auth.forget(*id);
            services.directory.forget(*id);
        }
        services.hierarchy.forget();
        events
            .into_iter()
            .for_each(|event| services.events.publish(event));
        Ok(Removal {
            all,
            cascade_deleted: live.len(),
        })
    }

    async fn remove_row(&self, tx: &mut Tx, id: Uuid, now: DateTime<Utc>) -> Result<()> {
        store::mark_removed(tx, id, now).await?;
        Ok(self.services.auth.revoke_all(tx, id).await?)
    }

    async fn record_removal(&self, tx: &mut Tx, id: Uuid, payload: Value) -> Result<Event> {
        let recorded = self
            .services
            .events
            .record(tx, EventType::WorkspaceRemoved, id, payload);
        Ok(recorded.await?)
    }

    /// Returns the id when compute may be left.
    async fn clear_compute(&self, id: Uuid) -> Option<Uuid> {
        let clearing = async {
            self.provisioner.cancel(id).await;
            let _pass = self.provisioner.gate().enter_to_end(id).await;
            self.services.remove_compute(id).await
        };
        match tokio::time::timeout(STOP_TIMEOUT, clearing).await {
            // The sweeper comes back for storage.
            Ok(Cleared::All | Cleared::Compute) => None,
            Ok(Cleared::Nothing) | Err(_) => Some(id),
        }
    }
}

/// What of a removed workspace is gone.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cleared {
    All,
    /// Storage may be left.
    Compute,
    /// Compute may still run.
    Nothing,
}

impl Services {
    /// Stops the compute of a removed workspace and, only if that worked, deletes
    /// its storage.
    pub(super) async fn remove_compute(&self, id: Uuid) -> Cleared {
        let instance_id = match store::find(&self.db, id).await {
            // An external agent is nobody's to stop.
            Ok(Some(row)) if row.external => return Cleared::All,
            Ok(row) => row.and_then(|row| row.instance_id),
            Err(error) => {
                tracing::error!(workspace.id = %id, %error, "instance could not be looked up");
                return Cleared::Nothing;
            }
        };
        let instance = InstanceRef {
            workspace_id: id,
            instance_id,
        };
        if let Err(error) = self.backend.stop(&instance).await {
            tracing::error!(workspace.id = %id, error = %self.describe(error), "stop failed; storage kept");
            return Cleared::Nothing;
        }
        if let Err(error) = self.backend.remove_storage(id).await {
            tracing::error!(workspace.id = %id, error = %self.describe(error), "storage not removed");
            return Cleared::Compute;
        }
        if let Err(error) = store::clear_instance(&self.db, id).await {
            tracing::warn!(workspace.id = %id, %error, "instance id not cleared");
        }
        Cleared::All
    }

    /// A backend error for the log, masked.
    pub(super) fn describe(&self, error: crate::backend::BackendError) -> String {
        self.redactor
            .redact(&format!("{:#}", anyhow::Error::from(error)))
    }
}
