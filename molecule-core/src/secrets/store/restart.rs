//! SQL of the restarts that a changed secret causes.
//!
//! A request is a time in the workspace's row, written in the transaction of the
//! change: whoever sees the new value sees the request.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::secrets::Scope;
use crate::store::{Db, Tx, statement, with_db, with_tx};

/// Agents that run or will run without anybody asking for it. One that is just
/// being put to sleep may be back if that fails. The others read their secrets
/// when they are resumed or woken; external ones were not started by us.
macro_rules! restarts {
    () => {
        "w.external = FALSE AND w.runtime NOT IN ('external', 'mock')
         AND w.status IN ('provisioning', 'online', 'degraded', 'offline', 'failed', 'hibernating')"
    };
}

/// Workspaces that a global secret reaches. Not `NOT IN`, which one NULL turns
/// into "nobody".
macro_rules! inherits {
    ($key:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM workspace_secrets s WHERE s.workspace_id = w.id AND s.key = ",
            $key,
            ")"
        )
    };
}

statement!(
    REQUEST,
    concat!(
        "UPDATE workspaces AS w SET restart_requested_at = $2, restart_if_offline = FALSE WHERE w.id = $1 AND ",
        restarts!()
    )
);
statement!(
    REQUEST_ALL,
    concat!(
        "UPDATE workspaces AS w SET restart_requested_at = $2, restart_if_offline = FALSE WHERE ",
        restarts!(),
        " AND ",
        inherits!("$1")
    )
);

/// Requests a restart of every workspace that must see the change of this key;
/// returns how many.
pub(in super::super) async fn request(
    tx: &mut Tx,
    scope: Scope,
    key: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<u64> {
    with_tx!(tx, |conn| match scope {
        Scope::Global => sqlx::query(REQUEST_ALL).bind(key),
        Scope::Workspace(id) => sqlx::query(REQUEST).bind(id),
    }
    .bind(now)
    .execute(conn)
    .await
    .map(|done| done.rows_affected()))
}

statement!(
    REQUEST_MISSED,
    concat!(
        "UPDATE workspaces AS w SET restart_requested_at = $2, restart_if_offline = FALSE
         WHERE (w.restart_requested_at IS NULL OR w.restart_if_offline)
           AND (w.provision_lease_until IS NOT NULL OR w.provisioned_at >= $3
                OR (w.status = 'failed' AND w.updated_at >= $3))
           AND ",
        restarts!(),
        " AND ",
        inherits!("$1")
    )
);

/// Requests a restart of workspaces that were created, or lost their own secret
/// of this key, while the change of the global one was being written, and may
/// have booted with the old value. `since` is when that began.
pub(in super::super) async fn request_missed(
    db: &Db,
    key: &str,
    now: DateTime<Utc>,
    since: DateTime<Utc>,
) -> sqlx::Result<u64> {
    with_db!(db, |pool| sqlx::query(REQUEST_MISSED)
        .bind(key)
        .bind(now)
        .bind(since)
        .execute(pool)
        .await
        .map(|done| done.rows_affected()))
}

statement!(
    DEPENDENT,
    concat!(
        "SELECT w.id FROM workspaces w WHERE w.id = $1 AND ",
        restarts!()
    )
);
statement!(
    DEPENDENTS,
    concat!(
        "SELECT w.id FROM workspaces w WHERE ",
        restarts!(),
        " AND ",
        inherits!("$1"),
        " ORDER BY w.created_at, w.id"
    )
);

/// Whom [`request`] would restart.
pub(in super::super) async fn dependents(
    db: &Db,
    scope: Scope,
    key: &str,
) -> sqlx::Result<Vec<Uuid>> {
    with_db!(db, |pool| match scope {
        Scope::Global => sqlx::query_scalar(DEPENDENTS).bind(key),
        Scope::Workspace(id) => sqlx::query_scalar(DEPENDENT).bind(id),
    }
    .fetch_all(pool)
    .await)
}
