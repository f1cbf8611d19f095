//! SQL of restarts for another image.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::store::{Db, statement, with_db};

statement!(
    /// Those that sleep get the image when they are resumed or woken. Without knowing
    /// either content, it counts as another one.
    REQUEST_RENEWAL,
    "UPDATE workspaces SET restart_requested_at = $2, restart_if_offline = FALSE
     WHERE id = $1 AND external = FALSE
       AND status IN ('provisioning', 'online', 'degraded', 'offline', 'failed', 'hibernating')
       AND ($3 = '' OR runtime_image_digest IS NULL OR runtime_image_digest <> $3)"
);

/// Requests a restart of a workspace that may run something else than this content.
/// True if it does.
pub(in super::super) async fn request(
    db: &Db,
    id: Uuid,
    wanted: Option<&str>,
    at: DateTime<Utc>,
) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(REQUEST_RENEWAL)
        .bind(id)
        .bind(at)
        .bind(wanted.unwrap_or_default())
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
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
