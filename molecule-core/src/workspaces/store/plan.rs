//! SQL of env plans: what running containers booted with, and payloads that are
//! only tried out.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use super::super::model::Workspace;
use super::lease::{self, Lease};
use crate::backend::Instance;
use crate::store::{Db, Tx, from_row, statement, with_db, with_tx};

statement!(
    UPSERT_PLAN,
    "INSERT INTO workspace_boot_plans (workspace_id, plan, created_at) VALUES ($1, $2, $3)
     ON CONFLICT (workspace_id) DO UPDATE SET plan = excluded.plan, created_at = excluded.created_at"
);

/// Ends a provision well, and with it stores what was booted. False, and nothing
/// changed, when the lease is lost.
pub(in super::super) async fn record_boot(
    db: &Db,
    lease: Lease,
    instance: &Instance,
    plan: &Value,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let mut tx = db.begin().await?;
    if !lease::record_instance(&mut tx, lease, instance, now).await? {
        return Ok(false);
    }
    with_tx!(&mut tx, |conn| sqlx::query(UPSERT_PLAN)
        .bind(lease.id)
        .bind(Json(plan))
        .bind(now)
        .execute(conn)
        .await
        .map(drop))?;
    tx.commit().await?;
    Ok(true)
}

statement!(
    BOOTED,
    "SELECT plan, created_at FROM workspace_boot_plans WHERE workspace_id = $1"
);

/// The plan of the last boot.
pub(in super::super) struct Booted {
    pub(in super::super) plan: Json<Value>,
    pub(in super::super) created_at: DateTime<Utc>,
}
from_row!(Booted { plan, created_at });

pub(in super::super) async fn booted(db: &Db, id: Uuid) -> sqlx::Result<Option<Booted>> {
    with_db!(db, |pool| sqlx::query_as(BOOTED)
        .bind(id)
        .fetch_optional(pool)
        .await)
}

/// As [`find`](super::find), also for a row that is not committed.
pub(in super::super) async fn find_in(tx: &mut Tx, id: Uuid) -> sqlx::Result<Option<Workspace>> {
    with_tx!(tx, |conn| sqlx::query_as(super::FIND)
        .bind(id)
        .fetch_optional(conn)
        .await)
}
