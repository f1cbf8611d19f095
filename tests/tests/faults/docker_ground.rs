//! A network on a Docker daemon for servers in this process, and an end of
//! everything they made there.

use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use molecule_core::config::{BackendChoice, Config};
use molecule_tests::agents::remove_containers_of;
use molecule_tests::support::strict;
use molecule_tests::{ADMIN, Engine, TestApp, TestAppBuilder};
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use crate::docker_world::{IMAGE, docker, have_image};

/// How long to wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);
/// How often the loops of these servers look.
const OFTEN: Duration = Duration::from_millis(500);

pub(crate) struct Ground {
    network: String,
    gateway: String,
    created: Mutex<Vec<String>>,
}

impl Ground {
    pub(crate) fn new() -> Self {
        have_image();
        let network = format!("molecule-faults-{}", Uuid::new_v4().simple());
        docker(&["network", "create", &network]);
        let gateway = "{{range .IPAM.Config}}{{.Gateway}}{{end}}";
        let gateway = docker(&["network", "inspect", "--format", gateway, &network]);
        Self {
            network,
            gateway,
            created: Mutex::default(),
        }
    }

    /// A server whose agents are containers here and whose loops look often.
    pub(crate) fn server(&self, change: impl FnOnce(&mut Config)) -> TestAppBuilder {
        let free = std::net::TcpListener::bind(("0.0.0.0", 0)).expect("a free port");
        let port = free.local_addr().expect("an address").port();
        let platform_url = format!("http://{}:{port}", self.gateway);
        strict(Engine::Sqlite)
            .real_backend()
            .cadence(|cadence| {
                cadence.told_health = OFTEN;
                cadence.tokens = OFTEN;
                cadence.orphans = OFTEN;
            })
            .config(|config| {
                config.server.address = [0, 0, 0, 0].into();
                config.server.port = port;
                config.server.platform_url = Some(platform_url);
                config.backend.kind = BackendChoice::Docker;
                config.backend.docker.network.clone_from(&self.network);
                config.backend.docker.images = [("langgraph".to_owned(), IMAGE.to_owned())].into();
                change(config);
            })
    }

    /// Creates a workspace whose agent sends heartbeats often.
    pub(crate) async fn create(&self, app: &TestApp, name: &str) -> String {
        let secrets = json!({ "HEARTBEAT_SECS": "0.2" });
        let id = app
            .create(json!({ "name": name, "tier": 2, "secrets": secrets }))
            .await;
        self.remove_later(&id);
        id
    }

    /// As [`create`](Self::create), and waits until its agent is there and its start
    /// is over: agents are quick.
    pub(crate) async fn create_online(&self, app: &TestApp, name: &str) -> String {
        let id = self.create(app, name).await;
        wait_for_status(app, &id, "online").await;
        let starting = "SELECT count(*) FROM workspaces WHERE provision_lease_until IS NOT NULL";
        until("started", async || app.database.count(starting).await == 0).await;
        id
    }

    /// Has everything labelled with a workspace removed at the end.
    pub(crate) fn remove_later(&self, id: &str) {
        let mut created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        created.push(id.to_owned());
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // What a failed test left.
        let run = |args: &[&str]| Command::new("docker").args(args).output();
        let created = self.created.lock().unwrap_or_else(PoisonError::into_inner);
        remove_containers_of(created.iter());
        let _ = run(&["network", "rm", &self.network]);
    }
}

/// Containers, running or not, and volumes of a workspace.
pub(crate) fn objects_of(id: &str) -> (Vec<String>, Vec<String>) {
    let filter = format!("label=molecule.workspace.id={id}");
    let lines = |text: String| text.lines().map(str::to_owned).collect();
    let containers = docker(&["ps", "-aq", "--no-trunc", "--filter", &filter]);
    let volumes = docker(&["volume", "ls", "-q", "--filter", &filter]);
    (lines(containers), lines(volumes))
}

/// Polls until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "never {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// What the administrator sees of a workspace, removed or not.
pub(crate) async fn row(app: &TestApp, id: &str) -> Value {
    let path = format!("/workspaces/{id}?include_removed=true");
    app.get(&path).bearer(ADMIN).send().await.json()
}

pub(crate) async fn wait_for_status(app: &TestApp, id: &str, status: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let row = row(app, id).await;
        if row["status"] == status {
            return row;
        }
        assert!(Instant::now() < deadline, "{id} never {status}: {row}");
        tokio::time::sleep(POLL).await;
    }
}

/// How often a workspace was found silent or dead.
pub(crate) async fn offline_events(app: &TestApp) -> i64 {
    let sql = "SELECT count(*) FROM structure_events WHERE event_type = 'WORKSPACE_OFFLINE'";
    app.database.count(sql).await
}
