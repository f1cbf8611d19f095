//! SQL of workspaces.

pub(super) mod lease;
pub(super) mod lifecycle;
pub(super) mod memories;
pub(super) mod operator;
pub(super) mod plan;
pub(super) mod renewal;
pub(super) mod timeouts;
pub(super) mod update;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

use super::model::Workspace;
use super::payload::NewWorkspace;
use crate::secrets::Sealed;
use crate::store::{Db, Tx, from_row, statement, with_db, with_tx};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT w.id, w.name, w.role, w.tier, w.status, w.runtime, w.model, w.template, w.external,
                    w.url, w.agent_card, w.parent_id, w.workspace_dir, w.workspace_access,
                    w.awareness_namespace, w.budget_limit, w.monthly_spend, w.max_concurrent_tasks,
                    w.active_tasks, w.last_error_rate, w.last_sample_error, w.uptime_seconds,
                    w.current_task, w.instance_id, w.last_heartbeat_at, w.last_outbound_at, w.booted_at,
                    w.provision_source, w.removed_at,
                    w.provision_lease_until IS NOT NULL AS starting,
                    w.provisioned_at IS NOT NULL AS started,
                    w.fallback_status IS NOT NULL AS has_fallback,
                    CASE WHEN w.fallback_status IN ('online', 'degraded') AND w.provision_lease_until IS NOT NULL
                          AND w.status IN ('provisioning', 'online', 'degraded')
                         THEN COALESCE(w.fallback_url, '') ELSE '' END AS kept_url,
                    COALESCE(c.x, 0.0) AS x, COALESCE(c.y, 0.0) AS y,
                    COALESCE(c.collapsed, FALSE) AS collapsed
             FROM workspaces w LEFT JOIN canvas_layouts c ON c.workspace_id = w.id ",
            $rest
        )
    };
}

statement!(FIND, select!("WHERE w.id = $1"));
statement!(
    LIST,
    select!("WHERE w.status <> 'removed' ORDER BY w.created_at, w.id")
);

pub(super) async fn find(db: &Db, id: Uuid) -> sqlx::Result<Option<Workspace>> {
    with_db!(db, |pool| sqlx::query_as(FIND)
        .bind(id)
        .fetch_optional(pool)
        .await)
}

pub(super) async fn list(db: &Db) -> sqlx::Result<Vec<Workspace>> {
    with_db!(db, |pool| sqlx::query_as(LIST).fetch_all(pool).await)
}

statement!(
    INSERT,
    "INSERT INTO workspaces (id, name, role, tier, status, runtime, model, template, external, url,
                             delivery_mode, parent_id, workspace_dir, workspace_access,
                             awareness_namespace, budget_limit, max_concurrent_tasks,
                             provisioning_started_at, provision_lease_until, created_at, updated_at)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $18, $18)"
);
statement!(
    INSERT_CANVAS,
    "INSERT INTO canvas_layouts (workspace_id, x, y) VALUES ($1, $2, $3)"
);

/// The columns of a new row that the payload does not hold.
pub(super) struct NewRow<'a> {
    pub(super) id: Uuid,
    pub(super) status: &'a str,
    pub(super) runtime: &'a str,
    pub(super) url: &'a str,
    pub(super) awareness_namespace: &'a str,
    pub(super) lease_until: Option<DateTime<Utc>>,
    pub(super) now: DateTime<Utc>,
}

pub(super) async fn insert(tx: &mut Tx, new: &NewWorkspace, row: &NewRow<'_>) -> sqlx::Result<()> {
    with_tx!(tx, |conn| {
        sqlx::query(INSERT)
            .bind(row.id)
            .bind(&new.name)
            .bind(&new.role)
            .bind(new.tier)
            .bind(row.status)
            .bind(row.runtime)
            .bind(&new.model)
            .bind(&new.template)
            .bind(new.external)
            .bind(row.url)
            .bind(&new.delivery_mode)
            .bind(new.parent_id)
            .bind(&new.workspace_dir)
            .bind(&new.workspace_access)
            .bind(row.awareness_namespace)
            .bind(new.budget_limit)
            .bind(new.max_concurrent_tasks)
            .bind(row.now)
            .bind(row.lease_until)
            .execute(&mut *conn)
            .await?;
        sqlx::query(INSERT_CANVAS)
            .bind(row.id)
            .bind(new.canvas.x)
            .bind(new.canvas.y)
            .execute(conn)
            .await
            .map(drop)
    })
}

statement!(
    /// Changes nothing and locks the row: a delete waits for what is put below it.
    LOCK_LIVE,
    "UPDATE workspaces SET updated_at = updated_at WHERE id = $1 AND status <> 'removed' RETURNING id"
);

/// True when the workspace is there; it stays so until the transaction ends.
pub(super) async fn lock_live(tx: &mut Tx, id: Uuid) -> sqlx::Result<bool> {
    let found: Option<Uuid> = with_tx!(tx, |conn| sqlx::query_scalar(LOCK_LIVE)
        .bind(id)
        .fetch_optional(conn)
        .await)?;
    Ok(found.is_some())
}

statement!(
    SET_INBOUND,
    "UPDATE workspaces SET inbound_secret = $2, inbound_secret_version = $3 WHERE id = $1"
);

pub(super) async fn set_inbound_secret(tx: &mut Tx, id: Uuid, sealed: &Sealed) -> sqlx::Result<()> {
    with_tx!(tx, |conn| sqlx::query(SET_INBOUND)
        .bind(id)
        .bind(&sealed.bytes)
        .bind(sealed.version)
        .execute(conn)
        .await
        .map(drop))
}

statement!(
    INBOUND_SECRETS,
    "SELECT id, inbound_secret, inbound_secret_version FROM workspaces
     WHERE inbound_secret IS NOT NULL AND status <> 'removed'"
);

/// The secret with which a workspace knows the server.
pub(super) struct InboundSecret {
    pub(super) id: Uuid,
    inbound_secret: Vec<u8>,
    inbound_secret_version: i64,
}
from_row!(InboundSecret {
    id,
    inbound_secret,
    inbound_secret_version
});

impl InboundSecret {
    pub(super) fn sealed(&self) -> Sealed {
        Sealed {
            bytes: self.inbound_secret.clone(),
            version: self.inbound_secret_version,
        }
    }
}

pub(super) async fn inbound_secrets(db: &Db) -> sqlx::Result<Vec<InboundSecret>> {
    with_db!(db, |pool| sqlx::query_as(INBOUND_SECRETS)
        .fetch_all(pool)
        .await)
}

statement!(
    INBOUND_SECRET,
    "SELECT id, inbound_secret, inbound_secret_version FROM workspaces
     WHERE id = $1 AND inbound_secret IS NOT NULL"
);

pub(super) async fn inbound_secret(db: &Db, id: Uuid) -> sqlx::Result<Option<InboundSecret>> {
    with_db!(db, |pool| sqlx::query_as(INBOUND_SECRET)
        .bind(id)
        .fetch_optional(pool)
        .await)
}

statement!(
    UPSERT_CONFIG,
    "INSERT INTO workspace_config (workspace_id, data) VALUES ($1, $2)
     ON CONFLICT (workspace_id) DO UPDATE SET data = excluded.data"
);

pub(super) async fn put_config(tx: &mut Tx, id: Uuid, data: &Value) -> sqlx::Result<()> {
    with_tx!(tx, |conn| sqlx::query(UPSERT_CONFIG)
        .bind(id)
        .bind(Json(data))
        .execute(conn)
        .await
        .map(drop))
}

/// A workspace below another one.
pub(super) struct Child {
    pub(super) id: Uuid,
    pub(super) name: String,
}
from_row!(Child { id, name });

statement!(
    CHILDREN,
    "SELECT id, name FROM workspaces WHERE parent_id = $1 AND status <> 'removed' ORDER BY created_at, id"
);

pub(super) async fn children(db: &Db, id: Uuid) -> sqlx::Result<Vec<Child>> {
    with_db!(db, |pool| sqlx::query_as(CHILDREN)
        .bind(id)
        .fetch_all(pool)
        .await)
}

statement!(
    /// UNION, not UNION ALL: a cycle of parents ends instead of running on.
    DESCENDANTS,
    "WITH RECURSIVE below (id) AS (
         SELECT id FROM workspaces WHERE parent_id = $1
         UNION
         SELECT w.id FROM workspaces w JOIN below b ON w.parent_id = b.id
     )
     SELECT w.id, w.status = 'removed' AS removed
     FROM workspaces w JOIN below b ON b.id = w.id
     WHERE w.id <> $1 AND (w.status <> 'removed' OR w.instance_id IS NOT NULL)"
);

/// A workspace below another one: live, or removed with compute that did not
/// stop.
#[derive(Clone, Copy)]
pub(super) struct Descendant {
    pub(super) id: Uuid,
    pub(super) removed: bool,
}
from_row!(Descendant { id, removed });

pub(super) async fn descendants(tx: &mut Tx, id: Uuid) -> sqlx::Result<Vec<Descendant>> {
    with_tx!(tx, |conn| sqlx::query_as(DESCENDANTS)
        .bind(id)
        .fetch_all(conn)
        .await)
}

statement!(
    MARK_REMOVED,
    "UPDATE workspaces SET status = 'removed', removed_at = COALESCE(removed_at, $2), url = '',
            provision_lease_until = NULL, enrolment_hash = NULL, updated_at = $2
     WHERE id = $1"
);
statement!(
    DELETE_CANVAS,
    "DELETE FROM canvas_layouts WHERE workspace_id = $1"
);

pub(super) async fn mark_removed(tx: &mut Tx, id: Uuid, now: DateTime<Utc>) -> sqlx::Result<()> {
    with_tx!(tx, |conn| {
        sqlx::query(MARK_REMOVED)
            .bind(id)
            .bind(now)
            .execute(&mut *conn)
            .await?;
        sqlx::query(DELETE_CANVAS)
            .bind(id)
            .execute(conn)
            .await
            .map(drop)
    })
}

statement!(
    CLEAR_INSTANCE,
    "UPDATE workspaces SET instance_id = NULL WHERE id = $1"
);

pub(super) async fn clear_instance(db: &Db, id: Uuid) -> sqlx::Result<()> {
    with_db!(db, |pool| sqlx::query(CLEAR_INSTANCE)
        .bind(id)
        .execute(pool)
        .await
        .map(drop))
}

statement!(
    ORPHAN_CHILDREN,
    "UPDATE workspaces SET parent_id = NULL WHERE parent_id = $1"
);
statement!(
    /// Tokens, secrets, configuration and layout go with the row.
    PURGE,
    "DELETE FROM workspaces WHERE id = $1 AND status = 'removed'"
);

pub(super) async fn purge(tx: &mut Tx, id: Uuid) -> sqlx::Result<()> {
    with_tx!(tx, |conn| {
        sqlx::query(ORPHAN_CHILDREN)
            .bind(id)
            .execute(&mut *conn)
            .await?;
        sqlx::query(PURGE).bind(id).execute(conn).await.map(drop)
    })
}

statement!(
    PARENTS,
    "SELECT id, parent_id FROM workspaces WHERE status <> 'removed'"
);

/// A workspace and what it is below.
pub(super) struct Parent {
    pub(super) id: Uuid,
    pub(super) parent_id: Option<Uuid>,
}
from_row!(Parent { id, parent_id });

pub(super) async fn parents(db: &Db) -> sqlx::Result<Vec<Parent>> {
    with_db!(db, |pool| sqlx::query_as(PARENTS).fetch_all(pool).await)
}

statement!(STATUS, "SELECT status FROM workspaces WHERE id = $1");

/// The stored status, if there is a row.
pub(super) async fn status(db: &Db, id: Uuid) -> sqlx::Result<Option<String>> {
    with_db!(db, |pool| sqlx::query_scalar(STATUS)
        .bind(id)
        .fetch_optional(pool)
        .await)
}

statement!(
    REFRESH_URL,
    "UPDATE workspaces SET url = $3 WHERE id = $1 AND instance_id = $2 AND url <> $3 AND status <> 'removed'"
);

/// True when the stored URL was another one.
pub(super) async fn refresh_url(
    db: &Db,
    id: Uuid,
    instance_id: &str,
    url: &str,
) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(REFRESH_URL)
        .bind(id)
        .bind(instance_id)
        .bind(url)
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
}
