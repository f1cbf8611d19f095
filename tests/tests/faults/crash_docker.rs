//! `kill -9` with agents as containers.

use std::process::Command;

use molecule_tests::database::TestDatabase;
use molecule_tests::{Engine, eventually};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::process::{Deployment, ServerProcess};
use crate::proxy::Proxy;

/// Set to 1 to leave out the tests that need a Docker daemon, knowingly.
const SKIP_VARIABLE: &str = "MOLECULE_TEST_SKIP_DOCKER";
const IMAGE: &str = "molecule/echo-agent:dev";

fn docker_is_wanted() -> bool {
    let skipped = std::env::var(SKIP_VARIABLE).is_ok_and(|value| value == "1");
    if skipped {
        eprintln!("skipped: {SKIP_VARIABLE}=1");
    }
    !skipped
}

fn docker(args: &[&str]) -> String {
    let output = Command::new("docker")
        .args(args)
        .output()
        .expect("the docker command");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "docker {args:?}: {error}\nset {SKIP_VARIABLE}=1 to do without"
    );
    String::from_utf8(output.stdout)
        .expect("UTF-8")
        .trim()
        .to_owned()
}

/// The image of the echo agent, made from this tree when it is not there.
fn have_image() {
    let present = Command::new("docker")
        .args(["image", "inspect", IMAGE])
        .output();
    if present.is_ok_and(|output| output.status.success()) {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/echo-agent-image");
    let output = Command::new(script).output().expect("the script");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A deployment on the daemon, with a network of its own.
struct OnDocker {
    deployment: Deployment,
    database: TestDatabase,
    network: String,
    created: Vec<String>,
}

impl OnDocker {
    async fn new() -> Self {
        have_image();
        let database = TestDatabase::create(Engine::Sqlite).await;
        let network = format!("molecule-faults-{}", Uuid::new_v4().simple());
        docker(&["network", "create", &network]);
        let gateway = "{{range .IPAM.Config}}{{.Gateway}}{{end}}";
        let gateway = docker(&["network", "inspect", "--format", gateway, &network]);
        let mut deployment = Deployment::new();
        // Containers reach this host at the end of their own bridge, wherever
        // `host.docker.internal` may lead.
        let platform_url = format!("http://{gateway}:{}", deployment.choose_port());
        deployment
            .set("database.url", database.url())
            .set("server.address", "0.0.0.0")
            .set("server.platform_url", platform_url)
            .set(
                "backend",
                json!({
                    "kind": "docker",
                    "docker": { "network": network, "images": { "langgraph": IMAGE } },
                }),
            );
        Self {
            deployment,
            database,
            network,
            created: Vec::new(),
        }
    }

    /// Creates a workspace whose agent sends heartbeats often.
    async fn create(&mut self, server: &ServerProcess, name: &str) -> String {
        let secrets = json!({ "HEARTBEAT_SECS": "0.2" });
        let id = server
            .create(json!({ "name": name, "tier": 2, "secrets": secrets }))
            .await;
        self.created.push(id.clone());
        id
    }

    /// Containers, running or not, and volumes of a workspace.
    fn objects_of(&self, id: &str) -> (Vec<String>, Vec<String>) {
        let filter = format!("label=molecule.workspace.id={id}");
        let lines = |text: String| text.lines().map(str::to_owned).collect();
        let containers = docker(&["ps", "-aq", "--no-trunc", "--filter", &filter]);
        let volumes = docker(&["volume", "ls", "-q", "--filter", &filter]);
        (lines(containers), lines(volumes))
    }

    fn assert_nothing_left_of(&self, id: &str) {
        assert_eq!(
            self.objects_of(id),
            (vec![], vec![]),
            "stray containers or volumes"
        );
    }
}

impl Drop for OnDocker {
    fn drop(&mut self) {
        // What a failed test left.
        let run = |args: &[&str]| Command::new("docker").args(args).output();
        for id in &self.created {
            let filter = format!("label=molecule.workspace.id={id}");
            for (list, remove) in [
                (&["ps", "-aq"][..], &["rm", "-f"][..]),
                (&["volume", "ls", "-q"], &["volume", "rm"]),
            ] {
                let Ok(output) = run(&[list, &["--filter", &filter]].concat()) else {
                    continue;
                };
                for name in String::from_utf8_lossy(&output.stdout).lines() {
                    let _ = run(&[remove, &[name]].concat());
                }
            }
        }
        let _ = run(&["network", "rm", &self.network]);
    }
}

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
