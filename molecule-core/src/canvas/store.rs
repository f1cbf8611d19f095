//! SQL of the canvas: one row.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Viewport, ViewportChange};
use crate::store::{Db, from_row, statement, with_db};

/// The one row.
const ROW: Uuid = Uuid::from_u128(1);

from_row!(Viewport { x, y, zoom });

statement!(READ, "SELECT x, y, zoom FROM canvas_viewport WHERE id = $1");

pub(super) async fn viewport(db: &Db) -> sqlx::Result<Option<Viewport>> {
    with_db!(db, |pool| sqlx::query_as(READ)
        .bind(ROW)
        .fetch_optional(pool)
        .await)
}

statement!(
    /// Merges: what is null stays as it is, or begins as the initial viewport.
    SAVE,
    "INSERT INTO canvas_viewport (id, x, y, zoom, saved_at)
     VALUES ($1, COALESCE(CAST($2 AS DOUBLE PRECISION), 0), COALESCE(CAST($3 AS DOUBLE PRECISION), 0),
             COALESCE(CAST($4 AS DOUBLE PRECISION), 1), $5)
     ON CONFLICT (id) DO UPDATE
     SET x = COALESCE(CAST($2 AS DOUBLE PRECISION), canvas_viewport.x),
         y = COALESCE(CAST($3 AS DOUBLE PRECISION), canvas_viewport.y),
         zoom = COALESCE(CAST($4 AS DOUBLE PRECISION), canvas_viewport.zoom),
         saved_at = $5"
);

pub(super) async fn save(db: &Db, change: &ViewportChange, now: DateTime<Utc>) -> sqlx::Result<()> {
    with_db!(db, |pool| sqlx::query(SAVE)
        .bind(ROW)
        .bind(change.x)
        .bind(change.y)
        .bind(change.zoom)
        .bind(now)
        .execute(pool)
        .await
        .map(drop))
}
