//! SQL of updates that wait for a decision.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::store::{Db, Tx, from_row, statement, with_db, with_tx};

/// A tracked plugin whose upstream moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::plugins) struct Entry {
    pub(in crate::plugins) id: Uuid,
    pub(in crate::plugins) workspace_id: Uuid,
    pub(in crate::plugins) plugin_name: String,
    pub(in crate::plugins) tracked_ref: String,
    pub(in crate::plugins) current_sha: String,
    pub(in crate::plugins) latest_sha: String,
    /// `pending`, `applied` or `dismissed`.
    pub(in crate::plugins) status: String,
    pub(in crate::plugins) created_at: DateTime<Utc>,
    /// What the last attempt to apply it answered, if that failed.
    pub(in crate::plugins) last_error: Option<String>,
}
from_row!(Entry {
    id,
    workspace_id,
    plugin_name,
    tracked_ref,
    current_sha,
    latest_sha,
    status,
    created_at,
    last_error
});

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT q.id, q.workspace_id, q.plugin_name, q.tracked_ref, q.current_sha, q.latest_sha,
                    q.status, q.created_at, q.last_error
             FROM plugin_update_queue q ",
            $rest
        )
    };
}

statement!(
    PENDING,
    select!(
        "JOIN workspaces w ON w.id = q.workspace_id AND w.status <> 'removed'
         WHERE q.status = 'pending' ORDER BY q.created_at DESC, q.id DESC LIMIT $1"
    )
);

/// Updates that nobody decided about, newest first.
pub(in crate::plugins) async fn pending(db: &Db, most: i64) -> sqlx::Result<Vec<Entry>> {
    with_db!(db, |pool| sqlx::query_as(PENDING)
        .bind(most)
        .fetch_all(pool)
        .await)
}

statement!(FIND, select!("WHERE q.id = $1"));

pub(in crate::plugins) async fn find(db: &Db, id: Uuid) -> sqlx::Result<Option<Entry>> {
    with_db!(db, |pool| sqlx::query_as(FIND)
        .bind(id)
        .fetch_optional(pool)
        .await)
}

statement!(
    AUTOMATIC,
    select!(
        "JOIN workspace_plugins p ON p.workspace_id = q.workspace_id AND p.plugin_name = q.plugin_name
           AND p.tracked_ref = q.tracked_ref AND p.installed_sha IN (q.current_sha, q.latest_sha)
         JOIN workspaces w ON w.id = q.workspace_id AND w.external = FALSE
           AND w.status IN ('online', 'degraded', 'provisioning')
         WHERE q.status = 'pending' AND p.update_mode = 'auto'
           AND (q.applying_until IS NULL OR q.applying_until < $1)
           AND (q.tried_at IS NULL OR q.tried_at < $2)
         ORDER BY COALESCE(q.tried_at, $4), q.created_at, q.id LIMIT $3"
    )
);

/// Updates that wait for no person and that nobody tried since, of workspaces that run
/// or are about to; first those that nobody tried yet.
pub(in crate::plugins) async fn automatic(
    db: &Db,
    now: DateTime<Utc>,
    since: DateTime<Utc>,
    most: i64,
) -> sqlx::Result<Vec<Entry>> {
    with_db!(db, |pool| sqlx::query_as(AUTOMATIC)
        .bind(now)
        .bind(since)
        .bind(most)
        .bind(DateTime::<Utc>::UNIX_EPOCH)
        .fetch_all(pool)
        .await)
}

statement!(
    CLAIM,
    "UPDATE plugin_update_queue SET applying_until = $2, tried_at = $3
     WHERE id = $1 AND status = 'pending' AND (applying_until IS NULL OR applying_until < $3)"
);

/// Takes a pending update to apply it. False when somebody else applies it, or decided.
pub(in crate::plugins) async fn claim(
    db: &Db,
    id: Uuid,
    until: DateTime<Utc>,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(CLAIM)
        .bind(id)
        .bind(until)
        .bind(now)
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    RENEW,
    "UPDATE plugin_update_queue SET applying_until = $2
     WHERE id = $1 AND status = 'pending' AND applying_until = $3"
);

/// Prolongs a claim that ends at `held`. False when it is another one's by now.
pub(in crate::plugins) async fn renew(
    db: &Db,
    id: Uuid,
    held: DateTime<Utc>,
    until: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(RENEW)
        .bind(id)
        .bind(until)
        .bind(held)
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    GIVE_BACK,
    "UPDATE plugin_update_queue SET applying_until = NULL, last_error = $3
     WHERE id = $1 AND status = 'pending' AND applying_until = $2"
);

/// Gives back a claim that ends at `held`, with what went wrong.
pub(in crate::plugins) async fn give_back(
    db: &Db,
    id: Uuid,
    held: DateTime<Utc>,
    error: &str,
) -> sqlx::Result<()> {
    with_db!(db, |pool| sqlx::query(GIVE_BACK)
        .bind(id)
        .bind(held)
        .bind(error)
        .execute(pool)
        .await
        .map(drop))
}

statement!(
    RELEASE_ALL,
    "UPDATE plugin_update_queue SET applying_until = NULL WHERE applying_until IS NOT NULL"
);

/// Gives back every claim: of a server that is not any more, where there is only one.
pub(in crate::plugins) async fn release_all(db: &Db) -> sqlx::Result<()> {
    with_db!(db, |pool| sqlx::query(RELEASE_ALL)
        .execute(pool)
        .await
        .map(drop))
}

statement!(
    APPLIED,
    "UPDATE plugin_update_queue SET status = 'applied', decided_at = $3, applying_until = NULL, last_error = NULL
     WHERE id = $1 AND status = 'pending' AND latest_sha = $2"
);

/// An update was delivered. False when there is no such pending one any more.
pub(in crate::plugins) async fn applied(
    db: &Db,
    id: Uuid,
    latest_sha: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(APPLIED)
        .bind(id)
        .bind(latest_sha)
        .bind(now)
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    DISMISS,
    "UPDATE plugin_update_queue SET status = 'dismissed', decided_at = $2
     WHERE id = $1 AND status = 'pending' AND (applying_until IS NULL OR applying_until < $2)"
);
statement!(
    REMEMBER_DISMISSED,
    "UPDATE workspace_plugins
     SET dismissed_sha = (SELECT latest_sha FROM plugin_update_queue WHERE id = $1)
     WHERE workspace_id = (SELECT workspace_id FROM plugin_update_queue WHERE id = $1)
       AND plugin_name = (SELECT plugin_name FROM plugin_update_queue WHERE id = $1)"
);

/// Nobody wants this update; it is not queued again until its upstream moves. False
/// when it is not pending, or somebody applies it.
pub(in crate::plugins) async fn dismiss(
    db: &Db,
    id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let mut tx = db.begin().await?;
    let dismissed = with_tx!(&mut tx, |conn| sqlx::query(DISMISS)
        .bind(id)
        .bind(now)
        .execute(conn)
        .await
        .map(|done| done.rows_affected()))?;
    if dismissed == 0 {
        tx.rollback().await?;
        return Ok(false);
    }
    with_tx!(&mut tx, |conn| sqlx::query(REMEMBER_DISMISSED)
        .bind(id)
        .execute(conn)
        .await
        .map(drop))?;
    tx.commit().await?;
    Ok(true)
}

statement!(
    WITHDRAW,
    "DELETE FROM plugin_update_queue
     WHERE workspace_id = $1 AND plugin_name = $2 AND status = 'pending'
       AND (applying_until IS NULL OR applying_until < $3)"
);

/// Takes back the pending update of a plugin that has nothing to be updated to any
/// more.
pub(in crate::plugins) async fn withdraw(
    tx: &mut Tx,
    workspace: Uuid,
    plugin: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    with_tx!(tx, |conn| sqlx::query(WITHDRAW)
        .bind(workspace)
        .bind(plugin)
        .bind(now)
        .execute(conn)
        .await
        .map(drop))
}

/// An update to queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::plugins) struct Update<'a> {
    /// Row of the tracked plugin.
    pub(in crate::plugins) tracked: Uuid,
    pub(in crate::plugins) tracked_ref: &'a str,
    pub(in crate::plugins) current_sha: &'a str,
    pub(in crate::plugins) latest_sha: &'a str,
}

statement!(
    /// Only for what is still as it was when it was looked at. The predicate is that of
    /// the partial index: without it, PostgreSQL finds no index to conflict with.
    ENQUEUE,
    "INSERT INTO plugin_update_queue
         (id, workspace_id, plugin_name, tracked_ref, current_sha, latest_sha, status, created_at)
     SELECT $1, p.workspace_id, p.plugin_name, p.tracked_ref, p.installed_sha, $2, 'pending', $3
     FROM workspace_plugins p
     WHERE p.id = $4 AND p.tracked_ref = $5 AND p.installed_sha = $6 AND p.update_mode <> 'off'
       AND (p.dismissed_sha IS NULL OR p.dismissed_sha <> $2)
     ON CONFLICT (workspace_id, plugin_name) WHERE status = 'pending'
     DO UPDATE SET tracked_ref = excluded.tracked_ref, current_sha = excluded.current_sha,
                   latest_sha = excluded.latest_sha, created_at = excluded.created_at,
                   tried_at = NULL, last_error = NULL
         WHERE (plugin_update_queue.latest_sha <> excluded.latest_sha
                OR plugin_update_queue.tracked_ref <> excluded.tracked_ref
                OR plugin_update_queue.current_sha <> excluded.current_sha)
           AND (plugin_update_queue.applying_until IS NULL
                OR plugin_update_queue.applying_until < excluded.created_at)"
);

/// Queues updates in one transaction; answers how many are new or say something else
/// than before.
pub(in crate::plugins) async fn enqueue(
    db: &Db,
    updates: &[Update<'_>],
    now: DateTime<Utc>,
) -> sqlx::Result<u64> {
    let mut tx = db.begin().await?;
    let mut queued = 0;
    for update in updates {
        let done = with_tx!(&mut tx, |conn| sqlx::query(ENQUEUE)
            .bind(Uuid::now_v7())
            .bind(update.latest_sha)
            .bind(now)
            .bind(update.tracked)
            .bind(update.tracked_ref)
            .bind(update.current_sha)
            .execute(conn)
            .await
            .map(|done| done.rows_affected()))?;
        queued += done;
    }
    tx.commit().await?;
    Ok(queued)
}

statement!(
    LONG_PENDING,
    "SELECT count(*) FROM plugin_update_queue q
     JOIN workspaces w ON w.id = q.workspace_id AND w.status <> 'removed'
     WHERE q.status = 'pending' AND q.created_at < $1"
);

/// How many updates wait since before.
pub(in crate::plugins) async fn pending_since(db: &Db, before: DateTime<Utc>) -> sqlx::Result<i64> {
    with_db!(db, |pool| sqlx::query_scalar(LONG_PENDING)
        .bind(before)
        .fetch_one(pool)
        .await)
}

statement!(
    OVERTAKEN,
    "UPDATE plugin_update_queue SET status = 'applied', decided_at = $1
     WHERE status = 'pending' AND (applying_until IS NULL OR applying_until < $1)
       AND EXISTS (SELECT 1 FROM workspace_plugins p
                   WHERE p.workspace_id = plugin_update_queue.workspace_id
                     AND p.plugin_name = plugin_update_queue.plugin_name
                     AND p.installed_sha = plugin_update_queue.latest_sha)"
);

statement!(
    /// What is not tracked at all any more can still be decided.
    OUTLIVED,
    "DELETE FROM plugin_update_queue
     WHERE status = 'pending' AND (applying_until IS NULL OR applying_until < $1)
       AND EXISTS (SELECT 1 FROM workspace_plugins p
                   WHERE p.workspace_id = plugin_update_queue.workspace_id
                     AND p.plugin_name = plugin_update_queue.plugin_name
                     AND (p.tracked_ref <> plugin_update_queue.tracked_ref
                          OR COALESCE(p.installed_sha, '') <> plugin_update_queue.current_sha))"
);

/// Closes updates that reached their workspace some other way: installed by hand, or
/// by a server that ended before it could say so. Takes back those whose plugin is
/// another by now, or follows something else.
pub(in crate::plugins) async fn settle_overtaken(db: &Db, now: DateTime<Utc>) -> sqlx::Result<()> {
    for sql in [OVERTAKEN, OUTLIVED] {
        with_db!(db, |pool| sqlx::query(sql)
            .bind(now)
            .execute(pool)
            .await
            .map(drop))?;
    }
    Ok(())
}
