//! SQL of live tokens and bootstrap flags; what is listed, minted and revoked by
//! hand is in the files below.

pub(super) mod org;
pub(super) mod tickets;
pub(super) mod workspace;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::token::TokenHash;
use crate::store::{Db, Tx, from_row, is_deadlock, statement, with_db, with_tx};

/// A live token of either kind.
pub(super) struct TokenRow {
    pub(super) token_id: Uuid,
    pub(super) of_workspace: bool,
    /// The workspace, or the organisation of an org token.
    pub(super) scope_id: Option<Uuid>,
    pub(super) prefix: String,
    pub(super) last_used_at: Option<DateTime<Utc>>,
}
from_row!(TokenRow {
    token_id,
    of_workspace,
    scope_id,
    prefix,
    last_used_at
});

statement!(
    FIND_LIVE,
    "SELECT t.id AS token_id, TRUE AS of_workspace, t.workspace_id AS scope_id, t.prefix, t.last_used_at
     FROM workspace_auth_tokens t JOIN workspaces w ON w.id = t.workspace_id
     WHERE t.token_hash = $1 AND t.revoked_at IS NULL AND w.status <> 'removed'
     UNION ALL
     SELECT id, FALSE, org_id, prefix, last_used_at
     FROM org_api_tokens WHERE token_hash = $1 AND revoked_at IS NULL"
);

pub(super) async fn find_live(db: &Db, hash: &TokenHash) -> sqlx::Result<Option<TokenRow>> {
    with_db!(db, |pool| sqlx::query_as(FIND_LIVE)
        .bind(hash.as_bytes())
        .fetch_optional(pool)
        .await)
}

statement!(
    TOUCH_WORKSPACE,
    "UPDATE workspace_auth_tokens SET last_used_at = $2
     WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)"
);
statement!(
    TOUCH_ORG,
    "UPDATE org_api_tokens SET last_used_at = $2
     WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)"
);

/// A token that was used: its id, whether it is a workspace's, and when.
pub(super) type Use = (Uuid, bool, DateTime<Utc>);

/// Uses written in one transaction: a hundred thousand agents use their tokens more
/// than a thousand times a second for the first time in a minute, and commits are
/// what costs.
const USES_AT_ONCE: usize = 1_000;

/// Writes when tokens were used, some at a time. Give them in order, so that two
/// servers cannot lock each other out. What revokes the tokens of a workspace
/// knows no such order: a transaction that the database gave up for one of those
/// is begun once more.
pub(super) async fn touch(db: &Db, uses: &[Use]) -> sqlx::Result<()> {
    for some in uses.chunks(USES_AT_ONCE) {
        match touch_some(db, some).await {
            Err(error) if is_deadlock(&error) => touch_some(db, some).await?,
            touched => touched?,
        }
    }
    Ok(())
}

async fn touch_some(db: &Db, uses: &[Use]) -> sqlx::Result<()> {
    let mut tx = db.begin().await?;
    for (id, of_workspace, at) in uses {
        let statement = match of_workspace {
            true => TOUCH_WORKSPACE,
            false => TOUCH_ORG,
        };
        with_tx!(&mut tx, |conn| sqlx::query(statement)
            .bind(id)
            .bind(at)
            .execute(conn)
            .await
            .map(drop))?;
    }
    tx.commit().await
}

statement!(
    MARK_WORKSPACE,
    "UPDATE workspaces SET auth_bootstrapped_at = COALESCE(auth_bootstrapped_at, $2), enrolment_hash = NULL WHERE id = $1"
);
statement!(
    MARK_SERVER,
    "INSERT INTO platform_state (key, value) VALUES ('auth_bootstrapped', 'true') ON CONFLICT (key) DO NOTHING"
);

pub(super) async fn mark_workspace(
    tx: &mut Tx,
    workspace: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    with_tx!(tx, |conn| sqlx::query(MARK_WORKSPACE)
        .bind(workspace)
        .bind(now)
        .execute(conn)
        .await
        .map(drop))
}

/// The server has had a token; for good.
pub(super) async fn mark_server(tx: &mut Tx) -> sqlx::Result<()> {
    with_tx!(tx, |conn| sqlx::query(MARK_SERVER)
        .execute(conn)
        .await
        .map(drop))
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

statement!(
    ANY_LIVE,
    "SELECT EXISTS (SELECT 1 FROM workspace_auth_tokens WHERE revoked_at IS NULL)"
);

/// True when some workspace has a live token.
pub(super) async fn any_live(db: &Db) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query_scalar(ANY_LIVE)
        .fetch_one(pool)
        .await)
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

statement!(
    /// Changes nothing: an UPDATE is the lock that both engines know.
    LOCK,
    "UPDATE workspaces SET tier = tier WHERE id = $1 AND status <> 'removed'"
);

/// Locks a workspace's row until the transaction ends. False when there is no
/// such workspace or it was removed.
pub(super) async fn lock(tx: &mut Tx, id: Uuid) -> sqlx::Result<bool> {
    with_tx!(tx, |conn| sqlx::query(LOCK)
        .bind(id)
        .execute(conn)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    EXISTS,
    "SELECT count(*) FROM workspaces WHERE id = $1 AND status <> 'removed'"
);

/// True for a workspace that was not removed.
pub(super) async fn exists(db: &Db, id: Uuid) -> sqlx::Result<bool> {
    let count: i64 = with_db!(db, |pool| sqlx::query_scalar(EXISTS)
        .bind(id)
        .fetch_one(pool)
        .await)?;
    Ok(count > 0)
}

#[cfg(test)]
statement!(
    ADD_WORKSPACE,
    "INSERT INTO workspaces (id, name, status, created_at, updated_at) VALUES ($1, $2, $3, $4, $4)"
);

/// A workspace for a test of this room, which owns none of that table's columns.
#[cfg(test)]
pub(super) async fn add_workspace(db: &Db, status: &str) -> Uuid {
    let id = Uuid::new_v4();
    with_db!(db, |pool| sqlx::query(ADD_WORKSPACE)
        .bind(id)
        .bind(id.to_string())
        .bind(status)
        .bind(Utc::now())
        .execute(pool)
        .await
        .map(drop))
    .expect("a workspace");
    id
}
