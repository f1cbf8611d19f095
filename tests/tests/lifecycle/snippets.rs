//! The snippets of a connection, run as they are.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use molecule_core::Event;
use molecule_tests::support::{create, seen, strict};
use molecule_tests::{Engine, PATIENCE, TestApp, eventually};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::sync::broadcast::Receiver;

/// True when this machine has the program; the snippets need no other.
async fn has(program: &str) -> bool {
    let version = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    version.await.is_ok_and(|status| status.success())
}

/// A workspace that waits for its agent.
struct Far {
    id: String,
    token: String,
    connection: Value,
}

impl Far {
    async fn create(app: &TestApp, name: &str) -> Self {
        let made = create(app, json!({ "name": name, "external": true }))
            .await
            .json();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        Self {
            id: text(&made["id"]),
            token: text(&made["connection"]["auth_token"]),
            connection: made["connection"].clone(),
        }
    }

    fn snippet(&self, name: &str) -> &str {
        self.connection[name].as_str().expect("a snippet")
    }

    /// Waits until the agent registered and sent a heartbeat.
    async fn is_alive(&self, app: &TestApp, events: &mut Receiver<Event>) {
        let mut names = Vec::new();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !(names.contains(&"WORKSPACE_ONLINE") && names.contains(&"WORKSPACE_HEARTBEAT")) {
            let new = seen(events, &self.id);
            names.extend(new.into_iter().map(|(name, _)| name));
            let in_time = tokio::time::Instant::now() < deadline;
            assert!(in_time, "no register and heartbeat: {names:?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let row = app.wait_for_status(&self.id, "online").await;
        assert_eq!(row["url"], "http://localhost:8000");
    }
}

/// Runs a program in a process group of its own, so that nothing of it is left.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env("no_proxy", "*")
            .env_remove("AGENT_URL")
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        Self(child.expect("the program starts"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

/// A stand-in for somebody's agent: notes its environment and waits to be let go.
fn plant(folder: &Path, name: &str) {
    let path = folder.join(name);
    let script = "#!/bin/sh\n\
        echo \"$WORKSPACE_ID $PLATFORM_URL $MOLECULE_WORKSPACE_TOKEN\" >\"$STAND_IN/$0.seen\"\n\
        while [ ! -e \"$STAND_IN/go\" ]; do sleep 0.05; done\n";
    let script = script.replace("$0", name);
    std::fs::write(&path, script).expect("a file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a mode");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_shell_snippet_connects_its_program_and_ends_with_it() {
    if !has("curl").await {
        return;
    }
    let app = strict(Engine::Sqlite).start().await;
    for (snippet, program) in [
        ("claude_code_channel_snippet", "claude"),
        ("universal_mcp_snippet", "my-agent"),
        ("hermes_channel_snippet", "hermes"),
        ("codex_snippet", "codex"),
        ("openclaw_snippet", "openclaw"),
    ] {
        // Given a program of that name
        let far = Far::create(&app, snippet).await;
        let folder = tempfile::tempdir().expect("a folder");
        plant(folder.path(), program);
        let path = std::env::var("PATH").unwrap_or_default();
        let mut events = app.events();

        // When somebody pastes the snippet
        let mut running = Running::start(
            Command::new("sh")
                .arg("-c")
                .arg(far.snippet(snippet))
                .env("PATH", format!("{}:{path}", folder.path().display()))
                .env("AGENT_COMMAND", program)
                .env("STAND_IN", folder.path()),
        );

        // Then the workspace is online while the program runs
        far.is_alive(&app, &mut events).await;
        let note = folder.path().join(format!("{program}.seen"));
        eventually("the program runs", async || note.exists()).await;
        let expected = format!("{} {} {}\n", far.id, app.url, far.token);
        eventually("it has what it needs", async || {
            std::fs::read_to_string(&note).is_ok_and(|text| text == expected)
        })
        .await;
        assert!(running.0.try_wait().expect("a status").is_none());

        // And the snippet ends when the program does
        std::fs::write(folder.path().join("go"), "").expect("a file");
        let ended = tokio::time::timeout(PATIENCE, running.0.wait()).await;
        let status = ended.expect("it ends").expect("a status");
        assert!(status.success(), "{snippet}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_program_the_universal_snippet_keeps_the_workspace_online() {
    if !has("curl").await {
        return;
    }
    let app = strict(Engine::Sqlite).start().await;
    let far = Far::create(&app, "far").await;
    let mut events = app.events();
    let mut command = Command::new("sh");
    let command = command.arg("-c").arg(far.snippet("universal_mcp_snippet"));
    let mut running = Running::start(command.env_remove("AGENT_COMMAND"));
    far.is_alive(&app, &mut events).await;
    assert!(running.0.try_wait().expect("a status").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snippet_whose_token_is_dead_says_so_by_failing() {
    if !has("curl").await {
        return;
    }
    let app = strict(Engine::Sqlite).start().await;
    let far = Far::create(&app, "far").await;
    let path = format!("/workspaces/{}/external/rotate", far.id);
    let request = app.request("POST", &path).bearer(&far.token);
    assert_eq!(request.send().await.status, 200);
    for snippet in ["universal_mcp_snippet", "curl_register_template"] {
        let mut command = Command::new("sh");
        let mut running = Running::start(command.arg("-c").arg(far.snippet(snippet)));
        let ended = tokio::time::timeout(PATIENCE, running.0.wait()).await;
        let status = ended.expect("it ends").expect("a status");
        assert!(!status.success(), "{snippet}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_snippet_registers_and_stays_online() {
    if !has("python3").await {
        return;
    }
    let app = strict(Engine::Sqlite).start().await;
    let far = Far::create(&app, "far").await;
    let mut events = app.events();
    let mut command = Command::new("python3");
    let command = command.arg("-c").arg(far.snippet("python_snippet"));
    let mut running = Running::start(command);
    far.is_alive(&app, &mut events).await;
    assert!(running.0.try_wait().expect("a status").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_curl_template_registers() {
    if !has("curl").await {
        return;
    }
    let app = strict(Engine::Sqlite).start().await;
    let far = Far::create(&app, "far").await;
    let mut command = Command::new("sh");
    let command = command.arg("-c").arg(far.snippet("curl_register_template"));
    let status = Running::start(command).0.wait().await;
    assert!(status.expect("a status").success());
    let row = app.wait_for_status(&far.id, "online").await;
    assert_eq!(row["agent_card"], json!({ "name": "my agent" }));
}
