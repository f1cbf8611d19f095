//! SQL of a workspace after its first boot.

use chrono::{DateTime, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use super::super::boot::Boot;
use super::super::model::Status;
use super::super::status::{Trigger, sources};
use super::lease::Lease;
use crate::store::{Db, Tx, from_row, statement, with_db, with_tx};

statement!(
    /// `$5` lists the statuses it may have: see [`sources`]. A boot that another
    /// server left keeps what was there before that one.
    BEGIN_BOOT,
    "UPDATE workspaces
     SET fallback_status = CASE WHEN provision_lease_until IS NOT NULL THEN fallback_status
                                WHEN booted_at IS NOT NULL
                                 AND status IN ('provisioning', 'online', 'degraded', 'offline', 'failed') THEN status
                                ELSE NULL END,
         fallback_url = CASE WHEN provision_lease_until IS NOT NULL THEN fallback_url ELSE url END,
         status = 'provisioning', url = '', provision_lease_until = $3, provision_epoch = provision_epoch + 1,
         provision_source = $4, provisioning_started_at = $2, provisioned_at = NULL, active_tasks = 0,
         current_task = '', idle_since = NULL, updated_at = $2
     WHERE id = $1 AND external = FALSE AND $5 LIKE '%,' || status || ',%'
       AND (provision_lease_until IS NULL OR provision_lease_until <= $2)
       AND (NOT $6 OR (restart_requested_at IS NOT NULL AND (NOT restart_if_offline OR status = 'offline')))
     RETURNING provision_epoch, name, tier, runtime"
);

/// A boot that was begun, and what its event says.
pub(in super::super) struct Begun {
    provision_epoch: i64,
    pub(in super::super) name: String,
    pub(in super::super) tier: i64,
    pub(in super::super) runtime: String,
}
from_row!(Begun {
    provision_epoch,
    name,
    tier,
    runtime
});

impl Begun {
    pub(in super::super) fn lease(&self, id: Uuid) -> Lease {
        Lease {
            id,
            epoch: self.provision_epoch,
        }
    }
}

/// From which rows a boot may begin.
#[derive(Clone, Copy)]
pub(in super::super) struct BootFrom {
    pub(in super::super) trigger: Trigger,
    /// Only if a restart was requested.
    pub(in super::super) requested: bool,
}

/// Takes the lease of a workspace that nobody provisions; for one winner.
pub(in super::super) async fn begin_boot(
    tx: &mut Tx,
    id: Uuid,
    boot: &Boot,
    from: BootFrom,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> sqlx::Result<Option<Begun>> {
    let statuses = sources(from.trigger);
    with_tx!(tx, |conn| sqlx::query_as(BEGIN_BOOT)
        .bind(id)
        .bind(now)
        .bind(until)
        .bind(Json(boot))
        .bind(statuses)
        .bind(from.requested)
        .fetch_optional(conn)
        .await)
}

statement!(
    REQUEST_RESTART,
    "UPDATE workspaces SET restart_requested_at = $2, restart_if_offline = FALSE
     WHERE id = $1 AND external = FALSE AND status IN ('provisioning', 'online', 'degraded', 'offline', 'failed')"
);

/// True when the workspace is one that can be restarted. The request overrides an
/// earlier one.
pub(in super::super) async fn request_restart(
    db: &Db,
    id: Uuid,
    at: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(REQUEST_RESTART)
        .bind(id)
        .bind(at)
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    /// A time further ahead than any that is written was written before the clock
    /// was set back.
    DUE_RESTARTS,
    "SELECT id FROM workspaces
     WHERE (restart_requested_at <= $1 OR restart_requested_at > $3) AND external = FALSE
       AND (provision_lease_until IS NULL OR (status = 'failed' AND provision_lease_until <= $1))
       AND (NOT restart_if_offline OR status = 'offline')
       AND status IN ('provisioning', 'online', 'degraded', 'offline', 'failed')
     ORDER BY restart_requested_at, id LIMIT $2"
);

/// Requested restarts whose time has come and that nobody works on. No request is
/// meant to wait until after `furthest`.
pub(in super::super) async fn due_restarts(
    db: &Db,
    now: DateTime<Utc>,
    furthest: DateTime<Utc>,
    most: i64,
) -> sqlx::Result<Vec<Uuid>> {
    with_db!(db, |pool| sqlx::query_scalar(DUE_RESTARTS)
        .bind(now)
        .bind(most)
        .bind(furthest)
        .fetch_all(pool)
        .await)
}

statement!(
    POSTPONE_RESTART,
    "UPDATE workspaces SET restart_requested_at = $2 WHERE id = $1 AND restart_requested_at IS NOT NULL"
);

/// Leaves a request for later.
pub(in super::super) async fn postpone_restart(
    db: &Db,
    id: Uuid,
    at: DateTime<Utc>,
) -> sqlx::Result<()> {
    with_db!(db, |pool| sqlx::query(POSTPONE_RESTART)
        .bind(id)
        .bind(at)
        .execute(pool)
        .await
        .map(drop))
}

statement!(
    SPARE,
    "UPDATE workspaces SET restart_requested_at = $3
     WHERE id = $1 AND instance_id = $2 AND status = 'offline' AND restart_if_offline AND restart_requested_at < $3"
);

/// Gives an offline workspace until `at` to come back by itself. False when it is not
/// offline, runs as another instance, or is restarted for another reason.
pub(in super::super) async fn spare(
    db: &Db,
    id: Uuid,
    instance_id: &str,
    at: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(SPARE)
        .bind(id)
        .bind(instance_id)
        .bind(at)
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    TAKE_REQUEST,
    "UPDATE workspaces SET restart_requested_at = NULL, restart_if_offline = FALSE
     WHERE id = $1 AND provision_epoch = $2 AND provision_lease_until IS NOT NULL AND status <> 'removed'"
);

/// What was changed until now, this boot will see. False when the lease is lost.
pub(in super::super) async fn take_request(db: &Db, lease: Lease) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(TAKE_REQUEST)
        .bind(lease.id)
        .bind(lease.epoch)
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    /// An agent that comes back before its turn is not restarted for having been
    /// away, unless something else asked for it.
    GO_OFFLINE,
    "UPDATE workspaces
     SET status = CASE WHEN external THEN 'awaiting_agent' ELSE 'offline' END,
         restart_requested_at = CASE WHEN external THEN NULL
                                     WHEN restart_requested_at IS NULL OR restart_if_offline THEN $3
                                     ELSE restart_requested_at END,
         restart_if_offline = NOT external AND (restart_requested_at IS NULL OR restart_if_offline),
         url = CASE WHEN $4 AND NOT external THEN '' ELSE url END, updated_at = $2
     WHERE id = $1 AND status IN ('online', 'degraded') AND provision_lease_until IS NULL
     RETURNING external"
);

/// Whether it is external, if it could be taken offline.
pub(in super::super) async fn go_offline(
    tx: &mut Tx,
    id: Uuid,
    now: DateTime<Utc>,
    restart_at: Option<DateTime<Utc>>,
    gone: bool,
) -> sqlx::Result<Option<bool>> {
    with_tx!(tx, |conn| sqlx::query_scalar(GO_OFFLINE)
        .bind(id)
        .bind(now)
        .bind(restart_at)
        .bind(gone)
        .fetch_optional(conn)
        .await)
}

statement!(
    /// A provision under way loses its lease, and so its say.
    PAUSE,
    "UPDATE workspaces
     SET status = 'paused', url = CASE WHEN external THEN url ELSE '' END, provision_epoch = provision_epoch + 1,
         provision_lease_until = NULL, restart_requested_at = NULL, restart_if_offline = FALSE, active_tasks = 0, current_task = '',
         idle_since = NULL, updated_at = $2
     WHERE id = $1 AND $3 LIKE '%,' || status || ',%'
     RETURNING name, tier, external"
);

/// What events say about a workspace.
pub(in super::super) struct Brief {
    pub(in super::super) name: String,
    pub(in super::super) tier: i64,
    pub(in super::super) external: bool,
}
from_row!(Brief {
    name,
    tier,
    external
});

/// None when it is removed or paused already.
pub(in super::super) async fn pause(
    tx: &mut Tx,
    id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Brief>> {
    with_tx!(tx, |conn| sqlx::query_as(PAUSE)
        .bind(id)
        .bind(now)
        .bind(sources(Trigger::Pause))
        .fetch_optional(conn)
        .await)
}

statement!(
    RESUME_EXTERNAL,
    "UPDATE workspaces SET status = 'awaiting_agent', updated_at = $2
     WHERE id = $1 AND external = TRUE AND status = 'paused'
     RETURNING name, tier, external"
);

/// An external workspace has no compute to start: its agent comes back by itself.
pub(in super::super) async fn resume_external(
    tx: &mut Tx,
    id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Brief>> {
    with_tx!(tx, |conn| sqlx::query_as(RESUME_EXTERNAL)
        .bind(id)
        .bind(now)
        .fetch_optional(conn)
        .await)
}

statement!(
    BEGIN_HIBERNATION,
    "UPDATE workspaces SET status = 'hibernating', active_tasks = 0, updated_at = $3
     WHERE id = $1 AND status = $2 AND external = FALSE AND (active_tasks = 0 OR $4) AND provision_lease_until IS NULL"
);

/// True for the one that may put it to sleep.
pub(in super::super) async fn begin_hibernation(
    db: &Db,
    id: Uuid,
    from: Status,
    now: DateTime<Utc>,
    force: bool,
) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(BEGIN_HIBERNATION)
        .bind(id)
        .bind(from.as_str())
        .bind(now)
        .bind(force)
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    END_HIBERNATION,
    "UPDATE workspaces SET status = $2, url = CASE WHEN $2 = 'hibernated' THEN '' ELSE url END,
            instance_id = CASE WHEN $2 = 'hibernated' THEN NULL ELSE instance_id END,
            current_task = '', idle_since = NULL, updated_at = $3
     WHERE id = $1 AND status = 'hibernating'
     RETURNING name, tier, external"
);

/// Ends it asleep, or as it was before. None when something else happened to it.
pub(in super::super) async fn end_hibernation(
    tx: &mut Tx,
    id: Uuid,
    to: Status,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<Brief>> {
    with_tx!(tx, |conn| sqlx::query_as(END_HIBERNATION)
        .bind(id)
        .bind(to.as_str())
        .bind(now)
        .fetch_optional(conn)
        .await)
}

statement!(
    HALF_ASLEEP,
    "SELECT id FROM workspaces WHERE status = 'hibernating' AND updated_at < $1 ORDER BY updated_at LIMIT 100"
);

/// Workspaces whose server died while it put them to sleep.
pub(in super::super) async fn half_asleep(
    db: &Db,
    before: DateTime<Utc>,
) -> sqlx::Result<Vec<Uuid>> {
    with_db!(db, |pool| sqlx::query_scalar(HALF_ASLEEP)
        .bind(before)
        .fetch_all(pool)
        .await)
}

statement!(
    /// Nearest first; UNION ends on a cycle of parents.
    PAUSED_ANCESTOR,
    "WITH RECURSIVE above (id, parent_id, depth) AS (
         SELECT p.id, p.parent_id, 1 FROM workspaces w JOIN workspaces p ON p.id = w.parent_id WHERE w.id = $1
         UNION
         SELECT p.id, p.parent_id, a.depth + 1 FROM above a JOIN workspaces p ON p.id = a.parent_id
         WHERE a.depth < 32
     )
     SELECT w.name FROM above a JOIN workspaces w ON w.id = a.id
     WHERE w.status = 'paused' ORDER BY a.depth LIMIT 1"
);

/// Name of the nearest paused workspace above.
pub(in super::super) async fn paused_ancestor(db: &Db, id: Uuid) -> sqlx::Result<Option<String>> {
    with_db!(db, |pool| sqlx::query_scalar(PAUSED_ANCESTOR)
        .bind(id)
        .fetch_optional(pool)
        .await)
}

statement!(
    SET_RUNTIME,
    "UPDATE workspaces SET runtime = $2, updated_at = $3 WHERE id = $1 AND status <> 'removed'"
);

/// The agent's own configuration names another runtime now.
pub(in super::super) async fn set_runtime(
    db: &Db,
    id: Uuid,
    runtime: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    with_db!(db, |pool| sqlx::query(SET_RUNTIME)
        .bind(id)
        .bind(runtime)
        .bind(now)
        .execute(pool)
        .await
        .map(drop))
}
