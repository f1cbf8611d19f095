//! The workspace row and its status.

use std::fmt;

use chrono::{DateTime, Utc};
use molecule_hooks::WorkspaceContext;
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use super::boot::Boot;
use crate::backend::WorkspaceAccess;
use crate::store::from_row;

/// Where a workspace is in its life. The names are wire facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Provisioning,
    Online,
    Offline,
    Degraded,
    Failed,
    Removed,
    Paused,
    Hibernated,
    Hibernating,
    AwaitingAgent,
}

impl Status {
    pub(crate) const ALL: [Self; 10] = [
        Self::Provisioning,
        Self::Online,
        Self::Offline,
        Self::Degraded,
        Self::Failed,
        Self::Removed,
        Self::Paused,
        Self::Hibernated,
        Self::Hibernating,
        Self::AwaitingAgent,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
            Self::Removed => "removed",
            Self::Paused => "paused",
            Self::Hibernated => "hibernated",
            Self::Hibernating => "hibernating",
            Self::AwaitingAgent => "awaiting_agent",
        }
    }

    /// The status of a stored name. The column is constrained to these names, so
    /// an unknown one was written by a newer server: treat it as not ours to
    /// touch.
    pub(crate) fn parse(name: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == name)
            .unwrap_or(Self::Removed)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One workspace as stored, with its place on the canvas.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) role: Option<String>,
    pub(crate) tier: i64,
    pub(crate) status: String,
    pub(crate) runtime: String,
    pub(crate) model: Option<String>,
    pub(crate) template: Option<String>,
    pub(crate) external: bool,
    pub(crate) url: String,
    pub(crate) agent_card: Option<Json<Value>>,
    pub(crate) parent_id: Option<Uuid>,
    pub(crate) workspace_dir: Option<String>,
    pub(crate) workspace_access: String,
    pub(crate) awareness_namespace: Option<String>,
    pub(crate) budget_limit: Option<i64>,
    pub(crate) monthly_spend: i64,
    pub(crate) max_concurrent_tasks: i64,
    pub(crate) active_tasks: i64,
    pub(crate) last_error_rate: f64,
    pub(crate) last_sample_error: String,
    pub(crate) uptime_seconds: i64,
    pub(crate) current_task: String,
    pub(crate) instance_id: Option<String>,
    pub(crate) last_heartbeat_at: Option<DateTime<Utc>>,
    pub(crate) last_outbound_at: Option<DateTime<Utc>>,
    pub(crate) booted_at: Option<DateTime<Utc>>,
    pub(super) provision_source: Option<Json<Boot>>,
    pub(crate) removed_at: Option<DateTime<Utc>>,
    /// A provision is under way; until it is recorded, the URL is what the agent
    /// says of itself.
    pub(crate) starting: bool,
    /// Its last boot got as far as starting an agent.
    pub(super) started: bool,
    /// The boot under way has left the agent of before alone so far.
    pub(super) has_fallback: bool,
    /// Where that agent is reached meanwhile; empty without one.
    pub(crate) kept_url: String,
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) collapsed: bool,
}
from_row!(Workspace {
    id,
    name,
    role,
    tier,
    status,
    runtime,
    model,
    template,
    external,
    url,
    agent_card,
    parent_id,
    workspace_dir,
    workspace_access,
    awareness_namespace,
    budget_limit,
    monthly_spend,
    max_concurrent_tasks,
    active_tasks,
    last_error_rate,
    last_sample_error,
    uptime_seconds,
    current_task,
    instance_id,
    last_heartbeat_at,
    last_outbound_at,
    booted_at,
    provision_source,
    removed_at,
    starting,
    started,
    has_fallback,
    kept_url,
    x,
    y,
    collapsed,
});

impl Workspace {
    pub(crate) fn status(&self) -> Status {
        Status::parse(&self.status)
    }

    pub(crate) fn access(&self) -> WorkspaceAccess {
        match self.workspace_access.as_str() {
            "read_only" => WorkspaceAccess::ReadOnly,
            "read_write" => WorkspaceAccess::ReadWrite,
            _ => WorkspaceAccess::None,
        }
    }

    /// How its boot under way takes its configuration.
    pub(super) fn boot(&self) -> Boot {
        self.provision_source
            .as_ref()
            .map(|boot| boot.0.clone())
            .unwrap_or_default()
    }

    /// What hooks may know of it.
    pub(crate) fn hook_context(&self) -> WorkspaceContext {
        let mut context = WorkspaceContext::new(self.id.to_string()).with_name(self.name.clone());
        context.role.clone_from(&self.role);
        context.tier = u8::try_from(self.tier).unwrap_or(1);
        context.runtime.clone_from(&self.runtime);
        context.template.clone_from(&self.template);
        context.model.clone_from(&self.model);
        context.parent_id = self.parent_id.map(|id| id.to_string());
        context
    }
}
