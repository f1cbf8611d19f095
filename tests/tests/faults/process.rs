//! A real server process that can be signalled, killed and started again.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use molecule_tests::{ADMIN, KEY, PATIENCE, Reply, Request};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

const SERVER: &str = env!("CARGO_BIN_EXE_fault-server");
/// A server that was put together wrongly.
const DOUBLED: &str = env!("CARGO_BIN_EXE_doubled-server");
/// The agent of the process backend.
pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_fault-agent");
const POLL: Duration = Duration::from_millis(20);

/// What survives a crash: configuration, data directory, port. Agents that are
/// left are ended with it.
pub(crate) struct Deployment {
    pub(crate) dir: TempDir,
    program: &'static str,
    config: Value,
    env: Vec<(String, String)>,
    port: Option<u16>,
}

/// A running server. Killed when dropped.
pub(crate) struct ServerProcess {
    pub(crate) url: String,
    client: reqwest::Client,
    child: Child,
    log: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Deployment {
    /// Development mode with an administrator token, an encryption key, SQLite
    /// and agents as processes.
    pub(crate) fn new() -> Self {
        Self::of(SERVER)
    }

    /// As [`new`](Self::new), of another server.
    pub(crate) fn of(program: &'static str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = json!({
            "environment": "development",
            "data_dir": dir.path().join("data"),
            "server": {
                "address": "127.0.0.1", "shutdown_timeout_secs": 20, "rate_limit": 1_000_000_000,
            },
            "auth": { "admin_token": ADMIN },
            "secrets": { "encryption_key": KEY },
            "backend": { "kind": "process", "process": { "command": [AGENT] } },
        });
        Self {
            dir,
            program,
            config,
            env: Vec::new(),
            port: None,
        }
    }

    /// Chooses the port before the first start.
    pub(crate) fn choose_port(&mut self) -> u16 {
        let listener = std::net::TcpListener::bind(("0.0.0.0", 0)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        self.port = Some(port);
        port
    }

    /// Sets a field of the configuration file by its dotted path.
    pub(crate) fn set(&mut self, field: &str, value: impl Into<Value>) -> &mut Self {
        let mut at = &mut self.config;
        for part in field.split('.') {
            at = &mut at[part];
        }
        *at = value.into();
        self
    }

    /// Sets an environment variable of the server.
    pub(crate) fn env(&mut self, name: &str, value: &str) -> &mut Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Writes the configuration file as it will be read.
    pub(crate) fn write_config(&self) -> PathBuf {
        self.write_text(self.config.to_string())
    }

    /// Writes the text of a configuration file.
    pub(crate) fn write_text(&self, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join("molecule.yaml");
        std::fs::write(&path, text).expect("the configuration file");
        path
    }

    /// The command line of the server with `args` and nothing of the tests' own
    /// environment but `PATH`.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.command_of(self.program, args)
    }

    fn command_of(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the server runs")
    }

    /// As [`run`](Self::run), of the server that was put together wrongly.
    pub(crate) fn run_doubled(&self, args: &[&str]) -> Output {
        let mut command = self.command_of(DOUBLED, args);
        command.output().expect("the server runs")
    }

    /// Starts the server and waits until it listens. Later starts use the port of
    /// the first, under which agents know the server.
    pub(crate) async fn start(&mut self) -> ServerProcess {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut server = self.spawn();
            match server.wait_for_address().await {
                Ok(port) => {
                    self.port = Some(port);
                    server.url = format!("http://127.0.0.1:{port}");
                    return server;
                }
                // For a moment another program's.
                Err(log) if log.contains("cannot listen") && Instant::now() < deadline => {
                    tokio::time::sleep(POLL * 10).await;
                }
                Err(log) => panic!("the server did not start:\n{log}"),
            }
        }
    }

    fn spawn(&self) -> ServerProcess {
        let file = self.write_config();
        let mut command = self.command(&["serve", "--config"]);
        command
            .arg(file)
            .env("PORT", self.port.unwrap_or_default().to_string());
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut stderr = child.stderr.take().expect("a pipe");
        let sink = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0_u8; 8192];
            while let Ok(count @ 1..) = stderr.read(&mut buffer) {
                sink.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend_from_slice(&buffer[..count]);
            }
        });
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("an HTTP client");
        ServerProcess {
            url: String::new(),
            client,
            child,
            log,
            reader: Some(reader),
        }
    }

    /// Folder in which the process backend keeps a workspace.
    pub(crate) fn folder(&self, id: &str) -> PathBuf {
        self.dir.path().join("data/process").join(id)
    }

    /// Processes of agents started for this deployment, whoever is their parent.
    pub(crate) fn agents(&self) -> Vec<i32> {
        let mark = format!("WORKSPACE_CONFIG_PATH={}/", self.dir.path().display());
        processes_with(mark.as_bytes())
    }

    /// The process of one workspace's agent.
    pub(crate) fn agent(&self, id: &str) -> Option<i32> {
        let mark = format!("WORKSPACE_CONFIG_PATH={}/", self.folder(id).display());
        processes_with(mark.as_bytes()).first().copied()
    }

    /// Fails unless nothing at all is left of a workspace on this machine.
    #[track_caller]
    pub(crate) fn assert_nothing_left_of(&self, id: &str) {
        assert_eq!(self.agent(id), None, "a stray process");
        assert!(!self.folder(id).exists(), "a stray folder");
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        for pid in self.agents() {
            signal(pid, Signal::KILL);
        }
    }
}

impl ServerProcess {
    async fn wait_for_address(&mut self) -> Result<u16, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.log();
            let line = log
                .lines()
                .find(|line| line.contains("listening") && line.contains("address"));
            let port = line.and_then(|line| {
                let (_, rest) = line
                    .split_once("0.0.1:")
                    .or_else(|| line.split_once("0.0.0:"))?;
                let end = rest
                    .find(|c: char| !c.is_ascii_digit())
                    .unwrap_or(rest.len());
                rest[..end].parse().ok()
            });
            if let Some(port) = port {
                return Ok(port);
            }
            if self.child.try_wait().expect("its state").is_some() || Instant::now() > deadline {
                return Err(self.whole_log());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap_or_else(PoisonError::into_inner))
            .into_owned()
    }

    /// What a dead server has logged.
    fn whole_log(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = self.child.kill();
            let _ = reader.join();
        }
        self.log()
    }

    /// Waits for a text in the log.
    pub(crate) async fn wait_for_log(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(
                Instant::now() < deadline,
                "never logged {text:?}:\n{}",
                self.log()
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// A request with the administrator's token.
    pub(crate) fn admin(&self, method: &str, path: &str) -> Request {
        self.request(method, path).bearer(ADMIN)
    }

    /// A request without credentials.
    pub(crate) fn request(&self, method: &str, path: &str) -> Request {
        Request::new(self.client.clone(), method, &format!("{}{path}", self.url))
    }

    /// Creates a workspace and returns its id.
    pub(crate) async fn create(&self, body: Value) -> String {
        let reply = self.admin("POST", "/workspaces").json(body).send().await;
        assert_eq!(reply.status, 201, "{}", reply.text);
        reply.json()["id"].as_str().expect("an id").to_owned()
    }

    /// Waits until the administrator's list shows a workspace as `accept` wants.
    pub(crate) async fn wait_for(
        &self,
        id: &str,
        what: &str,
        accept: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = Instant::now() + 3 * PATIENCE;
        loop {
            let list = self.admin("GET", "/workspaces").send().await.json();
            let row = list
                .as_array()
                .and_then(|rows| rows.iter().find(|row| row["id"] == id).cloned());
            if let Some(row) = row.as_ref().filter(|row| accept(row)) {
                return row.clone();
            }
            assert!(
                Instant::now() < deadline,
                "never {what}: {row:?}\n{}",
                self.log()
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until a workspace has this status.
    pub(crate) async fn wait_for_status(&self, id: &str, status: &str) -> Value {
        self.wait_for(id, status, |row| row["status"] == status)
            .await
    }

    /// Deletes a workspace, which must work at the first attempt.
    pub(crate) async fn delete(&self, id: &str) -> Reply {
        let reply = self
            .admin("DELETE", &format!("/workspaces/{id}?purge=true"))
            .send()
            .await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal_to_send: Signal) {
        signal(self.pid(), signal_to_send);
    }

    /// `kill -9`: nothing of the server runs any more when this returns.
    pub(crate) fn kill_9(mut self) -> String {
        self.child.kill().expect("kill -9");
        self.child.wait().expect("its end");
        self.whole_log()
    }

    /// Waits for its end and returns how it ended, with the log.
    pub(crate) async fn end(mut self, within: Duration) -> (ExitStatus, String) {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().expect("its state") {
                return (status, self.whole_log());
            }
            assert!(
                Instant::now() < deadline,
                "still runs after {within:?}:\n{}",
                self.log()
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// SIGTERM, and a proper end.
    pub(crate) async fn stop(self) -> String {
        self.signal(Signal::TERM);
        let (status, log) = self.end(2 * PATIENCE).await;
        assert_eq!(status.code(), Some(0), "{log}");
        log
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}

/// Living processes with an environment entry that starts so. Processes that
/// ended have no environment any more.
fn processes_with(mark: &[u8]) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let environ = std::fs::read(Path::new("/proc").join(pid.to_string()).join("environ"));
        environ.is_ok_and(|text| {
            text.split(|byte| *byte == 0)
                .any(|entry| entry.starts_with(mark))
        })
    })
    .collect()
}
