//! A Docker daemon of one test's own, which can be stopped, killed and started again
//! without anybody else noticing. Needs root, as any daemon does.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::docker_world::{IMAGE, docker_at, have_image};

/// How long a daemon may take to start, or to stop all its containers.
const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);

pub(crate) struct PrivateDocker {
    daemon: Option<Child>,
    folder: TempDir,
    bridge: Bridge,
}

impl PrivateDocker {
    /// None, with a reason, when this process may not run one.
    pub(crate) fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: a Docker daemon of its own needs root");
            return None;
        }
        have_image();
        // Nobody else on this machine uses the same addresses.
        let addresses = format!("10.{}", 128 + std::process::id() % 100);
        let mut docker = Self {
            daemon: None,
            folder: tempfile::tempdir().expect("a folder for the daemon"),
            bridge: Bridge::new(addresses)?,
        };
        docker.start();
        let image = docker.folder.path().join("image.tar");
        let image = image.to_str().expect("a UTF-8 path").to_owned();
        docker_at(&[], &["save", "--output", &image, IMAGE]);
        docker.run(&["load", "--input", &image]);
        Some(docker)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As clients are configured with it.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    /// Runs the Docker command on this daemon.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        docker_at(&["--host", &self.host()], args)
    }

    /// Makes a network whose addresses nobody else on this machine uses.
    pub(crate) fn make_network(&self, name: &str) {
        let subnet = format!("{}.0.0/24", self.bridge.addresses);
        // Only a gateway that was named is told afterwards.
        let gateway = format!("{}.0.1", self.bridge.addresses);
        let place = ["--subnet", &subnet, "--gateway", &gateway];
        self.run(&[&["network", "create"], &place[..], &[name]].concat());
    }

    /// Starts the daemon and waits until it answers. Leaves the default bridge alone.
    pub(crate) fn start(&mut self) {
        let bridge = default_bridge();
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.path("log"));
        let log = log.expect("a log file");
        let daemon = Command::new("dockerd")
            .arg("--host")
            .arg(self.host())
            .arg("--data-root")
            .arg(self.path("data"))
            .arg("--exec-root")
            .arg(self.path("exec"))
            .arg("--pidfile")
            .arg(self.path("pid"))
            // Without a bridge of its own, or when it starts again with address pools of
            // its own, it deletes the default bridge of this machine, which is another
            // daemon's.
            .arg(format!("--bridge={}", self.bridge.name))
            .args(["--iptables=false", "--ip6tables=false"])
            .args(["--ip-forward=false", "--ip-masq=false"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log file"))
            .stderr(log)
            .spawn();
        self.daemon = Some(daemon.expect("dockerd"));
        let deadline = Instant::now() + PATIENCE;
        while !self.answers() {
            assert!(Instant::now() < deadline, "no daemon:\n{}", self.log());
            std::thread::sleep(POLL);
        }
        if bridge.is_some() {
            assert_eq!(default_bridge(), bridge, "the bridge of another daemon");
        }
    }

    fn answers(&self) -> bool {
        let mut version = Command::new("docker");
        version.args(["--host", &self.host(), "version"]);
        version.output().is_ok_and(|output| output.status.success())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Ends the daemon as an operator does; it ends its containers first.
    pub(crate) fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            send(i32::try_from(daemon.id()).unwrap_or_default(), Signal::TERM);
            let deadline = Instant::now() + PATIENCE;
            while daemon.try_wait().ok().flatten().is_none() {
                if Instant::now() > deadline {
                    let _ = daemon.kill();
                }
                std::thread::sleep(POLL);
            }
        }
    }

    /// Ends the daemon, its helpers and every container at once, as a power cut does.
    pub(crate) fn kill_9(&mut self) {
        let Some(mut daemon) = self.daemon.take() else {
            return;
        };
        let _ = daemon.kill();
        let _ = daemon.wait();
        let mut helpers = processes_of(self.folder.path());
        let deadline = Instant::now() + PATIENCE;
        while !helpers.is_empty() && Instant::now() < deadline {
            // The agents are below the helpers.
            for helper in &helpers {
                for process in descendants_of(*helper) {
                    send(process, Signal::KILL);
                }
                send(*helper, Signal::KILL);
            }
            std::thread::sleep(POLL);
            helpers = processes_of(self.folder.path());
        }
        // It would be believed to belong to the next one.
        let _ = std::fs::remove_file(self.path("pid"));
    }
}

impl Drop for PrivateDocker {
    fn drop(&mut self) {
        let quietly = |args: &[&str]| {
            let mut command = Command::new("docker");
            command.args(["--host", &self.host()]).args(args).output()
        };
        if self.daemon.is_some() {
            let all = quietly(&["ps", "-aq"]);
            let all = all.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            let all = all.unwrap_or_default();
            let ids: Vec<&str> = all.lines().collect();
            if !ids.is_empty() {
                let _ = quietly(&[&["rm", "-f"][..], &ids].concat());
            }
            let _ = quietly(&["network", "prune", "--force"]);
        }
        self.stop();
        for process in processes_of(self.folder.path()) {
            send(process, Signal::KILL);
        }
        // What a killed daemon left mounted.
        for mount in mounts_below(self.folder.path()).iter().rev() {
            let _ = Command::new("umount").arg("--lazy").arg(mount).output();
        }
    }
}

/// The default network of a daemon; goes with it.
struct Bridge {
    name: String,
    /// The first two numbers of all addresses of the daemon's networks.
    addresses: String,
}

impl Bridge {
    /// None, with a reason, when this process may not make one.
    fn new(addresses: String) -> Option<Self> {
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let name = format!("molt-{}", &unique[..8]);
        let bridge = Self { name, addresses };
        // Beside what is for other networks.
        let address = format!("{}.255.1/24", bridge.addresses);
        for args in [
            &["link", "add", &bridge.name, "type", "bridge"][..],
            &["address", "add", &address, "dev", &bridge.name],
            &["link", "set", &bridge.name, "up"],
        ] {
            if let Err(why) = ip(args) {
                eprintln!("skipped: a Docker daemon of its own needs a bridge: {why}");
                return None;
            }
        }
        Some(bridge)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = ip(&["link", "delete", &self.name]);
    }
}

fn ip(args: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(args).output();
    let output = output.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// What tells one default bridge of this machine from another, if there is one.
fn default_bridge() -> Option<String> {
    std::fs::read_to_string("/sys/class/net/docker0/ifindex").ok()
}

fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}

fn all_processes() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Processes whose command line names something in this folder, this one excepted.
fn processes_of(folder: &Path) -> Vec<i32> {
    let mark = folder.to_str().expect("a UTF-8 path");
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let mut found = all_processes();
    found.retain(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let program = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let program = String::from_utf8_lossy(program);
        let is_helper = ["dockerd", "containerd", "docker-proxy", "runc"]
            .iter()
            .any(|name| program.contains(name));
        *pid != own && is_helper && String::from_utf8_lossy(&line).contains(mark)
    });
    found
}

/// Everything below a process, nearest first.
fn descendants_of(pid: i32) -> Vec<i32> {
    let parents: Vec<(i32, i32)> = all_processes()
        .into_iter()
        .filter_map(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let (_, rest) = stat.rsplit_once(") ")?;
            Some((pid, rest.split(' ').nth(1)?.parse().ok()?))
        })
        .collect();
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let above = found[at];
        let below = parents.iter().filter(|(_, parent)| *parent == above);
        found.extend(below.map(|(pid, _)| *pid));
        at += 1;
    }
    found.split_off(1)
}

fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .map(PathBuf::from)
        .filter(|point| point.starts_with(folder))
        .collect()
}
