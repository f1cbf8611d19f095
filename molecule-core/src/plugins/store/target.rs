//! SQL of where plugins are delivered to.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::store::{Db, from_row, statement, with_db};

/// What is known of a workspace.
#[derive(Debug, Clone)]
pub(in super::super) struct Target {
    pub(in super::super) status: String,
    pub(in super::super) runtime: String,
    pub(in super::super) external: bool,
    pub(in super::super) instance_id: Option<String>,
    /// A boot is under way.
    pub(in super::super) starting: bool,
    /// A restart was requested and did not begin.
    pub(in super::super) restart_waits: bool,
    /// When its agent was started last.
    pub(in super::super) provisioned_at: Option<DateTime<Utc>>,
    /// What its agent says it has loaded, as JSON.
    pub(in super::super) loaded_plugins: Option<String>,
}
from_row!(Target {
    status,
    runtime,
    external,
    instance_id,
    starting,
    restart_waits,
    provisioned_at,
    loaded_plugins,
});

statement!(
    TARGET,
    "SELECT status, runtime, external, instance_id, provision_lease_until IS NOT NULL AS starting,
            restart_requested_at IS NOT NULL AS restart_waits, provisioned_at, loaded_plugins
     FROM workspaces WHERE id = $1"
);

/// None when there is no such workspace.
pub(in super::super) async fn target(db: &Db, workspace: Uuid) -> sqlx::Result<Option<Target>> {
    with_db!(db, |pool| sqlx::query_as(TARGET)
        .bind(workspace)
        .fetch_optional(pool)
        .await)
}

impl Target {
    /// True while its agent works in the compute that the row names.
    pub(in super::super) fn is_settled(&self) -> bool {
        !self.starting && matches!(self.status.as_str(), "online" | "degraded")
    }

    /// True while somebody boots it.
    pub(in super::super) fn is_booting(&self) -> bool {
        let boots = matches!(self.status.as_str(), "provisioning" | "online" | "degraded");
        self.starting && boots
    }

    pub(in super::super) fn is_removed(&self) -> bool {
        self.status == "removed"
    }

    /// True when nothing of it runs until somebody wakes it.
    pub(in super::super) fn sleeps(&self) -> bool {
        matches!(self.status.as_str(), "paused" | "hibernated")
    }

    /// The runtime, if one is known.
    pub(in super::super) fn runtime(&self) -> Option<&str> {
        Some(self.runtime.as_str()).filter(|runtime| !runtime.is_empty())
    }
}
