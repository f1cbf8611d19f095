//! SQL of the pins.

use crate::store::{Db, statement, with_db};

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
