//! SQL of presence.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use super::heartbeat::Report;
use crate::store::{Db, Tx, statement, with_tx};
use crate::workspaces::Status;

statement!(
    /// The heartbeat that causes it counts at once: nobody must find an online row
    /// whose last one is from before a long sleep.
    CHANGE_STATUS,
    "UPDATE workspaces SET status = $3, last_heartbeat_at = $4, updated_at = $4 WHERE id = $1 AND status = $2"
);

/// True when the row still had the expected status.
pub(super) async fn change_status(
    tx: &mut Tx,
    id: Uuid,
    from: Status,
    to: Status,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_tx!(tx, |conn| sqlx::query(CHANGE_STATUS)
        .bind(id)
        .bind(from.as_str())
        .bind(to.as_str())
        .bind(now)
        .execute(conn)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    WRITE_REPORT,
    "UPDATE workspaces
     SET last_heartbeat_at = $2, last_error_rate = $3, last_sample_error = $4, active_tasks = $5,
         uptime_seconds = $6, current_task = $7,
         monthly_spend = CASE WHEN $8 > 0 THEN $8 ELSE monthly_spend END, updated_at = $2
     WHERE id = $1 AND status <> 'removed'"
);

/// Writes a batch in one transaction.
pub(super) async fn write_reports(db: &Db, batch: &HashMap<Uuid, Report>) -> sqlx::Result<()> {
    let mut tx = db.begin().await?;
    // In one order everywhere, so that two servers cannot lock each other out.
    let mut ids: Vec<&Uuid> = batch.keys().collect();
    ids.sort_unstable();
    for id in ids {
        let report = &batch[id];
        with_tx!(&mut tx, |conn| sqlx::query(WRITE_REPORT)
            .bind(id)
            .bind(report.at)
            .bind(report.error_rate)
            .bind(&report.sample_error)
            .bind(report.active_tasks)
            .bind(report.uptime_seconds)
            .bind(&report.current_task)
            .bind(report.monthly_spend)
            .execute(conn)
            .await
            .map(drop))?;
    }
    tx.commit().await
}

/// What a registration changes.
pub(super) struct Registration<'a> {
    pub(super) id: Uuid,
    pub(super) url: &'a str,
    pub(super) card: &'a Value,
    pub(super) now: DateTime<Utc>,
}

statement!(
    /// The URL of an instance this server started stays: it was inspected, not
    /// claimed.
    REGISTER,
    "UPDATE workspaces
     SET status = 'online', agent_card = $2, last_heartbeat_at = $4, updated_at = $4,
         url = CASE WHEN instance_id IS NOT NULL AND url <> '' THEN url ELSE $3 END
     WHERE id = $1
       AND status IN ('provisioning', 'online', 'offline', 'degraded', 'failed', 'awaiting_agent')
     RETURNING delivery_mode"
);

/// The row's delivery mode, if it could be brought online.
pub(super) async fn register(tx: &mut Tx, row: &Registration<'_>) -> sqlx::Result<Option<String>> {
    with_tx!(tx, |conn| sqlx::query_scalar(REGISTER)
        .bind(row.id)
        .bind(Json(row.card))
        .bind(row.url)
        .bind(row.now)
        .fetch_optional(conn)
        .await)
}
