//! SQL of agents that take too long to register.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::lease::Lease;
use crate::store::{Db, Tx, from_row, statement, with_db, with_tx};

statement!(
    NOTE_TIMEOUT,
    "UPDATE workspaces SET provision_timeout_secs = $3 WHERE id = $1 AND provision_epoch = $2"
);

/// Notes what the configuration that an agent boots with says.
pub(in super::super) async fn note(db: &Db, lease: Lease, secs: i64) -> sqlx::Result<()> {
    with_db!(db, |pool| sqlx::query(NOTE_TIMEOUT)
        .bind(lease.id)
        .bind(lease.epoch)
        .bind(secs)
        .execute(pool)
        .await
        .map(drop))
}

/// A workspace whose agent has not registered yet, and since when it could have.
pub(in super::super) struct Waiting {
    pub(in super::super) id: Uuid,
    pub(in super::super) runtime: String,
    pub(in super::super) provision_timeout_secs: Option<i64>,
    pub(in super::super) since: DateTime<Utc>,
}
from_row!(Waiting {
    id,
    runtime,
    provision_timeout_secs,
    since
});

statement!(
    /// A lease says that the server still works on it. Without one, the agent was
    /// started at `provisioned_at`, or whoever began was interrupted for good.
    WAITING,
    "SELECT id, runtime, provision_timeout_secs,
            COALESCE(provisioned_at, provisioning_started_at, created_at) AS since
     FROM workspaces
     WHERE status = 'provisioning' AND external = FALSE AND provision_lease_until IS NULL
       AND COALESCE(provisioned_at, provisioning_started_at, created_at) < $1 AND id > $2
     ORDER BY id LIMIT 200"
);

/// Workspaces that wait since before a time: a page, by id.
pub(in super::super) async fn waiting(
    db: &Db,
    before: DateTime<Utc>,
    after: Uuid,
) -> sqlx::Result<Vec<Waiting>> {
    with_db!(db, |pool| sqlx::query_as(WAITING)
        .bind(before)
        .bind(after)
        .fetch_all(pool)
        .await)
}

statement!(
    FAIL,
    "UPDATE workspaces SET status = 'failed', last_sample_error = $2, url = '', updated_at = $3
     WHERE id = $1 AND status = 'provisioning' AND external = FALSE AND provision_lease_until IS NULL
       AND COALESCE(provisioned_at, provisioning_started_at, created_at) < $4"
);

/// True when it still waits since before a time.
pub(in super::super) async fn fail(
    tx: &mut Tx,
    id: Uuid,
    text: &str,
    now: DateTime<Utc>,
    before: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_tx!(tx, |conn| sqlx::query(FAIL)
        .bind(id)
        .bind(text)
        .bind(now)
        .bind(before)
        .execute(conn)
        .await
        .map(|done| done.rows_affected() == 1))
}
