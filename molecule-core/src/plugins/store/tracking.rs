//! SQL of `workspace_plugins`: what should be where.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::store::{Db, Tx, from_row, statement, with_db, with_tx};

/// A plugin that a workspace should have.
#[derive(Debug, Clone)]
pub(in super::super) struct Tracked {
    pub(in super::super) plugin_name: String,
    pub(in super::super) source_raw: String,
    pub(in super::super) tracked_ref: String,
    pub(in super::super) installed_sha: Option<String>,
    pub(in super::super) installed_at: DateTime<Utc>,
    pub(in super::super) update_mode: String,
    /// Digest of the tree that was delivered last.
    pub(in super::super) tree_sha256: Option<String>,
    /// The instance that has it for sure; none while a delivery is under way, and
    /// after one that did not end.
    pub(in super::super) delivered_to: Option<String>,
    pub(in super::super) delivered_at: Option<DateTime<Utc>>,
    /// Why its workspace started without it last.
    pub(in super::super) delivery_error: Option<String>,
}
from_row!(Tracked {
    plugin_name,
    source_raw,
    tracked_ref,
    installed_sha,
    installed_at,
    update_mode,
    tree_sha256,
    delivered_to,
    delivered_at,
    delivery_error,
});

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT plugin_name, source_raw, tracked_ref, installed_sha, installed_at, update_mode, tree_sha256,
                    delivered_to, delivered_at, delivery_error
             FROM workspace_plugins ",
            $rest
        )
    };
}

statement!(
    FIND,
    select!("WHERE workspace_id = $1 AND plugin_name = $2")
);

pub(in super::super) async fn find(
    db: &Db,
    workspace: Uuid,
    plugin: &str,
) -> sqlx::Result<Option<Tracked>> {
    with_db!(db, |pool| sqlx::query_as(FIND)
        .bind(workspace)
        .bind(plugin)
        .fetch_optional(pool)
        .await)
}

statement!(
    OF_WORKSPACE,
    select!("WHERE workspace_id = $1 ORDER BY plugin_name")
);

/// Everything that a workspace should have, by name.
pub(in super::super) async fn of_workspace(db: &Db, workspace: Uuid) -> sqlx::Result<Vec<Tracked>> {
    with_db!(db, |pool| sqlx::query_as(OF_WORKSPACE)
        .bind(workspace)
        .fetch_all(pool)
        .await)
}

statement!(
    DOUBT,
    "UPDATE workspace_plugins SET delivered_to = NULL
     WHERE workspace_id = $1 AND plugin_name = $2 AND delivered_to IS NOT NULL"
);

/// Nobody knows any more which tree is where, until a delivery ends.
pub(in super::super) async fn doubt(db: &Db, workspace: Uuid, plugin: &str) -> sqlx::Result<()> {
    with_db!(db, |pool| sqlx::query(DOUBT)
        .bind(workspace)
        .bind(plugin)
        .execute(pool)
        .await
        .map(drop))
}

/// What a delivery writes.
#[derive(Debug, Clone)]
pub(in super::super) struct Delivered<'a> {
    pub(in super::super) workspace: Uuid,
    pub(in super::super) plugin: &'a str,
    pub(in super::super) source: &'a str,
    pub(in super::super) tracked_ref: &'a str,
    pub(in super::super) update_mode: &'a str,
    pub(in super::super) sha: Option<&'a str>,
    pub(in super::super) tree_sha256: &'a str,
    pub(in super::super) instance_id: Option<&'a str>,
    pub(in super::super) now: DateTime<Utc>,
    /// When the tree got there, if it did so now.
    pub(in super::super) delivered_at: Option<DateTime<Utc>>,
}

statement!(
    /// What followed something else before is looked at anew.
    RECORD,
    "INSERT INTO workspace_plugins (id, workspace_id, plugin_name, source_raw, tracked_ref, installed_sha,
         installed_at, updated_at, update_mode, tree_sha256, delivered_to, delivered_at)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8, $9, $10, $11)
     ON CONFLICT (workspace_id, plugin_name) DO UPDATE SET
         source_raw = excluded.source_raw, tracked_ref = excluded.tracked_ref, installed_sha = excluded.installed_sha,
         updated_at = excluded.updated_at, update_mode = excluded.update_mode, tree_sha256 = excluded.tree_sha256,
         delivered_to = excluded.delivered_to,
         delivered_at = COALESCE(excluded.delivered_at, workspace_plugins.delivered_at),
         delivery_error = NULL, check_failures = 0"
);

/// Writes what was delivered. Keeps when it was installed first.
pub(in super::super) async fn record(tx: &mut Tx, row: &Delivered<'_>) -> sqlx::Result<()> {
    with_tx!(tx, |conn| sqlx::query(RECORD)
        .bind(Uuid::now_v7())
        .bind(row.workspace)
        .bind(row.plugin)
        .bind(row.source)
        .bind(row.tracked_ref)
        .bind(row.sha)
        .bind(row.now)
        .bind(row.update_mode)
        .bind(row.tree_sha256)
        .bind(row.instance_id)
        .bind(row.delivered_at)
        .execute(conn)
        .await
        .map(drop))
}

statement!(
    REMOVE,
    "DELETE FROM workspace_plugins WHERE workspace_id = $1 AND plugin_name = $2"
);
statement!(
    UNQUEUE,
    "DELETE FROM plugin_update_queue WHERE workspace_id = $1 AND plugin_name = $2 AND status = 'pending'"
);

/// Forgets a plugin and the updates that waited for it.
pub(in super::super) async fn remove(
    tx: &mut Tx,
    workspace: Uuid,
    plugin: &str,
) -> sqlx::Result<()> {
    for sql in [REMOVE, UNQUEUE] {
        with_tx!(&mut *tx, |conn| sqlx::query(sql)
            .bind(workspace)
            .bind(plugin)
            .execute(conn)
            .await
            .map(drop))?;
    }
    Ok(())
}
