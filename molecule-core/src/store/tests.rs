//! One suite for both engines: what the rooms rely on.
//!
//! PostgreSQL is the server named by `MOLECULE_TEST_POSTGRES_URL`; `scripts/test`
//! starts one.

use chrono::{DateTime, TimeDelta, Utc};
use molecule_hooks::Clock;
use sqlx::Executor;
use uuid::Uuid;

use super::{
    Db, Statement, StoreError, Tx, connect, migrate, pending, timestamp, with_db, with_tx,
};
use crate::config::Config;
use crate::error::{Error, Kind};

/// A migrated database, deleted with the guard.
pub(crate) struct Scratch {
    pub(crate) db: Db,
    _dir: tempfile::TempDir,
    dropping: Option<(String, String)>,
}

pub(crate) async fn sqlite() -> Scratch {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.database.url = Some(format!("sqlite://{}", dir.path().join("t.db").display()).into());
    Scratch {
        db: connect(&config).await.unwrap(),
        _dir: dir,
        dropping: None,
    }
}

/// None when PostgreSQL is left out, knowingly.
pub(crate) async fn postgres() -> Option<Scratch> {
    if std::env::var("MOLECULE_TEST_SKIP_POSTGRES").is_ok_and(|value| value == "1") {
        eprintln!("skipped: MOLECULE_TEST_SKIP_POSTGRES=1");
        return None;
    }
    let server = std::env::var("MOLECULE_TEST_POSTGRES_URL").expect(
        "MOLECULE_TEST_POSTGRES_URL is not set: run ./scripts/test, or set MOLECULE_TEST_SKIP_POSTGRES=1",
    );
    let name = format!("molecule_store_{}", Uuid::new_v4().simple());
    let admin = sqlx::PgPool::connect(&server).await.unwrap();
    admin
        .execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .await
        .unwrap();
    let (base, _) = server.rsplit_once('/').unwrap();
    let mut config = Config::default();
    config.database.url = Some(format!("{base}/{name}").into());
    let db = connect(&config).await.unwrap();
    Some(Scratch {
        db,
        _dir: tempfile::tempdir().unwrap(),
        dropping: Some((server, name)),
    })
}

impl Scratch {
    pub(crate) async fn close(self) {
        self.db.close().await;
        if let Some((server, name)) = &self.dropping {
            let admin = sqlx::PgPool::connect(server).await.unwrap();
            let sql = format!("DROP DATABASE {name} WITH (FORCE)");
            admin.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
        }
    }
}

/// Declares a test per engine from one body over a migrated database.
macro_rules! contract {
    ($($name:ident($db:ident) $body:block)*) => {$(
        mod $name {
            use super::*;

            async fn run($db: &Db) $body

            #[tokio::test]
            async fn on_sqlite() {
                let scratch = sqlite().await;
                migrate(&scratch.db).await.unwrap();
                run(&scratch.db).await;
                scratch.close().await;
            }

            #[tokio::test]
            async fn on_postgres() {
                let Some(scratch) = postgres().await else { return };
                migrate(&scratch.db).await.unwrap();
                run(&scratch.db).await;
                scratch.close().await;
            }
        }
    )*};
}

async fn insert_workspace(db: &Db, id: Uuid, parent: Option<Uuid>, name: &str) -> sqlx::Result<()> {
    const SQL: &str = "INSERT INTO workspaces (id, name, parent_id, status, created_at, updated_at)
                       VALUES ($1, $2, $3, 'provisioning', $4, $4)";
    let now = timestamp(&Clock::system());
    with_db!(db, |pool| sqlx::query(SQL)
        .bind(id)
        .bind(name)
        .bind(parent)
        .bind(now)
        .execute(pool)
        .await
        .map(drop))
}

contract! {
    every_statement_of_every_room_is_understood(db) {
        let mut count = 0;
        for Statement { sql } in inventory::iter::<Statement> {
            let prepared = with_db!(db, |pool| pool.prepare(sqlx::SqlStr::from_static(sql)).await.map(drop));
            assert!(prepared.is_ok(), "{}: {sql}: {prepared:?}", db.engine());
            count += 1;
        }
        assert!(count > 30, "the statements are not collected: {count}");
    }

    migrating_again_changes_nothing_and_nothing_is_pending(db) {
        let id = Uuid::new_v4();
        insert_workspace(db, id, None, "kept").await.unwrap();
        migrate(db).await.unwrap();
        assert_eq!(pending(db).await, 0);
        let name: String = with_db!(db, |pool| sqlx::query_scalar("SELECT name FROM workspaces WHERE id = $1")
            .bind(id).fetch_one(pool).await).unwrap();
        assert_eq!(name, "kept");
    }

    a_timestamp_comes_back_as_it_was_bound(db) {
        let now = timestamp(&Clock::system());
        let id = Uuid::new_v4();
        insert_workspace(db, id, None, "t").await.unwrap();
        with_db!(db, |pool| sqlx::query("UPDATE workspaces SET updated_at = $2 WHERE id = $1")
            .bind(id).bind(now).execute(pool).await.map(drop)).unwrap();
        let back: DateTime<Utc> = with_db!(db, |pool| sqlx::query_scalar("SELECT updated_at FROM workspaces WHERE id = $1")
            .bind(id).fetch_one(pool).await).unwrap();
        assert_eq!(back, now);
        let later: Option<Uuid> = with_db!(db, |pool| sqlx::query_scalar("SELECT id FROM workspaces WHERE updated_at < $1")
            .bind(now + TimeDelta::microseconds(1)).fetch_optional(pool).await).unwrap();
        assert_eq!(later, Some(id), "timestamps must compare in order");
    }

    a_dropped_transaction_leaves_nothing(db) {
        let id = Uuid::new_v4();
        {
            let mut tx: Tx = db.begin().await.unwrap();
            let now = timestamp(&Clock::system());
            with_tx!(&mut tx, |conn| sqlx::query(
                "INSERT INTO workspaces (id, name, status, created_at, updated_at) VALUES ($1, 'x', 'online', $2, $2)")
                .bind(id).bind(now).execute(conn).await.map(drop)).unwrap();
        }
        let count: i64 = with_db!(db, |pool| sqlx::query_scalar("SELECT count(*) FROM workspaces")
            .fetch_one(pool).await).unwrap();
        assert_eq!(count, 0);
    }

    thirty_writers_that_read_first_all_succeed(db) {
        let id = Uuid::new_v4();
        insert_workspace(db, id, None, "counter").await.unwrap();
        let mut writers = tokio::task::JoinSet::new();
        for _ in 0..30 {
            let db = db.clone();
            writers.spawn(async move {
                let mut tx = db.begin().await?;
                let lock = match &db {
                    Db::Sqlite(_) => "SELECT active_tasks FROM workspaces WHERE id = $1",
                    Db::Postgres(_) => "SELECT active_tasks FROM workspaces WHERE id = $1 FOR UPDATE",
                };
                let tasks: i64 = with_tx!(&mut tx, |conn| sqlx::query_scalar(lock).bind(id).fetch_one(conn).await)?;
                with_tx!(&mut tx, |conn| sqlx::query("UPDATE workspaces SET active_tasks = $2 WHERE id = $1")
                    .bind(id).bind(tasks + 1).execute(conn).await.map(drop))?;
                tx.commit().await
            });
        }
        while let Some(done) = writers.join_next().await {
            done.unwrap().unwrap();
        }
        let tasks: i64 = with_db!(db, |pool| sqlx::query_scalar("SELECT active_tasks FROM workspaces WHERE id = $1")
            .bind(id).fetch_one(pool).await).unwrap();
        assert_eq!(tasks, 30);
    }

    siblings_need_different_names_and_removed_ones_free_theirs(db) {
        let (parent, one, two) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        insert_workspace(db, parent, None, "parent").await.unwrap();
        insert_workspace(db, one, Some(parent), "child").await.unwrap();
        let twin = insert_workspace(db, two, Some(parent), "child").await.unwrap_err();
        assert!(twin.as_database_error().unwrap().is_unique_violation());
        with_db!(db, |pool| sqlx::query("UPDATE workspaces SET status = 'removed' WHERE id = $1")
            .bind(one).execute(pool).await.map(drop)).unwrap();
        insert_workspace(db, two, Some(parent), "child").await.unwrap();
    }

    an_unknown_status_is_refused_by_the_database(db) {
        let id = Uuid::new_v4();
        insert_workspace(db, id, None, "x").await.unwrap();
        let refused = with_db!(db, |pool| sqlx::query("UPDATE workspaces SET status = 'flying' WHERE id = $1")
            .bind(id).execute(pool).await.map(drop));
        assert!(refused.is_err());
    }

    deleting_a_workspace_takes_its_rows_along(db) {
        let id = Uuid::new_v4();
        insert_workspace(db, id, None, "x").await.unwrap();
        let now = timestamp(&Clock::system());
        with_db!(db, |pool| sqlx::query(
            "INSERT INTO workspace_auth_tokens (id, workspace_id, token_hash, prefix, created_at) VALUES ($1, $2, $3, 'p', $4)")
            .bind(Uuid::new_v4()).bind(id).bind(&b"hash"[..]).bind(now).execute(pool).await.map(drop)).unwrap();
        with_db!(db, |pool| sqlx::query("DELETE FROM workspaces WHERE id = $1")
            .bind(id).execute(pool).await.map(drop)).unwrap();
        let left: i64 = with_db!(db, |pool| sqlx::query_scalar("SELECT count(*) FROM workspace_auth_tokens")
            .fetch_one(pool).await).unwrap();
        assert_eq!(left, 0);
    }
}

/// A release that had only the first `count` migrations.
async fn a_workspace_of_a_release_is_kept(scratch: Scratch, count: usize) {
    let db = &scratch.db;
    super::migrate::migrate_first(db, count).await.unwrap();
    let id = Uuid::new_v4();
    insert_workspace(db, id, None, "veteran").await.unwrap();
    let now = timestamp(&Clock::system());
    let started = match count {
        1 => "UPDATE workspaces SET status = 'online', provisioned_at = $2 WHERE id = $1",
        _ => {
            "UPDATE workspaces SET status = 'online', provisioned_at = $2, booted_at = $2 WHERE id = $1"
        }
    };
    with_db!(db, |pool| sqlx::query(started)
        .bind(id)
        .bind(now)
        .execute(pool)
        .await
        .map(drop))
    .unwrap();
    assert_eq!(pending(db).await, super::migrate::count() - count);
    migrate(db).await.unwrap();
    assert_eq!(pending(db).await, 0);
    // It ran before, so its storage is never taken back by a failed start.
    let found: (String, DateTime<Utc>, bool) = with_db!(db, |pool| sqlx::query_as(
        "SELECT name, booted_at, restart_if_offline FROM workspaces WHERE id = $1"
    )
    .bind(id)
    .fetch_one(pool)
    .await)
    .unwrap();
    assert_eq!(found, ("veteran".to_owned(), now, false));
    scratch.close().await;
}

#[tokio::test]
async fn databases_of_earlier_releases_are_brought_up_to_date_on_sqlite() {
    for count in 1..super::migrate::count() {
        a_workspace_of_a_release_is_kept(sqlite().await, count).await;
    }
}

#[tokio::test]
async fn databases_of_earlier_releases_are_brought_up_to_date_on_postgres() {
    for count in 1..super::migrate::count() {
        if let Some(scratch) = postgres().await {
            a_workspace_of_a_release_is_kept(scratch, count).await;
        }
    }
}

#[tokio::test]
async fn both_engines_have_the_same_tables_and_columns() {
    let sqlite = sqlite().await;
    let Some(postgres) = postgres().await else {
        return;
    };
    migrate(&sqlite.db).await.unwrap();
    migrate(&postgres.db).await.unwrap();
    let Db::Sqlite(left) = &sqlite.db else {
        unreachable!()
    };
    let Db::Postgres(right) = &postgres.db else {
        unreachable!()
    };
    let left: Vec<String> = sqlx::query_scalar(
        "SELECT m.name || '.' || c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c
         WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' AND m.name <> '_sqlx_migrations' ORDER BY 1",
    )
    .fetch_all(left)
    .await
    .unwrap();
    let mut right: Vec<String> = sqlx::query_scalar(
        "SELECT table_name || '.' || column_name FROM information_schema.columns
         WHERE table_schema = 'public' AND table_name <> '_sqlx_migrations'",
    )
    .fetch_all(right)
    .await
    .unwrap();
    right.sort();
    assert_eq!(left, right);
    sqlite.close().await;
    postgres.close().await;
}

#[tokio::test]
async fn an_empty_database_has_everything_pending() {
    let scratch = sqlite().await;
    assert!(pending(&scratch.db).await > 0);
    scratch.close().await;
}

#[tokio::test]
async fn a_lock_that_is_not_released_in_time_is_a_passing_trouble() {
    // Given a table that somebody else holds
    let Some(scratch) = postgres().await else {
        return;
    };
    migrate(&scratch.db).await.unwrap();
    let Db::Postgres(pool) = &scratch.db else {
        unreachable!()
    };
    let mut holder = pool.begin().await.unwrap();
    holder.execute("LOCK TABLE workspaces").await.unwrap();

    for limit in ["statement_timeout", "lock_timeout"] {
        // When a query waits longer than it may
        let mut waiting = pool.begin().await.unwrap();
        let set = format!("SET LOCAL {limit} = 50");
        waiting.execute(sqlx::AssertSqlSafe(set)).await.unwrap();
        let refused = waiting.execute("SELECT count(*) FROM workspaces").await;

        // Then clients are told to come again
        let answer = Error::from(refused.unwrap_err());
        assert_eq!(answer.kind(), Kind::Unavailable, "{limit}");
        waiting.rollback().await.unwrap();
    }
    holder.rollback().await.unwrap();
    scratch.close().await;
}

#[tokio::test]
async fn the_folder_and_the_files_of_sqlite_are_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;

    // Given a folder that is not there yet
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("data");
    let mut config = Config::default();
    config.database.url = Some(format!("sqlite://{}", folder.join("t.db").display()).into());

    // When a database is made in it
    let db = connect(&config).await.unwrap();
    migrate(&db).await.unwrap();

    // Then nobody else may read any of it
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let mut files = 0;
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        files += 1;
    }
    assert_eq!(files, 3, "the database, its -wal and its -shm");
    db.close().await;
}

#[tokio::test]
async fn a_database_in_memory_is_refused() {
    let urls = [
        "sqlite::memory:",
        "sqlite://:memory:",
        "sqlite://%3Amemory%3A",
        "sqlite://named?mode=memory&cache=shared",
        "sqlite://",
    ];
    for url in urls {
        let mut config = Config::default();
        config.database.url = Some(url.to_owned().into());
        let refused = connect(&config).await.map(drop);
        assert!(matches!(refused, Err(StoreError::InMemory)), "{url}");
    }
}

#[tokio::test]
async fn a_database_that_lets_nobody_in_says_why_and_what_to_do_without_its_password() {
    // given an address where nobody listens, a file that is no database, and, if there
    // is a PostgreSQL, a database that it does not have
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = free.local_addr().unwrap();
    drop(free);
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.db");
    std::fs::write(&other, "hunter2 ".repeat(1000)).unwrap();
    let mut cases = vec![
        (
            format!("postgres://me:hunter2@{nobody}/none"),
            ["refused", "does PostgreSQL run"],
        ),
        (
            format!("sqlite://{}", other.display()),
            ["not a database", "leads to another file"],
        ),
    ];
    if let Ok(server) = std::env::var("MOLECULE_TEST_POSTGRES_URL") {
        let (base, _) = server.rsplit_once('/').unwrap();
        let name = Uuid::new_v4().simple();
        cases.push((
            format!("{base}/molecule_{name}"),
            ["does not exist;", "create the database"],
        ));
    }
    for (url, parts) in cases {
        let mut config = Config::default();
        config.database.url = Some(url.into());
        config.database.timeout_secs = 1;

        // when
        let refused = connect(&config).await.map(drop);

        // then
        let said = format!("{:#}", anyhow::Error::from(refused.unwrap_err()));
        for part in parts.iter().chain(&["(DATABASE_URL)"]) {
            assert!(said.contains(part), "no {part:?} in: {said}");
        }
        assert!(!said.contains("hunter2"), "{said}");
    }
}
