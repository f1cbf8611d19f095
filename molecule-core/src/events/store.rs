//! SQL of `structure_events`. Ids are UUIDs of version 7: their order is that of
//! the events, but for what a slow transaction or another server's clock shifts.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use super::Event;
use crate::store::{Db, Tx, from_row, statement, with_db, with_tx};

/// A recorded event as it is stored. The type may be one that only a newer server
/// knows.
pub(super) struct EventRow {
    pub(super) id: Uuid,
    pub(super) event_type: String,
    pub(super) workspace_id: Option<Uuid>,
    pub(super) payload: Json<Value>,
    pub(super) created_at: DateTime<Utc>,
}

from_row!(EventRow {
    id,
    event_type,
    workspace_id,
    payload,
    created_at,
});

statement!(
    INSERT,
    "INSERT INTO structure_events (id, event_type, workspace_id, payload, created_at) VALUES ($1, $2, $3, $4, $5)"
);

pub(super) async fn insert(tx: &mut Tx, id: Uuid, event: &Event) -> sqlx::Result<()> {
    with_tx!(tx, |conn| sqlx::query(INSERT)
        .bind(id)
        .bind(event.event.as_str())
        .bind(event.workspace_id)
        .bind(Json(&event.payload))
        .bind(event.timestamp)
        .execute(conn)
        .await
        .map(drop))
}

statement!(
    LATEST,
    "SELECT id, event_type, workspace_id, payload, created_at FROM structure_events
     WHERE id < $1 ORDER BY id DESC LIMIT $2"
);

statement!(
    LATEST_OF_WORKSPACE,
    "SELECT id, event_type, workspace_id, payload, created_at FROM structure_events
     WHERE id < $1 AND workspace_id = $3 ORDER BY id DESC LIMIT $2"
);

/// The newest events before one, newest first.
pub(super) async fn latest(
    db: &Db,
    workspace: Option<Uuid>,
    before: Uuid,
    limit: i64,
) -> sqlx::Result<Vec<EventRow>> {
    match workspace {
        None => with_db!(db, |pool| sqlx::query_as(LATEST)
            .bind(before)
            .bind(limit)
            .fetch_all(pool)
            .await),
        Some(workspace) => with_db!(db, |pool| sqlx::query_as(LATEST_OF_WORKSPACE)
            .bind(before)
            .bind(limit)
            .bind(workspace)
            .fetch_all(pool)
            .await),
    }
}

statement!(
    AFTER,
    "SELECT id, event_type, workspace_id, payload, created_at FROM structure_events
     WHERE id > $1 ORDER BY id LIMIT $2"
);

statement!(
    AFTER_OF_WORKSPACE,
    "SELECT id, event_type, workspace_id, payload, created_at FROM structure_events
     WHERE id > $1 AND workspace_id = $3 ORDER BY id LIMIT $2"
);

/// The oldest events after one, oldest first.
pub(super) async fn after(
    db: &Db,
    workspace: Option<Uuid>,
    after: Uuid,
    limit: i64,
) -> sqlx::Result<Vec<EventRow>> {
    match workspace {
        None => with_db!(db, |pool| sqlx::query_as(AFTER)
            .bind(after)
            .bind(limit)
            .fetch_all(pool)
            .await),
        Some(workspace) => with_db!(db, |pool| sqlx::query_as(AFTER_OF_WORKSPACE)
            .bind(after)
            .bind(limit)
            .bind(workspace)
            .fetch_all(pool)
            .await),
    }
}

statement!(
    IDS_BETWEEN,
    "SELECT id FROM structure_events
     WHERE workspace_id = $1 AND id > $2 AND id <= $3 ORDER BY id DESC LIMIT $4"
);

/// Ids of a workspace's events after one and up to another, newest first.
pub(super) async fn ids_between(
    db: &Db,
    workspace: Uuid,
    after: Uuid,
    up_to: Uuid,
    limit: i64,
) -> sqlx::Result<Vec<Uuid>> {
    with_db!(db, |pool| sqlx::query_scalar(IDS_BETWEEN)
        .bind(workspace)
        .bind(after)
        .bind(up_to)
        .bind(limit)
        .fetch_all(pool)
        .await)
}
