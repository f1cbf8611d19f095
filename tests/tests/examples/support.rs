//! Building and running the example binaries.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Long enough for a busy machine; nothing waits for it to pass.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// The first image build compiles the agent once more.
const BUILD_DEADLINE: Duration = Duration::from_secs(600);
const EXAMPLES: &[&str] = &["quickstart", "custom-server"];

/// The root of the repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

/// The binary of an example, as fresh as its source.
///
/// Cargo builds only the binaries of the package under test, so they are built
/// here, into the folder this test came from.
pub(crate) fn binary(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(build).join(name)
}

fn build() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    // <target>/<profile>/deps/<this test>
    let profile_dir = this.ancestors().nth(2).unwrap();
    // Said by scripts/test, which has just built everything.
    let built = std::env::var("MOLECULE_TEST_EXAMPLES_BUILT").is_ok_and(|value| value == "1");
    if built && EXAMPLES.iter().all(|name| profile_dir.join(name).is_file()) {
        return profile_dir.to_owned();
    }
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = std::process::Command::new(cargo)
        .args(["build", "--quiet", "--profile", profile])
        .args(EXAMPLES.iter().flat_map(|name| ["-p", name]))
        .arg("--target-dir")
        .arg(profile_dir.parent().unwrap())
        .current_dir(repository())
        .output();
    match built {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success(),
                "the examples do not build:\n{said}"
            );
        }
        // Tests that run from an archive come without cargo but with binaries.
        Err(error) => assert!(
            EXAMPLES.iter().all(|name| profile_dir.join(name).is_file()),
            "cargo cannot be run ({error}) and the examples are not built"
        ),
    }
    profile_dir.to_owned()
}

/// True when tests with containers are to be left out.
pub(crate) fn skips_docker() -> bool {
    let skip = std::env::var("MOLECULE_TEST_SKIP_DOCKER").is_ok_and(|value| value == "1");
    if skip {
        eprintln!("left out: MOLECULE_TEST_SKIP_DOCKER=1");
    }
    skip
}

/// Builds the image of the echo agent unless it is up to date; the tag.
pub(crate) async fn echo_image() -> String {
    let mut script = Command::new(repository().join("scripts/echo-agent-image"));
    let output = run_for(BUILD_DEADLINE, &mut script).await;
    assert!(
        output.status.success(),
        "{}\n(MOLECULE_TEST_SKIP_DOCKER=1 leaves out the tests that need Docker)",
        stderr(&output)
    );
    stdout(&output).trim().to_owned()
}

/// What `docker <arguments>` prints; the call must work.
pub(crate) async fn docker(arguments: &[&str]) -> String {
    let output = run(Command::new("docker").args(arguments)).await;
    assert!(
        output.status.success(),
        "docker {arguments:?}: {}",
        stderr(&output)
    );
    stdout(&output)
}

/// The containers and volumes of a workspace that still exist.
pub(crate) async fn docker_objects(workspace: &str) -> String {
    let name = format!("name=ws-{workspace}");
    let containers = docker(&["ps", "--all", "--quiet", "--filter", &name]).await;
    let volumes = docker(&["volume", "ls", "--quiet", "--filter", &name]).await;
    containers + &volumes
}

/// Removes what a test that failed may have left of a workspace.
pub(crate) fn remove_docker_objects(workspace: &str) {
    let quietly = |arguments: &[&str]| {
        let _ = std::process::Command::new("docker")
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    };
    quietly(&["rm", "--force", &format!("ws-{workspace}")]);
    for volume in ["configs", "workspace"] {
        quietly(&["volume", "rm", &format!("ws-{workspace}-{volume}")]);
    }
}

/// Runs a command to its end.
pub(crate) async fn run(command: &mut Command) -> Output {
    run_for(DEADLINE, command).await
}

async fn run_for(limit: Duration, command: &mut Command) -> Output {
    command.stdin(Stdio::null()).kill_on_drop(true);
    timeout(limit, command.output())
        .await
        .unwrap_or_else(|_| panic!("{command:?} did not end within {limit:?}"))
        .unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            started.elapsed() < DEADLINE,
            "{what}: not within {DEADLINE:?}"
        );
        sleep(Duration::from_millis(50)).await;
    }
}

/// A program that runs on, and everything it printed so far. Killed when dropped.
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
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = Arc::<Mutex<String>>::default();
        let readers = vec![
            tokio::spawn(read(child.stdout.take().unwrap(), Arc::clone(&said))),
            tokio::spawn(read(child.stderr.take().unwrap(), Arc::clone(&said))),
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

    /// The rest of the first line that has `marker`, as soon as there is one.
    pub(crate) async fn wait_for(&mut self, marker: &str) -> String {
        let started = Instant::now();
        loop {
            let ended = self.child.try_wait().unwrap();
            let said = self.said();
            let found = said.lines().find_map(|line| line.split_once(marker));
            if let Some((_, rest)) = found {
                return rest.to_owned();
            }
            let waited = started.elapsed();
            assert!(
                ended.is_none() && waited < DEADLINE,
                "no {marker:?} after {waited:?} (ended: {ended:?}):\n{said}"
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Sends SIGTERM and returns the exit code, none for a death by signal.
    pub(crate) async fn terminate(&mut self, limit: Duration) -> Option<i32> {
        let pid = self.child.id().unwrap().to_string();
        let sent = run(Command::new("kill").args(["-TERM", &pid])).await;
        assert!(sent.status.success(), "{}", stderr(&sent));
        let status = timeout(limit, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("still runs {limit:?} after SIGTERM:\n{}", self.said()))
            .unwrap();
        for reader in self.readers.drain(..) {
            // Its agents inherit nothing, so the pipes end with the program.
            let _ = timeout(DEADLINE, reader).await;
        }
        status.code()
    }
}

async fn read(pipe: impl AsyncRead + Unpin, said: Arc<Mutex<String>>) {
    let mut lines = BufReader::new(pipe).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut said = said.lock().unwrap();
        said.push_str(&line);
        said.push('\n');
    }
}
