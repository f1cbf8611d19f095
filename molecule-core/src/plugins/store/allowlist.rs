//! SQL of the allowlists.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::store::{Db, Tx, from_row, statement, with_db, with_tx};

/// A plugin that an organisation may have.
#[derive(Debug, Clone)]
pub(in super::super) struct Allowed {
    pub(in super::super) plugin_name: String,
    pub(in super::super) enabled_by: String,
    pub(in super::super) enabled_at: DateTime<Utc>,
}
from_row!(Allowed {
    plugin_name,
    enabled_by,
    enabled_at
});

statement!(
    LIST,
    "SELECT plugin_name, enabled_by, enabled_at FROM org_plugin_allowlist WHERE org_id = $1 ORDER BY plugin_name"
);

/// The list of an organisation, in the order of the database.
pub(in super::super) async fn list(db: &Db, org: Uuid) -> sqlx::Result<Vec<Allowed>> {
    with_db!(db, |pool| sqlx::query_as(LIST)
        .bind(org)
        .fetch_all(pool)
        .await)
}

/// How many plugins are on a list, and whether one of them is.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Standing {
    pub(in super::super) listed: i64,
    pub(in super::super) found: i64,
}
from_row!(Standing { listed, found });

statement!(
    STANDING,
    "SELECT count(*) AS listed, count(CASE WHEN plugin_name = $2 THEN 1 END) AS found
     FROM org_plugin_allowlist WHERE org_id = $1"
);

pub(in super::super) async fn standing(db: &Db, org: Uuid, plugin: &str) -> sqlx::Result<Standing> {
    with_db!(db, |pool| sqlx::query_as(STANDING)
        .bind(org)
        .bind(plugin)
        .fetch_one(pool)
        .await)
}

statement!(
    ORG_EXISTS,
    "SELECT id FROM workspaces WHERE id = $1 AND status <> 'removed'"
);

pub(in super::super) async fn org_exists(db: &Db, org: Uuid) -> sqlx::Result<bool> {
    let found: Option<Uuid> = with_db!(db, |pool| sqlx::query_scalar(ORG_EXISTS)
        .bind(org)
        .fetch_optional(pool)
        .await)?;
    Ok(found.is_some())
}

statement!(
    /// Changes nothing and locks the row: of two that replace one list, one is first.
    LOCK_ORG,
    "UPDATE workspaces SET updated_at = updated_at WHERE id = $1"
);
statement!(CLEAR, "DELETE FROM org_plugin_allowlist WHERE org_id = $1");
statement!(
    ADD,
    "INSERT INTO org_plugin_allowlist (id, org_id, plugin_name, enabled_by, enabled_at) VALUES ($1, $2, $3, $4, $5)"
);

/// Puts these, each once, in the place of what is on the list.
pub(in super::super) async fn replace(
    tx: &mut Tx,
    org: Uuid,
    plugins: &[&str],
    enabled_by: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    for sql in [LOCK_ORG, CLEAR] {
        with_tx!(&mut *tx, |conn| sqlx::query(sql)
            .bind(org)
            .execute(conn)
            .await
            .map(drop))?;
    }
    for plugin in plugins {
        with_tx!(&mut *tx, |conn| sqlx::query(ADD)
            .bind(Uuid::now_v7())
            .bind(org)
            .bind(*plugin)
            .bind(enabled_by)
            .bind(now)
            .execute(conn)
            .await
            .map(drop))?;
    }
    Ok(())
}
