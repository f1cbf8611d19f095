//! SQL of provisions under way.
//!
//! `provision_lease_until` is set from the acceptance of a workspace until its
//! provision is recorded or failed; in the past, it says that nobody works on it.
//! `provision_epoch` counts the servers that did: each statement of a provision
//! names its own epoch, so that a server that was overtaken changes nothing.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::backend::{ImageDigest, Instance};
use crate::store::{Db, Tx, from_row, statement, with_db, with_tx};

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
     RETURNING id, provision_epoch, fallback_status IS NOT NULL AS old_agent_is_untouched"
);

/// A provision that was taken over.
pub(in super::super) struct Claimed {
    id: Uuid,
    provision_epoch: i64,
    /// The agent that ran before still has its credentials.
    pub(in super::super) old_agent_is_untouched: bool,
}
from_row!(Claimed {
    id,
    provision_epoch,
    old_agent_is_untouched
});

impl Claimed {
    pub(in super::super) fn lease(&self) -> Lease {
        Lease {
            id: self.id,
            epoch: self.provision_epoch,
        }
    }
}

/// Takes over a provision whose server is gone; for one winner.
pub(in super::super) async fn claim(
    db: &Db,
    id: Uuid,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> sqlx::Result<Option<Claimed>> {
    with_db!(db, |pool| sqlx::query_as(CLAIM)
        .bind(id)
        .bind(now)
        .bind(until)
        .fetch_optional(pool)
        .await)
}

statement!(
    ADOPT,
    "UPDATE workspaces SET url = $3, instance_id = $4, provisioned_at = $2, booted_at = COALESCE(booted_at, $2),
            runtime_image_digest = NULL, fallback_status = NULL, fallback_url = NULL, provision_lease_until = NULL,
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
    "UPDATE workspaces SET provision_lease_until = $3, updated_at = COALESCE($4, updated_at)
     WHERE id = $1 AND provision_epoch = $2 AND provision_lease_until IS NOT NULL AND status <> 'removed'"
);

/// False when the lease is lost: overtaken or removed. `moved_at` is written as the
/// time of the last change, if the provision got on since it was renewed last.
pub(in super::super) async fn renew(
    db: &Db,
    lease: Lease,
    until: DateTime<Utc>,
    moved_at: Option<DateTime<Utc>>,
) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(RENEW)
        .bind(lease.id)
        .bind(lease.epoch)
        .bind(until)
        .bind(moved_at)
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
        .bind(None::<DateTime<Utc>>)
        .execute(conn)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    FORGET_FALLBACK,
    "UPDATE workspaces SET fallback_status = NULL, fallback_url = NULL, url = '',
            status = CASE WHEN status IN ('online', 'degraded') THEN 'provisioning' ELSE status END
     WHERE id = $1 AND provision_epoch = $2"
);

/// From here on the old agent is not what it was: there is no way back to it, and what
/// it reported meanwhile says nothing of the new one. Part of the transaction that
/// takes its credentials.
pub(in super::super) async fn forget_fallback(tx: &mut Tx, lease: Lease) -> sqlx::Result<()> {
    with_tx!(tx, |conn| sqlx::query(FORGET_FALLBACK)
        .bind(lease.id)
        .bind(lease.epoch)
        .execute(conn)
        .await
        .map(drop))
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
            booted_at = COALESCE(booted_at, $5), last_sample_error = '', runtime_image_digest = $6,
            fallback_status = NULL, fallback_url = NULL
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
        .bind(instance.image_digest.as_ref().map(ImageDigest::as_str))
        .execute(conn)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    /// Also when its agent came online in between: it is taken back by now. A request
    /// that the boot did not come to take (`$5`) waits until `$6`; `$7` is when to try
    /// again where nobody asked.
    FAIL,
    "UPDATE workspaces SET status = 'failed', last_sample_error = $3, provision_lease_until = NULL,
            restart_requested_at = CASE WHEN $5 AND restart_requested_at IS NOT NULL THEN $6
                                        ELSE COALESCE(restart_requested_at, $7) END,
            restart_if_offline = FALSE, fallback_status = NULL, fallback_url = NULL, url = '', updated_at = $4
     WHERE id = $1 AND provision_epoch = $2 AND provision_lease_until IS NOT NULL
       AND status IN ('provisioning', 'online', 'degraded')"
);

/// When a failed provision is tried again.
#[derive(Debug, Clone, Copy, Default)]
pub(in super::super) struct Again {
    /// For the request of a restart that the boot did not come to take.
    pub(in super::super) pending: Option<DateTime<Utc>>,
    /// Without anybody asking for it.
    pub(in super::super) unasked: Option<DateTime<Utc>>,
}

/// Ends a provision badly. False when the lease is lost.
pub(in super::super) async fn fail(
    tx: &mut Tx,
    lease: Lease,
    text: &str,
    again: Again,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_tx!(tx, |conn| sqlx::query(FAIL)
        .bind(lease.id)
        .bind(lease.epoch)
        .bind(text)
        .bind(now)
        .bind(again.pending.is_some())
        .bind(again.pending)
        .bind(again.unasked)
        .execute(conn)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    /// Its old agent may have reported in between.
    DECLINE,
    "UPDATE workspaces SET status = CASE WHEN status = 'provisioning' THEN fallback_status ELSE status END,
            url = CASE WHEN $3 = '' THEN COALESCE(fallback_url, '') ELSE $3 END, last_sample_error = $4,
            restart_requested_at = CASE WHEN restart_requested_at IS NOT NULL OR $7 THEN COALESCE($5, updated_at) ELSE NULL END,
            fallback_status = NULL, fallback_url = NULL, provision_lease_until = NULL, updated_at = $6
     WHERE id = $1 AND provision_epoch = $2 AND provision_lease_until IS NOT NULL AND fallback_status IS NOT NULL
       AND status IN ('provisioning', 'online', 'degraded')
     RETURNING status"
);

/// Gives a boot up that left the old agent alone, and answers with the status that the
/// workspace has again. A request for it, also one that the boot has `taken`, waits
/// until `again`. None when the lease is lost, or there is nothing to go back to.
pub(in super::super) async fn decline(
    tx: &mut Tx,
    lease: Lease,
    url: &str,
    text: &str,
    (again, taken): (DateTime<Utc>, bool),
    now: DateTime<Utc>,
) -> sqlx::Result<Option<String>> {
    with_tx!(tx, |conn| sqlx::query_scalar(DECLINE)
        .bind(lease.id)
        .bind(lease.epoch)
        .bind(url)
        .bind(text)
        .bind(again)
        .bind(now)
        .bind(taken)
        .fetch_optional(conn)
        .await)
}
