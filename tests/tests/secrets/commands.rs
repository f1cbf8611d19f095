//! The command line of a server, on a database that another server may be using.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use molecule_tests::{ADMIN, TestDatabase};
use serde_json::{Value, json};
use tempfile::TempDir;

const SERVER: &str = env!("CARGO_BIN_EXE_fault-server");

/// A configuration file for one database.
pub(crate) struct Commands {
    dir: TempDir,
    config: Value,
}

impl Commands {
    /// With these keys: the current one, if any, and earlier ones.
    pub(crate) fn new(database: &TestDatabase, current: Option<&str>, previous: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut config = json!({
            "environment": "staging",
            "data_dir": dir.path().join("data"),
            "server": { "address": "127.0.0.1", "port": 0 },
            "database": { "url": database.url() },
            "auth": { "admin_token": ADMIN },
            "secrets": { "previous_encryption_keys": previous },
            "backend": { "kind": "none" },
        });
        if let Some(current) = current {
            config["secrets"]["encryption_key"] = json!(current);
        }
        Self { dir, config }
    }

    /// Replaces the section about secrets.
    pub(crate) fn secrets(&mut self, section: Value) -> &mut Self {
        self.config["secrets"] = section;
        self
    }

    /// Writes a file beside the configuration.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    /// The command with these words.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let file = self.write("molecule.yaml", &self.config.to_string());
        let mut command = Command::new(SERVER);
        command
            .args(words)
            .arg("--config")
            .arg(file)
            .env_clear()
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end: exit code, and all that it said.
    pub(crate) async fn run(&self, words: &[&str]) -> (Option<i32>, String) {
        let mut command = self.command(words);
        // The test's own server goes on meanwhile.
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = output.await.expect("no panic").expect("it runs");
        (output.status.code(), text(&output))
    }
}

/// Both streams of a command.
fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|stream| String::from_utf8_lossy(stream).into_owned())
        .concat()
}
