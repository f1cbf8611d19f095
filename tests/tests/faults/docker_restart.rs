//! The daemon is stopped, killed and started again under a fleet.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use molecule_tests::Engine;
use molecule_tests::database::TestDatabase;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::docker_world::{IMAGE, docker_is_wanted};
use crate::private_docker::PrivateDocker;
use crate::process::{Deployment, ServerProcess};

const FLEET: usize = 50;
/// Of those, so many do not come back by themselves after a crash.
const LOST: usize = 12;
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(200);
const TROUBLE: &str = "the backend does not answer";
const RELIEF: &str = "the backend answers again";

async fn rows(server: &ServerProcess) -> Vec<Value> {
    let list = server.admin("GET", "/workspaces").send().await.json();
    list.as_array().cloned().unwrap_or_default()
}

/// How many workspaces have each status.
async fn statuses(server: &ServerProcess) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for row in rows(server).await {
        let status = row["status"].as_str().unwrap_or_default().to_owned();
        *counts.entry(status).or_default() += 1;
    }
    counts
}

async fn until(what: &str, server: &ServerProcess, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(
            Instant::now() < deadline,
            "never {what}: {:?}\n{}",
            statuses(server).await,
            server.log()
        );
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until every workspace is online and every start is over: agents are quick.
async fn wait_until_all_are_online(server: &ServerProcess, database: &TestDatabase) {
    let starting = "SELECT count(*) FROM workspaces WHERE provision_lease_until IS NOT NULL";
    until("all online", server, async || {
        statuses(server).await == BTreeMap::from([("online".to_owned(), FLEET)])
            && database.count(starting).await == 0
    })
    .await;
}

/// How often a text was logged.
fn logged(server: &ServerProcess, text: &str) -> usize {
    server.log().matches(text).count()
}

/// Containers that run, by workspace; two of one workspace fail the test.
fn containers(docker: &PrivateDocker) -> BTreeMap<String, String> {
    let format = "{{.ID}} {{.Label \"molecule.workspace.id\"}}";
    let listed = docker.run(&["ps", "--no-trunc", "--format", format]);
    let mut found = BTreeMap::new();
    for line in listed.lines() {
        let (container, workspace) = line.split_once(' ').expect("two words");
        let other = found.insert(workspace.to_owned(), container.to_owned());
        assert_eq!(other, None, "two containers of {workspace}");
    }
    found
}

async fn offline_events(database: &TestDatabase) -> i64 {
    let sql = "SELECT count(*) FROM structure_events WHERE event_type = 'WORKSPACE_OFFLINE'";
    database.count(sql).await
}

/// Whether the agent answers at the address that the server knows.
async fn answers(server: &ServerProcess, id: &str) -> bool {
    let message = json!({ "role": "user", "parts": [{ "kind": "text", "text": "hello" }] });
    let body = json!({ "method": "message/send", "params": { "message": message } });
    let path = format!("/workspaces/{id}/a2a");
    let reply = server.admin("POST", &path).json(body).send().await;
    reply.status == 200
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_outlives_the_end_of_its_daemon() {
    if !docker_is_wanted() {
        return;
    }
    let Some(mut docker) = PrivateDocker::new() else {
        return;
    };
    // Given fifty workspaces online
    let database = TestDatabase::create(Engine::Sqlite).await;
    docker.make_network("fleet");
    let gateway = "{{range .IPAM.Config}}{{.Gateway}}{{end}}";
    let gateway = docker.run(&["network", "inspect", "--format", gateway, "fleet"]);
    let mut deployment = Deployment::new();
    let platform_url = format!("http://{gateway}:{}", deployment.choose_port());
    deployment
        .set("database.url", database.url())
        .set("server.address", "0.0.0.0")
        .set("server.platform_url", platform_url)
        .set("workspaces.restarts_per_minute", 6000)
        .set("workspaces.liveness_timeout_secs", 600)
        .set(
            "backend",
            json!({
                "kind": "docker",
                "docker": {
                    "host": docker.host(), "network": "fleet", "images": { "langgraph": IMAGE },
                },
            }),
        );
    let server = deployment.start().await;
    let server = &server;
    let ids: Vec<String> = futures_util::stream::iter(0..FLEET)
        .map(|number| {
            let secrets = json!({ "HEARTBEAT_SECS": "10" });
            let name = format!("agent {number}");
            server.create(json!({ "name": name, "tier": 2, "secrets": secrets }))
        })
        .buffer_unordered(8)
        .collect()
        .await;
    wait_until_all_are_online(server, &database).await;
    let before = containers(&docker);
    assert_eq!((ids.len(), before.len()), (FLEET, FLEET));

    // When the daemon is stopped, then that is one incident and nobody's death
    docker.stop();
    until("told", server, async || logged(server, TROUBLE) == 1).await;
    assert_eq!(server.request("GET", "/readyz").send().await.status, 503);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(offline_events(&database).await, 0);
    assert_eq!(statuses(server).await["online"], FLEET);

    // When it is started, then all are back where they were
    docker.start();
    until("over", server, async || logged(server, RELIEF) == 1).await;
    wait_until_all_are_online(server, &database).await;
    assert_eq!(containers(&docker), before);
    for id in &ids[..3] {
        until("an answer", server, async || answers(server, id).await).await;
    }
    assert_eq!(offline_events(&database).await, 0);
    assert_eq!(logged(server, TROUBLE), 1, "{}", server.log());

    // When everything dies at once, and some containers stay dead
    let lost: Vec<&str> = ids[..LOST].iter().map(|id| before[id].as_str()).collect();
    docker.run(&[&["update", "--restart", "no"][..], &lost].concat());
    docker.kill_9();
    until("told again", server, async || logged(server, TROUBLE) == 2).await;
    assert_eq!(offline_events(&database).await, 0);
    docker.start();

    // Then those are started again, once, and the others go on
    until("over again", server, async || logged(server, RELIEF) == 2).await;
    until("those that are lost are replaced", server, async || {
        let now = containers(&docker);
        let is_new = |id: &String| now.get(id).is_some_and(|now| *now != before[id]);
        now.len() == FLEET && ids[..LOST].iter().all(is_new)
    })
    .await;
    wait_until_all_are_online(server, &database).await;
    let now = containers(&docker);
    for id in &ids[LOST..] {
        assert_eq!(now[id], before[id], "replaced for nothing");
    }
    assert_eq!(
        offline_events(&database).await,
        i64::try_from(LOST).unwrap_or(-1)
    );
    assert_eq!(logged(server, TROUBLE), 2, "{}", server.log());

    // And the events of the daemon come again: an end is seen although no round is due
    let killed = &ids[LOST];
    docker.run(&["stop", "--time", "0", &before[killed]]);
    until("seen", server, async || {
        containers(&docker)
            .get(killed)
            .is_some_and(|now| *now != before[killed])
    })
    .await;
}
