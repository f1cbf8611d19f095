//! What happens to containers behind the server's back is seen as it happens.

use std::collections::HashMap;
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::EventsOptionsBuilder;
use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use molecule_tests::{ADMIN, TestApp};
use serde_json::json;
use tokio::sync::broadcast::Receiver;

use crate::docker_ground::{Ground, objects_of, offline_events, row, until};
use crate::docker_world::{docker, docker_is_wanted};

const AN_HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(60);
const KILLS: usize = 5;

/// A server whose sweeps look once an hour.
async fn patient(ground: &Ground) -> TestApp {
    ground
        .server(|_| {})
        .cadence(|cadence| {
            cadence.told_health = AN_HOUR;
            cadence.tokens = AN_HOUR;
            cadence.orphans = AN_HOUR;
        })
        .start()
        .await
}

/// Waits until a workspace is told to be offline; when that was.
async fn told_offline(events: &mut Receiver<molecule_core::Event>, id: &str) -> DateTime<Utc> {
    let telling = async {
        loop {
            let event = events.recv().await.expect("an event");
            let is_it = event.workspace_id.to_string() == id;
            if is_it && event.event.as_str() == "WORKSPACE_OFFLINE" {
                return Utc::now();
            }
        }
    };
    tokio::time::timeout(PATIENCE, telling)
        .await
        .expect("it is missed")
}

/// When the daemon says that a container ended, by its clock.
async fn told_by_daemon(container: String) -> DateTime<Utc> {
    let docker = Docker::connect_with_local_defaults().expect("the daemon");
    let one = |text: &str| vec![text.to_owned()];
    let filters = HashMap::from([("container", one(&container)), ("event", one("die"))]);
    let since = (Utc::now().timestamp() - 1).to_string();
    let options = EventsOptionsBuilder::default()
        .since(&since)
        .filters(&filters)
        .build();
    let mut events = Box::pin(docker.events(Some(options)));
    let event = events.next().await.expect("an event").expect("an event");
    DateTime::from_timestamp_nanos(event.time_nano.expect("a time"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_container_is_missed_at_once_and_replaced() {
    if !docker_is_wanted() {
        return;
    }
    let ground = Ground::new();
    let app = patient(&ground).await;
    let (mut ids, mut took) = (Vec::new(), Vec::new());
    for number in 0..KILLS {
        // Given a workspace that runs
        let id = ground.create_online(&app, &format!("agent {number}")).await;
        let container = objects_of(&id).0.remove(0);
        let mut events = app.events();

        // When its container is killed for good
        let told = tokio::spawn(told_by_daemon(container.clone()));
        let killed = tokio::task::spawn_blocking(move || {
            docker(&["stop", "--time", "0", &container]);
        });
        let seen = told_offline(&mut events, &id).await;
        killed.await.expect("a killed container");
        let told = told.await.expect("an event of the daemon");
        took.push((seen - told).num_milliseconds());
        ids.push(id);
    }

    // Then another one takes its place
    for id in &ids {
        until("replaced", async || {
            row(&app, id).await["status"] == "online" && objects_of(id).0.len() == 1
        })
        .await;
    }
    took.sort();
    println!(
        "milliseconds from the daemon's event to ours: median {} of {took:?}",
        took[KILLS / 2]
    );
    assert_eq!(
        offline_events(&app).await,
        i64::try_from(KILLS).unwrap_or(-1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_is_restarted_by_hand_is_not_fought_over() {
    if !docker_is_wanted() {
        return;
    }
    // Given a workspace that runs
    let ground = Ground::new();
    let app = patient(&ground).await;
    let id = ground.create_online(&app, "one").await;
    let container = objects_of(&id).0.remove(0);

    // When its container is restarted by hand, a few times
    for _ in 0..3 {
        docker(&["restart", "--time", "0", &container]);
    }

    // Then messages reach it, in the same container
    until("reached", async || {
        let message = json!({ "role": "user", "parts": [{ "kind": "text", "text": "hello" }] });
        let body = json!({ "method": "message/send", "params": { "message": message } });
        let reply = app.post(&format!("/workspaces/{id}/a2a"), body);
        reply.bearer(ADMIN).send().await.status == 200
    })
    .await;
    let status = row(&app, &id).await["status"].clone();
    assert_eq!(
        (objects_of(&id).0, status),
        (vec![container], json!("online"))
    );
}
