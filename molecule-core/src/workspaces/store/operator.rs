//! SQL of what operators set and of what a control plane reports.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::store::{Db, Tx, from_row, statement, with_db, with_tx};

/// Money, in USD cents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Budget {
    pub(in super::super) budget_limit: Option<i64>,
    pub(in super::super) monthly_spend: i64,
}
from_row!(Budget {
    budget_limit,
    monthly_spend
});

statement!(
    BUDGET,
    "SELECT budget_limit, monthly_spend FROM workspaces WHERE id = $1 AND status <> 'removed'"
);

/// None when the workspace is unknown or removed.
pub(in super::super) async fn budget(db: &Db, id: Uuid) -> sqlx::Result<Option<Budget>> {
    with_db!(db, |pool| sqlx::query_as(BUDGET)
        .bind(id)
        .fetch_optional(pool)
        .await)
}

statement!(
    LOCK_BUDGET,
    "UPDATE workspaces SET updated_at = updated_at WHERE id = $1 AND status <> 'removed'
     RETURNING budget_limit, monthly_spend"
);

/// As [`budget`], and locks the row until the transaction ends.
pub(in super::super) async fn lock_budget(tx: &mut Tx, id: Uuid) -> sqlx::Result<Option<Budget>> {
    with_tx!(tx, |conn| sqlx::query_as(LOCK_BUDGET)
        .bind(id)
        .fetch_optional(conn)
        .await)
}

statement!(
    SET_BUDGET,
    "UPDATE workspaces SET budget_limit = $2, updated_at = $3 WHERE id = $1"
);

pub(in super::super) async fn set_budget(
    tx: &mut Tx,
    id: Uuid,
    limit: Option<i64>,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    with_tx!(tx, |conn| sqlx::query(SET_BUDGET)
        .bind(id)
        .bind(limit)
        .bind(now)
        .execute(conn)
        .await
        .map(drop))
}

statement!(
    SET_HIBERNATION,
    "UPDATE workspaces SET hibernation_idle_minutes = $2, updated_at = $3
     WHERE id = $1 AND status <> 'removed'"
);

/// False when the workspace is unknown or removed.
pub(in super::super) async fn set_hibernation(
    db: &Db,
    id: Uuid,
    idle_minutes: Option<i64>,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(SET_HIBERNATION)
        .bind(id)
        .bind(idle_minutes)
        .bind(now)
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    /// The lease stays: a provision of this server that is still under way ends it.
    FAIL_BOOTSTRAP,
    "UPDATE workspaces SET status = 'failed', last_sample_error = $2, url = '', updated_at = $3
     WHERE id = $1 AND status = 'provisioning'"
);

/// False when the workspace does not boot (any more).
pub(in super::super) async fn fail_bootstrap(
    tx: &mut Tx,
    id: Uuid,
    text: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_tx!(tx, |conn| sqlx::query(FAIL_BOOTSTRAP)
        .bind(id)
        .bind(text)
        .bind(now)
        .execute(conn)
        .await
        .map(|done| done.rows_affected() == 1))
}
