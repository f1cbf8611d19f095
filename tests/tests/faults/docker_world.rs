//! A deployment whose agents are containers of the real daemon.

use std::process::Command;

use molecule_tests::Engine;
use molecule_tests::agents::remove_containers_of;
use molecule_tests::database::TestDatabase;
use serde_json::json;
use uuid::Uuid;

use crate::process::{Deployment, ServerProcess};

/// Set to 1 to leave out the tests that need a Docker daemon, knowingly.
const SKIP_VARIABLE: &str = "MOLECULE_TEST_SKIP_DOCKER";
/// What the agents of these tests run.
pub(crate) const IMAGE: &str = "molecule/echo-agent:local";

pub(crate) fn docker_is_wanted() -> bool {
    let skipped = std::env::var(SKIP_VARIABLE).is_ok_and(|value| value == "1");
    if skipped {
        eprintln!("skipped: {SKIP_VARIABLE}=1");
    }
    !skipped
}

pub(crate) fn docker(args: &[&str]) -> String {
    docker_at(&[], args)
}

/// As [`docker`], with options before the command, such as another daemon.
pub(crate) fn docker_at(options: &[&str], args: &[&str]) -> String {
    let args = [options, args].concat();
    let output = Command::new("docker")
        .args(&args)
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
pub(crate) fn have_image() {
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
pub(crate) struct OnDocker {
    pub(crate) deployment: Deployment,
    pub(crate) database: TestDatabase,
    network: String,
    created: Vec<String>,
}

impl OnDocker {
    pub(crate) async fn new() -> Self {
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
    pub(crate) async fn create(&mut self, server: &ServerProcess, name: &str) -> String {
        let secrets = json!({ "HEARTBEAT_SECS": "0.2" });
        let id = server
            .create(json!({ "name": name, "tier": 2, "secrets": secrets }))
            .await;
        self.created.push(id.clone());
        id
    }

    /// Containers, running or not, and volumes of a workspace.
    pub(crate) fn objects_of(&self, id: &str) -> (Vec<String>, Vec<String>) {
        let filter = format!("label=molecule.workspace.id={id}");
        let lines = |text: String| text.lines().map(str::to_owned).collect();
        let containers = docker(&["ps", "-aq", "--no-trunc", "--filter", &filter]);
        let volumes = docker(&["volume", "ls", "-q", "--filter", &filter]);
        (lines(containers), lines(volumes))
    }

    pub(crate) fn assert_nothing_left_of(&self, id: &str) {
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
        remove_containers_of(&self.created);
        let _ = run(&["network", "rm", &self.network]);
    }
}
