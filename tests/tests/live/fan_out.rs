//! Many sockets at once.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use molecule_tests::live::Socket;
use molecule_tests::support::{Agent, strict};
use molecule_tests::{ADMIN, Engine};
use serde_json::json;

const SOCKETS: usize = 1_000;
const EVENTS: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sockets_hear_every_event_in_order() {
    let app = strict(Engine::Sqlite)
        .config(|config| config.server.rate_limit = 1_000_000)
        .start()
        .await;
    let agent = Agent::online(&app, json!({ "name": "one" })).await;
    let token = format!("Bearer {ADMIN}");
    let headers = [("authorization", token.as_str())];
    let started = Instant::now();
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS / 50 {
        let opening = (0..50).map(|_| Socket::open(&app, "/ws", &headers));
        for socket in join_all(opening).await {
            sockets.push(socket.expect("a socket"));
        }
    }
    let reading = sockets.into_iter().map(|mut socket| {
        let id = agent.id.clone();
        tokio::spawn(async move {
            for number in 0..EVENTS {
                let event = socket.wait_for("TASK_UPDATED", &id).await;
                assert_eq!(event["payload"]["current_task"], number.to_string());
            }
            socket
        })
    });
    let reading: Vec<_> = reading.collect();
    for number in 0..EVENTS {
        let beat = agent.beat(&app, json!({ "current_task": number.to_string() }));
        assert_eq!(beat.send().await.status, 200);
    }
    let mut open = Vec::new();
    for socket in reading {
        open.push(socket.await.expect("every event"));
    }
    assert!(
        started.elapsed() < Duration::from_secs(60),
        "{:?}",
        started.elapsed()
    );
    app.shutdown().await;
}
