//! The process backend and the folder it works in.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use molecule_core::backend::{ProcessBackend, WorkspaceBackend};
use molecule_core::config::backend::ProcessConfig;
use uuid::Uuid;

use super::agent;
use super::fixture::Fixture;

pub(crate) struct ProcessFixture {
    folder: tempfile::TempDir,
    instance: String,
    backend: Arc<dyn WorkspaceBackend>,
}

impl ProcessFixture {
    /// The folder below which the backend keeps its workspaces.
    pub(crate) fn dir(&self) -> PathBuf {
        self.folder.path().join("workspaces")
    }

    pub(crate) fn record_file(&self, workspace: Uuid) -> PathBuf {
        self.dir().join(workspace.to_string()).join("instance.json")
    }

    /// What the backend wrote down about an agent.
    pub(crate) fn record(&self, workspace: Uuid) -> serde_json::Value {
        let text = std::fs::read(self.record_file(workspace)).expect("a record");
        serde_json::from_slice(&text).expect("a readable record")
    }

    /// A backend that runs another command in the same folder.
    pub(crate) fn with_command(
        &self,
        command: &[&str],
        instance: &str,
    ) -> Arc<dyn WorkspaceBackend> {
        let command = command.iter().map(|part| (*part).to_owned()).collect();
        let config = ProcessConfig { command, dir: None };
        let backend = ProcessBackend::new(config, self.dir(), instance.to_owned());
        Arc::new(backend.expect("a backend"))
    }

    fn with_instance(&self, instance: &str) -> Arc<dyn WorkspaceBackend> {
        let script = self.folder.path().join("agent.sh");
        let script = script.to_str().expect("a UTF-8 path");
        self.with_command(&["/bin/busybox", "sh", script], instance)
    }
}

#[async_trait]
impl Fixture for ProcessFixture {
    async fn new() -> Option<Self> {
        agent::busybox();
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("agent.sh"), agent::SCRIPT).expect("the script");
        let instance = Uuid::new_v4().simple().to_string();
        let none: Arc<dyn WorkspaceBackend> = Arc::new(molecule_core::backend::NoBackend);
        let mut fixture = Self {
            folder,
            instance,
            backend: none,
        };
        fixture.backend = fixture.with_instance(&fixture.instance);
        Some(fixture)
    }

    fn backend(&self) -> Arc<dyn WorkspaceBackend> {
        Arc::clone(&self.backend)
    }

    fn restarted(&self) -> Arc<dyn WorkspaceBackend> {
        self.with_instance(&self.instance)
    }

    fn stranger(&self) -> Arc<dyn WorkspaceBackend> {
        self.with_instance("stranger")
    }

    async fn kill_compute(&self, workspace: Uuid) {
        kill(self.record(workspace)["pid"].as_i64().expect("a pid"));
    }

    async fn damage(&self, workspace: Uuid) {
        let file = self.record_file(workspace);
        std::fs::rename(&file, file.with_extension("good")).expect("a record");
        std::fs::write(file, "{").expect("a damaged record");
    }

    async fn mend(&self, workspace: Uuid) {
        let file = self.record_file(workspace);
        std::fs::rename(file.with_extension("good"), file).expect("the record back");
    }

    async fn leftovers(&self) -> Vec<String> {
        let folders = std::fs::read_dir(self.dir())
            .into_iter()
            .flatten()
            .flatten();
        let mut found: Vec<String> = folders
            .map(|entry| format!("folder {}", entry.file_name().display()))
            .collect();
        found.extend(
            self.processes()
                .into_iter()
                .map(|pid| format!("process {pid}")),
        );
        found
    }

    fn file_owner(&self) -> (u32, u32) {
        let metadata = std::fs::metadata(self.folder.path()).expect("the folder");
        use std::os::unix::fs::MetadataExt;
        (metadata.uid(), metadata.gid())
    }

    async fn script(&self, workspace: Uuid, script: &str) {
        let ran = tokio::process::Command::new("/bin/busybox")
            .args(["sh", "-ec", script])
            .env("B", "/bin/busybox")
            .current_dir(self.config_path(workspace))
            .status()
            .await;
        assert!(ran.expect("busybox").success(), "{script}");
    }

    fn config_path(&self, workspace: Uuid) -> String {
        self.dir()
            .join(workspace.to_string())
            .join("configs")
            .display()
            .to_string()
    }
}

impl ProcessFixture {
    /// Every living process that was started in this fixture's folder.
    fn processes(&self) -> Vec<i64> {
        let mark = format!("WORKSPACE_CONFIG_PATH={}", self.dir().display());
        let entries = std::fs::read_dir("/proc")
            .expect("the process table")
            .flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i64>().ok())
            .filter(|pid| {
                let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                environ
                    .split(|byte| *byte == 0)
                    .any(|entry| entry.starts_with(mark.as_bytes()))
            })
            .collect()
    }
}

impl Drop for ProcessFixture {
    fn drop(&mut self) {
        self.processes().into_iter().for_each(kill);
    }
}

/// Ends one process, the hard way.
pub(crate) fn kill(pid: i64) {
    let _ = Command::new("/bin/busybox")
        .args(["kill", "-9", &pid.to_string()])
        .status();
}
