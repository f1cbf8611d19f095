//! A message to a workspace that sleeps, and callers that do not wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::response::IntoResponse;
use molecule_tests::fake_backend::Fault;
use molecule_tests::support::{Agent, recorded, sql_id};
use molecule_tests::{ADMIN, PATIENCE, Reply, TestApp, eventually, on_both_engines};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::stand_in::StandIn;
use crate::tools::{call, online, send, server, started};

#[track_caller]
fn assert_waking(reply: &Reply) {
    let expected = json!({
        "error": "workspace is waking from hibernation — retry in ~15 seconds",
        "waking": true, "retry_after": 15,
    });
    assert_eq!((reply.status, reply.json()), (503, expected));
    assert_eq!(reply.header("retry-after"), Some("15"));
}

async fn hibernate(app: &TestApp, id: &str) {
    let path = format!("/workspaces/{id}/hibernate");
    let reply = app.request("POST", &path).bearer(ADMIN).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert!(!app.backend.runs(id));
}

/// Sends a message, hangs up once `heard` says so, and waits until the server
/// has noticed.
async fn send_and_leave<F, Fut>(app: &TestApp, id: &str, heard: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = bool>,
{
    let body = call("hi").to_string();
    let address = app.url.strip_prefix("http://").expect("an address");
    let mut stream = TcpStream::connect(address).await.expect("connect");
    let request = format!(
        "POST /workspaces/{id}/a2a HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("write");
    eventually("the message is under way", heard).await;
    // It may have been answered by now.
    let _ = stream.shutdown().await;
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "the server never noticed");
}

on_both_engines! {
    async fn twenty_messages_wake_it_once_and_are_delivered_when_it_is_up(engine: Engine) {
        // Given a hibernated workspace
        let stand_in = StandIn::echo().await;
        let app = server(engine, &stand_in.url).await;
        let agent = online(&app, json!({ "name": "dev" })).await;
        hibernate(&app, &agent.id).await;

        // When twenty messages arrive at once
        let calls = (0..20).map(|_| send(&app, &agent.id, "hi").send());
        for reply in futures_util::future::join_all(calls).await {
            assert_waking(&reply);
        }

        // Then it boots once, and callers hear the same until it is online
        eventually("it is started", async || {
            let row = app.listed(&agent.id).await.expect("listed");
            assert_waking(&send(&app, &agent.id, "hi").send().await);
            row["url"] != ""
        })
        .await;
        let agent = started(&app, agent.id).await;
        assert_eq!(app.backend.starts_of(&agent.id).len(), 2);
        assert_eq!(recorded(&app, "WORKSPACE_PROVISIONING").await, 2, "creation and wake");

        // And then the message is delivered
        let reply = send(&app, &agent.id, "hi").send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(stand_in.heard().len(), 1);

        // And it sleeps and wakes again
        hibernate(&app, &agent.id).await;
        assert_waking(&send(&app, &agent.id, "hi").send().await);
        let agent = started(&app, agent.id).await;
        assert_eq!(app.backend.starts_of(&agent.id).len(), 3);
    }

    async fn an_agent_that_registers_before_its_start_is_recorded_is_not_called_yet(engine: Engine) {
        // Given starts that do not end
        let stand_in = StandIn::echo().await;
        let app = server(engine, &stand_in.url).await;
        let woken = online(&app, json!({ "name": "woken" })).await;
        hibernate(&app, &woken.id).await;
        app.backend.set_fault(Fault::StartHangs);
        assert_waking(&send(&app, &woken.id, "hi").send().await);
        let new = app.create(json!({ "name": "new" })).await;

        // When the agents register all the same
        for (id, starts) in [(&woken.id, 2), (&new, 1)] {
            eventually("the start begins", async || app.backend.starts_of(id).len() == starts).await;
            let spec = app.backend.starts_of(id).remove(starts - 1);
            let file = spec.files.iter().find(|file| file.path == ".auth_token");
            let token = file.expect("a token file").content.clone();
            let agent = Agent { id: id.clone(), token: String::from_utf8(token).expect("text") };
            assert_eq!(agent.register(&app).send().await.status, 200);
            app.wait_for_status(id, "online").await;
        }

        // Then callers wait until it is known where they are
        assert_waking(&send(&app, &woken.id, "hi").send().await);
        let reply = send(&app, &new, "hi").send().await;
        let expected = json!({ "error": "workspace has no URL", "status": "provisioning" });
        assert_eq!((reply.status, reply.json()), (503, expected));
    }

    async fn a_caller_that_leaves_wakes_it_all_the_same(engine: Engine) {
        let stand_in = StandIn::echo().await;
        let app = server(engine, &stand_in.url).await;
        let agent = online(&app, json!({ "name": "dev" })).await;
        hibernate(&app, &agent.id).await;
        let id = sql_id(engine, &agent.id);
        let sql = format!("SELECT count(*) FROM workspaces WHERE id = {id} AND status <> 'hibernated'");
        send_and_leave(&app, &agent.id, async || app.database.count(&sql).await == 1).await;
        let agent = started(&app, agent.id).await;
        assert_eq!(app.backend.starts_of(&agent.id).len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_at_work_is_not_interrupted_by_a_caller_that_leaves() {
    // Given an agent that works until it may finish
    let (may_finish, finished) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (gate, count) = (Arc::clone(&may_finish), Arc::clone(&finished));
    let stand_in = StandIn::start(move |_| {
        let (gate, count) = (Arc::clone(&gate), Arc::clone(&count));
        async move {
            gate.notified().await;
            count.fetch_add(1, Ordering::SeqCst);
            "{}".into_response()
        }
    })
    .await;
    let app = server(molecule_tests::Engine::Sqlite, &stand_in.url).await;
    let agent = online(&app, json!({ "name": "dev" })).await;

    // When its caller hangs up
    send_and_leave(&app, &agent.id, async || stand_in.heard().len() == 1).await;
    may_finish.notify_one();

    // Then it finishes
    eventually("the agent finishes", async || {
        finished.load(Ordering::SeqCst) == 1
    })
    .await;

    // And an agent that never does holds up no shutdown
    send_and_leave(&app, &agent.id, async || stand_in.heard().len() == 2).await;
    let begun = std::time::Instant::now();
    app.shutdown().await;
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
}
