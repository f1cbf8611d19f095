//! Who this server is on a shared backend: a short id kept in its database, so
//! that two servers on one Docker daemon never touch each other's containers.

use uuid::Uuid;

use crate::store::{Db, statement, with_db};

statement!(
    CLAIM,
    "INSERT INTO platform_state (key, value) VALUES ('instance_id', $1) ON CONFLICT (key) DO NOTHING"
);
statement!(
    READ,
    "SELECT value FROM platform_state WHERE key = 'instance_id'"
);

/// The id of this database; made on first use.
pub(crate) async fn of_database(db: &Db) -> sqlx::Result<String> {
    let fresh = Uuid::new_v4().as_simple().to_string();
    let fresh = &fresh[..12];
    with_db!(db, |pool| sqlx::query(CLAIM)
        .bind(fresh)
        .execute(pool)
        .await
        .map(drop))?;
    with_db!(db, |pool| sqlx::query_scalar(READ).fetch_one(pool).await)
}
