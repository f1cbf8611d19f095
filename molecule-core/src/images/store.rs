//! SQL of the pins.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::store::{Db, Tx, from_row, statement, with_db, with_tx};

/// What was decided about the image of a runtime.
#[derive(Debug, Clone)]
pub(super) struct Decision {
    pub(super) template_name: String,
    /// None: it is not pinned.
    pub(super) digest: Option<String>,
    pub(super) updated_at: DateTime<Utc>,
    /// The kind of credential it was decided with.
    pub(super) updated_by: Option<String>,
    pub(super) notes: Option<String>,
}
from_row!(Decision {
    template_name,
    digest,
    updated_at,
    updated_by,
    notes
});

statement!(
    PIN,
    "SELECT digest FROM runtime_image_pins WHERE template_name = $1"
);

pub(super) async fn pin(db: &Db, runtime: &str) -> sqlx::Result<Option<String>> {
    with_db!(db, |pool| sqlx::query_scalar(PIN)
        .bind(runtime)
        .fetch_optional(pool)
        .await)
}

/// As [`pin`], as the transaction sees it.
pub(super) async fn pin_in(tx: &mut Tx, runtime: &str) -> sqlx::Result<Option<String>> {
    with_tx!(tx, |conn| sqlx::query_scalar(PIN)
        .bind(runtime)
        .fetch_optional(conn)
        .await)
}

statement!(
    PINS,
    "SELECT template_name, digest, updated_at, updated_by, notes FROM runtime_image_pins
     ORDER BY template_name"
);

pub(super) async fn pins(db: &Db) -> sqlx::Result<Vec<Decision>> {
    with_db!(db, |pool| sqlx::query_as(PINS).fetch_all(pool).await)
}

/// How many workspaces of a pinned runtime run a content.
pub(super) struct Running {
    pub(super) runtime: String,
    /// None: it is not known.
    pub(super) digest: Option<String>,
    pub(super) workspaces: i64,
}
from_row!(Running {
    runtime,
    digest,
    workspaces
});

/// Workspaces that run, or should.
macro_rules! runs {
    () => {
        "external = FALSE AND status IN ('provisioning', 'online', 'degraded', 'offline', 'failed')"
    };
}

statement!(
    RUNNING,
    concat!(
        "SELECT runtime, runtime_image_digest AS digest, count(*) AS workspaces FROM workspaces
         WHERE runtime IN (SELECT template_name FROM runtime_image_pins) AND booted_at IS NOT NULL AND ",
        runs!(),
        " GROUP BY runtime, runtime_image_digest ORDER BY runtime, count(*) DESC LIMIT 1000"
    )
);

pub(super) async fn running(db: &Db) -> sqlx::Result<Vec<Running>> {
    with_db!(db, |pool| sqlx::query_as(RUNNING).fetch_all(pool).await)
}

statement!(
    NEEDS_RESTART,
    concat!(
        "SELECT count(*) FROM workspaces
         WHERE runtime = $1 AND ($2 = '' OR runtime_image_digest IS NULL OR runtime_image_digest <> $2)
           AND booted_at IS NOT NULL AND ",
        runs!()
    )
);

/// How many workspaces may run something else than this content; without one, all of
/// the runtime.
pub(super) async fn needs_restart(
    tx: &mut Tx,
    runtime: &str,
    digest: Option<&str>,
) -> sqlx::Result<i64> {
    with_tx!(tx, |conn| sqlx::query_scalar(NEEDS_RESTART)
        .bind(runtime)
        .bind(digest.unwrap_or_default())
        .fetch_one(conn)
        .await)
}

statement!(
    /// Writes the same value every time; the row's lock is what it is for.
    LOCK,
    "INSERT INTO platform_state (key, value) VALUES ('image_pins_lock', '')
     ON CONFLICT (key) DO UPDATE SET value = excluded.value"
);

/// Waits until nobody else decides, and keeps others waiting until the transaction ends.
pub(super) async fn lock(tx: &mut Tx) -> sqlx::Result<()> {
    with_tx!(tx, |conn| sqlx::query(LOCK).execute(conn).await.map(drop))
}

statement!(
    HISTORY,
    "SELECT template_name, digest, updated_at, updated_by, notes FROM runtime_image_pin_history
     WHERE template_name = $1 ORDER BY id DESC LIMIT $2"
);

/// Decisions about a runtime, newest first.
pub(super) async fn history(db: &Db, runtime: &str, most: i64) -> sqlx::Result<Vec<Decision>> {
    with_db!(db, |pool| sqlx::query_as(HISTORY)
        .bind(runtime)
        .bind(most)
        .fetch_all(pool)
        .await)
}

/// As [`history`], as the transaction sees it.
pub(super) async fn history_in(
    tx: &mut Tx,
    runtime: &str,
    most: i64,
) -> sqlx::Result<Vec<Decision>> {
    with_tx!(tx, |conn| sqlx::query_as(HISTORY)
        .bind(runtime)
        .bind(most)
        .fetch_all(conn)
        .await)
}

statement!(
    SET,
    "INSERT INTO runtime_image_pins (template_name, digest, updated_at, updated_by, notes) VALUES ($1, $2, $3, $4, $5)
     ON CONFLICT (template_name) DO UPDATE SET digest = excluded.digest, updated_at = excluded.updated_at,
         updated_by = excluded.updated_by, notes = excluded.notes"
);
statement!(
    CLEAR,
    "DELETE FROM runtime_image_pins WHERE template_name = $1"
);
statement!(
    LATEST,
    "SELECT id, digest FROM runtime_image_pin_history WHERE template_name = $1
     ORDER BY id DESC LIMIT 1"
);
statement!(
    REPLACE,
    "DELETE FROM runtime_image_pin_history WHERE id = $1"
);
statement!(
    REMEMBER,
    "INSERT INTO runtime_image_pin_history (id, template_name, digest, updated_at, updated_by, notes)
     VALUES ($1, $2, $3, $4, $5, $6)"
);
statement!(
    TRIM,
    "DELETE FROM runtime_image_pin_history WHERE template_name = $1 AND id NOT IN
         (SELECT id FROM runtime_image_pin_history WHERE template_name = $1 ORDER BY id DESC LIMIT $2)"
);

/// Makes a decision the present one and keeps it among the newest so many. A repetition
/// replaces what it repeats: or many of them would push out the decision before.
pub(super) async fn decide(tx: &mut Tx, decision: &Decision, kept: i64) -> sqlx::Result<()> {
    let runtime = &decision.template_name;
    with_tx!(&mut *tx, |conn| match &decision.digest {
        Some(digest) => sqlx::query(SET)
            .bind(runtime)
            .bind(digest)
            .bind(decision.updated_at)
            .bind(&decision.updated_by)
            .bind(&decision.notes)
            .execute(conn)
            .await
            .map(drop),
        None => sqlx::query(CLEAR)
            .bind(runtime)
            .execute(conn)
            .await
            .map(drop),
    })?;
    let latest: Option<(Uuid, Option<String>)> = with_tx!(&mut *tx, |conn| sqlx::query_as(LATEST)
        .bind(runtime)
        .fetch_optional(conn)
        .await)?;
    if let Some((id, _)) = latest
        .as_ref()
        .filter(|(_, digest)| *digest == decision.digest)
    {
        with_tx!(&mut *tx, |conn| sqlx::query(REPLACE)
            .bind(*id)
            .execute(conn)
            .await
            .map(drop))?;
    }
    // Also when another server's clock is ahead, the new one is the newest.
    let after = latest.map(|(latest, _)| Uuid::from_u128(latest.as_u128().saturating_add(1)));
    let id = after.map_or_else(Uuid::now_v7, |after| after.max(Uuid::now_v7()));
    with_tx!(&mut *tx, |conn| sqlx::query(REMEMBER)
        .bind(id)
        .bind(runtime)
        .bind(&decision.digest)
        .bind(decision.updated_at)
        .bind(&decision.updated_by)
        .bind(&decision.notes)
        .execute(conn)
        .await
        .map(drop))?;
    with_tx!(tx, |conn| sqlx::query(TRIM)
        .bind(runtime)
        .bind(kept)
        .execute(conn)
        .await
        .map(drop))
}
