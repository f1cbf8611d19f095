//! Agents that are processes or containers of this machine: they outlive their server,
//! as they must.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

/// Ends the agents whose configuration lies below a folder, when it is dropped.
#[derive(Debug)]
pub struct AgentsBelow(PathBuf);

impl AgentsBelow {
    /// Those of a server with this data directory.
    pub fn new(data_dir: &Path) -> Self {
        Self(data_dir.to_owned())
    }
}

impl Drop for AgentsBelow {
    fn drop(&mut self) {
        let theirs = format!("WORKSPACE_CONFIG_PATH={}/", self.0.display());
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_string_lossy().parse().ok();
            let Some(pid) = pid.and_then(Pid::from_raw) else {
                continue;
            };
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let mut variables = environment.split(|byte| *byte == 0);
            if variables.any(|variable| variable.starts_with(theirs.as_bytes())) {
                // It may have ended by itself.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Removes the containers and volumes of these workspaces from the daemon, as far as
/// they are there.
pub fn remove_containers_of<'a>(workspaces: impl IntoIterator<Item = &'a String>) {
    let run = |args: &[&str]| Command::new("docker").args(args).output();
    for id in workspaces {
        let filter = format!("label=molecule.workspace.id={id}");
        for (list, remove) in [
            (&["ps", "-aq"][..], &["rm", "-fv"][..]),
            (&["volume", "ls", "-q"], &["volume", "rm", "-f"]),
        ] {
            let Ok(output) = run(&[list, &["--filter", &filter]].concat()) else {
                continue;
            };
            for name in String::from_utf8_lossy(&output.stdout).lines() {
                let _ = run(&[remove, &[name]].concat());
            }
        }
    }
}
