//! Opening the pool.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::Db;
use crate::config::Config;

/// The database could not be opened. `Display` never prints the URL, which may
/// hold a password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("database.url is not understood")]
    Url(#[source] sqlx::Error),
    #[error("the folder of the database cannot be made")]
    Folder(#[source] std::io::Error),
    #[error("the database cannot be reached")]
    Connect(#[source] sqlx::Error),
    #[error("the database could not be migrated")]
    Migrate(#[from] sqlx::migrate::MigrateError),
}

/// Opens the configured database; SQLite files and their folder are created.
pub(crate) async fn connect(config: &Config) -> Result<Db, StoreError> {
    let url = config.database_url();
    let timeout = Duration::from_secs(config.database.timeout_secs);
    if url.expose().starts_with("sqlite:") {
        let options = SqliteConnectOptions::from_str(url.expose()).map_err(StoreError::Url)?;
        if let Some(folder) = folder_of(options.get_filename()) {
            std::fs::create_dir_all(folder).map_err(StoreError::Folder)?;
        }
        let options = options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(timeout);
        let pool = SqlitePoolOptions::new()
            .max_connections(config.database.max_connections)
            .acquire_timeout(timeout)
            .connect_with(options)
            .await
            .map_err(StoreError::Connect)?;
        return Ok(Db::Sqlite(pool));
    }
    let options = PgConnectOptions::from_str(url.expose())
        .map_err(StoreError::Url)?
        .application_name("molecule")
        .options([("statement_timeout", format!("{}s", timeout.as_secs()))]);
    let pool = PgPoolOptions::new()
        .max_connections(config.database.max_connections)
        .acquire_timeout(timeout)
        .connect_with(options)
        .await
        .map_err(StoreError::Connect)?;
    Ok(Db::Postgres(pool))
}

fn folder_of(file: &Path) -> Option<PathBuf> {
    let folder = file.parent()?;
    (!folder.as_os_str().is_empty()).then(|| folder.to_owned())
}
