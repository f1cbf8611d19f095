//! The room as a whole, on SQLite; with sockets and several servers it is tested
//! end to end.

use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use molecule_hooks::Clock;
use serde_json::json;

use super::*;
use crate::config::Config;

struct Nobody;

#[async_trait]
impl Reach for Nobody {
    async fn snapshot(&self) -> sqlx::Result<Arc<dyn Visibility>> {
        Err(sqlx::Error::PoolClosed)
    }

    fn changed(&self) {}
}

/// Good until it is said not to be; now and then nobody can say.
struct Revocable {
    is_good: AtomicBool,
    silences: AtomicU64,
}

impl Revocable {
    fn new(silences: u64) -> Arc<Self> {
        Arc::new(Self {
            is_good: AtomicBool::new(true),
            silences: AtomicU64::new(silences),
        })
    }
}

#[async_trait]
impl Proof for Revocable {
    async fn holds(&self) -> Option<bool> {
        let silences = self.silences.load(Ordering::Acquire);
        if silences > 0 {
            self.silences.store(silences - 1, Ordering::Release);
            return None;
        }
        Some(self.is_good.load(Ordering::Acquire))
    }
}

async fn events() -> (Events, Db, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.database.url = Some(format!("sqlite://{}", dir.path().join("t.db").display()).into());
    let db = crate::store::connect(&config).await.unwrap();
    crate::store::migrate(&db).await.unwrap();
    let relay = Relay::new(&db);
    let events = Events::new(db.clone(), relay, Redactor::default(), Clock::system());
    (events, db, dir)
}

#[tokio::test]
async fn a_listener_whose_credentials_ended_is_let_go_within_seconds() {
    let (events, _db, _dir) = events().await;
    let supervisor = Supervisor::new(Clock::system());
    let revocations = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&revocations);
    let count = move || counted.load(Ordering::Acquire);
    events.start(&supervisor, Arc::new(Nobody), count);
    // While nobody can say, it stays; the question is not forgotten.
    let [revoked, kept] = [1, 2].map(Revocable::new);
    let listen = |proof: &Arc<Revocable>| {
        events.listen(Audience::Everything, Arc::clone(proof) as Arc<dyn Proof>)
    };
    let mut leaving = listen(&revoked).await.expect("room");
    let mut staying = listen(&kept).await.expect("room");
    revoked.is_good.store(false, Ordering::Release);
    revocations.fetch_add(1, Ordering::AcqRel);
    let end = tokio::time::timeout(PROOF_EVERY * 4, leaving.next()).await;
    let end = end.expect("within seconds").err();
    assert_eq!(end, Some(Ended::Refused));
    events.broadcast(EventType::TaskUpdated, Uuid::nil(), || json!({}));
    assert!(staying.next().await.is_ok());
    supervisor.shutdown(ROUND).await;
}

#[tokio::test]
async fn what_is_published_has_its_row_and_what_is_broadcast_has_none() {
    let (events, db, _dir) = events().await;
    let mut heard = events.subscribe();
    let workspace = Uuid::new_v4();
    let mut tx = db.begin().await.unwrap();
    let recorded = events.record(
        &mut tx,
        EventType::WorkspaceOnline,
        workspace,
        json!({ "a": 1 }),
    );
    let recorded = recorded.await.unwrap();
    tx.commit().await.unwrap();
    events.publish(recorded);
    events.broadcast(EventType::TaskUpdated, workspace, || json!({}));
    let event = heard.recv().await.unwrap();
    let rows = store::latest(&db, None, Uuid::max(), 10).await.unwrap();
    assert_eq!(event.id, Some(rows[0].id));
    assert_eq!((rows.len(), &rows[0].payload.0), (1, &json!({ "a": 1 })));
    assert_eq!(heard.recv().await.unwrap().id, None);
    // A transaction that is rolled back leaves nothing.
    let mut tx = db.begin().await.unwrap();
    events
        .record(&mut tx, EventType::WorkspaceOnline, workspace, json!({}))
        .await
        .unwrap();
    drop(tx);
    assert_eq!(
        store::latest(&db, None, Uuid::max(), 10)
            .await
            .unwrap()
            .len(),
        1
    );
    assert!(heard.try_recv().is_err());
}
