//! SQL of provisions under way.
//!
//! `provision_lease_until` is set from the acceptance of a workspace until its
//! provision is recorded or failed; in the past, it says that nobody works on it.
//! `provision_epoch` counts the servers that did: each statement of a provision
//! names its own epoch, so that a server that was overtaken changes nothing.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::backend::Instance;
use crate::store::{Db, Tx, statement, with_db, with_tx};

/// The right to provision a workspace.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Lease {
    pub(in super::super) id: Uuid,
    pub(in super::super) epoch: i64,
}

impl Lease {
    /// The lease that comes with a new row.
    pub(in super::super) fn first(id: Uuid) -> Self {
        Self { id, epoch: 1 }
    }
}

statement!(
    ABANDONED,
    "SELECT id FROM workspaces
     WHERE provision_lease_until <= $1 AND status IN ('provisioning', 'online', 'degraded')
     ORDER BY created_at LIMIT 100"
);

/// Provisions that nobody works on.
pub(in super::super) async fn abandoned(db: &Db, now: DateTime<Utc>) -> sqlx::Result<Vec<Uuid>> {
    with_db!(db, |pool| sqlx::query_scalar(ABANDONED)
        .bind(now)
        .fetch_all(pool)
        .await)
}

statement!(
    /// An agent may have come online before its server died; it starts over too.
    CLAIM,
    "UPDATE workspaces SET provision_lease_until = $3, provision_epoch = provision_epoch + 1,
            status = 'provisioning', url = ''
     WHERE id = $1 AND provision_lease_until <= $2 AND status IN ('provisioning', 'online', 'degraded')
     RETURNING provision_epoch"
);

/// Takes over a provision whose server is gone; for one winner.
pub(in super::super) async fn claim(
    db: &Db,
    id: Uuid,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> sqlx::Result<Option<Lease>> {
    let epoch: Option<i64> = with_db!(db, |pool| sqlx::query_scalar(CLAIM)
        .bind(id)
        .bind(now)
        .bind(until)
        .fetch_optional(pool)
        .await)?;
    Ok(epoch.map(|epoch| Lease { id, epoch }))
}

statement!(
    ADOPT,
    "UPDATE workspaces SET url = $3, instance_id = $4, provisioned_at = $2, booted_at = COALESCE(booted_at, $2),
            provision_lease_until = NULL,
            provision_epoch = provision_epoch + 1, updated_at = $2
     WHERE id = $1 AND provision_lease_until <= $2 AND status IN ('online', 'degraded')"
);

/// Records an instance whose agent came online before its server died. False when
/// someone else was faster.
pub(in super::super) async fn adopt(
    db: &Db,
    id: Uuid,
    instance_id: &str,
    url: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(ADOPT)
        .bind(id)
        .bind(now)
        .bind(url)
        .bind(instance_id)
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    RENEW,
    "UPDATE workspaces SET provision_lease_until = $3
     WHERE id = $1 AND provision_epoch = $2 AND provision_lease_until IS NOT NULL AND status <> 'removed'"
);

/// False when the lease is lost: overtaken or removed.
pub(in super::super) async fn renew(
    db: &Db,
    lease: Lease,
    until: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(RENEW)
        .bind(lease.id)
        .bind(lease.epoch)
        .bind(until)
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
}

/// As [`renew`], and locks the row until the transaction ends.
pub(in super::super) async fn hold(
    tx: &mut Tx,
    lease: Lease,
    until: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_tx!(tx, |conn| sqlx::query(RENEW)
        .bind(lease.id)
        .bind(lease.epoch)
        .bind(until)
        .execute(conn)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    RELEASE,
    "UPDATE workspaces SET provision_lease_until = $3, status = 'provisioning', url = ''
     WHERE id = $1 AND provision_epoch = $2 AND provision_lease_until IS NOT NULL
       AND status IN ('provisioning', 'online', 'degraded')"
);

/// Leaves a provision that was taken back to whoever comes next.
pub(in super::super) async fn release(
    db: &Db,
    lease: Lease,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    with_db!(db, |pool| sqlx::query(RELEASE)
        .bind(lease.id)
        .bind(lease.epoch)
        .bind(now)
        .execute(pool)
        .await
        .map(drop))
}

statement!(
    EXPIRE_ALL,
    "UPDATE workspaces SET provision_lease_until = created_at WHERE provision_lease_until IS NOT NULL"
);

/// Ends all leases: right only where this process is the only server.
pub(in super::super) async fn expire_all(db: &Db) -> sqlx::Result<()> {
    with_db!(db, |pool| sqlx::query(EXPIRE_ALL)
        .execute(pool)
        .await
        .map(drop))
}

statement!(
    RECORD_INSTANCE,
    "UPDATE workspaces SET url = $3, instance_id = $4, provisioned_at = $5, provision_lease_until = NULL, updated_at = $5,
            booted_at = COALESCE(booted_at, $5), last_sample_error = ''
     WHERE id = $1 AND provision_epoch = $2 AND provision_lease_until IS NOT NULL AND status <> 'removed'"
);

/// Ends a provision well. False when the lease is lost.
pub(in super::super) async fn record_instance(
    tx: &mut Tx,
    lease: Lease,
    instance: &Instance,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_tx!(tx, |conn| sqlx::query(RECORD_INSTANCE)
        .bind(lease.id)
        .bind(lease.epoch)
        .bind(&instance.url)
        .bind(&instance.instance_id)
        .bind(now)
        .execute(conn)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    /// Also when its agent came online in between: it is taken back by now.
    FAIL,
    "UPDATE workspaces SET status = 'failed', last_sample_error = $3, provision_lease_until = NULL,
            url = '', updated_at = $4
     WHERE id = $1 AND provision_epoch = $2 AND provision_lease_until IS NOT NULL
       AND status IN ('provisioning', 'online', 'degraded')"
);

/// Ends a provision badly. False when the lease is lost.
pub(in super::super) async fn fail(
    tx: &mut Tx,
    lease: Lease,
    text: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_tx!(tx, |conn| sqlx::query(FAIL)
        .bind(lease.id)
        .bind(lease.epoch)
        .bind(text)
        .bind(now)
        .execute(conn)
        .await
        .map(|done| done.rows_affected() == 1))
}
