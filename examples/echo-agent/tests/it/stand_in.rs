//! A tiny platform, the agent as a child process, and raw HTTP.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

pub(crate) const ID: &str = "7aa08951-00d4-4d6f-9d5e-0c1f2a3b4c5d";

/// A URL nobody listens at: the port is reserved and never handed out.
pub(crate) const NOBODY: &str = "http://127.0.0.1:1";

const PATIENCE: Duration = Duration::from_secs(20);

/// A request the stand-in has seen.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) bearer: Option<String>,
    pub(crate) body: Value,
}

type Script = Box<dyn Fn(&Seen) -> (u16, String) + Send + Sync>;

/// A platform that answers by script and remembers every request.
pub(crate) struct StandIn {
    pub(crate) url: String,
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StandIn {
    /// Starts on a free port.
    pub(crate) fn start(script: impl Fn(&Seen) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Self::serve(listener, Box::new(script))
    }

    fn serve(listener: TcpListener, script: Script) -> Self {
        let port = listener.local_addr().expect("a bound address").port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            move || {
                for stream in listener.incoming().flatten() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    answer(stream, &script, &seen);
                }
            }
        });
        Self {
            url: format!("http://127.0.0.1:{port}"),
            port,
            seen,
            stop,
            thread: Some(thread),
        }
    }

    /// Everything seen so far whose request line starts with `prefix`.
    pub(crate) fn seen(&self, prefix: &str) -> Vec<Seen> {
        lock(&self.seen)
            .iter()
            .filter(|seen| seen.line.starts_with(prefix))
            .cloned()
            .collect()
    }

    /// Waits for the `count`-th such request and returns them all.
    pub(crate) fn wait_for(&self, prefix: &str, count: usize) -> Vec<Seen> {
        poll(&format!("{count} x {prefix}"), || {
            let seen = self.seen(prefix);
            (seen.len() >= count).then_some(seen)
        })
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(seen: &Mutex<Vec<Seen>>) -> MutexGuard<'_, Vec<Seen>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(stream: TcpStream, script: &Script, seen: &Mutex<Vec<Seen>>) {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let mut reader = BufReader::new(stream);
    let Some(request) = read_request(&mut reader) else {
        return;
    };
    let (status, body) = script(&request);
    lock(seen).push(request);
    let _ = reader.get_mut().write_all(
        format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .as_bytes(),
    );
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let (mut bearer, mut length) = (None, 0);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim_end();
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "authorization" => bearer = value.strip_prefix("Bearer ").map(str::to_owned),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Seen {
        line: line.trim_end().to_owned(),
        bearer,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    })
}

/// Polls until there is something, and fails the test after a while.
pub(crate) fn poll<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The binary with a clean environment.
pub(crate) fn command(config_dir: &Path, platform: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_echo-agent"));
    command
        .env_clear()
        .env("WORKSPACE_ID", ID)
        .env("WORKSPACE_CONFIG_PATH", config_dir)
        .env("PLATFORM_URL", platform);
    command
}

/// A serving agent, ended when dropped.
pub(crate) struct Agent {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Agent {
    /// Starts the agent on a free port with a fast heartbeat.
    pub(crate) fn start(config_dir: &Path, platform: &str, extra: &[(&str, &str)]) -> Self {
        let mut child = command(config_dir, platform)
            .env("PORT", "0")
            .env("HEARTBEAT_SECS", "0.1")
            .envs(extra.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the agent starts");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("a piped stderr");
        std::thread::spawn({
            let log = Arc::clone(&log);
            move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        });
        Self { child, log }
    }

    /// What the agent has logged.
    pub(crate) fn log(&self) -> String {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The port the agent says it listens on.
    pub(crate) fn port(&self) -> u16 {
        poll("the listening line", || {
            let log = self.log();
            let rest = log.split_once("listening on port ")?.1;
            rest.split_once(',')?.0.parse().ok()
        })
    }

    /// Still running, not exited.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends raw bytes and reads the whole answer: status and body.
pub(crate) fn raw(port: u16, bytes: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the agent listens");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a positive timeout");
    // A refusal may come before all is sent; the answer is what counts.
    let _ = stream.write_all(bytes);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    // `100 Continue` comes before the real answer.
    let answer = answer
        .strip_prefix("HTTP/1.1 100 Continue\r\n\r\n")
        .unwrap_or(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").expect("a complete head");
    let status = head[9..12].parse().expect("a status code");
    (status, body.to_owned())
}

/// Sends a request with a body and its length.
pub(crate) fn http(port: u16, line: &str, headers: &str, body: &str) -> (u16, String) {
    let request = format!(
        "{line} HTTP/1.1\r\nHost: agent\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    raw(port, request.as_bytes())
}
