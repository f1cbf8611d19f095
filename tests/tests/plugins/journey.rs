//! The life of a plugin as an operator sees it: a real tree over real git, a real agent
//! as a process and in a container.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use molecule_core::config::BackendChoice;
use molecule_tests::agents::{AgentsBelow, remove_containers_of};
use molecule_tests::git_server::{Content, GitServer, Repository};
use molecule_tests::support::strict;
use molecule_tests::{ADMIN, Engine, TestApp, TestAppBuilder};
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

const SKIP: &str = "MOLECULE_TEST_SKIP_DOCKER";
/// The machine is slow and does many things at once.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the agents of these tests are called on the daemon: made from this tree.
const AGENT_IMAGE: &str = "molecule/test-plugins-agent:local";

/// Waits until something can be answered.
async fn until<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The files of a workspace, wherever they are.
trait Files {
    /// The names below a folder of the config directory, sorted; nothing if there is no
    /// such folder.
    fn names(&self, folder: &str) -> Vec<String>;
    /// The text of a file of the config directory.
    fn read(&self, path: &str) -> Option<String>;
    /// Writes a file of the config directory, as an agent would.
    fn write(&self, path: &str, text: &str);
    /// Removes a folder of the config directory.
    fn remove(&self, folder: &str);
}

/// A workspace whose agent is online, and the host of its plugins.
struct Journey {
    app: TestApp,
    git: GitServer,
    id: String,
}

impl Journey {
    async fn begin(app: TestApp, git: GitServer) -> Self {
        let secrets = json!({ "HEARTBEAT_SECS": "0.2" });
        let id = app
            .create(json!({ "name": "careful", "tier": 2, "secrets": secrets }))
            .await;
        let journey = Self { app, git, id };
        journey.wait_until_online().await;
        journey
    }

    fn repository(&self) -> Repository {
        self.git.repository("acme/careful")
    }

    fn path(&self, rest: &str) -> String {
        format!("/workspaces/{}/{rest}", self.id)
    }

    async fn wait_until_online(&self) {
        until("the agent is online", async || {
            let row = self.app.listed(&self.id).await?;
            (row["status"] == "online").then_some(())
        })
        .await;
    }

    /// What the agent answers to a message.
    async fn ask(&self, text: &str) -> String {
        let message = json!({
            "role": "user", "messageId": "m-1", "parts": [{ "kind": "text", "text": text }],
        });
        let call = json!({
            "jsonrpc": "2.0", "id": 1, "method": "message/send", "params": { "message": message },
        });
        let path = self.path("a2a");
        let reply = self.app.post(&path, call).bearer(ADMIN).send().await;
        if reply.status != 200 {
            return format!("{}: {}", reply.status, reply.text);
        }
        let text = &reply.json()["result"]["parts"][0]["text"];
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the agent says that it has nothing but this.
    async fn wait_for_plugins(&self, line: &str) {
        until(&format!("the agent has {line:?}"), async || {
            let said = self.ask("plugins").await;
            said.starts_with(line).then_some(())
        })
        .await;
    }

    /// The installed plugin, once wanted, delivered and loaded agree.
    async fn in_sync(&self) -> Value {
        until("wanted, delivered and loaded agree", async || {
            let row = self.installed().await?;
            (row["receipt"]["state"] == "in_sync").then_some(row)
        })
        .await
    }

    async fn installed(&self) -> Option<Value> {
        let path = self.path("plugins");
        let reply = self.app.get(&path).bearer(ADMIN).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.json().get(0).cloned()
    }

    async fn restart(&self) {
        let before = self.started().await;
        let path = self.path("restart");
        let reply = self.app.post(&path, json!({})).bearer(ADMIN).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        self.wait_for_another_start(&before).await;
    }

    /// When the workspace was provisioned, as its events tell.
    async fn started(&self) -> usize {
        let path = format!("/events/{}?limit=1000", self.id);
        let reply = self.app.get(&path).bearer(ADMIN).send().await.json();
        let events = reply.as_array().cloned().unwrap_or_default();
        let is_start = |event: &&Value| event["event_type"] == "WORKSPACE_ONLINE";
        events.iter().filter(is_start).count()
    }

    async fn wait_for_another_start(&self, before: &usize) {
        until("it is online again", async || {
            (self.started().await > *before).then_some(())
        })
        .await;
        self.wait_until_online().await;
    }

    /// The whole story.
    async fn tell(self, files: &dyn Files) {
        // given a plugin at a tag, with what repositories have besides
        let repository = self.repository();
        let first = repository.commit(&version_of("1.0.0", "Look twice."));
        repository.tag("v1.0.0");
        self.wait_for_plugins("no plugins").await;

        // when it is installed by its tag
        let before = self.started().await;
        let body = json!({
            "source": "github://acme/careful#v1.0.0", "track": "tag:v1.0.0",
        });
        let path = self.path("plugins");
        let reply = self.app.post(&path, body).bearer(ADMIN).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let installed = reply.json();
        assert_eq!(installed["status"], "installed");
        assert_eq!(installed["plugin"], "careful");
        assert_eq!(installed["installed_sha"], json!(first));
        assert_eq!(installed["restarting"], true);

        // then the agent has it, whole, and says so
        self.wait_for_another_start(&before).await;
        let tree = installed["tree_sha256"]
            .as_str()
            .expect("a digest")
            .to_owned();
        self.wait_for_plugins(&format!("careful 1.0.0 tree {} skills [look]", &tree[..12]))
            .await;
        assert_eq!(self.ask("skill careful look").await, "Look twice.");
        let row = self.in_sync().await;
        assert_eq!(
            (&row["name"], &row["complete"]),
            (&json!("careful"), &json!(true))
        );
        assert_eq!(row["version"], "1.0.0");
        assert_eq!(row["receipt"]["loaded"]["tree_sha256"], tree);
        let names = files.names("plugins/careful");
        let expected = [
            ".complete",
            "CLAUDE.md",
            "plugin.yaml",
            "rules",
            "setup.sh",
            "skills",
        ];
        assert_eq!(
            names, expected,
            "without what belongs to the repository alone"
        );

        // when the tag moves
        let second = repository.commit(&version_of("1.1.0", "Look three times."));
        repository.tag("v1.0.0");

        // then that shows up, and nothing changes yet
        let update = until("the update is pending", async || {
            let path = "/admin/plugin-updates-pending";
            let reply = self.app.get(path).bearer(ADMIN).send().await;
            reply.json().get(0).cloned()
        })
        .await;
        assert_eq!(
            (&update["current_sha"], &update["latest_sha"]),
            (&json!(first), &json!(second))
        );
        assert_eq!(self.ask("skill careful look").await, "Look twice.");

        // when it is applied, then the agent sees the new content
        let before = self.started().await;
        let id = update["id"].as_str().expect("an id");
        let path = format!("/admin/plugin-updates/{id}/apply");
        let reply = self.app.request("POST", &path).bearer(ADMIN).send().await;
        let expected = json!({
            "status": "applied", "workspace_id": self.id, "plugin_name": "careful",
            "installed_sha": second, "restarting": true,
        });
        assert_eq!(
            (reply.status, reply.json()),
            (200, expected),
            "{}",
            reply.text
        );
        self.wait_for_another_start(&before).await;
        self.wait_for_plugins("careful 1.1.0 tree").await;
        assert_eq!(self.ask("skill careful look").await, "Look three times.");
        assert_eq!(self.in_sync().await["installed_sha"], json!(second));

        // when its files are lost, then the next start brings what was installed
        repository.commit(&version_of("1.2.0", "Never look."));
        files.remove("plugins");
        self.restart().await;
        self.wait_for_plugins("careful 1.1.0 tree").await;
        assert_eq!(self.ask("skill careful look").await, "Look three times.");
        assert_eq!(self.in_sync().await["installed_sha"], json!(second));

        // when it is uninstalled, after the agent made its own use of it
        files.write(
            "CLAUDE.md",
            "# Mine\n\nStays.\n\n# Plugin: careful / rule: rule.md\n\nGoes.\n\n\
             # Plugin: other / rule: x.md\n\nStays too.\n",
        );
        files.write("skills/look/SKILL.md", "Look three times.");
        files.write("skills/mine/SKILL.md", "My own.");
        let before = self.started().await;
        let path = self.path("plugins/careful");
        let reply = self.app.delete(&path).bearer(ADMIN).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(reply.json()["status"], "uninstalled");

        // then nothing of it is left, and everything else is
        self.wait_for_another_start(&before).await;
        self.wait_for_plugins("no plugins").await;
        assert_eq!(self.installed().await, None);
        for folder in ["plugins", "plugins/.staging", "plugins/.previous"] {
            let visible = files.names(folder);
            let left = visible.iter().filter(|name| !name.starts_with('.'));
            assert_eq!(left.count(), 0, "{folder}: {visible:?}");
        }
        assert_eq!(files.names("skills"), ["mine"]);
        let memory = files.read("CLAUDE.md").expect("the memory file");
        assert!(
            memory.contains("Stays.") && memory.contains("Stays too."),
            "{memory}"
        );
        assert!(!memory.contains("Goes."), "{memory}");
        let rows = "SELECT count(*) FROM workspace_plugins";
        assert_eq!(self.app.database.count(rows).await, 0);
        // nor is it looked after any more
        let reply = self
            .app
            .request("POST", &format!("/admin/plugin-updates/{id}/apply"));
        assert_eq!(
            reply.bearer(ADMIN).send().await.json()["status"],
            "already_applied"
        );
        self.app.shutdown().await;
    }
}

/// A plugin as authors write them.
fn version_of(version: &str, look: &'static str) -> Vec<(&'static str, Content<'static>)> {
    let manifest = format!("name: careful\nversion: \"{version}\"\nskills: [look]\n");
    vec![
        // A test that ends soon may leak a few bytes.
        (
            "plugin.yaml",
            Content::Text(Box::leak(manifest.into_boxed_str())),
        ),
        ("CLAUDE.md", Content::Text("Be careful.")),
        ("rules/rule.md", Content::Text(look)),
        ("skills/look/SKILL.md", Content::Text(look)),
        ("setup.sh", Content::Program(b"#!/bin/sh\nexit 0\n")),
        (".github/workflows/ci.yaml", Content::Text("on: push\n")),
        (".gitignore", Content::Text("target\n")),
    ]
}

fn server(git: &GitServer) -> TestAppBuilder {
    let url = git.url();
    strict(Engine::Sqlite)
        .real_backend()
        .config(move |config| {
            config.plugins.github_url = url;
            config.workspaces.restarts_per_minute = 1000;
        })
        .cadence(|cadence| cadence.plugin_drift = Some(Duration::from_millis(500)))
}

/// Files of an agent that is a process.
struct Folder(PathBuf);

impl Files for Folder {
    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.join(folder)).into_iter().flatten();
        let names = entries.flatten().map(|entry| entry.file_name());
        let mut names: Vec<String> = names
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort_unstable();
        names
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.0.join(path)).ok()
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(path, text).expect("a file");
    }

    fn remove(&self, folder: &str) {
        fs::remove_dir_all(self.0.join(folder)).expect("a folder");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_is_installed_updated_delivered_again_and_removed_in_a_process() {
    let git = GitServer::start().await;
    let app = server(&git)
        .config(|config| {
            config.backend.kind = BackendChoice::Process;
            config.backend.process.command = vec![env!("CARGO_BIN_EXE_fault-agent").to_owned()];
        })
        .start()
        .await;
    let process = app.dir.path().join("process");
    let _agents = AgentsBelow::new(app.dir.path());
    let journey = Journey::begin(app, git).await;
    let configs = find(&process, &journey.id);
    journey.tell(&Folder(configs)).await;
}

/// The config folder of a workspace below the folder of the backend.
fn find(process: &Path, id: &str) -> PathBuf {
    let direct = process.join(id).join("configs");
    if direct.is_dir() {
        return direct;
    }
    let entries = fs::read_dir(process).expect("the backend's folder");
    let nested = entries
        .flatten()
        .map(|entry| entry.path().join(id).join("configs"));
    let mut nested = nested.filter(|path| path.is_dir());
    nested.next().expect("the config folder of the workspace")
}

fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output();
    let output = output.expect("the docker command");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "docker {args:?}: {error}\nset {SKIP}=1 to do without"
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What a test makes on the daemon; gone when it is dropped.
struct Ground {
    network: String,
    /// An image with a shell, for looking into volumes.
    tools: String,
    workspaces: Vec<String>,
}

impl Ground {
    fn new() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/echo-agent-image");
        let made = Command::new(script).arg(AGENT_IMAGE).output();
        let made = made.expect("the script");
        let error = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{error}");
        let name = Uuid::new_v4().simple().to_string();
        let ground = Self {
            network: format!("molecule-journey-{name}"),
            tools: format!("molecule/test-journey-tools:{name}"),
            workspaces: Vec::new(),
        };
        docker(&["network", "create", &ground.network]);
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("bin")).expect("a folder");
        let busybox = dir.path().join("bin/busybox");
        fs::copy("/bin/busybox", busybox).expect("a static busybox (busybox-static)");
        let tar = dir.path().join("image.tar");
        let packed = Command::new("tar")
            .args(["--owner=0", "--group=0", "-cf"])
            .arg(&tar)
            .arg("-C")
            .arg(dir.path())
            .arg("bin")
            .status();
        assert!(packed.expect("tar").success());
        docker(&["import", tar.to_str().expect("a path"), &ground.tools]);
        ground
    }

    /// How containers of this network reach this machine, wherever
    /// `host.docker.internal` may lead.
    fn gateway(&self) -> String {
        let format = "{{range .IPAM.Config}}{{.Gateway}}{{end}}";
        docker(&["network", "inspect", "--format", format, &self.network])
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        remove_containers_of(&self.workspaces);
        let run = |args: &[&str]| Command::new("docker").args(args).output();
        let _ = run(&["network", "rm", &self.network]);
        let _ = run(&["rmi", "-f", &self.tools]);
    }
}

/// Files of an agent in a container, in its volume.
struct Volume<'a> {
    ground: &'a Ground,
    container: String,
}

impl Volume<'_> {
    /// What a command says that runs beside the agent, as the user of its files.
    fn run(&self, command: &[&str]) -> std::process::Output {
        let mut run = Command::new("docker");
        run.args(["run", "--rm", "--user", "1000:1000", "--volumes-from"]);
        run.args([&self.container, &self.ground.tools, "/bin/busybox"]);
        run.args(command).output().expect("the docker command")
    }

    fn must(&self, command: &[&str]) -> String {
        let output = self.run(command);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Files for Volume<'_> {
    fn names(&self, folder: &str) -> Vec<String> {
        let output = self.run(&["ls", "-A1", &format!("/configs/{folder}")]);
        let text = String::from_utf8_lossy(&output.stdout);
        let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
        names.sort_unstable();
        names
    }

    fn read(&self, path: &str) -> Option<String> {
        let output = self.run(&["cat", &format!("/configs/{path}")]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(text)
    }

    fn write(&self, path: &str, text: &str) {
        let script =
            r#"/bin/busybox mkdir -p "$(/bin/busybox dirname "$1")" && printf %s "$2" > "$1""#;
        let path = format!("/configs/{path}");
        self.must(&["sh", "-c", script, "sh", &path, text]);
    }

    fn remove(&self, folder: &str) {
        self.must(&["rm", "-rf", &format!("/configs/{folder}")]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_is_installed_updated_delivered_again_and_removed_on_docker() {
    if std::env::var(SKIP).is_ok_and(|value| value == "1") {
        eprintln!("skipped: {SKIP}=1");
        return;
    }
    let mut ground = Ground::new();
    let git = GitServer::start().await;
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = port.expect("a port").port();
    let (network, gateway) = (ground.network.clone(), ground.gateway());
    let app = server(&git)
        .config(move |config| {
            config.server.address = [0, 0, 0, 0].into();
            config.server.port = port;
            config.server.platform_url = Some(format!("http://{gateway}:{port}"));
            config.backend.kind = BackendChoice::Docker;
            config.backend.docker.network = network;
            config.backend.docker.images =
                [("langgraph".to_owned(), AGENT_IMAGE.to_owned())].into();
        })
        .start()
        .await;
    let journey = Journey::begin(app, git).await;
    ground.workspaces.push(journey.id.clone());
    let files = Volume {
        container: format!("ws-{}", journey.id),
        ground: &ground,
    };
    journey.tell(&files).await;
}
