use async_trait::async_trait;
use serde_json::json;

use super::super::super::hub::{Ended, Hub, Proof};
use super::super::super::{Event, EventType, Frame};
use super::*;
use crate::config::Config;

const SHORT: Duration = Duration::from_millis(20);

struct Good;

#[async_trait]
impl Proof for Good {
    async fn holds(&self) -> Option<bool> {
        Some(true)
    }
}

fn event(id: Option<Uuid>, workspace_id: Uuid) -> Event {
    Event {
        event: EventType::TaskUpdated,
        workspace_id,
        timestamp: chrono::DateTime::UNIX_EPOCH,
        payload: json!({ "current_task": "line\nbreak" }),
        id,
    }
}

/// An empty, migrated database in a folder that goes with the test.
async fn database() -> (Db, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.database.url = Some(format!("sqlite://{}", dir.path().join("t.db").display()).into());
    let db = crate::store::connect(&config).await.unwrap();
    crate::store::migrate(&db).await.unwrap();
    (db, dir)
}

async fn record(db: &Db, id: Uuid, workspace: Uuid) {
    let mut tx = db.begin().await.unwrap();
    let event = event(Some(id), workspace);
    store::insert(&mut tx, id, &event).await.unwrap();
    tx.commit().await.unwrap();
}

async fn live(hub: &Hub, db: &Db, workspace: Uuid, cursor: Option<Cursor>) -> Live {
    let start = Start::find(db, workspace, cursor).await.unwrap();
    let audience = Audience::Workspace(workspace);
    let subscription = hub.subscribe(audience, Arc::new(Good)).await.expect("room");
    Live::new(db.clone(), workspace, subscription, start, SHORT)
}

async fn next(live: &mut Live) -> String {
    let bytes = tokio::time::timeout(Duration::from_secs(10), live.next()).await;
    let bytes = bytes.expect("something comes").expect("not the end");
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// The next event with an id, past pings, and where the reader is then.
async fn next_id(live: &mut Live) -> (Uuid, Cursor) {
    loop {
        let text = next(live).await;
        if let Some(rest) = text.strip_prefix("id: ") {
            let (line, _) = rest.split_once('\n').expect("a line");
            let event = line.split('.').next().expect("an id");
            let event = Uuid::parse_str(event).expect("an id");
            return (event, Cursor::parse(line).expect("a cursor"));
        }
    }
}

#[tokio::test]
async fn a_stream_starts_with_a_ping_and_its_place_and_goes_on_pinging() {
    let ((db, _dir), hub, workspace) = (database().await, Hub::new(), Uuid::new_v4());
    let mut live = live(&hub, &db, workspace, None).await;
    assert_eq!(next(&mut live).await, ": ping\n\n");
    let place = next(&mut live).await;
    assert!(
        place.starts_with("id: ") && place.ends_with("\n\n"),
        "{place}"
    );
    for _ in 0..3 {
        assert_eq!(next(&mut live).await, ": ping\n\n");
    }
    hub.offer(Frame::new(event(None, workspace)));
    hub.dispatch(std::time::Instant::now() + SHORT).await;
    let text = loop {
        let text = next(&mut live).await;
        if text != ": ping\n\n" {
            break text;
        }
    };
    assert_eq!(
        text,
        "data: {\"type\":\"TASK_UPDATED\",\"timestamp\":0,\"data\":{\"current_task\":\"line\\nbreak\"}}\n\n"
    );
    hub.end_all(Ended::Refused);
    while live.next().await.is_some() {}
}

#[tokio::test]
async fn an_event_that_was_read_and_heard_is_sent_once() {
    let ((db, _dir), hub, workspace) = (database().await, Hub::new(), Uuid::new_v4());
    let [first, second, third] = [(); 3].map(|()| Uuid::now_v7());
    record(&db, first, workspace).await;
    let cursor = Cursor {
        newest: first,
        fingerprint: None,
    };
    let mut live = live(&hub, &db, workspace, Some(cursor)).await;
    assert_eq!(next_id(&mut live).await.0, first);
    record(&db, second, workspace).await;
    record(&db, Uuid::now_v7(), Uuid::new_v4()).await;
    hub.offer(Frame::new(event(Some(second), workspace)));
    hub.offer(Frame::new(event(Some(third), workspace)));
    hub.dispatch(std::time::Instant::now() + SHORT).await;
    assert_eq!(next_id(&mut live).await.0, second);
    assert_eq!(next_id(&mut live).await.0, third);
}

#[tokio::test]
async fn what_becomes_visible_late_is_not_skipped() {
    let ((db, _dir), hub, workspace) = (database().await, Hub::new(), Uuid::new_v4());
    // Given a reader that saw the later one of two events
    let [before, early, late] = [(); 3].map(|()| Uuid::now_v7());
    record(&db, before, workspace).await;
    record(&db, late, workspace).await;
    let start = Cursor {
        newest: before,
        fingerprint: None,
    };
    let mut reader = live(&hub, &db, workspace, Some(start)).await;
    assert_eq!(next_id(&mut reader).await.0, before);
    let (event, cursor) = next_id(&mut reader).await;
    assert_eq!((event, cursor.newest), (late, late));
    drop(reader);

    // When it goes on without a change, then it gets nothing twice
    let mut again = live(&hub, &db, workspace, Some(cursor)).await;
    assert_eq!(next_id(&mut again).await, (late, cursor));
    let newest = Uuid::now_v7();
    record(&db, newest, workspace).await;
    let mut again = live(&hub, &db, workspace, Some(cursor)).await;
    assert_eq!(next_id(&mut again).await, (late, cursor));
    let (event, next) = next_id(&mut again).await;
    assert_eq!(event, newest);
    drop(again);

    // When the transaction of the earlier one commits at last, then it is sent
    record(&db, early, workspace).await;
    let mut again = live(&hub, &db, workspace, Some(next)).await;
    assert_eq!(next_id(&mut again).await.0, newest);
    let mut cursor = next;
    for expected in [before, early, late] {
        let (event, place) = next_id(&mut again).await;
        assert_eq!((event, place.newest), (expected, newest));
        cursor = place;
    }
    drop(again);

    // And now its place is the whole truth: nothing of it comes again.
    let start = Start::find(&db, workspace, Some(cursor)).await.unwrap();
    assert_eq!(start.missed_after, Some(newest));
}

#[tokio::test]
async fn many_missed_events_come_page_by_page() {
    let ((db, _dir), hub, workspace) = (database().await, Hub::new(), Uuid::new_v4());
    let start = Uuid::now_v7();
    let ids: Vec<Uuid> = (0..PAGE * 2 + 10).map(|_| Uuid::now_v7()).collect();
    let mut tx = db.begin().await.unwrap();
    for id in &ids {
        let event = event(Some(*id), workspace);
        store::insert(&mut tx, *id, &event).await.unwrap();
    }
    tx.commit().await.unwrap();
    let cursor = Cursor {
        newest: start,
        fingerprint: None,
    };
    let mut live = live(&hub, &db, workspace, Some(cursor)).await;
    assert_eq!(next_id(&mut live).await.0, start);
    for id in ids {
        assert_eq!(next_id(&mut live).await.0, id);
    }
}

#[test]
fn a_place_that_is_none_is_refused() {
    let mut headers = HeaderMap::new();
    assert_eq!(last_event_id(&headers).unwrap(), None);
    headers.insert(LAST_EVENT_ID, HeaderValue::from_static(""));
    assert_eq!(last_event_id(&headers).unwrap(), None);
    for bad in [
        "7",
        "x",
        "00000000-0000-0000-0000-000000000000.",
        "\u{202e}",
    ] {
        let value = HeaderValue::from_bytes(bad.as_bytes()).expect("a value");
        headers.insert(LAST_EVENT_ID, value);
        assert!(last_event_id(&headers).is_err(), "{bad}");
    }
}
