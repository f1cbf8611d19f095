//! `POST /registry/heartbeat`: merged in memory, written once a second; status
//! changes are written at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::transition::{self, Cause, Vitals};
use super::{Presence, store};
use crate::error::{Error, Result};
use crate::events::EventType;
use crate::store::timestamp;
use crate::workspaces::Status;

/// Largest monthly spend that is believed, in USD cents.
const MAX_SPEND: i64 = 1_000_000_000_000;
/// Texts of agents are cut at this length; they end up in rows and events.
const MAX_TEXT_BYTES: usize = 8192;

/// What an agent reports, every 30 seconds.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct Heartbeat {
    /// UUID, required.
    workspace_id: Option<String>,
    /// Share of failed tasks, 0 to 1.
    error_rate: Option<f64>,
    /// One of the errors.
    sample_error: Option<String>,
    /// Tasks under way.
    active_tasks: Option<i64>,
    /// Seconds since the agent started.
    uptime_seconds: Option<i64>,
    /// What it is doing.
    current_task: Option<String>,
    /// USD cents this month; 0 means unknown.
    monthly_spend: Option<i64>,
    /// `wedged` when the runtime is stuck.
    runtime_state: Option<String>,
    /// Capabilities of the runtime.
    runtime_metadata: Option<RuntimeMetadata>,
}

/// What the runtime does itself.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct RuntimeMetadata {
    capabilities: Option<BTreeMap<String, bool>>,
    #[expect(dead_code, reason = "checked for its type; used by the A2A proxy")]
    idle_timeout_seconds: Option<i64>,
}

/// The latest report of a workspace, as it will be written.
#[derive(Debug, Clone)]
pub(super) struct Report {
    pub(super) at: DateTime<Utc>,
    pub(super) error_rate: f64,
    pub(super) sample_error: String,
    pub(super) active_tasks: i64,
    pub(super) uptime_seconds: i64,
    pub(super) current_task: String,
    pub(super) monthly_spend: i64,
}

/// Reports not yet written, and the last task of each workspace.
#[derive(Clone, Default)]
pub(super) struct Pending(Arc<Mutex<Reports>>);

#[derive(Default)]
struct Reports {
    unwritten: HashMap<Uuid, Report>,
    /// Others are on their way to the database.
    is_writing: bool,
    /// The last batch that was tried came back.
    write_failed: bool,
    tasks: HashMap<Uuid, String>,
}

impl Pending {
    /// Takes a report in; true when the current task changed.
    fn merge(&self, id: Uuid, mut report: Report) -> bool {
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last_task = reports.tasks.get(&id).map_or("", String::as_str);
        let changed = last_task != report.current_task;
        if changed {
            reports.tasks.insert(id, report.current_task.clone());
        }
        if let Some(earlier) = reports.unwritten.get(&id)
            && report.monthly_spend == 0
        {
            report.monthly_spend = earlier.monthly_spend;
        }
        reports.unwritten.insert(id, report);
        changed
    }

    fn take(&self) -> HashMap<Uuid, Report> {
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reports.is_writing = true;
        std::mem::take(&mut reports.unwritten)
    }

    /// Ends a batch. Puts back what could not be written, unless something newer
    /// came in.
    fn put_back(&self, unwritten: HashMap<Uuid, Report>) {
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reports.is_writing = false;
        reports.write_failed = !unwritten.is_empty();
        for (id, report) in unwritten {
            reports.unwritten.entry(id).or_insert(report);
        }
    }

    /// True when the row of a workspace may be older than what its agent said.
    fn may_hold(&self, id: Uuid) -> bool {
        let reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reports.is_writing || reports.unwritten.contains_key(&id)
    }

    /// True when what agents say does not reach the database.
    fn is_stuck(&self) -> bool {
        let reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reports.write_failed
    }

    /// Drops what is known of a workspace that is gone.
    fn forget(&self, id: Uuid) {
        let mut reports = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reports.tasks.remove(&id);
        reports.unwritten.remove(&id);
    }
}

impl Presence {
    /// Takes a heartbeat in.
    ///
    /// # Errors
    /// 400 `invalid request body`, 401, 404 `workspace not found`, 503.
    pub(crate) async fn heartbeat(&self, beat: Heartbeat, bearer: Option<&str>) -> Result<()> {
        let id = beat.id()?;
        let status = match self.admit(id, bearer).await {
            Ok((status, _)) => status,
            Err(error) => {
                if error.kind() == crate::error::Kind::NotFound {
                    self.pending.forget(id);
                }
                return Err(error);
            }
        };
        let vitals = beat.vitals();
        let report = self.report(beat);
        if let Some((to, cause)) = transition::next(status, vitals) {
            // Boxed: hardly any heartbeat comes here.
            Box::pin(self.change_status(id, status, to, cause, &report))
                .await
                .map_err(|error| error.says("failed to update"))?;
        }
        let (task, active, uptime) = (
            report.current_task.clone(),
            report.active_tasks,
            report.uptime_seconds,
        );
        if self.pending.merge(id, report) {
            let payload = || json!({ "current_task": task, "active_tasks": active });
            self.events.broadcast(EventType::TaskUpdated, id, payload);
        }
        let payload = || json!({ "active_tasks": active, "uptime_seconds": uptime });
        self.events
            .broadcast(EventType::WorkspaceHeartbeat, id, payload);
        metrics::counter!("molecule_heartbeats_total").increment(1);
        Ok(())
    }

    fn report(&self, beat: Heartbeat) -> Report {
        let text = |value: Option<String>| match value {
            None => String::new(),
            Some(value) if value.is_empty() => value,
            // PostgreSQL cannot store NUL, and reports are written together.
            Some(value) => cut(self.redactor.redact(&value.replace('\0', ""))),
        };
        Report {
            at: timestamp(&self.clock),
            error_rate: beat.error_rate.unwrap_or_default(),
            sample_error: text(beat.sample_error),
            active_tasks: beat.active_tasks.unwrap_or_default(),
            uptime_seconds: beat.uptime_seconds.unwrap_or_default(),
            current_task: text(beat.current_task),
            monthly_spend: beat.monthly_spend.unwrap_or_default().clamp(0, MAX_SPEND),
        }
    }

    /// One guarded update and one event, together or not at all.
    async fn change_status(
        &self,
        id: Uuid,
        from: Status,
        to: Status,
        cause: Cause,
        report: &Report,
    ) -> Result<()> {
        let (event, payload) = describe(from, cause, report);
        let mut tx = self.db.begin().await?;
        let changed = store::change_status(&mut tx, id, from, to, report.at).await?;
        let recorded = match changed {
            true => Some(self.events.record(&mut tx, event, id, payload).await?),
            // Someone else was faster; their event tells it.
            false => None,
        };
        tx.commit().await?;
        self.workspaces.directory().forget(id);
        if let Some(event) = recorded {
            tracing::info!(workspace.id = %id, from = %from, to = %to, "status changed by heartbeat");
            self.events.publish(event);
        }
        Ok(())
    }

    /// True when a heartbeat of this workspace may not be written yet: its row
    /// must not be read as silence.
    pub(crate) fn may_hold_heartbeat_of(&self, id: Uuid) -> bool {
        self.pending.may_hold(id)
    }

    /// True when heartbeats arrive and cannot be written.
    pub(crate) fn is_stuck(&self) -> bool {
        self.pending.is_stuck()
    }

    /// Writes every pending report in one transaction. A batch that could not be
    /// written, or whose writing was cancelled, is tried again later.
    pub(crate) async fn flush(&self) {
        let mut batch = Batch {
            reports: self.pending.take(),
            pending: &self.pending,
        };
        if batch.reports.is_empty() {
            return;
        }
        match store::write_reports(&self.db, &batch.reports).await {
            Ok(()) => batch.reports.clear(),
            Err(error) => {
                let count = batch.reports.len();
                tracing::warn!(%error, count, "heartbeats not written; will retry");
            }
        }
    }
}

/// Reports on their way to the database; what is left of them goes back.
struct Batch<'a> {
    reports: HashMap<Uuid, Report>,
    pending: &'a Pending,
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.pending.put_back(std::mem::take(&mut self.reports));
    }
}

fn describe(from: Status, cause: Cause, report: &Report) -> (EventType, Value) {
    match (cause, from) {
        (Cause::Wedged, _) => (
            EventType::WorkspaceDegraded,
            json!({ "runtime_state": "wedged", "sample_error": report.sample_error }),
        ),
        (Cause::ErrorRate, _) => (
            EventType::WorkspaceDegraded,
            json!({ "error_rate": report.error_rate, "sample_error": report.sample_error }),
        ),
        (Cause::CameBack, Status::Provisioning | Status::AwaitingAgent) => (
            EventType::WorkspaceOnline,
            json!({ "recovered_from": from.as_str() }),
        ),
        (Cause::CameBack | Cause::Healthy, _) => (EventType::WorkspaceOnline, json!({})),
    }
}

impl Heartbeat {
    fn id(&self) -> Result<Uuid> {
        let text = self.workspace_id.as_deref().unwrap_or_default();
        let problem = |detail: &str| Error::invalid("invalid request body").with("detail", detail);
        let id = Uuid::parse_str(text).map_err(|_| problem("workspace_id must be a UUID"))?;
        let rate = self.error_rate.unwrap_or_default();
        if !rate.is_finite() || rate < 0.0 {
            return Err(problem("error_rate must not be negative"));
        }
        if self.active_tasks.is_some_and(|n| n < 0) || self.uptime_seconds.is_some_and(|n| n < 0) {
            return Err(problem(
                "active_tasks and uptime_seconds must not be negative",
            ));
        }
        Ok(id)
    }

    fn vitals(&self) -> Vitals {
        let state = self.runtime_state.as_deref().unwrap_or_default();
        let capabilities = self
            .runtime_metadata
            .as_ref()
            .and_then(|m| m.capabilities.as_ref());
        Vitals {
            error_rate: self.error_rate.unwrap_or_default(),
            wedged: state == "wedged",
            has_runtime_state: !state.is_empty(),
            native_status: capabilities.is_some_and(|c| c.get("status_mgmt") == Some(&true)),
        }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        let mut end = MAX_TEXT_BYTES;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}
