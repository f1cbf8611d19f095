//! A server whose workspaces are containers, and a client of their terminals.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use molecule_core::config::BackendChoice;
use molecule_tests::agents::remove_containers_of;
use molecule_tests::live::Socket;
use molecule_tests::support::strict;
use molecule_tests::{ADMIN, Engine, TestApp, TestAppBuilder, eventually};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::Message;
use uuid::Uuid;

const SKIP: &str = "MOLECULE_TEST_SKIP_DOCKER";
/// The machine is slow and does many things at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// What the image has besides a shell.
const APPLETS: &[&str] = &[
    "sh", "cat", "env", "grep", "head", "id", "kill", "mkfifo", "ps", "setsid", "sleep", "stty",
    "tail", "tr", "yes",
];
/// Runs what `AGENT` says, then sleeps.
const AGENT: &str =
    r#"CMD ["/bin/busybox", "sh", "-c", "eval \"$AGENT\"; exec /bin/busybox sleep 100000"]"#;

pub(crate) fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output();
    let output = output.expect("the docker command");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "docker {args:?}: {error}\nset {SKIP}=1 to do without"
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Everything that a test makes on the daemon; gone when it is dropped.
pub(crate) struct World {
    pub(crate) app: Option<TestApp>,
    network: String,
    image: String,
    workspaces: Vec<String>,
}

impl World {
    /// None when the tests with Docker are switched off.
    pub(crate) async fn new() -> Option<Self> {
        Self::with(|builder| builder, &[]).await
    }

    /// As [`new`](Self::new), with changes of the server and applets to leave out.
    pub(crate) async fn with(
        change: impl FnOnce(TestAppBuilder) -> TestAppBuilder,
        without: &[&str],
    ) -> Option<Self> {
        if std::env::var(SKIP).is_ok_and(|value| value == "1") {
            eprintln!("skipped: {SKIP}=1");
            return None;
        }
        let name = Uuid::new_v4().simple().to_string();
        let mut world = Self {
            app: None,
            network: format!("molecule-terminal-{name}"),
            image: format!("molecule/test-terminal:{name}"),
            workspaces: Vec::new(),
        };
        world.import_image(without);
        let (network, image) = (world.network.clone(), world.image.clone());
        let builder = strict(Engine::Sqlite).real_backend().config(|config| {
            config.backend.kind = BackendChoice::Docker;
            config.backend.docker.network = network;
            config.backend.docker.images = [("langgraph".to_owned(), image)].into();
        });
        world.app = Some(change(builder).start().await);
        Some(world)
    }

    pub(crate) fn app(&self) -> &TestApp {
        self.app.as_ref().expect("a server")
    }

    pub(crate) fn image(&self) -> &str {
        &self.image
    }

    fn import_image(&self, without: &[&str]) {
        let dir = tempfile::tempdir().expect("a folder");
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).expect("a folder");
        for folder in ["etc", "proc", "tmp"] {
            std::fs::create_dir(dir.path().join(folder)).expect("a folder");
        }
        let busybox = PathBuf::from("/bin/busybox");
        std::fs::copy(busybox, bin.join("busybox")).expect("a static busybox (busybox-static)");
        for applet in APPLETS.iter().filter(|applet| !without.contains(applet)) {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).expect("a link");
        }
        let passwd = "root:x:0:0::/:/bin/sh\nagent:x:1000:1000::/:/bin/sh\n";
        std::fs::write(dir.path().join("etc/passwd"), passwd).expect("a file");
        let tar = dir.path().join("image.tar");
        let made = Command::new("tar")
            .args(["--owner=0", "--group=0", "-cf"])
            .arg(&tar)
            .arg("-C")
            .arg(dir.path())
            .args(["bin", "etc", "proc", "tmp"])
            .status();
        assert!(made.expect("tar").success());
        let tar = tar.to_str().expect("a path");
        docker(&["import", "-c", AGENT, tar, &self.image]);
    }

    /// A workspace whose container runs.
    pub(crate) async fn workspace(&mut self, mut body: Value) -> Workspace {
        body["name"] = json!(Uuid::new_v4().to_string());
        body["runtime"] = json!("langgraph");
        let id = self.app().create(body).await;
        self.workspaces.push(id.clone());
        let workspace = Workspace {
            container: format!("ws-{id}"),
            id,
        };
        wait("the container runs", || workspace.runs()).await;
        // And the server wrote down that it does.
        let path = format!("/workspaces/{}", workspace.id);
        eventually("the start is complete", || async {
            let reply = self.app().get(&path).send().await;
            reply.json()["url"]
                .as_str()
                .is_some_and(|url| !url.is_empty())
        })
        .await;
        workspace
    }

    /// A terminal as the administrator.
    pub(crate) async fn terminal(&self, workspace: &Workspace) -> Term {
        self.terminal_as(workspace, ADMIN, "")
            .await
            .expect("a terminal")
    }

    /// A terminal with this token and query.
    pub(crate) async fn terminal_as(
        &self,
        workspace: &Workspace,
        token: &str,
        query: &str,
    ) -> Result<Term, (u16, String)> {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        Term::open(self.app(), &workspace.id, query, &headers).await
    }

    /// Recorded events of a type, newest first, without the time.
    pub(crate) async fn recorded(&self, workspace: &Workspace, kind: &str) -> Vec<Value> {
        let path = format!("/events/{}?limit=1000", workspace.id);
        let reply = self.app().get(&path).bearer(ADMIN).send().await.json();
        let events = reply.as_array().cloned().unwrap_or_default();
        let wanted = events
            .into_iter()
            .filter(|event| event["event_type"] == kind);
        wanted.map(|event| event["payload"].clone()).collect()
    }

    /// The record of the terminal that ended first, once it is there.
    pub(crate) async fn closed(&self, workspace: &Workspace) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut found = self.recorded(workspace, "WORKSPACE_TERMINAL_CLOSED").await;
            if let Some(payload) = found.pop() {
                return payload;
            }
            assert!(Instant::now() < deadline, "no terminal was closed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        remove_containers_of(&self.workspaces);
        let run = |args: &[&str]| Command::new("docker").args(args).output();
        let _ = run(&["network", "rm", &self.network]);
        let _ = run(&["rmi", "-f", &self.image]);
    }
}

pub(crate) struct Workspace {
    pub(crate) id: String,
    pub(crate) container: String,
}

impl Workspace {
    fn runs(&self) -> bool {
        let asked = ["inspect", "-f", "{{.State.Running}}", &self.container];
        let output = Command::new("docker").args(asked).output();
        output.is_ok_and(|output| output.stdout.starts_with(b"true"))
    }

    /// The agent's own token.
    pub(crate) fn token(&self) -> String {
        docker(&[
            "exec",
            &self.container,
            "/bin/busybox",
            "cat",
            "/configs/.auth_token",
        ])
    }

    /// The commands of all processes in the container but the agent's own.
    pub(crate) fn processes(&self) -> Vec<String> {
        let list = docker(&["top", &self.container, "-eo", "pid,args"]);
        let lines = list.lines().skip(1).map(|line| line.trim().to_owned());
        lines
            .filter(|line| !line.contains("sleep 100000") && !line.contains("docker-init"))
            .collect()
    }

    /// Waits until nothing but the agent is left in the container.
    pub(crate) async fn is_quiet(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "never ended: {left:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Polls until `condition` holds; fails the test after a while.
pub(crate) async fn wait(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// An open terminal.
pub(crate) struct Term {
    pub(crate) socket: Socket,
    /// What it printed since the last look.
    pub(crate) printed: String,
}

impl Term {
    pub(crate) async fn open(
        app: &TestApp,
        id: &str,
        query: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, (u16, String)> {
        let path = format!("/workspaces/{id}/terminal{query}");
        let socket = Socket::open(app, &path, headers).await?;
        Ok(Self {
            socket,
            printed: String::new(),
        })
    }

    /// Types a line.
    pub(crate) async fn types(&mut self, line: &str) {
        let bytes = format!("{line}\n").into_bytes();
        self.socket.send(Message::Binary(bytes.into())).await;
    }

    /// Sends a text message.
    pub(crate) async fn says(&mut self, text: &str) {
        self.socket.send(Message::Text(text.into())).await;
    }

    /// Reads until this was printed.
    pub(crate) async fn until(&mut self, wanted: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.printed.contains(wanted) {
            assert!(
                Instant::now() < deadline,
                "{wanted:?} not in {:?}",
                self.printed
            );
            match self.socket.frame().await {
                Some(Message::Binary(bytes)) => {
                    self.printed.push_str(&String::from_utf8_lossy(&bytes));
                }
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("no bytes but {other:?} after {:?}", self.printed),
            }
        }
        let end = self.printed.find(wanted).expect("found") + wanted.len();
        self.printed.drain(..end);
    }

    /// The next text message, past what is printed.
    pub(crate) async fn told(&mut self) -> Value {
        loop {
            match self.socket.frame().await {
                Some(Message::Text(text)) => return serde_json::from_str(&text).expect("JSON"),
                Some(Message::Binary(_) | Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("no text but {other:?}"),
            }
        }
    }

    /// Reads to the end: the text messages on the way, and how it was closed.
    pub(crate) async fn end(&mut self) -> (Vec<Value>, Option<(u16, String)>) {
        let mut told = Vec::new();
        loop {
            match self.socket.frame().await {
                Some(Message::Text(text)) => told.push(serde_json::from_str(&text).expect("JSON")),
                Some(Message::Close(Some(frame))) => {
                    // The answer is sent with the next read.
                    let _ = self.socket.frame().await;
                    return (told, Some((frame.code.into(), frame.reason.to_string())));
                }
                Some(Message::Close(None)) | None => return (told, None),
                Some(_) => {}
            }
        }
    }
}
