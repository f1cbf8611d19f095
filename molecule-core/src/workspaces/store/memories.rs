//! SQL of memories.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::store::{Tx, statement, with_tx};

statement!(
    INSERT,
    "INSERT INTO agent_memories (id, workspace_id, content, scope, namespace, created_at, updated_at)
     VALUES ($1, $2, $3, $4, $5, $6, $6)"
);

/// One memory.
pub(in super::super) struct NewRow<'a> {
    pub(in super::super) workspace_id: Uuid,
    pub(in super::super) content: &'a str,
    pub(in super::super) scope: &'a str,
    pub(in super::super) namespace: &'a str,
    pub(in super::super) now: DateTime<Utc>,
}

pub(in super::super) async fn insert(tx: &mut Tx, row: &NewRow<'_>) -> sqlx::Result<()> {
    with_tx!(tx, |conn| sqlx::query(INSERT)
        .bind(Uuid::now_v7())
        .bind(row.workspace_id)
        .bind(row.content)
        .bind(row.scope)
        .bind(row.namespace)
        .bind(row.now)
        .execute(conn)
        .await
        .map(drop))
}
