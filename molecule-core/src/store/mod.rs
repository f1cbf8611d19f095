//! The database: one handle over SQLite or PostgreSQL, one SQL text for both.
//!
//! Domain SQL lives in the `store.rs` of each room and goes through
//! [`with_db!`] for single statements and [`with_tx!`] inside a transaction.
//! Every statement is declared with [`statement!`], which lets one test prepare
//! all of them on both engines.

mod connect;
pub(crate) mod leader;
mod migrate;
mod refusal;
pub(crate) mod relay;
#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use sqlx::{PgPool, Postgres, Sqlite, SqlitePool, Transaction};

use crate::error::Error;

pub(crate) use connect::{StoreError, connect};
pub(crate) use leader::Leader;
pub(crate) use migrate::{is_ahead, migrate, pending};

/// The pool of either engine. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Db {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// A transaction of either engine; rolled back when dropped.
pub(crate) enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    /// With how long a statement may take.
    Postgres(Transaction<'static, Postgres>, Duration),
}

impl Db {
    /// Starts a writing transaction.
    pub(crate) async fn begin(&self) -> sqlx::Result<Tx> {
        Ok(match self {
            // A deferred transaction that turns into a writer fails at once when
            // another one writes, whatever the busy timeout.
            Self::Sqlite(pool) => Tx::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await?),
            Self::Postgres(pool) => {
                let patience = patience(pool);
                Tx::Postgres(bounded(patience, pool.begin()).await?, patience)
            }
        })
    }

    /// `sqlite` or `postgres`.
    pub(crate) fn engine(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }

    /// Asks the database for an answer.
    pub(crate) async fn ping(&self) -> sqlx::Result<()> {
        with_db!(self, |db| sqlx::query(PING).execute(db).await.map(drop))
    }

    /// Ends every connection.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

impl Tx {
    pub(crate) async fn commit(self) -> sqlx::Result<()> {
        match self {
            Self::Sqlite(tx) => tx.commit().await,
            Self::Postgres(tx, patience) => bounded(patience, tx.commit()).await,
        }
    }

    /// Takes everything back at once. Dropping does it too, when the connection is
    /// next used.
    pub(crate) async fn rollback(self) -> sqlx::Result<()> {
        match self {
            Self::Sqlite(tx) => tx.rollback().await,
            Self::Postgres(tx, patience) => bounded(patience, tx.rollback()).await,
        }
    }
}

/// How long a statement may take here: PostgreSQL gives up earlier by itself, both
/// waiting for a connection and working, so only one that is silent takes longer.
pub(crate) fn patience(pool: &PgPool) -> Duration {
    pool.options().get_acquire_timeout() * 2 + Duration::from_secs(1)
}

/// Ends a statement that a silent server leaves unanswered: TCP alone would wait
/// for many minutes.
pub(crate) async fn bounded<T>(
    patience: Duration,
    statement: impl Future<Output = sqlx::Result<T>>,
) -> sqlx::Result<T> {
    match tokio::time::timeout(patience, statement).await {
        Ok(done) => done,
        Err(elapsed) => Err(sqlx::Error::Io(elapsed.into())),
    }
}

/// Now, as both engines can store it: PostgreSQL keeps microseconds.
pub(crate) fn timestamp(clock: &molecule_hooks::Clock) -> DateTime<Utc> {
    clock.now().trunc_subsecs(6)
}

/// A statement that some room runs.
pub(crate) struct Statement {
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "read by the test that prepares them all")
    )]
    pub(crate) sql: &'static str,
}

inventory::collect!(Statement);

/// Declares a constant with one SQL text for both engines.
macro_rules! statement {
    ($(#[$meta:meta])* $name:ident, $sql:expr) => {
        $(#[$meta])*
        const $name: &str = $sql;
        inventory::submit! { $crate::store::Statement { sql: $name } }
    };
}

/// Runs an expression against the pool, once per engine.
macro_rules! with_db {
    ($db:expr, |$pool:ident| $body:expr) => {
        match $db {
            $crate::store::Db::Sqlite($pool) => $body,
            $crate::store::Db::Postgres($pool) => {
                let patience = $crate::store::patience($pool);
                $crate::store::bounded(patience, async { $body }).await
            }
        }
    };
}

/// Runs an expression inside a transaction, once per engine.
macro_rules! with_tx {
    ($tx:expr, |$conn:ident| $body:expr) => {
        match $tx {
            $crate::store::Tx::Sqlite(tx) => {
                let $conn = &mut **tx;
                $body
            }
            $crate::store::Tx::Postgres(tx, patience) => {
                let $conn = &mut **tx;
                $crate::store::bounded(*patience, async { $body }).await
            }
        }
    };
}

/// Implements `FromRow` of both engines by column name.
macro_rules! from_row {
    ($type:ident { $($field:ident),* $(,)? }) => {
        $crate::store::from_row!(@one $type, sqlx::sqlite::SqliteRow, { $($field),* });
        $crate::store::from_row!(@one $type, sqlx::postgres::PgRow, { $($field),* });
    };
    (@one $type:ident, $row:ty, { $($field:ident),* }) => {
        impl<'r> sqlx::FromRow<'r, $row> for $type {
            fn from_row(row: &'r $row) -> sqlx::Result<Self> {
                use sqlx::Row as _;
                Ok(Self { $($field: row.try_get(stringify!($field))?),* })
            }
        }
    };
}

pub(crate) use relay::{Notice, Relay, Topic};
pub(crate) use {from_row, statement, with_db, with_tx};

statement!(
    /// Touches a table: SQLite would answer `SELECT 1` without its file.
    PING,
    "SELECT count(*) FROM platform_state"
);

/// Any database error a room has no better word for. Whether the database is gone
/// or refused, clients get the text they retry on.
impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            // A connection that ended in the middle of a word.
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Error::unavailable(error),
            sqlx::Error::Database(ref refused) if is_unavailable(refused.as_ref()) => {
                Error::unavailable(error)
            }
            error => Error::internal("query failed", error),
        }
    }
}

/// True when the database gave this transaction up for another one; begun again,
/// it may well work. SQLite lets writers wait for each other instead.
pub(crate) fn is_deadlock(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(refused) => {
            matches!(refused.code().as_deref(), Some("40001" | "40P01"))
        }
        _ => false,
    }
}

/// How often a change is begun that the database gives up for others.
const ATTEMPTS: u32 = 5;
/// Longer before each further attempt.
const PAUSE: Duration = Duration::from_millis(50);

/// Makes a change of several rows, again while the database gives it up for another
/// one that takes the rows in another order, as the heartbeats of a batch do. The
/// change must have no effect before its commit.
pub(crate) async fn begin_again<T, F>(change: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    for attempt in 1..ATTEMPTS {
        match change().await {
            Err(error) if error.cause().is_some_and(is_deadlock) => {
                tracing::debug!(attempt, "a change begins again");
                tokio::time::sleep(PAUSE * attempt).await;
            }
            ended => return ended,
        }
    }
    change().await
}

/// SQLite: busy, locked, full, I/O and their extended forms. PostgreSQL: classes
/// 08 (connection), 28 (refused), 3D (no such database), 53 (resources) and 57P
/// (shutting down), and what contention ends in: 57014 (took too long), 55P03
/// (lock not available), 40001 (not serialisable) and 40P01 (deadlock).
fn is_unavailable(error: &dyn sqlx::error::DatabaseError) -> bool {
    let Some(code) = error.code() else {
        return false;
    };
    match code.parse::<u32>() {
        Ok(number) if code.len() < 5 => matches!(number & 0xff, 5 | 6 | 10 | 13 | 14),
        _ => [
            "08", "28", "3D", "53", "57P", "57014", "55P03", "40001", "40P01",
        ]
        .iter()
        .any(|class| code.starts_with(class)),
    }
}
