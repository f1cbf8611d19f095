//! Pause, resume, hibernate, wake: what people and sweeps do to a workspace that
//! was booted once. Each runs in a task of its own, so that a client that leaves
//! cancels nothing.

use std::time::Duration;

use chrono::TimeDelta;
use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::boot::Boot;
use super::model::Status;
use super::status::Trigger;
use super::store::lifecycle::{self as sql, BootFrom};
use super::{Services, Workspaces, store};
use crate::backend::InstanceRef;
use crate::error::{Error, Result};
use crate::events::{Event, EventType};
use crate::store::{begin_again, timestamp};

/// Compute of one workspace must end within this time.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Workspaces stopped at once.
const PARALLEL_STOPS: usize = 8;
/// A workspace that is half asleep for so long was left by a server that died.
const HALF_ASLEEP_AFTER: TimeDelta = TimeDelta::seconds(90);

/// What a pause did.
pub(crate) struct Paused {
    pub(crate) count: usize,
    /// Compute that may still run; the sweeper comes back for it.
    pub(crate) stop_failures: usize,
}

impl Workspaces {
    /// Runs `work` to its end, also when the caller leaves.
    pub(super) async fn detached<T, F>(&self, name: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (send, done) = oneshot::channel();
        self.services.supervisor.spawn(name, async move {
            // Nobody listens when the client left; the work is done all the same.
            let _ = send.send(work.await);
        });
        done.await
            .unwrap_or_else(|error| Err(Error::internal("internal error", error)))
    }

    /// Pauses a workspace and everything below it: the rows first, then the
    /// compute. Storage stays.
    ///
    /// # Errors
    /// 404 `workspace not found or already paused`; 500 `lookup failed`.
    pub(crate) async fn pause(&self, id: Uuid) -> Result<Paused> {
        let this = self.clone();
        self.detached("pause-workspace", async move { this.pause_now(id).await })
            .await
    }

    async fn pause_now(&self, id: Uuid) -> Result<Paused> {
        let services = &self.services;
        let (events, hosted) = begin_again(|| self.pause_rows(id)).await?;
        let count = events.len();
        for event in events {
            services.directory.forget(event.workspace_id);
            services.events.publish(event);
        }
        let stops = stream::iter(hosted)
            .map(|id| self.stop_sleeping(id))
            .buffer_unordered(PARALLEL_STOPS);
        let stop_failures = stops
            .filter(|stopped| std::future::ready(!stopped))
            .count()
            .await;
        tracing::info!(workspace.id = %id, count, stop_failures, "workspace paused");
        Ok(Paused {
            count,
            stop_failures,
        })
    }

    /// Pauses the rows; the events of all, and who of them has compute of ours.
    async fn pause_rows(&self, id: Uuid) -> Result<(Vec<Event>, Vec<Uuid>)> {
        let services = &self.services;
        let lookup = |error: sqlx::Error| Error::from(error).says("lookup failed");
        let now = timestamp(&services.clock);
        let mut tx = services.db.begin().await.map_err(lookup)?;
        let mut ids = vec![id];
        let mut hosted = Vec::new();
        let mut events = Vec::new();
        if store::lock_live(&mut tx, id).await.map_err(lookup)? {
            let below = store::descendants(&mut tx, id).await.map_err(lookup)?;
            ids.extend(
                below
                    .iter()
                    .filter(|below| !below.removed)
                    .map(|below| below.id),
            );
        }
        for at in ids {
            let Some(brief) = sql::pause(&mut tx, at, now).await.map_err(lookup)? else {
                if at == id {
                    return Err(Error::not_found("workspace not found or already paused"));
                }
                continue;
            };
            let payload = json!({ "name": brief.name });
            let recorded = services
                .events
                .record(&mut tx, EventType::WorkspacePaused, at, payload);
            events.push(recorded.await.map_err(lookup)?);
            if !brief.external {
                hosted.push(at);
            }
        }
        tx.commit().await.map_err(lookup)?;
        Ok((events, hosted))
    }

    /// Ends what runs for a workspace whose row says that nothing should. False
    /// when something may be left.
    pub(crate) async fn stop_sleeping(&self, id: Uuid) -> bool {
        let stopping = async {
            // What began before the row is read; not what a resume begins after that.
            let under_way = self.provisioner.under_way(id);
            if let Some(under_way) = under_way
                && let Ok(Some(status)) = store::status(&self.services.db, id).await
                && is_asleep(&status)
            {
                under_way.cancel().await;
            }
            let _pass = self.provisioner.gate().enter_to_end(id).await;
            match store::status(&self.services.db, id).await {
                // Resumed in the meantime: it runs by right.
                Ok(Some(status)) if !is_asleep(&status) => true,
                Ok(_) => self.services.stop_compute(id).await,
                Err(error) => {
                    tracing::error!(workspace.id = %id, %error, "status could not be read");
                    false
                }
            }
        };
        tokio::time::timeout(STOP_TIMEOUT, stopping)
            .await
            .unwrap_or(false)
    }

    /// Boots a paused workspace and every paused one below it.
    ///
    /// # Errors
    /// 404 `workspace not found or not paused`; 409 `parent workspace "<name>" is
    /// paused — resume it first`; 503 `provisioner not available`.
    pub(crate) async fn resume(&self, id: Uuid) -> Result<usize> {
        let this = self.clone();
        self.detached("resume-workspace", async move { this.resume_now(id).await })
            .await
    }

    async fn resume_now(&self, id: Uuid) -> Result<usize> {
        let services = &self.services;
        let lookup = |error: sqlx::Error| Error::from(error).says("lookup failed");
        let not_paused = || Error::not_found("workspace not found or not paused");
        let row = store::find(&services.db, id).await.map_err(lookup)?;
        let row = row
            .filter(|row| row.status() == Status::Paused)
            .ok_or_else(not_paused)?;
        if !row.external && services.has_no_backend() {
            return Err(Error::not_now("provisioner not available"));
        }
        self.refuse_below_paused(id).await?;
        let below = {
            let mut tx = services.db.begin().await.map_err(lookup)?;
            let below = store::descendants(&mut tx, id).await.map_err(lookup)?;
            tx.commit().await.map_err(lookup)?;
            below
        };
        let mut ids = vec![id];
        ids.extend(
            below
                .into_iter()
                .filter(|below| !below.removed)
                .map(|below| below.id),
        );
        let mut resumed = 0;
        for at in ids {
            match self.resume_one(at).await {
                Ok(true) => resumed += 1,
                Ok(false) if at == id => return Err(not_paused()),
                Ok(false) => {}
                Err(error) if at == id => return Err(error.says("lookup failed")),
                // The rest is not lost for one.
                Err(error) => tracing::error!(workspace.id = %at, ?error, "not resumed"),
            }
        }
        Ok(resumed)
    }

    async fn resume_one(&self, id: Uuid) -> Result<bool> {
        let services = &self.services;
        let Some(row) = store::find(&services.db, id).await? else {
            return Ok(false);
        };
        if row.external {
            return self.resume_external(id).await;
        }
        let from = BootFrom {
            trigger: Trigger::Resume { external: false },
            requested: false,
        };
        self.boot(id, &Boot::again(row.booted_at.is_some()), from)
            .await
    }

    async fn resume_external(&self, id: Uuid) -> Result<bool> {
        let services = &self.services;
        let now = timestamp(&services.clock);
        let mut tx = services.db.begin().await?;
        let Some(brief) = sql::resume_external(&mut tx, id, now).await? else {
            return Ok(false);
        };
        let payload = json!({ "name": brief.name, "external": true });
        let recorded =
            services
                .events
                .record(&mut tx, EventType::WorkspaceAwaitingAgent, id, payload);
        let event = recorded.await?;
        tx.commit().await?;
        services.directory.forget(id);
        services.events.publish(event);
        Ok(true)
    }

    /// # Errors
    /// 409 with the nearest paused ancestor's name.
    pub(super) async fn refuse_below_paused(&self, id: Uuid) -> Result<()> {
        let above = sql::paused_ancestor(&self.services.db, id)
            .await
            .map_err(|error| Error::from(error).says("lookup failed"))?;
        match above {
            None => Ok(()),
            Some(name) => Err(Error::conflict(format!(
                "parent workspace \"{name}\" is paused — resume it first"
            ))),
        }
    }

    /// Puts an idle workspace to sleep; `force` also a busy one.
    ///
    /// # Errors
    /// 404 and 409 as documented; 409 when something else happened to it at the
    /// same time; 500 when its compute could not be stopped, and then it is what it
    /// was before.
    pub(crate) async fn hibernate(&self, id: Uuid, force: bool) -> Result<()> {
        let this = self.clone();
        self.detached("hibernate-workspace", async move {
            this.hibernate_now(id, force).await
        })
        .await
    }

    async fn hibernate_now(&self, id: Uuid, force: bool) -> Result<()> {
        let services = &self.services;
        let lookup = |error: sqlx::Error| Error::from(error).says("lookup failed");
        let _pass = self.provisioner.gate().enter(id).await;
        let row = store::find(&services.db, id).await.map_err(lookup)?;
        let row = row
            .filter(|row| matches!(row.status(), Status::Online | Status::Degraded))
            .ok_or_else(|| {
                Error::not_found(
                    "workspace not found or not in a hibernatable state (must be online or degraded)",
                )
            })?;
        if row.external {
            return Err(Error::conflict(
                "external workspaces have no compute to hibernate",
            ));
        }
        if row.active_tasks > 0 && !force {
            return Err(busy(row.active_tasks));
        }
        let now = timestamp(&services.clock);
        let begun = sql::begin_hibernation(&services.db, id, row.status(), now, force);
        if !begun.await.map_err(lookup)? {
            let tasks = store::find(&services.db, id).await.map_err(lookup)?;
            return Err(match tasks {
                Some(row) if row.active_tasks > 0 && !force => busy(row.active_tasks),
                _ => Error::conflict("workspace changed in the meantime — please retry"),
            });
        }
        services.directory.forget(id);
        let stopped = tokio::time::timeout(STOP_TIMEOUT, services.stop_compute(id)).await;
        let to = match stopped {
            Ok(true) => Status::Hibernated,
            Ok(false) | Err(_) => row.status(),
        };
        self.end_hibernation(id, to).await?;
        match to {
            Status::Hibernated => Ok(()),
            _ => Err(Error::internal(
                "failed to stop workspace",
                anyhow::anyhow!("compute may still run"),
            )),
        }
    }

    async fn end_hibernation(&self, id: Uuid, to: Status) -> Result<()> {
        let services = &self.services;
        let mut tx = services.db.begin().await?;
        let ended = sql::end_hibernation(&mut tx, id, to, timestamp(&services.clock)).await?;
        let event = match (ended, to) {
            (Some(brief), Status::Hibernated) => {
                let payload = json!({ "name": brief.name, "tier": brief.tier });
                let recorded =
                    services
                        .events
                        .record(&mut tx, EventType::WorkspaceHibernated, id, payload);
                Some(recorded.await?)
            }
            _ => None,
        };
        tx.commit().await?;
        services.directory.forget(id);
        if let Some(event) = event {
            tracing::info!(workspace.id = %id, "workspace hibernated");
            services.events.publish(event);
        }
        Ok(())
    }

    /// Finishes what a server began that died while putting workspaces to sleep.
    pub(super) async fn finish_hibernations(&self) {
        let services = &self.services;
        if !services.leader.is_leader() {
            return;
        }
        let before = timestamp(&services.clock) - HALF_ASLEEP_AFTER;
        let ids = match sql::half_asleep(&services.db, before).await {
            Ok(ids) => ids,
            Err(error) => return tracing::warn!(%error, "hibernations could not be listed"),
        };
        for id in ids {
            let _pass = self.provisioner.gate().enter(id).await;
            // The list may be old by now.
            let status = store::status(&services.db, id).await;
            if !matches!(
                status.as_ref().map(Option::as_deref),
                Ok(Some("hibernating"))
            ) {
                continue;
            }
            let stopped = tokio::time::timeout(STOP_TIMEOUT, services.stop_compute(id)).await;
            if matches!(stopped, Ok(true))
                && let Err(error) = self.end_hibernation(id, Status::Hibernated).await
            {
                tracing::error!(workspace.id = %id, ?error, "hibernation not finished");
            }
        }
    }

    /// Wakes a hibernated workspace; true for the one caller that did it.
    pub(crate) async fn wake(&self, id: Uuid) -> Result<bool> {
        let from = BootFrom {
            trigger: Trigger::Wake,
            requested: false,
        };
        if self.services.has_no_backend() {
            return Err(Error::not_now("provisioner not available"));
        }
        let this = self.clone();
        self.detached("wake-workspace", async move {
            this.boot(id, &Boot::again(true).automatic(), from).await
        })
        .await
    }
}

impl Services {
    /// Stops compute and keeps storage. False when something may still run.
    pub(super) async fn stop_compute(&self, id: Uuid) -> bool {
        if let Err(error) = self.backend.stop(&InstanceRef::of(id)).await {
            tracing::error!(workspace.id = %id, error = %self.describe(error), "stop failed");
            return false;
        }
        if let Err(error) = store::clear_instance(&self.db, id).await {
            tracing::warn!(workspace.id = %id, %error, "instance id not cleared");
        }
        true
    }
}

/// True for a row whose compute should not run.
fn is_asleep(status: &str) -> bool {
    [Status::Paused, Status::Hibernated]
        .iter()
        .any(|asleep| asleep.as_str() == status)
}

fn busy(active_tasks: i64) -> Error {
    Error::conflict("workspace has active tasks; use ?force=true to terminate them")
        .with("active_tasks", active_tasks)
}
