//! `kill -9` with agents as containers.

use molecule_tests::eventually;
use molecule_tests::proxy::Proxy;
use serde_json::Value;

use crate::docker_world::{OnDocker, docker_is_wanted};

#[tokio::test]
async fn a_container_survives_kills_around_its_start_and_leaves_nothing() {
    if !docker_is_wanted() {
        return;
    }
    let mut world = OnDocker::new().await;

    // Given a server that is killed right after it accepted a workspace
    let server = world.deployment.start().await;
    let id = world.create(&server, "a").await;
    server.kill_9();

    // When it comes back, then the workspace comes online, in one container
    let server = world.deployment.start().await;
    server.wait_for_status(&id, "online").await;
    assert_eq!(world.objects_of(&id).0.len(), 1);

    // Given another one, killed once the container is recorded
    let later = world.create(&server, "b").await;
    let started = "SELECT count(*) FROM workspaces WHERE provisioned_at IS NOT NULL";
    eventually("it is started", async || {
        world.database.count(started).await == 2
    })
    .await;
    let (containers, _) = world.objects_of(&later);
    server.kill_9();

    // When the server comes back, then both run on in the same containers
    let before = world.objects_of(&id).0;
    let server = world.deployment.start().await;
    for id in [&id, &later] {
        let uptime = |row: &Value| row["uptime_seconds"].as_i64().unwrap_or_default();
        let seen = uptime(&server.wait_for_status(id, "online").await);
        server
            .wait_for(id, "heard of", |row| uptime(row) > seen)
            .await;
    }
    assert_eq!(world.objects_of(&id).0, before, "adopted, not restarted");
    assert_eq!(
        world.objects_of(&later).0,
        containers,
        "adopted, not restarted"
    );

    // And deleting them leaves neither container nor volume
    for id in [&id, &later] {
        server.delete(id).await;
        world.assert_nothing_left_of(id);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_kill_at_any_moment_of_a_container_start_leaves_nothing_stuck() {
    if !docker_is_wanted() {
        return;
    }
    let mut world = OnDocker::new().await;
    for millis in [20, 100, 250, 500] {
        let server = world.deployment.start().await;
        let id = world.create(&server, "a").await;
        tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
        server.kill_9();

        // A delete is the first thing the next server hears of
        let server = world.deployment.start().await;
        server.delete(&id).await;
        world.assert_nothing_left_of(&id);
        server.stop().await;
    }
}

#[tokio::test]
async fn a_daemon_that_goes_away_is_no_reason_to_lose_track_of_a_container() {
    if !docker_is_wanted() {
        return;
    }
    // Given a server that reaches the daemon through a proxy
    let mut world = OnDocker::new().await;
    let mut proxy = Proxy::start("/var/run/docker.sock").await;
    let host = format!("tcp://127.0.0.1:{}", proxy.port());
    world
        .deployment
        .set("backend.docker.host", host)
        .set("backend.docker.timeout_secs", 2);
    let server = world.deployment.start().await;

    // When the daemon goes away in the middle of a start
    let interrupted = world.create(&server, "interrupted").await;
    eventually("the start made something", async || {
        world.objects_of(&interrupted) != (vec![], vec![])
    })
    .await;
    proxy.cut().await;

    // Then the row says so, and a delete says that it could not stop the compute
    let row = server.wait_for_status(&interrupted, "failed").await;
    assert_eq!(row["last_sample_error"], "workspace start failed");
    assert_eq!(server.request("GET", "/readyz").send().await.status, 503);
    assert_eq!(server.request("GET", "/health").send().await.status, 200);
    let path = format!("/workspaces/{interrupted}");
    let reply = server.admin("DELETE", &path).send().await;
    assert_eq!(reply.status, 500, "{}", reply.text);
    assert!(
        reply.error().contains("1 stop call(s) failed"),
        "{}",
        reply.text
    );

    // When it is back, then the delete can be repeated and the next start works
    proxy.restore().await;
    server.delete(&interrupted).await;
    world.assert_nothing_left_of(&interrupted);
    let id = world.create(&server, "next").await;
    server.wait_for_status(&id, "online").await;
    server.delete(&id).await;
    world.assert_nothing_left_of(&id);
    server.stop().await;
}
