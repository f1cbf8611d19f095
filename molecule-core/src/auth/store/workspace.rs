//! SQL of workspace tokens.

use chrono::{DateTime, Utc};
use molecule_hooks::Secret;
use uuid::Uuid;

use crate::auth::token::{TokenHash, prefix};
use crate::store::{Db, Tx, from_row, statement, with_db, with_tx};

/// A live token as its owner may see it.
pub(in crate::auth) struct WorkspaceTokenRow {
    pub(in crate::auth) id: Uuid,
    pub(in crate::auth) prefix: String,
    pub(in crate::auth) created_at: DateTime<Utc>,
    pub(in crate::auth) last_used_at: Option<DateTime<Utc>>,
}
from_row!(WorkspaceTokenRow {
    id,
    prefix,
    created_at,
    last_used_at
});

statement!(
    LIST,
    "SELECT id, prefix, created_at, last_used_at FROM workspace_auth_tokens
     WHERE workspace_id = $1 AND revoked_at IS NULL
     ORDER BY created_at DESC, id DESC LIMIT $2 OFFSET $3"
);

pub(in crate::auth) async fn list(
    db: &Db,
    workspace: Uuid,
    limit: i64,
    offset: i64,
) -> sqlx::Result<Vec<WorkspaceTokenRow>> {
    with_db!(db, |pool| sqlx::query_as(LIST)
        .bind(workspace)
        .bind(limit)
        .bind(offset)
        .fetch_all(pool)
        .await)
}

statement!(
    INSERT,
    "INSERT INTO workspace_auth_tokens (id, workspace_id, token_hash, prefix, created_at) VALUES ($1, $2, $3, $4, $5)"
);

pub(in crate::auth) async fn insert(
    tx: &mut Tx,
    workspace: Uuid,
    token: &Secret,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    let hash = TokenHash::of(token.expose());
    with_tx!(tx, |conn| sqlx::query(INSERT)
        .bind(Uuid::new_v4())
        .bind(workspace)
        .bind(hash.as_bytes())
        .bind(prefix(token))
        .bind(now)
        .execute(conn)
        .await
        .map(drop))
}

statement!(
    COUNT_LIVE,
    "SELECT count(*) FROM workspace_auth_tokens WHERE workspace_id = $1 AND revoked_at IS NULL"
);

pub(in crate::auth) async fn count_live(tx: &mut Tx, workspace: Uuid) -> sqlx::Result<i64> {
    with_tx!(tx, |conn| sqlx::query_scalar(COUNT_LIVE)
        .bind(workspace)
        .fetch_one(conn)
        .await)
}

statement!(
    REVOKE,
    "UPDATE workspace_auth_tokens SET revoked_at = $3
     WHERE id = $1 AND workspace_id = $2 AND revoked_at IS NULL"
);

/// False when there was no such live token.
pub(in crate::auth) async fn revoke(
    db: &Db,
    token: Uuid,
    workspace: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(REVOKE)
        .bind(token)
        .bind(workspace)
        .bind(now)
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    REVOKE_ALL,
    "UPDATE workspace_auth_tokens SET revoked_at = $2 WHERE workspace_id = $1 AND revoked_at IS NULL"
);

pub(in crate::auth) async fn revoke_all(
    tx: &mut Tx,
    workspace: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    with_tx!(tx, |conn| sqlx::query(REVOKE_ALL)
        .bind(workspace)
        .bind(now)
        .execute(conn)
        .await
        .map(drop))
}
