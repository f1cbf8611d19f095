//! What the database and the server count.

use std::time::Duration;

use molecule_tests::{Engine, TestApp, TestDatabase};

use crate::options::Length;

const TRANSACTIONS: &str = "SELECT (xact_commit + xact_rollback)::bigint FROM pg_stat_database WHERE datname = current_database()";

/// A connection tells what it did when it has been idle this long.
const SILENCE: Duration = Duration::from_millis(10_500);

/// Transactions that PostgreSQL counted so far in this database, among them one for
/// every statement outside a transaction and this question's own. Waits until
/// every connection has told. SQLite does not count, and a mere
/// look at whether the bench works does without.
pub async fn transactions(database: &TestDatabase) -> Option<i64> {
    match database.engine() {
        Engine::Sqlite => None,
        // It takes longer than everything else, and is no figure.
        Engine::Postgres if Length::wanted() == Length::Smoke => None,
        Engine::Postgres => {
            tokio::time::sleep(SILENCE).await;
            Some(database.count(TRANSACTIONS).await)
        }
    }
}

/// A counter of `/metrics`, which all servers of a process share; zero before it is
/// first counted up.
///
/// # Panics
/// When the server does not answer.
pub async fn counter(app: &TestApp, name: &str) -> u64 {
    let text = app.get("/metrics").send().await.text;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
}
