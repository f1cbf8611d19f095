//! The helper program and the script, as they run in a container, in a folder of this
//! machine.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::program::SCRIPT;
use super::staged::HELPER;

const SUFFIX: &str = ".20260102T000000Z-0123abcd";
const PAST: &str = "20200101T000000Z";
const PATIENCE: Duration = Duration::from_secs(60);

/// A config folder with the hidden folders.
struct Configs(tempfile::TempDir);

impl Configs {
    fn new() -> Self {
        let configs = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(configs.path("plugins/.staging")).unwrap();
        fs::create_dir_all(configs.path("plugins/.previous")).unwrap();
        configs
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// A whole tree of two files.
    fn tree(&self, path: &str, version: &str) {
        let root = self.path(path);
        fs::create_dir_all(&root).unwrap();
        for file in ["plugin.yaml", ".complete"] {
            fs::write(root.join(file), version).unwrap();
        }
    }

    fn version(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path).join("plugin.yaml")).ok()
    }

    /// The helper program with its arguments, up to the folder. It deletes itself.
    fn program(&self, seconds: u64, operation: &str) -> Command {
        let path = self.path(&format!("plugins/.staging/.helper{SUFFIX}"));
        let mut file = fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o755)
            .open(&path)
            .unwrap();
        std::io::Write::write_all(&mut file, HELPER.unwrap()).unwrap();
        drop(file);
        let mut command = Command::new(path);
        command
            .args([&seconds.to_string(), operation])
            .arg(self.0.path());
        command
    }
}

/// Starts a program. One that was just written can be busy: another thread may be about
/// to start something else, and have it open until then.
fn start(command: &mut Command) -> Child {
    let since = Instant::now();
    loop {
        match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                assert!(since.elapsed() < PATIENCE);
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other.unwrap(),
        }
    }
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_program_waits_for_the_one_before_it() {
    // Given one that nobody listens to any more, and that goes on
    let configs = Configs::new();
    configs.tree(&format!("plugins/.staging/demo{SUFFIX}"), "new");
    let staging = fs::File::open(configs.path("plugins/.staging")).unwrap();
    flock(&staging, FlockOperation::LockExclusive).unwrap();

    // When another one is to delete what it works on
    let mut command = configs.program(60, "discard");
    let helper = PathBuf::from(command.get_program());
    let mut child = start(command.arg(format!("demo{SUFFIX}")).stdout(Stdio::piped()));
    until("it runs", || !helper.exists());
    std::thread::sleep(Duration::from_millis(200));

    // Then it does once the first one ended, and not before
    assert_eq!(child.try_wait().unwrap(), None);
    let staged = format!("plugins/.staging/demo{SUFFIX}");
    assert_eq!(configs.version(&staged).as_deref(), Some("new"));
    drop(staging);
    assert!(child.wait().unwrap().success());
    let mut said = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(said, "molecule-plugins 1\ndone\n");
    assert!(!configs.path(&staged).exists());
}

#[test]
fn a_program_that_waits_for_too_long_ends_itself() {
    let configs = Configs::new();
    let staging = fs::File::open(configs.path("plugins/.staging")).unwrap();
    flock(&staging, FlockOperation::LockExclusive).unwrap();
    let mut child = start(configs.program(1, "repair").arg(PAST).stdout(Stdio::null()));
    assert!(!child.wait().unwrap().success());
}

#[test]
fn a_program_that_nobody_listens_to_ends_its_work() {
    // Given a removal that has more to say than anybody buffers
    let configs = Configs::new();
    configs.tree("plugins/demo", "old");
    fs::create_dir(configs.path("skills")).unwrap();
    let mut command = configs.program(60, "remove");
    command.args(["demo", SUFFIX]);
    // Names that have no room for what is added to them
    command.args((0..40).map(|nth| format!("{nth:0>250}")));

    // When whoever started it is gone
    let (theirs, ours) = std::io::pipe().unwrap();
    drop(theirs);
    let mut child = start(command.stdout(ours));
    drop(command);
    child.wait().unwrap();

    // Then the plugin is gone, too
    assert!(!configs.path("plugins/demo").exists());
    assert_eq!(
        fs::read_dir(configs.path("plugins/.staging"))
            .unwrap()
            .count(),
        0
    );
}

/// Runs the script; a program of the given content has the place of `sync`.
fn script(configs: &Configs, seconds: u64, sync: &str) -> (Option<i32>, String) {
    let tools = configs.path("tools");
    fs::create_dir_all(&tools).unwrap();
    fs::write(tools.join("sync"), sync).unwrap();
    fs::set_permissions(tools.join("sync"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let child = Command::new("/bin/sh")
        .env("PATH", format!("{}:{path}", tools.display()))
        .args([
            "-c",
            SCRIPT,
            "molecule-plugins",
            ".helper",
            &seconds.to_string(),
            "swap",
        ])
        .arg(configs.0.path())
        .args(["demo", SUFFIX, PAST, "2", "6"])
        .output();
    let output = child.unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
    )
}

#[test]
fn a_script_that_takes_too_long_ends_itself() {
    let configs = Configs::new();
    configs.tree("plugins/demo", "old");
    configs.tree(&format!("plugins/.staging/demo{SUFFIX}"), "new");
    // A disk that takes its time, without holding what the script writes to
    let slow = "#!/bin/sh\nexec sleep 8 >/dev/null 2>&1\n";
    let since = Instant::now();
    let (code, said) = script(&configs, 1, slow);
    assert_eq!((code, said.as_str()), (None, "molecule-plugins 1\n"));
    // And nothing happens afterwards
    until("the disk is ready", || {
        since.elapsed() > Duration::from_secs(9)
    });
    assert_eq!(configs.version("plugins/demo").as_deref(), Some("old"));
}

#[test]
fn a_script_gives_no_place_to_what_was_not_verified() {
    for old in [true, false] {
        let configs = Configs::new();
        if old {
            configs.tree("plugins/demo", "old");
        }
        let staged = configs.path(&format!("plugins/.staging/demo{SUFFIX}"));
        configs.tree(&format!("plugins/.staging/demo{SUFFIX}"), "new");
        configs.tree("other", "bad");
        // Whatever the agent does meanwhile
        let swapped = format!(
            "#!/bin/sh\n[ -e '{0}/other' ] && mv '{1}' '{0}/away' && mv '{0}/other' '{1}'\n:\n",
            configs.0.path().display(),
            staged.display()
        );
        let (code, said) = script(&configs, 60, &swapped);
        assert_ne!(code, Some(0), "{said}");
        assert_eq!(
            configs.version("plugins/demo").as_deref(),
            old.then_some("old")
        );
    }
}

#[test]
fn a_script_that_ends_leaves_nothing_running() {
    let configs = Configs::new();
    configs.tree("plugins/demo", "old");
    configs.tree(&format!("plugins/.staging/demo{SUFFIX}"), "new");
    // A number that nothing else waits for
    let seconds = 80_000 + u64::from(std::process::id() % 1000);
    let (code, said) = script(&configs, seconds, "#!/bin/sh\n");
    assert_eq!(
        (code, said.as_str()),
        (Some(0), "molecule-plugins 1\ndone\n")
    );
    assert_eq!(configs.version("plugins/demo").as_deref(), Some("new"));
    let wanted = format!("sleep\0{seconds}\0");
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(Path::join(&process.path(), "cmdline")).unwrap_or_default();
        assert!(
            !line.ends_with(wanted.as_bytes()),
            "{}",
            process.path().display()
        );
    }
}
