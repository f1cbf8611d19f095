//! Opening the pool.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::{Db, refusal};
use crate::config::Config;

/// How long the connection may take that only asks why there is none.
const LAST_ATTEMPT: Duration = Duration::from_secs(2);

/// The database could not be opened. `Display` never prints the URL, which may
/// hold a password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("database.url is not understood")]
    Url(#[source] sqlx::Error),
    #[error(
        "database.url must name a file: SQLite in memory would be lost and differ per connection"
    )]
    InMemory,
    #[error(
        "the folder of the database cannot be made; data_dir (MOLECULE_DATA_DIR) or database.url \
         (DATABASE_URL) must lead to one that this user may write"
    )]
    Folder(#[source] io::Error),
    #[error(
        "the file of the database cannot be made; data_dir (MOLECULE_DATA_DIR) or database.url \
         (DATABASE_URL) must lead to a folder that this user may write"
    )]
    File(#[source] io::Error),
    #[error("the database cannot be reached: {0}")]
    Connect(String),
    #[error("the database could not be migrated")]
    Migrate(#[from] sqlx::migrate::MigrateError),
}

/// Opens the configured database; SQLite files and their folder are created.
pub(crate) async fn connect(config: &Config) -> Result<Db, StoreError> {
    let url = config.database_url();
    let timeout = Duration::from_secs(config.database.timeout_secs);
    if url.expose().starts_with("sqlite:") {
        let options = SqliteConnectOptions::from_str(url.expose()).map_err(StoreError::Url)?;
        if is_in_memory(url.expose(), options.get_filename()) {
            return Err(StoreError::InMemory);
        }
        make_private(options.get_filename())?;
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
            .map_err(|error| StoreError::Connect(refusal::told(&error)))?;
        return Ok(Db::Sqlite(pool));
    }
    let options = PgConnectOptions::from_str(url.expose())
        .map_err(StoreError::Url)?
        .application_name("molecule")
        .options([("statement_timeout", format!("{}s", timeout.as_secs()))]);
    let pool = PgPoolOptions::new()
        .max_connections(config.database.max_connections)
        .acquire_timeout(timeout)
        .connect_with(options.clone())
        .await;
    match pool {
        Ok(pool) => Ok(Db::Postgres(pool)),
        Err(error) => {
            let error = without_a_pool(error, options).await;
            Err(StoreError::Connect(refusal::told(&error)))
        }
    }
}

/// A pool tries until its time is over and forgets why that was in vain: asks once more
/// without one.
async fn without_a_pool(error: sqlx::Error, options: PgConnectOptions) -> sqlx::Error {
    if !matches!(error, sqlx::Error::PoolTimedOut) {
        return error;
    }
    match tokio::time::timeout(LAST_ATTEMPT, options.connect()).await {
        Ok(Err(reason)) => reason,
        _ => error,
    }
}

/// Makes the file and its folder, for the owner alone: it may hold secrets that
/// are not encrypted. SQLite gives the files it puts beside it the same mode.
/// What exists keeps the mode that somebody gave it.
fn make_private(file: &Path) -> Result<(), StoreError> {
    if let Some(folder) = file.parent().filter(|path| !path.as_os_str().is_empty()) {
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(folder);
        made.map_err(StoreError::Folder)?;
    }
    let mut options = OpenOptions::new();
    match options.write(true).create_new(true).mode(0o600).open(file) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(StoreError::File(error)),
        _ => Ok(()),
    }
}

/// True for every way to write a SQLite database without a file.
fn is_in_memory(url: &str, file: &Path) -> bool {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let file = file.to_string_lossy();
    // The driver renames `:memory:`.
    file.is_empty()
        || file.contains(":memory:")
        || file.starts_with("file:sqlx-in-memory-")
        || url::form_urlencoded::parse(query.as_bytes())
            .any(|(name, value)| name == "mode" && value == "memory")
}
