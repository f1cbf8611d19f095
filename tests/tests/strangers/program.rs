//! Programs that run, and what they said so far.

use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Long enough for a machine that compiles on all processors; nothing waits for it to
/// pass.
pub(crate) const DEADLINE: Duration = Duration::from_secs(300);

/// Both outputs of a program that ended, for messages.
pub(crate) fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Whether a program is there; if not, says what is left out.
pub(crate) fn is_there(program: &str, arguments: &[&str], left_out: &str) -> bool {
    let ran = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let there = ran.is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("left out, because {program} is not here: {left_out}");
    }
    there
}

/// A program that runs on. Ends by SIGINT, then SIGKILL, when dropped.
pub(crate) struct Running {
    child: Child,
    said: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::<Mutex<String>>::default();
        let readers = vec![
            read(child.stdout.take().unwrap(), &said),
            read(child.stderr.take().unwrap(), &said),
        ];
        Self {
            child,
            said,
            readers,
        }
    }

    /// Both outputs so far.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// The rest of the first line with `marker` that was said after the first `from`
    /// bytes, as soon as there is one.
    pub(crate) fn wait_for(&mut self, from: usize, marker: &str) -> String {
        let started = Instant::now();
        loop {
            let ended = self.child.try_wait().unwrap();
            let said = self.said();
            let new = said.get(from..).unwrap_or_default();
            if let Some((_, rest)) = new.lines().find_map(|line| line.split_once(marker)) {
                return rest.trim().to_owned();
            }
            assert!(
                ended.is_none() && started.elapsed() < DEADLINE,
                "no {marker:?} (ended: {ended:?}):\n{said}"
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sends a signal and waits for the end; the exit code, none for a death by signal.
    pub(crate) fn end(&mut self, signal: &str) -> Option<i32> {
        send(signal, self.child.id());
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(started.elapsed() < DEADLINE, "runs on:\n{}", self.said());
            thread::sleep(Duration::from_millis(50));
        };
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        status.code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            send("INT", self.child.id());
            let started = Instant::now();
            while matches!(self.child.try_wait(), Ok(None))
                && started.elapsed() < Duration::from_secs(60)
            {
                thread::sleep(Duration::from_millis(50));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Sends a signal to one process.
pub(crate) fn send(signal: &str, pid: u32) {
    let _ = Command::new("kill")
        .args([format!("-{signal}"), pid.to_string()])
        .stderr(Stdio::null())
        .status();
}

fn read(pipe: impl Read + Send + 'static, said: &Arc<Mutex<String>>) -> JoinHandle<()> {
    let said = Arc::clone(said);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut said = said.lock().unwrap();
            said.push_str(&line);
            said.push('\n');
        }
    })
}

/// Runs a program to its end with nothing of this test's environment but the path.
pub(crate) fn run_alone(
    program: &Path,
    folder: &Path,
    arguments: &[&str],
    env: &[(&str, &str)],
) -> Output {
    alone(program, folder, env)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// A command with nothing of this test's environment but the path.
pub(crate) fn alone(program: &Path, folder: &Path, env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program);
    command.env_clear().current_dir(folder);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.envs(env.iter().copied());
    command
}
