//! SQL of `workspace_plugins`: what should be where.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::store::{Db, Tx, from_row, statement, with_db, with_tx};

/// A plugin that a workspace should have.
#[derive(Debug, Clone)]
pub(in super::super) struct Tracked {
    pub(in super::super) id: Uuid,
    pub(in super::super) plugin_name: String,
    pub(in super::super) source_raw: String,
    pub(in super::super) tracked_ref: String,
    pub(in super::super) installed_sha: Option<String>,
    pub(in super::super) installed_at: DateTime<Utc>,
    pub(in super::super) update_mode: String,
    /// Digest of the tree that was delivered last.
    pub(in super::super) tree_sha256: Option<String>,
    /// Signature of that digest, if one came with the request for it.
    pub(in super::super) signature: Option<String>,
    /// The instance that has it for sure; none while a delivery is under way, and
    /// after one that did not end.
    pub(in super::super) delivered_to: Option<String>,
    pub(in super::super) delivered_at: Option<DateTime<Utc>>,
    /// Why its workspace started without it last.
    pub(in super::super) delivery_error: Option<String>,
}
from_row!(Tracked {
    id,
    plugin_name,
    source_raw,
    tracked_ref,
    installed_sha,
    installed_at,
    update_mode,
    tree_sha256,
    signature,
    delivered_to,
    delivered_at,
    delivery_error,
});

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, plugin_name, source_raw, tracked_ref, installed_sha, installed_at, update_mode,
                    tree_sha256, signature, delivered_to, delivered_at, delivery_error
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
    pub(in super::super) follows: Follows<'a>,
    pub(in super::super) sha: Option<&'a str>,
    pub(in super::super) tree_sha256: &'a str,
    /// Signature of the digest; without one, that of the same tree stays.
    pub(in super::super) signature: Option<&'a str>,
    pub(in super::super) instance_id: Option<&'a str>,
    pub(in super::super) now: DateTime<Utc>,
    /// When the tree got there, if it did so now.
    pub(in super::super) delivered_at: Option<DateTime<Utc>>,
}

/// What a plugin follows after a delivery.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Follows<'a> {
    /// What whoever asked for it says.
    This {
        tracked_ref: &'a str,
        update_mode: &'a str,
    },
    /// What its row says by now: this was an update.
    AsBefore,
}

statement!(
    /// Updates from another revision than the one that is there now, or to what nothing
    /// follows any more. One to this very revision is closed as applied later.
    WITHDRAW_OTHERS,
    "DELETE FROM plugin_update_queue
     WHERE workspace_id = $1 AND plugin_name = $2 AND status = 'pending'
       AND (tracked_ref <> $3 OR (current_sha <> $4 AND latest_sha <> $4))"
);
statement!(
    /// What followed something else before is looked at anew.
    RECORD,
    "INSERT INTO workspace_plugins (id, workspace_id, plugin_name, source_raw, tracked_ref, installed_sha,
         installed_at, updated_at, update_mode, tree_sha256, delivered_to, delivered_at, signature)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $8, $9, $10, $11, $12)
     ON CONFLICT (workspace_id, plugin_name) DO UPDATE SET
         source_raw = excluded.source_raw, tracked_ref = excluded.tracked_ref, installed_sha = excluded.installed_sha,
         updated_at = excluded.updated_at, update_mode = excluded.update_mode, tree_sha256 = excluded.tree_sha256,
         delivered_to = excluded.delivered_to,
         delivered_at = COALESCE(excluded.delivered_at, workspace_plugins.delivered_at),
         signature = CASE WHEN excluded.tree_sha256 = workspace_plugins.tree_sha256
                          THEN COALESCE(excluded.signature, workspace_plugins.signature)
                          ELSE excluded.signature END,
         delivery_error = NULL, check_failures = 0"
);

statement!(
    RECORD_UPDATE,
    "UPDATE workspace_plugins SET
         source_raw = $3, installed_sha = $4, updated_at = $5, tree_sha256 = $6, delivered_to = $7,
         delivered_at = COALESCE($8, delivered_at), delivery_error = NULL, check_failures = 0,
         signature = CASE WHEN tree_sha256 = $6 THEN COALESCE($9, signature) ELSE $9 END
     WHERE workspace_id = $1 AND plugin_name = $2"
);

/// Writes what was delivered. Keeps when it was installed first.
///
/// # Errors
/// Also `RowNotFound` for an update of what is not recorded any more.
pub(in super::super) async fn record(tx: &mut Tx, row: &Delivered<'_>) -> sqlx::Result<()> {
    let Follows::This {
        tracked_ref,
        update_mode,
    } = row.follows
    else {
        return record_update(tx, row).await;
    };
    // The queue first, as everywhere: two transactions must not wait for each other.
    with_tx!(&mut *tx, |conn| sqlx::query(WITHDRAW_OTHERS)
        .bind(row.workspace)
        .bind(row.plugin)
        .bind(tracked_ref)
        .bind(row.sha.unwrap_or_default())
        .execute(conn)
        .await
        .map(drop))?;
    with_tx!(tx, |conn| sqlx::query(RECORD)
        .bind(Uuid::now_v7())
        .bind(row.workspace)
        .bind(row.plugin)
        .bind(row.source)
        .bind(tracked_ref)
        .bind(row.sha)
        .bind(row.now)
        .bind(update_mode)
        .bind(row.tree_sha256)
        .bind(row.instance_id)
        .bind(row.delivered_at)
        .bind(row.signature)
        .execute(conn)
        .await
        .map(drop))
}

async fn record_update(tx: &mut Tx, row: &Delivered<'_>) -> sqlx::Result<()> {
    let updated = with_tx!(tx, |conn| sqlx::query(RECORD_UPDATE)
        .bind(row.workspace)
        .bind(row.plugin)
        .bind(row.source)
        .bind(row.sha)
        .bind(row.now)
        .bind(row.tree_sha256)
        .bind(row.instance_id)
        .bind(row.delivered_at)
        .bind(row.signature)
        .execute(conn)
        .await
        .map(|done| done.rows_affected()))?;
    match updated {
        0 => Err(sqlx::Error::RowNotFound),
        _ => Ok(()),
    }
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
    // The queue first, as everywhere: two transactions must not wait for each other.
    for sql in [UNQUEUE, REMOVE] {
        with_tx!(&mut *tx, |conn| sqlx::query(sql)
            .bind(workspace)
            .bind(plugin)
            .execute(conn)
            .await
            .map(drop))?;
    }
    Ok(())
}
