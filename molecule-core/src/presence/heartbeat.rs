//! `POST /registry/heartbeat`: merged in memory, written once a second; status
//! changes are written at once.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::live::{Capability, Overrides, Report};
use super::{Presence, store};
use crate::error::{Error, Kind, Result};
use crate::events::EventType;
use crate::store::timestamp;
use crate::workspaces::{LoadedPlugin, Status, Trigger, Vitals, next_status};

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
    /// The plugins it has loaded, when it says so: 256 at most. What cannot be read is
    /// left alone.
    #[schema(value_type = Option<Vec<LoadedPlugin>>)]
    plugins: Option<Value>,
}

/// What the runtime does itself.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct RuntimeMetadata {
    /// Work that the platform leaves to it, by name.
    capabilities: Option<BTreeMap<String, bool>>,
    /// Silence after which a call to it is given up; 0 means as for everybody.
    idle_timeout_seconds: Option<i64>,
}

/// Rows per transaction, so that none of them is locked for long.
const ROWS_PER_COMMIT: usize = 25_000;
/// Transactions per flush, and so per second. What is left waits.
const COMMITS_PER_FLUSH: usize = 4;

impl Presence {
    /// Takes a heartbeat in.
    ///
    /// # Errors
    /// 400 `invalid request body`, 401, 404 `workspace not found`, 503.
    pub(crate) async fn heartbeat(&self, mut beat: Heartbeat, bearer: Option<&str>) -> Result<()> {
        let id = beat.id()?;
        let status = match self.admit(id, bearer).await {
            Ok((status, _)) => status,
            Err(error) => {
                if error.kind() == Kind::NotFound {
                    self.live.forget(id);
                }
                return Err(error);
            }
        };
        let overrides = beat.overrides();
        let vitals = beat.vitals(overrides);
        let plugins = beat.plugins.take();
        let report = self.report(id, beat);
        if let Some(to) = next_status(status, Trigger::Heartbeat(vitals)) {
            let event = describe(status, to, vitals, &report);
            // Boxed: hardly any heartbeat comes here.
            Box::pin(self.change_status(id, status, to, event, &report))
                .await
                .map_err(|error| error.says("failed to update"))?;
        }
        if let Some(plugins) = plugins
            && let Some(news) = self.news_of_plugins(id, &plugins)
        {
            // Boxed: hardly any heartbeat comes here.
            Box::pin(self.keep_plugins(id, news)).await;
        }
        let (task, active, uptime) = (
            report.current_task.clone(),
            report.active_tasks,
            report.uptime_seconds,
        );
        if self.live.merge(id, report, overrides) {
            let payload = || json!({ "current_task": task, "active_tasks": active });
            self.events.broadcast(EventType::TaskUpdated, id, payload);
        }
        let payload = || json!({ "active_tasks": active, "uptime_seconds": uptime });
        self.events
            .broadcast(EventType::WorkspaceHeartbeat, id, payload);
        metrics::counter!("molecule_heartbeats_total").increment(1);
        Ok(())
    }

    fn report(&self, id: Uuid, beat: Heartbeat) -> Report {
        let text = |value: Option<String>| match value {
            None => String::new(),
            Some(value) if value.is_empty() => value,
            // PostgreSQL cannot store NUL, and reports are written together.
            Some(value) => cut(self.redactor.redact_of(id, &value.replace('\0', ""))),
        };
        let at = timestamp(&self.clock);
        let active_tasks = beat.active_tasks.unwrap_or_default();
        Report {
            at,
            error_rate: beat.error_rate.unwrap_or_default(),
            sample_error: text(beat.sample_error),
            active_tasks,
            uptime_seconds: beat.uptime_seconds.unwrap_or_default(),
            current_task: text(beat.current_task),
            monthly_spend: beat.monthly_spend.unwrap_or_default().clamp(0, MAX_SPEND),
            idle_since: (active_tasks == 0).then_some(at),
            was_busy: active_tasks > 0,
        }
    }

    /// One guarded update and one event, together or not at all.
    async fn change_status(
        &self,
        id: Uuid,
        from: Status,
        to: Status,
        (event, payload): (EventType, Value),
        report: &Report,
    ) -> Result<()> {
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
        self.live.may_hold(id)
    }

    /// True when heartbeats arrive and cannot be written.
    pub(crate) fn is_stuck(&self) -> bool {
        self.live.is_stuck()
    }

    /// Writes what is pending, in four transactions at most. What could not be
    /// written, or whose writing was cancelled, is tried again later. True when
    /// everything went well and more is waiting.
    pub(super) async fn flush(&self) -> bool {
        let mut batch = self.live.take();
        // In one order everywhere, so that two servers cannot lock each other out.
        let mut ids: Vec<Uuid> = batch.reports.keys().copied().collect();
        ids.sort_unstable();
        for part in ids.chunks(ROWS_PER_COMMIT).take(COMMITS_PER_FLUSH) {
            let before = self.workspaces.directory().before();
            match store::write_reports(&self.db, part, &batch.reports).await {
                Ok(written) => {
                    metrics::counter!("molecule_heartbeat_commits_total").increment(1);
                    for id in part {
                        batch.reports.remove(id);
                    }
                    let read = written
                        .iter()
                        .map(|row| (row.id, Status::parse(&row.status)));
                    self.workspaces.directory().confirm(before, read);
                }
                Err(error) => {
                    batch.failed = true;
                    let count = batch.reports.len();
                    tracing::warn!(%error, count, "heartbeats not written; will retry");
                    return false;
                }
            }
        }
        !batch.reports.is_empty()
    }

    /// Writes everything that is pending, for the end of a server.
    pub(crate) async fn flush_all(&self) {
        while self.flush().await {}
    }
}

/// The event of a change that a heartbeat caused. A wedged runtime with a high
/// error rate is one change.
fn describe(from: Status, to: Status, vitals: Vitals, report: &Report) -> (EventType, Value) {
    match (to, from) {
        (Status::Degraded, _) if vitals.wedged => (
            EventType::WorkspaceDegraded,
            json!({ "runtime_state": "wedged", "sample_error": report.sample_error }),
        ),
        (Status::Degraded, _) => (
            EventType::WorkspaceDegraded,
            json!({ "error_rate": report.error_rate, "sample_error": report.sample_error }),
        ),
        (_, Status::Provisioning | Status::AwaitingAgent) => (
            EventType::WorkspaceOnline,
            json!({ "recovered_from": from.as_str() }),
        ),
        _ => (EventType::WorkspaceOnline, json!({})),
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

    fn overrides(&self) -> Overrides {
        let Some(runtime) = &self.runtime_metadata else {
            return Overrides::default();
        };
        let declared = runtime.capabilities.iter().flatten();
        let declared = declared.map(|(name, has)| (name.as_str(), *has));
        Overrides::new(declared, runtime.idle_timeout_seconds)
    }

    fn vitals(&self, overrides: Overrides) -> Vitals {
        let state = self.runtime_state.as_deref().unwrap_or_default();
        Vitals {
            error_rate: self.error_rate.unwrap_or_default(),
            wedged: state == "wedged",
            has_runtime_state: !state.is_empty(),
            native_status: overrides.has(Capability::StatusMgmt),
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
