//! Workspaces as the wire shows them: every field present, `null` explicit.

use std::collections::HashMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::model::Workspace;

/// What everyone may see of a workspace.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WorkspaceView {
    id: Uuid,
    name: String,
    role: Option<String>,
    tier: i64,
    status: String,
    url: String,
    parent_id: Option<Uuid>,
    agent_card: Option<Value>,
    active_tasks: i64,
    max_concurrent_tasks: i64,
    last_error_rate: f64,
    uptime_seconds: i64,
    runtime: String,
    x: f64,
    y: f64,
    collapsed: bool,
}

/// One entry of `GET /workspaces`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WorkspaceListItem {
    #[serde(flatten)]
    shared: WorkspaceView,
    last_sample_error: String,
    current_task: String,
    workspace_dir: Option<String>,
    monthly_spend: i64,
    budget_limit: Option<i64>,
    /// Milliseconds an agent of this runtime has to register, if a template says.
    #[serde(skip_serializing_if = "Option::is_none")]
    provision_timeout_ms: Option<i64>,
}

/// The reply of `GET /workspaces/:id`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WorkspaceDetail {
    #[serde(flatten)]
    shared: WorkspaceView,
    last_outbound_at: Option<String>,
}

impl From<Workspace> for WorkspaceView {
    fn from(row: Workspace) -> Self {
        Self {
            id: row.id,
            name: row.name,
            role: row.role,
            tier: row.tier,
            status: row.status,
            url: row.url,
            parent_id: row.parent_id,
            agent_card: row.agent_card.map(|card| card.0),
            active_tasks: row.active_tasks,
            max_concurrent_tasks: row.max_concurrent_tasks,
            last_error_rate: row.last_error_rate,
            uptime_seconds: row.uptime_seconds,
            runtime: row.runtime,
            x: row.x,
            y: row.y,
            collapsed: row.collapsed,
        }
    }
}

impl WorkspaceListItem {
    /// `timeouts` are the declared ones, in seconds by runtime.
    pub(super) fn new(row: Workspace, timeouts: &HashMap<String, i64>) -> Self {
        Self {
            provision_timeout_ms: timeouts.get(&row.runtime).map(|secs| secs * 1000),
            last_sample_error: row.last_sample_error.clone(),
            current_task: row.current_task.clone(),
            workspace_dir: row.workspace_dir.clone(),
            monthly_spend: row.monthly_spend,
            budget_limit: row.budget_limit,
            shared: row.into(),
        }
    }
}

impl From<Workspace> for WorkspaceDetail {
    fn from(row: Workspace) -> Self {
        Self {
            last_outbound_at: row.last_outbound_at.map(rfc3339),
            shared: row.into(),
        }
    }
}

/// RFC 3339, UTC, `Z`, microseconds.
pub(super) fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}
