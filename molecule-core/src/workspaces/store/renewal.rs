//! SQL of restarts for another image.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::store::{Db, statement, with_db};

statement!(
    /// Those that sleep get the image when they are resumed or woken. Without knowing
    /// either content, it counts as another one.
    REQUEST_RENEWAL,
    "UPDATE workspaces SET restart_requested_at = $2, restart_if_offline = FALSE
     WHERE id = $1 AND external = FALSE AND runtime = $4
       AND status IN ('provisioning', 'online', 'degraded', 'offline', 'failed', 'hibernating')
       AND ($3 = '' OR runtime_image_digest IS NULL OR runtime_image_digest <> $3)"
);

/// Requests a restart of a workspace that may run something else than this content.
/// True if it does. `runtime` is the one in the row.
pub(in super::super) async fn request(
    db: &Db,
    id: Uuid,
    runtime: &str,
    wanted: Option<&str>,
    at: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(REQUEST_RENEWAL)
        .bind(id)
        .bind(at)
        .bind(wanted.unwrap_or_default())
        .bind(runtime)
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(RUNTIME_OF, "SELECT runtime FROM workspaces WHERE id = $1");

/// The runtime in the row of a workspace.
pub(in super::super) async fn runtime_of(db: &Db, id: Uuid) -> sqlx::Result<Option<String>> {
    with_db!(db, |pool| sqlx::query_scalar(RUNTIME_OF)
        .bind(id)
        .fetch_optional(pool)
        .await)
}

statement!(
    RUNTIMES_WITH_ANOTHER,
    "SELECT DISTINCT runtime FROM workspaces
     WHERE external = FALSE AND status IN ('provisioning', 'online', 'degraded', 'offline', 'failed', 'hibernating')
       AND runtime_image_digest <> $1
     ORDER BY runtime LIMIT 1000"
);

/// Runtimes, as the rows name them, of which a workspace is known to run another content.
pub(in super::super) async fn runtimes_with_another(
    db: &Db,
    content: &str,
) -> sqlx::Result<Vec<String>> {
    with_db!(db, |pool| sqlx::query_scalar(RUNTIMES_WITH_ANOTHER)
        .bind(content)
        .fetch_all(pool)
        .await)
}

statement!(
    RUNTIMES_IN_USE,
    "SELECT DISTINCT runtime FROM workspaces
     WHERE external = FALSE AND status IN ('provisioning', 'online', 'degraded', 'offline', 'failed', 'hibernating')
     ORDER BY runtime LIMIT 1000"
);

/// As the rows name them.
pub(in super::super) async fn runtimes_in_use(db: &Db) -> sqlx::Result<Vec<String>> {
    with_db!(db, |pool| sqlx::query_scalar(RUNTIMES_IN_USE)
        .fetch_all(pool)
        .await)
}
