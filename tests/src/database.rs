//! A fresh database per test.

use sqlx::{Connection, Executor, PgConnection};
use tempfile::TempDir;
use uuid::Uuid;

/// Where the tests' PostgreSQL server is; the role must be able to create
/// databases.
const URL_VARIABLE: &str = "MOLECULE_TEST_POSTGRES_URL";
/// Set to 1 to leave the PostgreSQL half of the tests out, knowingly.
const SKIP_VARIABLE: &str = "MOLECULE_TEST_SKIP_POSTGRES";

/// The two database engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// A file in a temporary directory.
    Sqlite,
    /// A new database on the server named by `MOLECULE_TEST_POSTGRES_URL`.
    Postgres,
}

/// True unless the caller set `MOLECULE_TEST_SKIP_POSTGRES=1`, which is said.
pub fn postgres_is_wanted() -> bool {
    let skipped = std::env::var(SKIP_VARIABLE).is_ok_and(|value| value == "1");
    if skipped {
        eprintln!("skipped: {SKIP_VARIABLE}=1");
    }
    !skipped
}

/// A database that is gone when the test is.
pub struct TestDatabase {
    url: String,
    keep: Keep,
}

enum Keep {
    Sqlite {
        _dir: Option<TempDir>,
    },
    Postgres {
        server: String,
        name: String,
        owned: bool,
    },
}

impl TestDatabase {
    /// Makes an empty database.
    ///
    /// # Panics
    /// When no PostgreSQL server is there, with what to do about it.
    pub async fn create(engine: Engine) -> Self {
        match engine {
            Engine::Sqlite => {
                let dir = tempfile::tempdir().expect("a temporary directory");
                let url = format!("sqlite://{}", dir.path().join("test.db").display());
                Self {
                    url,
                    keep: Keep::Sqlite { _dir: Some(dir) },
                }
            }
            Engine::Postgres => {
                let server = std::env::var(URL_VARIABLE).unwrap_or_else(|_| {
                    panic!(
                        "{URL_VARIABLE} is not set. Run ./scripts/test, which starts a server, or set it to \
                         postgres://user:password@host/postgres, or set {SKIP_VARIABLE}=1"
                    )
                });
                let name = format!("molecule_test_{}", Uuid::new_v4().simple());
                admin(&server, format!("CREATE DATABASE {name}")).await;
                let (base, _) = server.rsplit_once('/').expect("a database in the URL");
                Self {
                    url: format!("{base}/{name}"),
                    keep: Keep::Postgres {
                        server,
                        name,
                        owned: true,
                    },
                }
            }
        }
    }

    /// Which engine it is.
    pub fn engine(&self) -> Engine {
        match self.keep {
            Keep::Sqlite { .. } => Engine::Sqlite,
            Keep::Postgres { .. } => Engine::Postgres,
        }
    }

    /// URL of the database.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A second handle on the same database, for a second server or a check from
    /// outside; the database goes with the first handle.
    pub fn share(&self) -> Self {
        let keep = match &self.keep {
            Keep::Sqlite { .. } => Keep::Sqlite { _dir: None },
            Keep::Postgres { server, name, .. } => Keep::Postgres {
                server: server.clone(),
                name: name.clone(),
                owned: false,
            },
        };
        Self {
            url: self.url.clone(),
            keep,
        }
    }

    /// As [`share`](Self::share), reached through another port of this machine.
    /// PostgreSQL only.
    pub fn through(&self, port: u16) -> Self {
        let mut shared = self.share();
        let (before, rest) = shared.url.split_once("://").expect("a URL");
        let (authority, name) = rest.split_once('/').expect("a database in the URL");
        let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
        shared.url = format!("{before}://{user}@127.0.0.1:{port}/{name}");
        shared
    }

    /// Host and port of the PostgreSQL server.
    pub fn server_address(&self) -> &str {
        let (_, rest) = self.url.split_once("://").expect("a URL");
        let authority = rest.split('/').next().unwrap_or_default();
        authority.rsplit('@').next().unwrap_or_default()
    }

    /// Every value of every row of every table, as text: for tests that look for
    /// what must not be there, or that nothing changed. What the server stamps by itself
    /// (the lead, when a token was used) is left out.
    pub async fn dump(&self) -> String {
        match &self.keep {
            Keep::Sqlite { .. } => {
                let mut connection = sqlx::SqliteConnection::connect(&self.url)
                    .await
                    .expect("connect");
                let tables: Vec<String> =
                    sqlx::query_scalar("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'leases'")
                        .fetch_all(&mut connection)
                        .await
                        .expect("tables");
                let mut text = String::new();
                for table in tables {
                    let columns: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
                        "SELECT name FROM pragma_table_info('{table}') WHERE name <> 'last_used_at'"
                    )))
                    .fetch_all(&mut connection)
                    .await
                    .expect("columns");
                    for column in columns {
                        let sql =
                            format!("SELECT COALESCE(CAST({column} AS BLOB), x'') FROM {table}");
                        let values: Vec<Vec<u8>> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
                            .fetch_all(&mut connection)
                            .await
                            .expect("values");
                        for value in values {
                            text.push_str(&String::from_utf8_lossy(&value));
                            text.push('\n');
                        }
                    }
                }
                text
            }
            Keep::Postgres { .. } => {
                let mut connection = PgConnection::connect(&self.url).await.expect("connect");
                let tables: Vec<String> = sqlx::query_scalar(
                    "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'leases'",
                )
                .fetch_all(&mut connection)
                .await
                .expect("tables");
                let mut text = String::new();
                for table in tables {
                    // bytea prints as hex otherwise, which would hide plain text.
                    let columns: Vec<String> = sqlx::query_scalar(
                        "SELECT column_name::text FROM information_schema.columns
                         WHERE table_schema = 'public' AND table_name = $1 AND column_name <> 'last_used_at'
                         ORDER BY ordinal_position",
                    )
                    .bind(&table)
                    .fetch_all(&mut connection)
                    .await
                    .expect("columns");
                    let sql = format!("SELECT ROW({})::text FROM {table}", columns.join(", "));
                    connection
                        .execute("SET bytea_output = 'escape'")
                        .await
                        .expect("setting");
                    let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
                        .fetch_all(&mut connection)
                        .await
                        .expect("rows");
                    text.push_str(&rows.join("\n"));
                }
                text
            }
        }
    }

    /// Runs one statement of a test's own.
    pub async fn execute(&self, sql: &str) {
        self.try_execute(sql).await.expect("statement");
    }

    /// As [`execute`](Self::execute), where the database may refuse it.
    ///
    /// # Errors
    /// What the database said.
    pub async fn try_execute(&self, sql: &str) -> Result<(), sqlx::Error> {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        match &self.keep {
            Keep::Sqlite { .. } => {
                let mut connection = sqlx::SqliteConnection::connect(&self.url).await?;
                sqlx::query(sql).execute(&mut connection).await.map(drop)
            }
            Keep::Postgres { .. } => {
                let mut connection = PgConnection::connect(&self.url).await?;
                sqlx::query(sql).execute(&mut connection).await.map(drop)
            }
        }
    }

    /// One text from the database.
    pub async fn text(&self, sql: &str) -> String {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        match &self.keep {
            Keep::Sqlite { .. } => {
                let mut connection = sqlx::SqliteConnection::connect(&self.url)
                    .await
                    .expect("connect");
                sqlx::query_scalar(sql)
                    .fetch_one(&mut connection)
                    .await
                    .expect("text")
            }
            Keep::Postgres { .. } => {
                let mut connection = PgConnection::connect(&self.url).await.expect("connect");
                sqlx::query_scalar(sql)
                    .fetch_one(&mut connection)
                    .await
                    .expect("text")
            }
        }
    }

    /// One number from the database.
    pub async fn count(&self, sql: &str) -> i64 {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        match &self.keep {
            Keep::Sqlite { .. } => {
                let mut connection = sqlx::SqliteConnection::connect(&self.url)
                    .await
                    .expect("connect");
                sqlx::query_scalar(sql)
                    .fetch_one(&mut connection)
                    .await
                    .expect("count")
            }
            Keep::Postgres { .. } => {
                let mut connection = PgConnection::connect(&self.url).await.expect("connect");
                sqlx::query_scalar(sql)
                    .fetch_one(&mut connection)
                    .await
                    .expect("count")
            }
        }
    }
}

async fn admin(server: &str, sql: String) {
    let mut connection = PgConnection::connect(server)
        .await
        .unwrap_or_else(|error| panic!("{URL_VARIABLE}: the server does not answer: {error}"));
    connection
        .execute(sqlx::AssertSqlSafe(sql))
        .await
        .expect("administer the test server");
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let Keep::Postgres {
            server,
            name,
            owned: true,
        } = &self.keep
        else {
            return;
        };
        let (server, name) = (server.clone(), name.clone());
        // Drop is not async and may run inside a runtime: a thread of its own.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            if let Ok(runtime) = runtime {
                runtime.block_on(async {
                    if let Ok(mut connection) = PgConnection::connect(&server).await {
                        let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
                        let _ = connection.execute(sqlx::AssertSqlSafe(sql)).await;
                    }
                });
            }
        });
        let _ = dropping.join();
    }
}
