//! Forward-only migrations: two folders, the same numbers.

use std::borrow::Cow;

use sqlx::migrate::{Migration, MigrationType, Migrator};

use super::{Db, StoreError};

/// Number, name, SQLite text, PostgreSQL text.
const MIGRATIONS: &[(i64, &str, &str, &str)] = &[
    (
        1,
        "first light",
        include_str!("../../migrations/sqlite/0001_first_light.sql"),
        include_str!("../../migrations/postgres/0001_first_light.sql"),
    ),
    (
        2,
        "fleet control",
        include_str!("../../migrations/sqlite/0002_fleet_control.sql"),
        include_str!("../../migrations/postgres/0002_fleet_control.sql"),
    ),
    (
        3,
        "docker images",
        include_str!("../../migrations/sqlite/0003_docker_images.sql"),
        include_str!("../../migrations/postgres/0003_docker_images.sql"),
    ),
    (
        4,
        "workspace plugins",
        include_str!("../../migrations/sqlite/0004_workspace_plugins.sql"),
        include_str!("../../migrations/postgres/0004_workspace_plugins.sql"),
    ),
];

fn migrator(db: &Db, known: &[(i64, &'static str, &'static str, &'static str)]) -> Migrator {
    let migrations = known.iter().map(|(number, name, sqlite, postgres)| {
        let sql = match db {
            Db::Sqlite(_) => *sqlite,
            Db::Postgres(_) => *postgres,
        };
        Migration::new(
            *number,
            Cow::Borrowed(*name),
            MigrationType::Simple,
            sqlx::SqlStr::from_static(sql),
            false,
        )
    });
    Migrator::with_migrations(migrations.collect())
}

/// Brings the schema up to date. Safe to run from several servers at once.
pub(crate) async fn migrate(db: &Db) -> Result<(), StoreError> {
    run(db, MIGRATIONS).await
}

/// A database as an earlier release left it, with its first migrations only.
#[cfg(test)]
pub(super) async fn migrate_first(db: &Db, count: usize) -> Result<(), StoreError> {
    run(db, &MIGRATIONS[..count]).await
}

/// How many migrations there are.
#[cfg(test)]
pub(super) const fn count() -> usize {
    MIGRATIONS.len()
}

async fn run(
    db: &Db,
    known: &[(i64, &'static str, &'static str, &'static str)],
) -> Result<(), StoreError> {
    let migrator = migrator(db, known);
    match db {
        Db::Sqlite(pool) => migrator.run(pool).await?,
        Db::Postgres(pool) => migrator.run(pool).await?,
    }
    Ok(())
}

super::statement!(
    /// Fails on an empty database, which means that all are pending.
    APPLIED,
    "SELECT max(version) FROM _sqlx_migrations"
);

async fn applied(db: &Db) -> Option<i64> {
    let found: sqlx::Result<Option<i64>> =
        super::with_db!(db, |pool| sqlx::query_scalar(APPLIED).fetch_one(pool).await);
    found.ok().flatten()
}

/// True when the database has migrations that this build does not know.
pub(crate) async fn is_ahead(db: &Db) -> bool {
    applied(db).await > MIGRATIONS.last().map(|m| m.0)
}

/// How many migrations this build has and the database has not.
pub(crate) async fn pending(db: &Db) -> usize {
    let applied = applied(db).await;
    MIGRATIONS.iter().filter(|m| Some(m.0) > applied).count()
}
