//! What a socket cannot time: rotations that are stopped, writers that meet.

use std::collections::BTreeMap;

use molecule_hooks::{Clock, Secret};
use uuid::Uuid;

use crate::redact::Redactor;
use crate::secrets::change::Entry;
use crate::secrets::{Cipher, EncryptionKey, Protection, Rotation, Scope, Secrets, aad, store};
use crate::store::tests::{postgres, sqlite};
use crate::store::{Db, migrate, timestamp, with_db};

const OLD: &str = "old-key-old-key-old-key-old-key-";
const NEW: &str = "new-key-new-key-new-key-new-key-";

fn key(text: &str) -> EncryptionKey {
    EncryptionKey::parse(text).unwrap()
}

fn cipher(current: Option<&str>, previous: &[&str]) -> Cipher {
    let previous: Vec<_> = previous.iter().map(|text| key(text)).collect();
    Cipher::new(current.map(key).as_ref(), &previous).unwrap()
}

fn secrets(db: &Db, cipher: &Cipher) -> Secrets {
    let (redactor, clock) = (Redactor::default(), Clock::system());
    Secrets::new(db.clone(), cipher.clone(), redactor, clock)
}

fn entry(key: &str, value: &str) -> Entry {
    Entry::new(Some(key.to_owned()), Some(Secret::new(value))).unwrap()
}

/// Waits for what was begun and dropped: its connection comes back with its last
/// statement done.
async fn until_nothing_is_under_way(db: &Db) {
    async fn hold_all<D: sqlx::Database>(pool: &sqlx::Pool<D>) {
        let mut held = Vec::new();
        for _ in 0..pool.options().get_max_connections() {
            held.push(pool.acquire().await.unwrap());
        }
    }
    match db {
        Db::Sqlite(pool) => hold_all(pool).await,
        Db::Postgres(pool) => hold_all(pool).await,
    }
}

async fn execute(db: &Db, sql: &'static str, id: Uuid) {
    let now = timestamp(&Clock::system());
    with_db!(db, |pool| sqlx::query(sql)
        .bind(id)
        .bind(now)
        .execute(pool)
        .await
        .map(drop))
    .unwrap();
}

async fn insert_workspace(db: &Db) -> Uuid {
    let (id, now) = (Uuid::new_v4(), timestamp(&Clock::system()));
    let sql = "INSERT INTO workspaces (id, name, status, created_at, updated_at)
               VALUES ($1, $2, 'online', $3, $3)";
    with_db!(db, |pool| sqlx::query(sql)
        .bind(id)
        .bind(id.to_string())
        .bind(now)
        .execute(pool)
        .await
        .map(drop))
    .unwrap();
    id
}

async fn is_requested(db: &Db, id: Uuid) -> bool {
    let sql = "SELECT count(*) FROM workspaces WHERE id = $1 AND restart_requested_at IS NOT NULL";
    let found: i64 = with_db!(db, |pool| sqlx::query_scalar(sql)
        .bind(id)
        .fetch_one(pool)
        .await)
    .unwrap();
    found == 1
}

async fn put_inbound(db: &Db, cipher: &Cipher, id: Uuid, value: &str) {
    let place = aad("workspaces", &id.to_string(), "inbound_secret");
    let sealed = cipher.seal(value.as_bytes(), &place).unwrap();
    let sql =
        "UPDATE workspaces SET inbound_secret = $2, inbound_secret_version = $3 WHERE id = $1";
    with_db!(db, |pool| sqlx::query(sql)
        .bind(id)
        .bind(&sealed.bytes)
        .bind(sealed.version)
        .execute(pool)
        .await
        .map(drop))
    .unwrap();
}

/// Tables and protections, with their amounts.
async fn tally(db: &Db, cipher: &Cipher) -> BTreeMap<(&'static str, Protection), u64> {
    let rotation = Rotation::new(db.clone(), cipher.clone());
    let tallies = rotation.tally().await.unwrap();
    let entries = tallies
        .into_iter()
        .map(|tally| ((tally.table, tally.protection), tally.amount));
    entries.collect()
}

/// Declares a test per engine from one body over a migrated database.
macro_rules! on_both_engines {
    ($($name:ident($db:ident) $body:block)*) => {$(
        mod $name {
            use super::*;

            async fn run($db: &Db) $body

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_sqlite() {
                let scratch = sqlite().await;
                migrate(&scratch.db).await.unwrap();
                run(&scratch.db).await;
                scratch.close().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn on_postgres() {
                let Some(scratch) = postgres().await else { return };
                migrate(&scratch.db).await.unwrap();
                run(&scratch.db).await;
                scratch.close().await;
            }
        }
    )*};
}

on_both_engines! {
    every_table_and_every_version_is_brought_under_the_current_key(db) {
        let id = insert_workspace(db).await;
        let (plain, old) = (cipher(None, &[]), cipher(Some(OLD), &[]));
        let (both, new) = (cipher(Some(NEW), &[OLD]), cipher(Some(NEW), &[]));
        for (cipher, name) in [(&plain, "PLAIN"), (&old, "OLD"), (&both, "CURRENT")] {
            let secrets = secrets(db, cipher);
            for scope in [Scope::Workspace(id), Scope::Global] {
                secrets.set(scope, &entry(name, "value-of-a-secret")).await.unwrap();
            }
        }
        put_inbound(db, &old, id, "inbound").await;
        let rotation = Rotation::new(db.clone(), both.clone());

        // A dry run only counts
        let before = tally(db, &both).await;
        let rotated = rotation.run(true).await.unwrap();
        let sealed: Vec<u64> = rotated.tables.iter().map(|table| table.sealed).collect();
        assert_eq!((sealed.as_slice(), rotated.is_complete()), (&[2, 2, 1][..], true));
        assert_eq!(tally(db, &both).await, before);

        // The real one changes no value
        let rotated = rotation.run(false).await.unwrap();
        let sealed: Vec<u64> = rotated.tables.iter().map(|table| table.sealed).collect();
        assert_eq!((sealed.as_slice(), rotated.is_complete()), (&[2, 2, 1][..], true));
        let current = Protection::Key(key(NEW).id());
        let expected = [("workspace_secrets", 3), ("global_secrets", 3), ("workspaces.inbound_secret", 1)];
        let expected = expected.map(|(table, amount)| ((table, current.clone()), amount));
        assert_eq!(tally(db, &both).await, expected.into());
        // And the old key may go
        let bundle = secrets(db, &new).bundle(id).await.unwrap();
        for values in [&bundle.global, &bundle.workspace] {
            assert_eq!(values.len(), 3);
            assert!(values.values().all(|value| value.expose() == "value-of-a-secret"));
        }
        assert!(!is_requested(db, insert_workspace(db).await).await);

        // A second one finds nothing to do
        let rotated = rotation.run(false).await.unwrap();
        assert!(rotated.is_complete() && rotated.tables.iter().all(|table| table.sealed == 0));
    }

    a_rotation_that_was_stopped_is_started_again(db) {
        let old = secrets(db, &cipher(Some(OLD), &[]));
        let both = cipher(Some(NEW), &[OLD]);
        let mut ids = Vec::new();
        for _ in 0..60 {
            let id = insert_workspace(db).await;
            for number in 0..4 {
                let mut tx = db.begin().await.unwrap();
                let value = Secret::new(format!("value-{number}-of-{id}"));
                old.put(&mut tx, id, &format!("KEY_{number}"), &value).await.unwrap();
                tx.commit().await.unwrap();
            }
            ids.push(id);
        }
        let under = |text: &str| ("workspace_secrets", Protection::Key(key(text).id()));
        // Half-way: some are done, and some are not. It only goes on where it is polled.
        let rotation = Rotation::new(db.clone(), both.clone());
        let mut run = Box::pin(rotation.run(false));
        loop {
            tokio::select! {
                biased;
                _ = &mut run => panic!("it is over already"),
                () = tokio::time::sleep(std::time::Duration::from_millis(1)) => {}
            }
            if tally(db, &both).await.contains_key(&under(NEW)) {
                break;
            }
        }
        drop(run);
        until_nothing_is_under_way(db).await;
        let counts = tally(db, &both).await;
        let (new, rest) = (counts.get(&under(NEW)).copied(), counts.get(&under(OLD)).copied());
        let (new, rest) = (new.unwrap_or_default(), rest.unwrap_or_default());
        assert_eq!(new + rest, 240);
        // Everything can be read, whichever key it is under
        for id in &ids {
            assert_eq!(secrets(db, &both).bundle(*id).await.unwrap().workspace.len(), 4);
        }
        // The next one does the rest
        let rotated = Rotation::new(db.clone(), both.clone()).run(false).await.unwrap();
        assert_eq!((rotated.tables[0].sealed, rotated.is_complete()), (rest, true));
        for id in ids {
            let bundle = secrets(db, &cipher(Some(NEW), &[])).bundle(id).await.unwrap();
            for (key, value) in bundle.workspace {
                assert_eq!(value.expose(), format!("value-{}-of-{id}", &key[4..]));
            }
        }
    }

    a_rotation_never_undoes_what_a_server_writes(db) {
        let id = insert_workspace(db).await;
        let (old, both) = (secrets(db, &cipher(Some(OLD), &[])), cipher(Some(NEW), &[OLD]));
        let scope = Scope::Workspace(id);
        for number in 0..40 {
            old.set(scope, &entry(&format!("KEY_{number}"), "first")).await.unwrap();
        }
        // A server with the new key, and one that has not heard of it yet
        let writer = |secrets: Secrets, parity: usize| async move {
            for round in 0..6 {
                for number in (parity..40).step_by(2) {
                    let value = format!("round-{round}");
                    secrets.set(scope, &entry(&format!("KEY_{number}"), &value)).await.unwrap();
                }
            }
        };
        let rotation = Rotation::new(db.clone(), both.clone());
        let (_, (), ()) = tokio::join!(
            rotation.run(false),
            writer(secrets(db, &both), 0),
            writer(secrets(db, &cipher(Some(OLD), &[NEW])), 1),
        );
        let values = secrets(db, &both).bundle(id).await.unwrap().workspace;
        assert_eq!(values.len(), 40);
        assert!(values.values().all(|value| value.expose() == "round-5"));
        assert!(rotation.run(false).await.unwrap().is_complete());
        let values = secrets(db, &cipher(Some(NEW), &[])).bundle(id).await.unwrap().workspace;
        assert!(values.values().all(|value| value.expose() == "round-5"));
    }

    a_row_that_no_key_opens_is_named_and_left_alone(db) {
        let id = insert_workspace(db).await;
        let lost = secrets(db, &cipher(Some(OLD), &[]));
        lost.set(Scope::Workspace(id), &entry("LOST", "value-lost")).await.unwrap();
        lost.set(Scope::Global, &entry("LOST_TOO", "value-lost")).await.unwrap();
        secrets(db, &cipher(None, &[])).set(Scope::Global, &entry("FOUND", "value")).await.unwrap();
        let new = cipher(Some(NEW), &[]);
        let rotation = Rotation::new(db.clone(), new.clone());
        for dry in [true, false] {
            let rotated = rotation.run(dry).await.unwrap();
            assert!(!rotated.is_complete());
            assert_eq!(rotated.unreadable_in_all(), 2);
            let named: Vec<_> = rotated.unreadable.iter()
                .map(|row| (row.table, row.key.as_str(), row.workspace_id)).collect();
            assert_eq!(named, [("workspace_secrets", "LOST", Some(id)), ("global_secrets", "LOST_TOO", None)]);
            let text = format!("{rotated:?}");
            assert!(text.contains(&key(OLD).id()) && !text.contains("value-lost"), "{text}");
            assert_eq!(rotated.tables[1].sealed, 1);
        }
        // With its key back, nothing was lost
        let both = cipher(Some(NEW), &[OLD]);
        assert!(Rotation::new(db.clone(), both).run(false).await.unwrap().is_complete());
        let bundle = secrets(db, &new).bundle(id).await.unwrap();
        assert_eq!(bundle.workspace["LOST"].expose(), "value-lost");
        assert_eq!((bundle.global["LOST_TOO"].expose(), bundle.global["FOUND"].expose()), ("value-lost", "value"));
    }

    a_workspace_that_boots_during_a_global_change_is_not_forgotten(db) {
        let service = secrets(db, &cipher(Some(NEW), &[]));
        let (quiet, late, own) = (insert_workspace(db).await, insert_workspace(db).await, insert_workspace(db).await);
        service.set(Scope::Workspace(own), &entry("KEY", "mine")).await.unwrap();
        for id in [late, own] {
            // As if its secrets were being read this very moment.
            execute(db, "UPDATE workspaces SET provision_lease_until = $2, restart_requested_at = NULL WHERE id = $1", id).await;
        }
        let now = timestamp(&Clock::system());
        let requested = store::restart::request_missed(db, "KEY", now, now).await.unwrap();
        assert_eq!(requested, 1);
        assert!(is_requested(db, late).await && !is_requested(db, quiet).await && !is_requested(db, own).await);
        // Those who have a request keep it
        assert_eq!(store::restart::request_missed(db, "KEY", now, now).await.unwrap(), 0);
    }

    writers_that_meet_all_succeed_and_leave_one_value(db) {
        let mut ids = Vec::new();
        for _ in 0..30 {
            ids.push(insert_workspace(db).await);
        }
        let service = secrets(db, &cipher(Some(NEW), &[]));
        let mut writers = tokio::task::JoinSet::new();
        for number in 0..8 {
            let (service, id) = (service.clone(), ids[0]);
            writers.spawn(async move {
                let value = format!("value-of-writer-{number}");
                service.set(Scope::Global, &entry("SHARED", &value)).await.unwrap();
                service.set(Scope::Global, &entry(&format!("KEY_{number}"), &value)).await.unwrap();
                service.set(Scope::Workspace(id), &entry("SHARED", &value)).await.unwrap();
            });
        }
        while let Some(done) = writers.join_next().await {
            done.unwrap();
        }
        let bundle = service.bundle(ids[0]).await.unwrap();
        assert_eq!((bundle.global.len(), bundle.workspace.len()), (9, 1));
        assert!(bundle.global["SHARED"].expose().starts_with("value-of-writer-"));
        for id in ids {
            assert!(is_requested(db, id).await);
        }
    }
}

/// PostgreSQL only: SQLite has one writer at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_the_database_gives_up_for_another_is_made_all_the_same() {
    let Some(scratch) = postgres().await else {
        return;
    };
    let db = &scratch.db;
    migrate(db).await.unwrap();
    let (first, last) = (insert_workspace(db).await, insert_workspace(db).await);
    let service = secrets(db, &cipher(Some(NEW), &[]));
    // Somebody who locks the workspaces in the other order
    let mut other = db.begin().await.unwrap();
    store::lock(&mut other, Scope::Workspace(last))
        .await
        .unwrap();
    let change = tokio::spawn({
        let service = service.clone();
        async move { service.set(Scope::Global, &entry("KEY", "value")).await }
    });
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    loop {
        let waits: i64 =
            with_db!(db, |pool| sqlx::query_scalar(waiting).fetch_one(pool).await).unwrap();
        if waits > 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    // Each waits for the other now; whichever is given up, the change is made.
    let _ = store::lock(&mut other, Scope::Workspace(first)).await;
    let _ = other.commit().await;
    assert!(change.await.unwrap().unwrap());
    assert!(is_requested(db, first).await && is_requested(db, last).await);
    scratch.close().await;
}
