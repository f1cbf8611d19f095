//! Two servers on one PostgreSQL.

use std::collections::HashMap;
use std::time::Duration;

use molecule_core::Event;
use molecule_tests::database::postgres_is_wanted;
use molecule_tests::live::{EventStream, Socket};
use molecule_tests::support::{Agent, strict};
use molecule_tests::{ADMIN, Engine, PATIENCE, TestApp, eventually};
use serde_json::json;
use tokio::sync::broadcast::Receiver;

const LISTENING: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'molecule-relay' \
                         AND datname = current_database() AND state = 'idle' AND query LIKE 'LISTEN%'";
const CUT: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'molecule-relay' \
                   AND datname = current_database()";
const CUT_ALL: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
                       AND pid <> pg_backend_pid()";

async fn listening(app: &TestApp, count: i64) {
    eventually("the servers listen", || async {
        app.database.count(LISTENING).await == count
    })
    .await;
}

/// Two servers that know each other.
async fn two() -> (TestApp, TestApp) {
    let one = strict(Engine::Postgres).start().await;
    let dir = tempfile::tempdir().expect("a folder");
    let other = strict(Engine::Postgres)
        .start_on(one.database.share(), dir)
        .await;
    listening(&one, 2).await;
    (one, other)
}

/// The next event of a workspace that is not a heartbeat.
async fn next(events: &mut Receiver<Event>, id: &str) -> (String, serde_json::Value) {
    loop {
        let event = tokio::time::timeout(PATIENCE, events.recv()).await;
        let event = event.expect("an event").expect("none lost");
        let kind = event.event.as_str();
        if event.workspace_id.to_string() == id && kind != "WORKSPACE_HEARTBEAT" {
            return (kind.to_owned(), event.payload);
        }
    }
}

/// Beats until the other server says it heard one: from now on they know each other.
async fn acquainted(one: &TestApp, other: &TestApp, agent: &Agent) {
    let mut events = other.events();
    for attempt in 0.. {
        let beat = json!({ "current_task": format!("hello {attempt}") });
        agent.beat(one, beat).send().await;
        let heard = async {
            loop {
                let event = events.recv().await.expect("none lost");
                if event.payload["current_task"] == format!("hello {attempt}") {
                    return;
                }
            }
        };
        if tokio::time::timeout(Duration::from_secs(2), heard)
            .await
            .is_ok()
        {
            return;
        }
        assert!(attempt < 10, "they never hear each other");
    }
}

async fn change(app: &TestApp, agent: &Agent, troubled: bool) {
    let rate = if troubled { 0.9 } else { 0.0 };
    let fields = json!({ "error_rate": rate, "sample_error": "x" });
    assert_eq!(agent.beat(app, fields).send().await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_hears_the_other_exactly_once_and_nobody_himself_twice() {
    if !postgres_is_wanted() {
        return;
    }
    let (one, other) = two().await;
    let agent = Agent::online(&one, json!({ "name": "shared" })).await;
    acquainted(&one, &other, &agent).await;
    let mut here = one.events();
    let mut there = other.events();
    let token = format!("Bearer {ADMIN}");
    let headers = [("authorization", token.as_str())];
    let mut socket = Socket::open(&other, "/ws", &headers)
        .await
        .expect("a socket");
    let mut own = Socket::open(&one, "/ws", &headers).await.expect("a socket");
    let mut stream = EventStream::open(&other, &agent.id, &headers).await;

    // When recorded and other events happen on one, a very long one among them
    let long = "é".repeat(40_000);
    let card =
        json!({ "id": agent.id, "url": "http://localhost:8000", "agent_card": { "name": long } });
    for round in 0..20 {
        change(&one, &agent, true).await;
        let task = json!({ "current_task": format!("round {round}"), "error_rate": 0.9 });
        agent.beat(&one, task).send().await;
        change(&one, &agent, false).await;
    }
    let reply = one.post("/registry/register", card).bearer(&agent.token);
    assert_eq!(reply.send().await.status, 200);

    // Then both servers tell all of them, once, in the same order
    let mut expected = Vec::new();
    loop {
        let event = next(&mut here, &agent.id).await;
        let last = event.1["agent_card"]["name"] == long.as_str();
        expected.push(event);
        if last {
            break;
        }
    }
    assert_eq!(expected.len(), 1 + 20 * 4 + 1);
    for event in &expected {
        assert_eq!(&next(&mut there, &agent.id).await, event);
    }
    for socket in [&mut socket, &mut own] {
        for (kind, payload) in &expected {
            let event = loop {
                let event = socket.event().await;
                if event["event"] != "WORKSPACE_HEARTBEAT"
                    && event["workspace_id"] == agent.id.as_str()
                {
                    break event;
                }
            };
            assert_eq!(
                (event["event"].as_str(), &event["payload"]),
                (Some(kind.as_str()), payload)
            );
        }
    }
    for (kind, payload) in &expected {
        let block = stream.wait_for(kind).await;
        assert_eq!(&block.data["data"], payload);
    }
    // And nothing came twice: the other way round is next on both.
    agent
        .beat(&other, json!({ "current_task": "the other way" }))
        .send()
        .await;
    for events in [&mut here, &mut there] {
        let (kind, payload) = next(events, &agent.id).await;
        assert_eq!(
            (kind.as_str(), &payload["current_task"]),
            ("TASK_UPDATED", &json!("the other way"))
        );
    }
    other.shutdown().await;
    one.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_recorded_while_nobody_listens_is_told_afterwards_once() {
    if !postgres_is_wanted() {
        return;
    }
    let (one, other) = two().await;
    let agent = Agent::online(&one, json!({ "name": "shared" })).await;
    acquainted(&one, &other, &agent).await;
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut here = one.events();
    let mut there = other.events();
    for round in 0..6 {
        // When the connections are killed again and again
        let cut = if round % 2 == 0 { CUT } else { CUT_ALL };
        one.database.execute(cut).await;
        for troubled in [true, false] {
            // A request may meet a connection that is just gone.
            let rate = if troubled { 0.9 } else { 0.0 };
            let fields = json!({ "error_rate": rate, "sample_error": "x" });
            while agent.beat(&one, fields.clone()).send().await.status != 200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        listening(&one, 2).await;
    }
    agent
        .beat(&one, json!({ "current_task": "the end" }))
        .send()
        .await;
    acquainted(&one, &other, &agent).await;

    // Then every recorded event is told once by both
    for events in [&mut here, &mut there] {
        let mut recorded = Vec::new();
        while let Ok(event) = events.try_recv() {
            recorded.extend(event.id);
            if event.id.is_some() {
                *counts.entry(event.event.as_str()).or_default() += 1;
            }
        }
        let total = recorded.len();
        recorded.sort();
        recorded.dedup();
        assert_eq!(recorded.len(), total, "an event was told twice");
    }
    let expected = HashMap::from([("WORKSPACE_DEGRADED", 12), ("WORKSPACE_ONLINE", 12)]);
    assert_eq!(counts, expected);
    other.shutdown().await;
    one.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_changes_servers_and_misses_nothing() {
    if !postgres_is_wanted() {
        return;
    }
    let (one, other) = two().await;
    let agent = Agent::online(&one, json!({ "name": "shared" })).await;
    acquainted(&one, &other, &agent).await;
    let token = format!("Bearer {}", agent.token);
    let mut last = String::new();
    let mut seen = Vec::new();
    for round in 0..10 {
        let reads = if round % 2 == 0 { &one } else { &other };
        let mut headers = vec![("authorization", token.as_str())];
        if !last.is_empty() {
            headers.push(("last-event-id", last.as_str()));
        }
        let mut stream = EventStream::open(reads, &agent.id, &headers).await;
        stream.block().await.expect("a ping");
        // One while it reads, one while it is away.
        change(&one, &agent, true).await;
        let event = loop {
            let event = stream.event().await;
            if !event.id.is_empty() {
                seen.push(event.row().to_owned());
            }
            if event.data["type"] == "WORKSPACE_DEGRADED" {
                break event;
            }
        };
        last = event.id;
        drop(stream);
        change(&one, &agent, false).await;
    }
    let sql = "SELECT count(*) FROM structure_events WHERE event_type IN ('WORKSPACE_DEGRADED', 'WORKSPACE_ONLINE')";
    // But for the registration before and the last one.
    assert_eq!(seen.len() as i64, one.database.count(sql).await - 2);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 19);
    other.shutdown().await;
    one.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_hear_whom_is_known_to_both_at_once() {
    if !postgres_is_wanted() {
        return;
    }
    let (one, other) = two().await;
    let watcher = Agent::online(&one, json!({ "name": "watcher" })).await;
    acquainted(&one, &other, &watcher).await;
    let token = format!("Bearer {}", watcher.token);
    let headers = [
        ("authorization", token.as_str()),
        ("x-workspace-id", &watcher.id),
    ];
    let mut socket = Socket::open(&other, "/ws", &headers)
        .await
        .expect("a socket");
    // A sibling that is born, lives and dies on the other server.
    let sibling = Agent::online(&one, json!({ "name": "sibling" })).await;
    for kind in ["WORKSPACE_PROVISIONING", "WORKSPACE_ONLINE"] {
        socket.wait_for(kind, &sibling.id).await;
    }
    let path = format!("/workspaces/{}?confirm=true", sibling.id);
    assert_eq!(one.delete(&path).bearer(ADMIN).send().await.status, 200);
    socket.wait_for("WORKSPACE_REMOVED", &sibling.id).await;
    other.shutdown().await;
    one.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_alone_sends_nothing_that_only_others_would_need() {
    if !postgres_is_wanted() {
        return;
    }
    let app = strict(Engine::Postgres).start().await;
    listening(&app, 1).await;
    let agent = Agent::online(&app, json!({ "name": "one" })).await;
    // Heard on the channel by somebody who is no server.
    let mut listener = sqlx::postgres::PgListener::connect(app.database.url())
        .await
        .expect("connect");
    listener.listen("molecule").await.expect("listen");
    for number in 0..50 {
        agent
            .beat(&app, json!({ "current_task": number.to_string() }))
            .send()
            .await;
    }
    // Recorded events are sent whoever is there: this one comes after them.
    change(&app, &agent, true).await;
    let mut payloads = Vec::new();
    loop {
        let payload = tokio::time::timeout(PATIENCE, listener.recv()).await;
        let payload = payload
            .expect("in time")
            .expect("a notification")
            .payload()
            .to_owned();
        payloads.push(payload);
        if payloads
            .last()
            .is_some_and(|last| last.contains("WORKSPACE_DEGRADED"))
        {
            break;
        }
    }
    let frequent = payloads
        .iter()
        .filter(|text| text.contains("TASK_UPDATED"))
        .count();
    assert_eq!(frequent, 0, "{payloads:?}");
    app.shutdown().await;
}
