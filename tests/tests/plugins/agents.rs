//! A real agent, as a process of this machine, sees its plugins come, change and go.

use std::path::PathBuf;
use std::time::Duration;

use molecule_core::config::BackendChoice;
use molecule_tests::agents::AgentsBelow;
use molecule_tests::support::strict;
use molecule_tests::{ADMIN, Engine, TestApp};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::ground::{install, list, put};

const AGENT: &str = env!("CARGO_BIN_EXE_fault-agent");
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    app: TestApp,
    id: String,
    _agents: AgentsBelow,
}

impl World {
    async fn new() -> Self {
        let app = strict(Engine::Sqlite)
            .real_backend()
            .config(|config| {
                config.backend.kind = BackendChoice::Process;
                config.backend.process.command = vec![AGENT.to_owned()];
                config.workspaces.restarts_per_minute = 600;
            })
            .start()
            .await;
        let body = json!({
            "name": "one", "runtime": "claude-code", "secrets": { "HEARTBEAT_SECS": "0.1" },
        });
        let _agents = AgentsBelow::new(app.dir.path());
        let id = app.create(body).await;
        let world = Self { app, id, _agents };
        world
            .until("it is online", async |world| {
                let path = format!("/workspaces/{}", world.id);
                world.app.get(&path).send().await.json()["status"] == "online"
            })
            .await;
        world
    }

    async fn until(&self, what: &str, holds: impl AsyncFn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self).await {
            let listed = list(&self.app, &self.id).await;
            assert!(
                Instant::now() < deadline,
                "never happened: {what}; {listed:#}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until the agent says that it has loaded this tree.
    async fn has_loaded(&self, tree: &Value) {
        self.until("the agent has loaded it", async |world| {
            let listed = list(&world.app, &world.id).await;
            let receipt = &listed[0]["receipt"];
            receipt["state"] == "in_sync" && receipt["loaded"]["tree_sha256"] == *tree
        })
        .await;
    }

    async fn install(&self) -> Value {
        let reply = install(&self.app, &self.id, json!({ "source": "careful" })).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.json()
    }

    fn put(&self, rule: &str, skill: &str) {
        let files = [
            ("plugin.yaml", "version: '1.0'\nskills: [one]\n"),
            ("skills/one/SKILL.md", skill),
            ("rules/a.md", rule),
        ];
        put(&self.app, "careful", &files);
    }

    async fn starts(&self) -> i64 {
        let sql =
            "SELECT count(*) FROM structure_events WHERE event_type = 'WORKSPACE_PROVISIONING'";
        self.app.database.count(sql).await
    }

    /// The plugins of the workspace, on this machine's disk.
    fn folder(&self) -> PathBuf {
        let process = self.app.dir.path().join("process");
        let mut below: Vec<PathBuf> = std::fs::read_dir(process)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.to_string_lossy().contains(&self.id))
            .collect();
        below.pop().expect("the folder of the workspace")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_reports_what_it_was_given_and_nothing_once_it_is_gone() {
    let world = World::new().await;
    world.put("one", "a");
    let first = world.install().await;
    assert_eq!(first["restarting"], true);
    // The agent may have read the tree before it is restarted.
    world
        .until("it restarts", async |world| world.starts().await == 2)
        .await;
    world.has_loaded(&first["tree_sha256"]).await;
    let again = world.install().await;
    assert_eq!(
        (&again["unchanged"], &again["restarting"]),
        (&json!(true), &json!(false))
    );

    // A skill that changes is read without a restart.
    world.put("one", "b");
    let second = world.install().await;
    assert_eq!(second["restart_reason"], "skill-content-only");
    assert_ne!(second["tree_sha256"], first["tree_sha256"]);
    world.has_loaded(&second["tree_sha256"]).await;
    assert_eq!(world.starts().await, 2);

    // A rule that changes is read after one.
    world.put("two", "b");
    let third = world.install().await;
    assert_eq!(
        (&third["restart_reason"], &third["restarting"]),
        (&json!("cold"), &json!(true))
    );
    world
        .until("it restarts", async |world| world.starts().await == 3)
        .await;
    world.has_loaded(&third["tree_sha256"]).await;

    let path = format!("/workspaces/{}/plugins/careful", world.id);
    let reply = world.app.delete(&path).bearer(ADMIN).send().await;
    assert_eq!(
        (reply.status, &reply.json()["restarting"]),
        (200, &json!(true)),
        "{}",
        reply.text
    );
    assert_eq!(list(&world.app, &world.id).await, json!([]));
    world
        .until("it restarts without it", async |world| {
            let loaded = "SELECT COALESCE(loaded_plugins, '-') FROM workspaces";
            world.starts().await == 4 && world.app.database.text(loaded).await == "[]"
        })
        .await;
    let folder = world.folder();
    let left = walk(&folder);
    assert!(
        !left
            .iter()
            .any(|path| path.to_string_lossy().contains("careful")),
        "{left:?}"
    );
}

fn walk(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(walk(&path));
        }
        found.push(path);
    }
    found
}
