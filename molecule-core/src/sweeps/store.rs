//! SQL of the loops. What they change elsewhere than in their own statements goes
//! through the room that owns it.

mod standing;

use chrono::{DateTime, Utc};
use uuid::Uuid;

pub(super) use standing::standing;

use crate::store::{Db, from_row, statement, with_db};

/// A workspace and when its agent was last heard of.
#[derive(Debug, Clone)]
pub(super) struct Heard {
    pub(super) id: Uuid,
    pub(super) heard_at: DateTime<Utc>,
}
from_row!(Heard { id, heard_at });

statement!(
    /// Not while a provision is being recorded: its agent may just have come.
    SILENT,
    "SELECT id, COALESCE(last_heartbeat_at, updated_at) AS heard_at FROM workspaces
     WHERE status IN ('online', 'degraded') AND external = $1 AND provision_lease_until IS NULL
       AND (COALESCE(last_heartbeat_at, updated_at) < $2 OR COALESCE(last_heartbeat_at, updated_at) > $3)
       AND id > $4
     ORDER BY id LIMIT $5"
);

/// Who was not heard of since `before`, and who was heard of after `future`.
pub(super) async fn silent(
    db: &Db,
    external: bool,
    before: DateTime<Utc>,
    future: DateTime<Utc>,
    after: Uuid,
    limit: i64,
) -> sqlx::Result<Vec<Heard>> {
    with_db!(db, |pool| sqlx::query_as(SILENT)
        .bind(external)
        .bind(before)
        .bind(future)
        .bind(after)
        .bind(limit)
        .fetch_all(pool)
        .await)
}

statement!(
    STILL_SILENT,
    "SELECT count(*) FROM workspaces
     WHERE id = $1 AND COALESCE(last_heartbeat_at, updated_at) = $2
       AND status IN ('online', 'degraded') AND provision_lease_until IS NULL"
);

/// False when its agent was heard of, or its status changed, in between.
pub(super) async fn is_still_silent(db: &Db, row: &Heard) -> sqlx::Result<bool> {
    let count: i64 = with_db!(db, |pool| sqlx::query_scalar(STILL_SILENT)
        .bind(row.id)
        .bind(row.heard_at)
        .fetch_one(pool)
        .await)?;
    Ok(count == 1)
}

/// A workspace whose agent this platform runs.
#[derive(Debug, Clone)]
pub(super) struct Hosted {
    pub(super) id: Uuid,
    pub(super) instance_id: Option<String>,
}
from_row!(Hosted { id, instance_id });

statement!(
    /// One that was never started here has no compute to be missed.
    HOSTED,
    "SELECT id, instance_id FROM workspaces
     WHERE status IN ('online', 'degraded') AND external = FALSE AND provision_lease_until IS NULL
       AND instance_id IS NOT NULL AND id > $1
     ORDER BY id LIMIT $2"
);

pub(super) async fn hosted(db: &Db, after: Uuid, limit: i64) -> sqlx::Result<Vec<Hosted>> {
    with_db!(db, |pool| sqlx::query_as(HOSTED)
        .bind(after)
        .bind(limit)
        .fetch_all(pool)
        .await)
}

statement!(
    HOSTED_ONE,
    "SELECT id, instance_id FROM workspaces
     WHERE id = $1 AND status IN ('online', 'degraded') AND external = FALSE
       AND provision_lease_until IS NULL AND instance_id IS NOT NULL"
);

/// One of [`hosted`], if it is one.
pub(super) async fn hosted_one(db: &Db, id: Uuid) -> sqlx::Result<Option<Hosted>> {
    with_db!(db, |pool| sqlx::query_as(HOSTED_ONE)
        .bind(id)
        .fetch_optional(pool)
        .await)
}

statement!(
    STILL_HOSTED,
    "SELECT count(*) FROM workspaces
     WHERE id = $1 AND instance_id = $2
       AND status IN ('online', 'degraded') AND provision_lease_until IS NULL"
);

/// False when it was stopped or started anew in between.
pub(super) async fn is_still_hosted(db: &Db, row: &Hosted) -> sqlx::Result<bool> {
    let count: i64 = with_db!(db, |pool| sqlx::query_scalar(STILL_HOSTED)
        .bind(row.id)
        .bind(&row.instance_id)
        .fetch_one(pool)
        .await)?;
    Ok(count == 1)
}

/// A workspace that does nothing.
pub(super) struct Idle {
    pub(super) id: Uuid,
    pub(super) idle_since: DateTime<Utc>,
    pub(super) hibernation_idle_minutes: i64,
}
from_row!(Idle {
    id,
    idle_since,
    hibernation_idle_minutes
});

statement!(
    IDLE,
    "SELECT id, idle_since, hibernation_idle_minutes FROM workspaces
     WHERE hibernation_idle_minutes > 0 AND status IN ('online', 'degraded') AND external = FALSE
       AND active_tasks = 0 AND provision_lease_until IS NULL
       AND idle_since IS NOT NULL AND idle_since < $1 AND id > $2
     ORDER BY id LIMIT $3"
);

pub(super) async fn idle(
    db: &Db,
    now: DateTime<Utc>,
    after: Uuid,
    limit: i64,
) -> sqlx::Result<Vec<Idle>> {
    with_db!(db, |pool| sqlx::query_as(IDLE)
        .bind(now)
        .bind(after)
        .bind(limit)
        .fetch_all(pool)
        .await)
}

/// What the two statements about left-over tokens have in common.
macro_rules! may_lose_tokens {
    () => {
        "w.status IN ('online', 'degraded', 'offline', 'failed', 'paused', 'hibernated')
         AND w.external = FALSE AND w.runtime NOT IN ('external', 'mock')
         AND w.provision_lease_until IS NULL
         AND COALESCE(w.booted_at, w.provisioned_at) IS NOT NULL"
    };
}

statement!(
    WITH_UNUSED_TOKENS,
    concat!(
        "SELECT w.id FROM workspaces w WHERE w.id > $2 AND ",
        may_lose_tokens!(),
        " AND EXISTS (SELECT 1 FROM workspace_auth_tokens t
                      WHERE t.workspace_id = w.id AND t.revoked_at IS NULL
                        AND COALESCE(t.last_used_at, t.created_at) < $1)
          ORDER BY w.id LIMIT $3"
    )
);

/// Workspaces with live tokens that nobody used since `before`.
pub(super) async fn with_unused_tokens(
    db: &Db,
    before: DateTime<Utc>,
    after: Uuid,
    limit: i64,
) -> sqlx::Result<Vec<Uuid>> {
    with_db!(db, |pool| sqlx::query_scalar(WITH_UNUSED_TOKENS)
        .bind(before)
        .bind(after)
        .bind(limit)
        .fetch_all(pool)
        .await)
}

statement!(
    /// Everything is asked again: the agent may be starting by now.
    REVOKE_UNUSED,
    concat!(
        "UPDATE workspace_auth_tokens SET revoked_at = $3
         WHERE workspace_id = $1 AND revoked_at IS NULL
           AND COALESCE(last_used_at, created_at) < $2
           AND EXISTS (SELECT 1 FROM workspaces w WHERE w.id = $1 AND ",
        may_lose_tokens!(),
        ")"
    )
);

/// How many were revoked.
pub(super) async fn revoke_unused(
    db: &Db,
    workspace: Uuid,
    before: DateTime<Utc>,
    now: DateTime<Utc>,
) -> sqlx::Result<u64> {
    with_db!(db, |pool| sqlx::query(REVOKE_UNUSED)
        .bind(workspace)
        .bind(before)
        .bind(now)
        .execute(pool)
        .await
        .map(|done| done.rows_affected()))
}

statement!(
    DELETE_TICKETS,
    "DELETE FROM websocket_tickets WHERE expires_at < $1"
);

pub(super) async fn delete_tickets(db: &Db, now: DateTime<Utc>) -> sqlx::Result<()> {
    with_db!(db, |pool| sqlx::query(DELETE_TICKETS)
        .bind(now)
        .execute(pool)
        .await
        .map(drop))
}

/// Tables that grow for ever unless somebody cuts them.
#[derive(Debug, Clone, Copy)]
pub(super) enum History {
    Activity,
    Events,
    RevokedTokens,
}

impl History {
    pub(super) fn table(self) -> &'static str {
        match self {
            Self::Activity => "activity_logs",
            Self::Events => "structure_events",
            Self::RevokedTokens => "workspace_auth_tokens",
        }
    }

    fn delete(self) -> &'static str {
        match self {
            Self::Activity => DELETE_ACTIVITY,
            Self::Events => DELETE_EVENTS,
            Self::RevokedTokens => DELETE_REVOKED_TOKENS,
        }
    }
}

statement!(
    DELETE_ACTIVITY,
    "DELETE FROM activity_logs WHERE id IN
       (SELECT id FROM activity_logs WHERE created_at < $1 ORDER BY created_at LIMIT $2)"
);
statement!(
    DELETE_EVENTS,
    "DELETE FROM structure_events WHERE id IN
       (SELECT id FROM structure_events WHERE created_at < $1 ORDER BY created_at LIMIT $2)"
);
statement!(
    DELETE_REVOKED_TOKENS,
    "DELETE FROM workspace_auth_tokens WHERE id IN
       (SELECT id FROM workspace_auth_tokens WHERE revoked_at < $1 ORDER BY revoked_at LIMIT $2)"
);

/// Deletes up to `limit` of the oldest rows; returns how many there were.
pub(super) async fn delete_history(
    db: &Db,
    history: History,
    before: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<u64> {
    with_db!(db, |pool| sqlx::query(history.delete())
        .bind(before)
        .bind(limit)
        .execute(pool)
        .await
        .map(|done| done.rows_affected()))
}

statement!(DATABASE_NOW, "SELECT CURRENT_TIMESTAMP");

/// The time by the database's clock, in whole seconds on SQLite.
pub(super) async fn database_now(db: &Db) -> sqlx::Result<DateTime<Utc>> {
    with_db!(db, |pool| sqlx::query_scalar(DATABASE_NOW)
        .fetch_one(pool)
        .await)
}

statement!(
    ABANDONED,
    "SELECT id FROM workspaces WHERE provision_lease_until < $1
       AND status IN ('provisioning', 'online', 'degraded') ORDER BY provision_lease_until LIMIT $2"
);
statement!(
    RESTARTS_WAITING,
    "SELECT id FROM workspaces WHERE restart_requested_at < $1 AND (NOT restart_if_offline OR status = 'offline')
       AND status <> 'removed' ORDER BY restart_requested_at LIMIT $2"
);
statement!(
    FALLING_ASLEEP,
    "SELECT id FROM workspaces WHERE updated_at < $1 AND status = 'hibernating'
     ORDER BY updated_at LIMIT $2"
);
statement!(
    STARTED_LONG_AGO,
    "SELECT id FROM workspaces WHERE provisioned_at < $1 AND status = 'provisioning'
       AND external = FALSE AND provision_lease_until IS NULL ORDER BY provisioned_at LIMIT $2"
);

/// Ways in which a row can be stuck.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stuck {
    /// Its provision is nobody's.
    Abandoned,
    /// A restart was asked for and does not come.
    RestartWaiting,
    /// It falls asleep and does not sleep.
    FallingAsleep,
    /// Its agent was started and never registered.
    NeverRegistered,
}

impl Stuck {
    fn select(self) -> &'static str {
        match self {
            Self::Abandoned => ABANDONED,
            Self::RestartWaiting => RESTARTS_WAITING,
            Self::FallingAsleep => FALLING_ASLEEP,
            Self::NeverRegistered => STARTED_LONG_AGO,
        }
    }
}

/// Rows that are stuck since before a time, the longest first.
pub(super) async fn stuck(
    db: &Db,
    kind: Stuck,
    before: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<Vec<Uuid>> {
    with_db!(db, |pool| sqlx::query_scalar(kind.select())
        .bind(before)
        .bind(limit)
        .fetch_all(pool)
        .await)
}
