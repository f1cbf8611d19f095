//! SQL of org tokens.

use chrono::{DateTime, Utc};
use molecule_hooks::Secret;
use uuid::Uuid;

use crate::auth::token::{TokenHash, prefix};
use crate::store::{Db, Tx, from_row, statement, with_db, with_tx};

/// A live token as administrators may see it.
pub(in crate::auth) struct OrgTokenRow {
    pub(in crate::auth) id: Uuid,
    pub(in crate::auth) prefix: String,
    pub(in crate::auth) name: Option<String>,
    pub(in crate::auth) org_id: Option<Uuid>,
    pub(in crate::auth) created_by: Option<String>,
    pub(in crate::auth) created_at: DateTime<Utc>,
    pub(in crate::auth) last_used_at: Option<DateTime<Utc>>,
}
from_row!(OrgTokenRow {
    id,
    prefix,
    name,
    org_id,
    created_by,
    created_at,
    last_used_at
});

statement!(
    LIST,
    "SELECT id, prefix, name, org_id, created_by, created_at, last_used_at FROM org_api_tokens
     WHERE revoked_at IS NULL ORDER BY created_at DESC, id DESC LIMIT $1"
);

pub(in crate::auth) async fn list(db: &Db, limit: i64) -> sqlx::Result<Vec<OrgTokenRow>> {
    with_db!(db, |pool| sqlx::query_as(LIST)
        .bind(limit)
        .fetch_all(pool)
        .await)
}

/// What is written of a new token.
pub(in crate::auth) struct NewOrgToken<'a> {
    pub(in crate::auth) id: Uuid,
    pub(in crate::auth) token: &'a Secret,
    pub(in crate::auth) name: Option<&'a str>,
    pub(in crate::auth) created_by: &'a str,
    pub(in crate::auth) org_id: Option<Uuid>,
    pub(in crate::auth) now: DateTime<Utc>,
}

statement!(
    INSERT,
    "INSERT INTO org_api_tokens (id, token_hash, prefix, name, created_by, created_at, org_id)
     VALUES ($1, $2, $3, $4, $5, $6, $7)"
);

pub(in crate::auth) async fn insert(tx: &mut Tx, new: &NewOrgToken<'_>) -> sqlx::Result<()> {
    let hash = TokenHash::of(new.token.expose());
    with_tx!(tx, |conn| sqlx::query(INSERT)
        .bind(new.id)
        .bind(hash.as_bytes())
        .bind(prefix(new.token))
        .bind(new.name)
        .bind(new.created_by)
        .bind(new.now)
        .bind(new.org_id)
        .execute(conn)
        .await
        .map(drop))
}

statement!(
    /// Changes nothing: an UPDATE is the lock that both engines know.
    LOCK,
    "UPDATE org_api_tokens SET org_id = org_id WHERE id = $1 AND revoked_at IS NULL RETURNING org_id"
);

/// Locks a live token until the transaction ends and tells its organisation; the
/// outer none is no such token.
pub(in crate::auth) async fn lock(tx: &mut Tx, id: Uuid) -> sqlx::Result<Option<Option<Uuid>>> {
    with_tx!(tx, |conn| sqlx::query_scalar(LOCK)
        .bind(id)
        .fetch_optional(conn)
        .await)
}

statement!(
    SET_ORG,
    "UPDATE org_api_tokens SET org_id = $2 WHERE id = $1 AND revoked_at IS NULL
     RETURNING id, prefix, name, org_id, created_by, created_at, last_used_at"
);

/// The token as it is now; none when there was no such live token.
pub(in crate::auth) async fn set_org(
    tx: &mut Tx,
    id: Uuid,
    org_id: Option<Uuid>,
) -> sqlx::Result<Option<OrgTokenRow>> {
    with_tx!(tx, |conn| sqlx::query_as(SET_ORG)
        .bind(id)
        .bind(org_id)
        .fetch_optional(conn)
        .await)
}

statement!(
    REVOKE,
    "UPDATE org_api_tokens SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL"
);

/// False when there was no such live token.
pub(in crate::auth) async fn revoke(db: &Db, id: Uuid, now: DateTime<Utc>) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(REVOKE)
        .bind(id)
        .bind(now)
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
}
