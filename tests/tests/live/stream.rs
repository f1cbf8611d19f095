//! `GET /workspaces/{id}/events/stream`: one workspace, live and from where the
//! reader was.

use std::time::{Duration, Instant};

use molecule_tests::live::EventStream;
use molecule_tests::support::{Agent, sql_id, strict};
use molecule_tests::{ADMIN, Engine, TestApp, on_both_engines};
use serde_json::json;

async fn open(app: &TestApp, agent: &Agent, last: Option<&str>) -> EventStream {
    let token = format!("Bearer {}", agent.token);
    let mut headers = vec![("authorization", token.as_str())];
    headers.extend(last.map(|last| ("last-event-id", last)));
    EventStream::open(app, &agent.id, &headers).await
}

/// Makes one recorded event: in turn DEGRADED and ONLINE.
async fn change(app: &TestApp, agent: &Agent, troubled: bool) {
    let rate = if troubled { 0.9 } else { 0.0 };
    let fields = json!({ "error_rate": rate, "sample_error": "x" });
    assert_eq!(agent.beat(app, fields).send().await.status, 200);
}

/// The next recorded events, up to one for this many.
async fn recorded(stream: &mut EventStream, count: usize) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while found.len() < count {
        let block = stream.event().await;
        if !block.id.is_empty() {
            found.push((block.row().to_owned(), block.data["type"].to_string()));
        }
    }
    found
}

on_both_engines! {
    async fn a_stream_has_the_documented_form(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let other = Agent::online(&app, json!({ "name": "other" })).await;
        let mut stream = open(&app, &agent, None).await;
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-cache"),
            ("connection", "keep-alive"),
            ("x-accel-buffering", "no"),
        ] {
            assert_eq!(stream.header(name), Some(value), "{name}");
        }
        assert_eq!(stream.block().await.expect("a ping").comment, "ping");
        let place = stream.block().await.expect("its place");
        assert!(!place.id.is_empty() && place.data.is_null(), "{place:?}");
        other.beat(&app, json!({ "current_task": "elsewhere" })).send().await;
        let before = chrono::Utc::now().timestamp_millis();
        agent.beat(&app, json!({ "current_task": "here", "active_tasks": 2 })).send().await;
        let event = stream.event().await;
        let at = event.data["timestamp"].as_i64().expect("milliseconds");
        assert!((before - 1000..before + 60_000).contains(&at), "{at}");
        assert_eq!(
            event.data,
            json!({
                "type": "TASK_UPDATED",
                "timestamp": at,
                "data": { "current_task": "here", "active_tasks": 2 },
            })
        );
        assert_eq!(event.id, "", "an event that is not recorded has no place");
        change(&app, &agent, true).await;
        let event = stream.wait_for("WORKSPACE_DEGRADED").await;
        let id = sql_id(engine, event.row());
        let sql = format!("SELECT count(*) FROM structure_events WHERE id = {id}");
        assert_eq!(app.database.count(&sql).await, 1);
        app.shutdown().await;
    }

    async fn a_reader_gets_what_it_missed_even_of_another_server(engine: Engine) {
        // Given a reader that went away after an event
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let mut stream = open(&app, &agent, None).await;
        change(&app, &agent, true).await;
        let last = stream.wait_for("WORKSPACE_DEGRADED").await;
        drop(stream);

        // When more happens, and the server is restarted, and more happens
        change(&app, &agent, false).await;
        change(&app, &agent, true).await;
        let backend = std::sync::Arc::clone(&app.backend);
        let (database, dir) = app.shutdown().await;
        let app = strict(engine).backend(backend).start_on(database, dir).await;
        change(&app, &agent, false).await;

        // Then it gets just that, and goes on live
        let mut stream = open(&app, &agent, Some(&last.id)).await;
        let online = "\"WORKSPACE_ONLINE\"".to_owned();
        let degraded = "\"WORKSPACE_DEGRADED\"".to_owned();
        let missed = recorded(&mut stream, 3).await;
        let kinds: Vec<_> = missed.iter().map(|(_, kind)| kind.clone()).collect();
        assert_eq!(kinds, [online.clone(), degraded.clone(), online.clone()]);
        change(&app, &agent, true).await;
        let live = recorded(&mut stream, 1).await;
        assert_eq!(live[0].1, degraded);
        drop(stream);

        // A reader with nothing but the id of an event goes on after it.
        let mut stream = open(&app, &agent, Some(&missed[1].0)).await;
        assert_eq!(recorded(&mut stream, 2).await, [missed[2].clone(), live[0].clone()]);
        // One that read no event at all still knows its place.
        let mut fresh = open(&app, &agent, None).await;
        fresh.block().await.expect("a ping");
        let place = fresh.block().await.expect("its place").id;
        drop(fresh);
        change(&app, &agent, false).await;
        let mut stream = open(&app, &agent, Some(&place)).await;
        assert_eq!(recorded(&mut stream, 1).await[0].1, online);
        app.shutdown().await;
    }

    async fn only_who_may_read_a_workspace_reads_its_stream(engine: Engine) {
        let app = strict(engine).start().await;
        let mine = Agent::start(&app, json!({ "name": "mine" })).await;
        let other = Agent::start(&app, json!({ "name": "other" })).await;
        let path = format!("/workspaces/{}/events/stream", mine.id);
        let reply = app.get(&path).send().await;
        reply.assert_error(401, "missing workspace auth token");
        let reply = app.get(&path).bearer(&other.token).send().await;
        reply.assert_error(401, "invalid workspace auth token");
        for id in [uuid::Uuid::new_v4().to_string(), "nobody".to_owned()] {
            let path = format!("/workspaces/{id}/events/stream");
            let reply = app.get(&path).bearer(ADMIN).send().await;
            reply.assert_error(404, "workspace not found");
        }
        for bad in ["7", "not-a-place", "00000000-0000-0000-0000-000000000000.zz"] {
            let request = app.get(&path).bearer(&mine.token).header("last-event-id", bad);
            request.send().await.assert_error(400, "invalid Last-Event-ID");
        }
        app.shutdown().await;
    }

    async fn a_stream_ends_with_its_workspace(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let mut stream = open(&app, &agent, None).await;
        let path = format!("/workspaces/{}?confirm=true", agent.id);
        assert_eq!(app.delete(&path).bearer(ADMIN).send().await.status, 200);
        stream.wait_for("WORKSPACE_REMOVED").await;
        stream.end().await;
        app.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_does_not_wait_for_streams() {
    let app = strict(Engine::Sqlite).start().await;
    let agent = Agent::online(&app, json!({ "name": "one" })).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(open(&app, &agent, None).await);
    }
    let started = Instant::now();
    app.shutdown().await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    for mut stream in streams {
        stream.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_never_reads_is_cut_off() {
    let app = strict(Engine::Sqlite)
        .config(|config| config.server.rate_limit = 1_000_000)
        .start()
        .await;
    let agent = Agent::online(&app, json!({ "name": "one" })).await;
    let mut stalled = open(&app, &agent, None).await;
    let mut reader = open(&app, &agent, None).await;
    for number in 0..1_500 {
        let task = format!("{number} {}", "x".repeat(8_000));
        agent
            .beat(&app, json!({ "current_task": task }))
            .send()
            .await;
        reader.wait_for("TASK_UPDATED").await;
    }
    // What it was sent before is still there to read, and then the end.
    stalled.end().await;
    app.shutdown().await;
}
