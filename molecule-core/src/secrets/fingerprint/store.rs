//! SQL of the key for hashes of values.

use crate::store::{Db, statement, with_db};

/// Its row in `platform_state`.
pub(super) const KEY: &str = "fingerprint_key";

statement!(READ, "SELECT value FROM platform_state WHERE key = $1");
statement!(
    CLAIM,
    "INSERT INTO platform_state (key, value) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING"
);
statement!(
    /// Only what was read: another server may have been faster.
    REPLACE,
    "UPDATE platform_state SET value = $3 WHERE key = $1 AND value = $2"
);

pub(super) async fn read(db: &Db) -> sqlx::Result<Option<String>> {
    with_db!(db, |pool| sqlx::query_scalar(READ)
        .bind(KEY)
        .fetch_optional(pool)
        .await)
}

/// Does nothing when there is one already.
pub(super) async fn claim(db: &Db, value: &str) -> sqlx::Result<()> {
    with_db!(db, |pool| sqlx::query(CLAIM)
        .bind(KEY)
        .bind(value)
        .execute(pool)
        .await
        .map(drop))
}

pub(super) async fn replace(db: &Db, old: &str, new: &str) -> sqlx::Result<()> {
    with_db!(db, |pool| sqlx::query(REPLACE)
        .bind(KEY)
        .bind(old)
        .bind(new)
        .execute(pool)
        .await
        .map(drop))
}
