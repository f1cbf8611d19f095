//! SQL of the report on all plugins of all workspaces.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::store::{Db, from_row, statement, with_db};

/// A plugin that a workspace should have, with what is known of both.
#[derive(Debug, Clone)]
pub(in super::super) struct Standing {
    pub(in super::super) workspace_id: Uuid,
    pub(in super::super) workspace_name: String,
    pub(in super::super) status: String,
    pub(in super::super) instance_id: Option<String>,
    pub(in super::super) restart_waits: bool,
    pub(in super::super) provisioned_at: Option<DateTime<Utc>>,
    pub(in super::super) loaded_plugins: Option<String>,
    pub(in super::super) plugin_name: String,
    pub(in super::super) source_raw: String,
    pub(in super::super) tracked_ref: String,
    pub(in super::super) update_mode: String,
    pub(in super::super) installed_sha: Option<String>,
    pub(in super::super) tree_sha256: Option<String>,
    pub(in super::super) delivered_to: Option<String>,
    pub(in super::super) delivered_at: Option<DateTime<Utc>>,
    pub(in super::super) delivery_error: Option<String>,
}
from_row!(Standing {
    workspace_id,
    workspace_name,
    status,
    instance_id,
    restart_waits,
    provisioned_at,
    loaded_plugins,
    plugin_name,
    source_raw,
    tracked_ref,
    update_mode,
    installed_sha,
    tree_sha256,
    delivered_to,
    delivered_at,
    delivery_error,
});

statement!(
    PAGE,
    "SELECT p.workspace_id, w.name AS workspace_name, w.status, w.instance_id,
            w.restart_requested_at IS NOT NULL OR w.provision_lease_until IS NOT NULL AS restart_waits,
            w.provisioned_at, w.loaded_plugins, p.plugin_name, p.source_raw, p.tracked_ref, p.update_mode,
            p.installed_sha, p.tree_sha256, p.delivered_to, p.delivered_at, p.delivery_error
     FROM workspace_plugins p JOIN workspaces w ON w.id = p.workspace_id
     WHERE w.status <> 'removed' AND (p.workspace_id > $1 OR (p.workspace_id = $1 AND p.plugin_name > $2))
     ORDER BY p.workspace_id, p.plugin_name LIMIT $3"
);

/// The first rows after a place in the order of workspace and name.
pub(in super::super) async fn page(
    db: &Db,
    after: (Uuid, &str),
    most: i64,
) -> sqlx::Result<Vec<Standing>> {
    with_db!(db, |pool| sqlx::query_as(PAGE)
        .bind(after.0)
        .bind(after.1)
        .bind(most)
        .fetch_all(pool)
        .await)
}
