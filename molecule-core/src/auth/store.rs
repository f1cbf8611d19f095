//! SQL of tokens and bootstrap flags.

use chrono::{DateTime, Utc};
use molecule_hooks::Secret;
use uuid::Uuid;

use super::token::{PREFIX_CHARS, TokenHash};
use crate::store::{Db, Tx, from_row, statement, with_db, with_tx};

pub(super) struct TokenRow {
    pub(super) token_id: Uuid,
    pub(super) workspace_id: Uuid,
    pub(super) last_used_at: Option<DateTime<Utc>>,
}
from_row!(TokenRow {
    token_id,
    workspace_id,
    last_used_at
});

statement!(
    FIND_LIVE,
    "SELECT t.id AS token_id, t.workspace_id, t.last_used_at
     FROM workspace_auth_tokens t JOIN workspaces w ON w.id = t.workspace_id
     WHERE t.token_hash = $1 AND t.revoked_at IS NULL AND w.status <> 'removed'"
);

pub(super) async fn find_live(db: &Db, hash: &TokenHash) -> sqlx::Result<Option<TokenRow>> {
    with_db!(db, |pool| sqlx::query_as(FIND_LIVE)
        .bind(hash.as_bytes())
        .fetch_optional(pool)
        .await)
}

statement!(
    TOUCH,
    "UPDATE workspace_auth_tokens SET last_used_at = $2 WHERE id = $1"
);

pub(super) async fn touch(db: &Db, token: Uuid, now: DateTime<Utc>) -> sqlx::Result<()> {
    with_db!(db, |pool| sqlx::query(TOUCH)
        .bind(token)
        .bind(now)
        .execute(pool)
        .await
        .map(drop))
}

statement!(
    INSERT,
    "INSERT INTO workspace_auth_tokens (id, workspace_id, token_hash, prefix, created_at) VALUES ($1, $2, $3, $4, $5)"
);

pub(super) async fn insert(
    tx: &mut Tx,
    workspace: Uuid,
    token: &Secret,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    let hash = TokenHash::of(token.expose());
    let prefix: String = token.expose().chars().take(PREFIX_CHARS).collect();
    with_tx!(tx, |conn| sqlx::query(INSERT)
        .bind(Uuid::new_v4())
        .bind(workspace)
        .bind(hash.as_bytes())
        .bind(&prefix)
        .bind(now)
        .execute(conn)
        .await
        .map(drop))
}

statement!(
    REVOKE_ALL,
    "UPDATE workspace_auth_tokens SET revoked_at = $2 WHERE workspace_id = $1 AND revoked_at IS NULL"
);

pub(super) async fn revoke_all(
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

statement!(
    MARK_WORKSPACE,
    "UPDATE workspaces SET auth_bootstrapped_at = COALESCE(auth_bootstrapped_at, $2), enrolment_hash = NULL WHERE id = $1"
);
statement!(
    MARK_SERVER,
    "INSERT INTO platform_state (key, value) VALUES ('auth_bootstrapped', 'true') ON CONFLICT (key) DO NOTHING"
);

pub(super) async fn mark_bootstrapped(
    tx: &mut Tx,
    workspace: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    with_tx!(tx, |conn| {
        sqlx::query(MARK_WORKSPACE)
            .bind(workspace)
            .bind(now)
            .execute(&mut *conn)
            .await?;
        sqlx::query(MARK_SERVER).execute(conn).await.map(drop)
    })
}

statement!(
    SET_ENROLMENT,
    "UPDATE workspaces SET enrolment_hash = $2 WHERE id = $1"
);

pub(super) async fn set_enrolment(
    tx: &mut Tx,
    workspace: Uuid,
    hash: &TokenHash,
) -> sqlx::Result<()> {
    with_tx!(tx, |conn| sqlx::query(SET_ENROLMENT)
        .bind(workspace)
        .bind(hash.as_bytes())
        .execute(conn)
        .await
        .map(drop))
}

statement!(
    IS_BOOTSTRAPPED,
    "SELECT count(*) FROM platform_state WHERE key = 'auth_bootstrapped'"
);

pub(super) async fn is_bootstrapped(db: &Db) -> sqlx::Result<bool> {
    let count: i64 = with_db!(db, |pool| sqlx::query_scalar(IS_BOOTSTRAPPED)
        .fetch_one(pool)
        .await)?;
    Ok(count > 0)
}

/// What the gate needs to know of a workspace.
pub(super) struct BootstrapState {
    pub(super) bootstrapped: bool,
    pub(super) enrolment_hash: Option<Vec<u8>>,
    pub(super) has_live_token: bool,
}
from_row!(BootstrapState {
    bootstrapped,
    enrolment_hash,
    has_live_token
});

statement!(
    BOOTSTRAP_STATE,
    "SELECT auth_bootstrapped_at IS NOT NULL AS bootstrapped, enrolment_hash,
            EXISTS (SELECT 1 FROM workspace_auth_tokens t
                    WHERE t.workspace_id = w.id AND t.revoked_at IS NULL) AS has_live_token
     FROM workspaces w WHERE id = $1 AND status <> 'removed'"
);

pub(super) async fn bootstrap_state(db: &Db, id: Uuid) -> sqlx::Result<Option<BootstrapState>> {
    with_db!(db, |pool| sqlx::query_as(BOOTSTRAP_STATE)
        .bind(id)
        .fetch_optional(pool)
        .await)
}

/// As [`bootstrap_state`], inside a transaction.
pub(super) async fn bootstrap_state_in(
    tx: &mut Tx,
    id: Uuid,
) -> sqlx::Result<Option<BootstrapState>> {
    with_tx!(tx, |conn| sqlx::query_as(BOOTSTRAP_STATE)
        .bind(id)
        .fetch_optional(conn)
        .await)
}

statement!(
    SPEND_ENROLMENT,
    "UPDATE workspaces SET enrolment_hash = NULL WHERE id = $1"
);

/// Forgets the enrolment secret and locks the row until the transaction ends.
pub(super) async fn spend_enrolment(tx: &mut Tx, id: Uuid) -> sqlx::Result<()> {
    with_tx!(tx, |conn| sqlx::query(SPEND_ENROLMENT)
        .bind(id)
        .execute(conn)
        .await
        .map(drop))
}
