//! The life of one workspace on the real daemon, from creation to the last volume.

use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{
    DownloadFromContainerOptionsBuilder, InspectContainerOptions, KillContainerOptionsBuilder,
    UploadToContainerOptionsBuilder,
};
use futures_util::StreamExt;
use molecule_tests::Reply;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use tokio_tar::{Archive, Builder, Header};

use crate::docker_world::{OnDocker, docker_is_wanted};
use crate::process::ServerProcess;

/// The health sweep looks every 15 s, and an agent has to come back after it.
const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(100);

/// Polls until there is an answer.
async fn until<T>(what: &str, server: &ServerProcess, ask: impl AsyncFn() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        let log = || server.log();
        assert!(Instant::now() < deadline, "never {what}:\n{}", log());
        tokio::time::sleep(POLL).await;
    }
}

/// What the administrator's list says of a workspace.
async fn row(server: &ServerProcess, id: &str) -> Value {
    let list = server.admin("GET", "/workspaces").send().await.json();
    let rows = list.as_array().expect("a list");
    let row = rows.iter().find(|row| row["id"] == id);
    row.expect("a row").clone()
}

/// One thing that people do to a workspace.
async fn act(server: &ServerProcess, id: &str, what: &str, body: Value) -> Reply {
    let path = format!("/workspaces/{id}/{what}");
    let reply = server.admin("POST", &path).json(body).send().await;
    assert_eq!(reply.status, 200, "{what}: {}", reply.text);
    reply
}

/// Sends a text to the agent.
async fn say(server: &ServerProcess, id: &str, text: &str) -> Reply {
    let message = json!({ "role": "user", "parts": [{ "kind": "text", "text": text }] });
    let body = json!({ "method": "message/send", "params": { "message": message } });
    let path = format!("/workspaces/{id}/a2a");
    server.admin("POST", &path).json(body).send().await
}

fn heard(reply: &Reply) -> Option<String> {
    let said = reply.json();
    let text = said.pointer("/result/parts/0/text")?.as_str()?;
    Some(text.to_owned())
}

/// Waits until the agent answers, and answers this.
async fn wait_for_answer(server: &ServerProcess, id: &str, text: &str, answer: &str) {
    until(&format!("answered {answer:?}"), server, async || {
        let reply = say(server, id, text).await;
        assert!([200, 502, 503].contains(&reply.status), "{}", reply.text);
        (heard(&reply).as_deref() == Some(answer)).then_some(())
    })
    .await;
}

/// Waits until another container than `old` is online, and returns its id.
async fn wait_for_another(world: &OnDocker, server: &ServerProcess, id: &str, old: &str) -> String {
    until("another container is online", server, async || {
        let containers = world.objects_of(id).0;
        let is_online = row(server, id).await["status"] == "online";
        match &containers[..] {
            [one] if one != old && is_online => Some(one.clone()),
            _ => None,
        }
    })
    .await
}

/// When a container that runs was started.
async fn running_since(docker: &Docker, container: &str) -> Option<String> {
    let inspected = docker.inspect_container(container, None::<InspectContainerOptions>);
    let state = inspected.await.ok()?.state?;
    state.running?.then_some(state.started_at?)
}

async fn write_file(docker: &Docker, container: &str, name: &str, content: &str) {
    let mut tar = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_uid(1000);
    header.set_gid(1000);
    header.set_size(content.len() as u64);
    let appended = tar.append_data(&mut header, name, content.as_bytes()).await;
    appended.expect("an entry");
    let tar = tar.into_inner().await.expect("an archive");
    let options = UploadToContainerOptionsBuilder::default()
        .path("/configs")
        .build();
    let body = bollard::body_full(tar.into());
    let written = docker.upload_to_container(container, Some(options), body);
    written.await.expect("a written file");
}

async fn read_file(docker: &Docker, container: &str, name: &str) -> Option<String> {
    let options = DownloadFromContainerOptionsBuilder::default()
        .path(&format!("/configs/{name}"))
        .build();
    let mut stream = docker.download_from_container(container, Some(options));
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.ok()?);
    }
    let mut archive = Archive::new(std::io::Cursor::new(bytes));
    let mut entries = archive.entries().ok()?;
    let mut entry = entries.next().await?.ok()?;
    let mut text = String::new();
    entry.read_to_string(&mut text).await.ok()?;
    Some(text)
}

#[tokio::test]
async fn a_workspace_on_docker_survives_everything_but_its_deletion() {
    if !docker_is_wanted() {
        return;
    }
    let mut world = OnDocker::new().await;
    let docker = Docker::connect_with_local_defaults().expect("the daemon");

    // Given a workspace that was created over HTTP
    let server = world.deployment.start().await;
    let id = world.create(&server, "fleet").await;
    server.wait_for_status(&id, "online").await;
    wait_for_answer(&server, &id, "hello", "echo: hello").await;
    wait_for_answer(&server, &id, "env API_KEY", "API_KEY is not set").await;
    let (containers, volumes) = world.objects_of(&id);
    let first = containers[0].clone();
    assert_eq!((containers.len(), volumes.is_empty()), (1, false));

    // When its container is killed, then it is back online by itself
    let options = KillContainerOptionsBuilder::default()
        .signal("KILL")
        .build();
    let before = running_since(&docker, &first).await.expect("it runs");
    let killed = docker.kill_container(&first, Some(options)).await;
    killed.expect("a killed container");
    let (container, before) = until("back by itself", &server, async || {
        let containers = world.objects_of(&id).0;
        let [one] = &containers[..] else { return None };
        let since = running_since(&docker, one).await?;
        let is_back = since != before && row(&server, &id).await["status"] == "online";
        is_back.then(|| (one.clone(), since))
    })
    .await;
    wait_for_answer(&server, &id, "again", "echo: again").await;

    // When the server is killed and started again, then it adopts the container
    server.kill_9();
    let server = world.deployment.start().await;
    let uptime = |row: &Value| row["uptime_seconds"].as_i64().unwrap_or_default();
    let seen = uptime(&server.wait_for_status(&id, "online").await);
    server
        .wait_for(&id, "heard of", |row| uptime(row) > seen)
        .await;
    wait_for_answer(&server, &id, "still", "echo: still").await;
    assert_eq!(world.objects_of(&id).0, [container.as_str()], "restarted");
    let since = running_since(&docker, &container).await;
    assert_eq!(since, Some(before), "restarted");

    // When it is paused, then its container goes and its volumes stay
    write_file(&docker, &container, "notes.txt", "remember me").await;
    act(&server, &id, "pause", json!({})).await;
    assert_eq!(row(&server, &id).await["status"], "paused");
    assert_eq!(world.objects_of(&id), (vec![], volumes.clone()));
    let reply = say(&server, &id, "hello").await;
    assert_eq!(
        (reply.status, &reply.json()["status"]),
        (503, &json!("paused"))
    );

    // And it comes back when it is resumed
    act(&server, &id, "resume", json!({})).await;
    let resumed = wait_for_another(&world, &server, &id, &container).await;
    wait_for_answer(&server, &id, "back", "echo: back").await;

    // When it hibernates, then its container goes
    act(&server, &id, "hibernate", json!({})).await;
    assert_eq!(world.objects_of(&id), (vec![], volumes.clone()));

    // And a message wakes it, which is delivered once it is up
    let reply = say(&server, &id, "wake up").await;
    assert_eq!((reply.status, &reply.json()["waking"]), (503, &json!(true)));
    assert_eq!(reply.header("retry-after"), Some("15"));
    let woken = until("awake", &server, async || {
        let reply = say(&server, &id, "wake up").await;
        if reply.status == 200 {
            return heard(&reply);
        }
        assert_eq!((reply.status, &reply.json()["waking"]), (503, &json!(true)));
        None
    });
    assert_eq!(woken.await, "echo: wake up");
    let woken = wait_for_another(&world, &server, &id, &resumed).await;

    // When a secret changes, then the agent is restarted and sees it
    let mut last = woken;
    for (value, bytes) in [("first-value", 11), ("the second value", 16)] {
        let secret = json!({ "key": "API_KEY", "value": value });
        act(&server, &id, "secrets", secret).await;
        let answer = format!("API_KEY is set ({bytes} bytes)");
        wait_for_answer(&server, &id, "env API_KEY", &answer).await;
        last = wait_for_another(&world, &server, &id, &last).await;
    }

    // When it is restarted, then what the agent wrote is still there
    write_file(&docker, &last, "journal.txt", "day one").await;
    act(&server, &id, "restart", json!({})).await;
    let restarted = wait_for_another(&world, &server, &id, &last).await;
    for (name, content) in [("notes.txt", "remember me"), ("journal.txt", "day one")] {
        let found = read_file(&docker, &restarted, name).await;
        assert_eq!(found.as_deref(), Some(content), "{name}");
    }
    wait_for_answer(&server, &id, "end", "echo: end").await;
    assert_eq!(world.objects_of(&id).1, volumes, "other volumes");

    // When it is deleted, then nothing is left on the daemon
    server.delete(&id).await;
    world.assert_nothing_left_of(&id);
    let log = server.stop().await;
    for secret in ["first-value", "the second value"] {
        assert!(!log.contains(secret), "a secret in the log");
    }
}
