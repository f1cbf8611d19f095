//! SQL of presence.

mod reports;

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use serde_json::Value;
use sqlx::types::Json;
use uuid::Uuid;

pub(super) use reports::write_reports;

use crate::store::{Db, Tx, from_row, statement, with_db, with_tx};
use crate::workspaces::Status;

statement!(
    /// The heartbeat that causes it counts at once: nobody must find an online row
    /// whose last one is from before a long sleep. An agent that comes back was not
    /// idle while it was away. While a workspace is restarted, the one that reports
    /// may be the old agent, and says nothing of the new one.
    CHANGE_STATUS,
    "UPDATE workspaces
     SET status = $3, last_heartbeat_at = $4, updated_at = $4,
         idle_since = CASE WHEN $2 IN ('online', 'degraded') THEN idle_since END
     WHERE id = $1 AND status = $2
       AND NOT (status = 'provisioning' AND provision_lease_until IS NOT NULL AND booted_at IS NOT NULL)"
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

/// What a registration changes.
pub(super) struct Registration<'a> {
    pub(super) id: Uuid,
    pub(super) url: &'a str,
    pub(super) card: &'a Value,
    /// What it says of its plugins, if anything.
    pub(super) plugins: Option<&'a str>,
    pub(super) now: DateTime<Utc>,
}

statement!(
    /// The URL of an instance this server started stays: it was inspected, not
    /// claimed. An agent that starts was not idle before, and knows nothing of the
    /// plugins that the one before had loaded.
    REGISTER,
    "UPDATE workspaces
     SET status = 'online', agent_card = $2, last_heartbeat_at = $4, updated_at = $4, idle_since = NULL,
         url = CASE WHEN instance_id IS NOT NULL AND url <> '' THEN url ELSE $3 END,
         loaded_plugins = $5, loaded_plugins_at = $4
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
        .bind(row.plugins)
        .fetch_optional(conn)
        .await)
}

statement!(
    SET_PLUGINS,
    "UPDATE workspaces SET loaded_plugins = $2, loaded_plugins_at = $3
     WHERE id = $1 AND status <> 'removed' AND loaded_plugins IS DISTINCT FROM $2"
);

/// True when the row said something else.
pub(super) async fn set_plugins(
    db: &Db,
    id: Uuid,
    plugins: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(SET_PLUGINS)
        .bind(id)
        .bind(plugins)
        .bind(now)
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    UPDATE_CARD,
    "UPDATE workspaces SET agent_card = $2, updated_at = $3
     WHERE id = $1 AND status <> 'removed' AND agent_card IS DISTINCT FROM $2"
);

/// True when there is such a workspace and it had another card.
pub(super) async fn update_card(
    tx: &mut Tx,
    id: Uuid,
    card: &Value,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_tx!(tx, |conn| sqlx::query(UPDATE_CARD)
        .bind(id)
        .bind(Json(card))
        .bind(now)
        .execute(conn)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    TARGET,
    "SELECT t.name, t.tier, t.status, t.url, t.external, t.instance_id IS NOT NULL AS hosted,
            COALESCE((SELECT c.external FROM workspaces c WHERE c.id = $2), FALSE) AS for_external
     FROM workspaces t WHERE t.id = $1 AND t.status <> 'removed'"
);

/// A workspace somebody wants to call.
pub(super) struct Target {
    pub(super) name: String,
    pub(super) tier: i64,
    pub(super) status: String,
    pub(super) url: String,
    pub(super) external: bool,
    /// This platform started its agent.
    pub(super) hosted: bool,
    /// The agent that asks runs elsewhere.
    pub(super) for_external: bool,
}
from_row!(Target {
    name,
    tier,
    status,
    url,
    external,
    hosted,
    for_external,
});

pub(super) async fn target(db: &Db, id: Uuid, caller: Uuid) -> sqlx::Result<Option<Target>> {
    with_db!(db, |pool| sqlx::query_as(TARGET)
        .bind(id)
        .bind(caller)
        .fetch_optional(pool)
        .await)
}

statement!(
    /// Siblings, then children, then the parent; each once, also on a cycle.
    PEERS,
    "SELECT w.id, w.name, w.role, w.tier, w.status, w.agent_card, w.url, w.parent_id, w.active_tasks,
            w.external, w.instance_id IS NOT NULL AS hosted, me.external AS for_external
     FROM workspaces me
     JOIN workspaces w ON w.id <> me.id
          AND (w.parent_id = me.parent_id OR (w.parent_id IS NULL AND me.parent_id IS NULL)
               OR w.parent_id = me.id OR w.id = me.parent_id)
     WHERE me.id = $1 AND w.status <> 'removed'
     ORDER BY CASE WHEN w.parent_id = me.parent_id OR (w.parent_id IS NULL AND me.parent_id IS NULL) THEN 1
                   WHEN w.parent_id = me.id THEN 2 ELSE 3 END,
              w.name, w.id
     LIMIT $2"
);

/// A workspace that another one may talk to directly.
pub(super) struct Peer {
    pub(super) id: Uuid,
    pub(super) name: String,
    pub(super) role: Option<String>,
    pub(super) tier: i64,
    pub(super) status: String,
    pub(super) agent_card: Option<Json<Value>>,
    pub(super) url: String,
    pub(super) parent_id: Option<Uuid>,
    pub(super) active_tasks: i64,
    pub(super) external: bool,
    /// This platform started its agent.
    pub(super) hosted: bool,
    /// The agent that asks runs elsewhere.
    pub(super) for_external: bool,
}
from_row!(Peer {
    id,
    name,
    role,
    tier,
    status,
    agent_card,
    url,
    parent_id,
    active_tasks,
    external,
    hosted,
    for_external,
});

/// The first `limit` peers of a workspace that are wanted. The choice is made
/// here and not by the database: what upper and lower case are beyond ASCII is
/// something the engines do not agree on.
pub(super) async fn peers(
    db: &Db,
    id: Uuid,
    limit: usize,
    wanted: Option<&(dyn Fn(&Peer) -> bool + Send + Sync)>,
) -> sqlx::Result<Vec<Peer>> {
    let rows = match wanted {
        Some(_) => i64::MAX,
        None => i64::try_from(limit).unwrap_or(i64::MAX),
    };
    let mut found = Vec::new();
    with_db!(db, |pool| {
        let mut peers = sqlx::query_as(PEERS).bind(id).bind(rows).fetch(pool);
        while found.len() < limit
            && let Some(peer) = peers.try_next().await?
        {
            if wanted.is_none_or(|wanted| wanted(&peer)) {
                found.push(peer);
            }
        }
        Ok(())
    })?;
    Ok(found)
}

statement!(
    IS_THERE,
    "SELECT id FROM workspaces WHERE id = $1 AND status <> 'removed'"
);

/// True when there is such a workspace at this moment.
pub(super) async fn is_there(db: &Db, id: Uuid) -> sqlx::Result<bool> {
    let found: Option<Uuid> = with_db!(db, |pool| sqlx::query_scalar(IS_THERE)
        .bind(id)
        .fetch_optional(pool)
        .await)?;
    Ok(found.is_some())
}
