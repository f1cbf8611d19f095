//! `kill -9` with agents as processes.

use std::path::Path;

use molecule_tests::database::TestDatabase;
use molecule_tests::{Engine, eventually, on_both_engines};
use serde_json::{Value, json};

use crate::process::{AGENT, Deployment, ServerProcess};

/// A workspace whose agent sends heartbeats often.
fn quick(name: &str) -> Value {
    json!({ "name": name, "secrets": { "HEARTBEAT_SECS": "0.2" } })
}

/// Agents that wait for a file before they register.
fn gated_agent(gate: &Path) -> Value {
    let script = format!(
        "while [ ! -e '{}' ]; do sleep 0.05; done; exec '{AGENT}'",
        gate.display()
    );
    json!(["sh", "-c", script])
}

async fn assert_deletes_cleanly(deployment: &Deployment, server: &ServerProcess, id: &str) {
    server.delete(id).await;
    deployment.assert_nothing_left_of(id);
    assert_eq!(deployment.agents(), Vec::<i32>::new(), "a stray agent");
}

async fn on(engine: Engine) -> (Deployment, TestDatabase) {
    let database = TestDatabase::create(engine).await;
    let mut deployment = Deployment::new();
    deployment.set("database.url", database.url());
    (deployment, database)
}

on_both_engines! {
    async fn a_workspace_survives_a_kill_right_after_its_creation(engine: Engine) {
        let (mut deployment, _database) = on(engine).await;
        let server = deployment.start().await;
        let id = server.create(quick("a")).await;
        server.kill_9();

        let server = deployment.start().await;
        server.wait_for_status(&id, "online").await;
        assert_eq!(deployment.agents().len(), 1, "exactly one agent");
        assert_deletes_cleanly(&deployment, &server, &id).await;
        server.stop().await;
    }

    async fn a_workspace_survives_a_kill_while_a_hook_hangs(engine: Engine) {
        // Given a server that was killed in the middle of the chain
        let (mut deployment, _database) = on(engine).await;
        deployment.set("hooks.config.m-middle.behaviour", "hang").set("hooks.timeout_secs", 600);
        deployment.set("hooks.config.a-first.behaviour", "ok").set("log.filter", "debug");
        let server = deployment.start().await;
        let id = server.create(quick("a")).await;
        server.wait_for_log("hook ran").await;
        assert_eq!(server.wait_for_status(&id, "provisioning").await["url"], "");
        server.kill_9();
        deployment.assert_nothing_left_of(&id);

        // When it comes back with a hook that works
        deployment.set("hooks.config.m-middle.behaviour", "ok");
        let server = deployment.start().await;

        // Then the workspace boots: at once with a file of its own, after the lease
        // of the dead server where others might share the database
        server.wait_for_status(&id, "online").await;
        assert_deletes_cleanly(&deployment, &server, &id).await;
        server.stop().await;
    }
}

#[tokio::test]
async fn a_workspace_survives_a_kill_between_start_and_register() {
    // Given a started agent that has not registered yet
    let (mut deployment, database) = on(Engine::Sqlite).await;
    let gate = deployment.dir.path().join("gate");
    deployment.set("backend.process.command", gated_agent(&gate));
    let server = deployment.start().await;
    let id = server.create(quick("a")).await;
    let started = "SELECT count(*) FROM workspaces WHERE provisioned_at IS NOT NULL";
    eventually("it is started", async || database.count(started).await == 1).await;
    let agent = deployment.agent(&id).expect("a process");
    server.kill_9();

    // When the server comes back, and then the agent registers
    let server = deployment.start().await;
    server.wait_for_status(&id, "provisioning").await;
    std::fs::write(&gate, "").expect("the gate");

    // Then it is the same agent that comes online
    server.wait_for_status(&id, "online").await;
    assert_eq!(deployment.agents(), [agent]);
    assert_deletes_cleanly(&deployment, &server, &id).await;
    server.stop().await;
}

#[tokio::test]
async fn an_agent_that_stays_away_after_a_kill_fails_and_can_be_deleted() {
    let (mut deployment, database) = on(Engine::Sqlite).await;
    let gate = deployment.dir.path().join("never");
    deployment.set("backend.process.command", gated_agent(&gate));
    let server = deployment.start().await;
    let id = server.create(quick("a")).await;
    let started = "SELECT count(*) FROM workspaces WHERE provisioned_at IS NOT NULL";
    eventually("it is started", async || database.count(started).await == 1).await;
    server.kill_9();

    // When the server comes back after the agent's time is over
    let ago = chrono::Utc::now() - chrono::TimeDelta::hours(1);
    database
        .execute(&format!(
            "UPDATE workspaces SET provisioned_at = '{}'",
            ago.to_rfc3339()
        ))
        .await;
    let server = deployment.start().await;

    // Then the row says so, and a delete clears everything
    let row = server.wait_for_status(&id, "failed").await;
    assert!(
        row["last_sample_error"]
            .as_str()
            .is_some_and(|text| text.starts_with("provisioning timed out"))
    );
    assert_deletes_cleanly(&deployment, &server, &id).await;
    server.stop().await;
}

#[tokio::test]
async fn online_workspaces_do_not_notice_a_kill() {
    // Given two online workspaces
    let (mut deployment, _database) = on(Engine::Sqlite).await;
    let server = deployment.start().await;
    let ids = [
        server.create(quick("a")).await,
        server.create(quick("b")).await,
    ];
    for id in &ids {
        server.wait_for_status(id, "online").await;
    }
    let agents = ids
        .each_ref()
        .map(|id| deployment.agent(id).expect("a process"));

    // When the server is killed and comes back
    server.kill_9();
    let server = deployment.start().await;

    // Then the same agents go on sending heartbeats with the same tokens
    for (id, agent) in ids.iter().zip(agents) {
        let uptime = |row: &Value| row["uptime_seconds"].as_i64().unwrap_or_default();
        let before = uptime(&server.wait_for_status(id, "online").await);
        server
            .wait_for(id, "heard of", |row| uptime(row) > before)
            .await;
        assert_eq!(deployment.agent(id), Some(agent), "restarted");
    }
    let log = server.log();
    assert!(
        !log.contains("starting over") && !log.contains("orphan"),
        "{log}"
    );
    for id in &ids {
        server.delete(id).await;
        deployment.assert_nothing_left_of(id);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_kill_at_any_moment_of_a_provision_leaves_nothing_stuck() {
    // Given kills spread over the time a provision takes
    for millis in [0, 5, 15, 40, 80, 150, 250, 400, 700] {
        let (mut deployment, _database) = on(Engine::Sqlite).await;
        let server = deployment.start().await;
        let id = server.create(quick("a")).await;
        tokio::time::sleep(std::time::Duration::from_millis(millis)).await;
        server.kill_9();

        // Then whenever it was, one agent comes online and all of it can go
        let server = deployment.start().await;
        server.wait_for_status(&id, "online").await;
        assert_eq!(deployment.agents().len(), 1, "killed after {millis} ms");
        assert_deletes_cleanly(&deployment, &server, &id).await;
    }
}

#[tokio::test]
async fn an_agent_started_in_the_moment_of_a_kill_is_found_without_its_record() {
    // Given the traces of a server that was killed after it started the agent and
    // before it wrote down which process that is
    let (mut deployment, database) = on(Engine::Sqlite).await;
    let server = deployment.start().await;
    let id = server.create(quick("a")).await;
    server.wait_for_status(&id, "online").await;
    server.kill_9();
    let unrecorded = deployment.agent(&id).expect("a process");
    let record = deployment.folder(&id).join("instance.json");
    std::fs::remove_file(record).expect("the record");
    let earlier = "UPDATE workspaces SET status = 'provisioning', provisioned_at = NULL, instance_id = NULL, provision_lease_until = created_at";
    database.execute(earlier).await;

    // When the next server starts over
    let server = deployment.start().await;
    server.wait_for_log("workspace started").await;
    server.wait_for_status(&id, "online").await;

    // Then there is one agent, and it is another one
    let agents = deployment.agents();
    assert!(
        agents.len() == 1 && agents[0] != unrecorded,
        "{agents:?}, before {unrecorded}"
    );
    assert_deletes_cleanly(&deployment, &server, &id).await;
    server.stop().await;
}
