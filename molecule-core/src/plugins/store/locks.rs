//! SQL of operations under way.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::store::{Db, statement, with_db};

statement!(
    /// An end further ahead than any that is written was written before a clock was
    /// set back.
    TAKE,
    "INSERT INTO plugin_operations (workspace_id, plugin_name, holder, expires_at) VALUES ($1, $2, $3, $4)
     ON CONFLICT (workspace_id, plugin_name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
     WHERE plugin_operations.expires_at <= $5 OR plugin_operations.expires_at > $6"
);

/// Who holds an operation, and from when to when.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Term {
    pub(in super::super) holder: Uuid,
    pub(in super::super) now: DateTime<Utc>,
    pub(in super::super) until: DateTime<Utc>,
    /// No end is meant to lie after this.
    pub(in super::super) furthest: DateTime<Utc>,
}

/// True for the one that holds the operation now; takes over what has expired.
pub(in super::super) async fn take(
    db: &Db,
    workspace: Uuid,
    plugin: &str,
    term: Term,
) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(TAKE)
        .bind(workspace)
        .bind(plugin)
        .bind(term.holder)
        .bind(term.until)
        .bind(term.now)
        .bind(term.furthest)
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    RENEW,
    "UPDATE plugin_operations SET expires_at = $4 WHERE workspace_id = $1 AND plugin_name = $2 AND holder = $3"
);

/// False when somebody took it over.
pub(in super::super) async fn renew(
    db: &Db,
    workspace: Uuid,
    plugin: &str,
    holder: Uuid,
    until: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(RENEW)
        .bind(workspace)
        .bind(plugin)
        .bind(holder)
        .bind(until)
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    RELEASE,
    "DELETE FROM plugin_operations WHERE workspace_id = $1 AND plugin_name = $2 AND holder = $3"
);

pub(in super::super) async fn release(
    db: &Db,
    workspace: Uuid,
    plugin: &str,
    holder: Uuid,
) -> sqlx::Result<()> {
    with_db!(db, |pool| sqlx::query(RELEASE)
        .bind(workspace)
        .bind(plugin)
        .bind(holder)
        .execute(pool)
        .await
        .map(drop))
}

statement!(FORGET_ALL, "DELETE FROM plugin_operations");

/// Forgets what a server left that is gone. Only for a database that no other server
/// uses.
pub(in super::super) async fn forget_all(db: &Db) -> sqlx::Result<()> {
    with_db!(db, |pool| sqlx::query(FORGET_ALL)
        .execute(pool)
        .await
        .map(drop))
}
