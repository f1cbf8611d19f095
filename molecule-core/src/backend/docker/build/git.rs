//! The git program: fetching one commit, without telling anybody our token.

use std::path::Path;
use std::time::Duration;

use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::error::BuildError;
use super::lookup::CommitId;
use super::mask::Mask;
use super::program::{self, Bounds, Ended, Room, RunError};
use super::source::{BRANCH, Repository};

/// What the program may take to say something about itself.
const SHORT_BOUND: Duration = Duration::from_secs(30);
/// A clone that brings less than this many bytes per second for this many seconds
/// is given up.
const SLOW_BYTES: &str = "100";
const SLOW_SECS: &str = "60";
/// What the source of a runtime may take, fetched and checked out.
pub(super) const SOURCE_ROOM: Room = Room {
    bytes: 2 * 1024 * 1024 * 1024,
    entries: 200_000,
};

/// Runs git with an environment of its own: nothing of the server's or of the
/// user's settings has a say.
pub(super) struct Git<'a> {
    /// Where programs are looked for.
    pub(super) search_path: &'a str,
    /// An empty folder that counts as home: git reads passwords from there.
    pub(super) home: &'a Path,
    pub(super) mask: &'a Mask,
}

impl Git<'_> {
    /// The version of the program, for example `git version 2.47.3`.
    pub(super) async fn version(&self) -> Result<String, BuildError> {
        let mut command = self.command(&[]);
        command.arg("--version");
        let bounds = Bounds {
            time: SHORT_BOUND,
            folder: None,
        };
        let ended = self.run(command, bounds, &CancellationToken::new()).await?;
        Ok(self.mask.line(&ended.output))
    }

    /// Fetches the newest commit of the branch, alone and without its history, into
    /// an empty folder, and answers which one it is.
    pub(super) async fn clone(
        &self,
        repository: &Repository,
        into: &Path,
        time: Duration,
        cancel: &CancellationToken,
    ) -> Result<CommitId, BuildError> {
        let branch = format!("--branch={BRANCH}");
        let mut settings = vec![
            // Whatever the repository is named after it was fetched, none of its code runs.
            ("core.hooksPath".to_owned(), "/dev/null".to_owned()),
            ("core.fsmonitor".to_owned(), "false".to_owned()),
            ("core.autocrlf".to_owned(), "false".to_owned()),
            ("submodule.recurse".to_owned(), "false".to_owned()),
            ("credential.helper".to_owned(), String::new()),
            // Or what we say to this host could reach another one.
            ("http.followRedirects".to_owned(), "false".to_owned()),
            ("http.lowSpeedLimit".to_owned(), SLOW_BYTES.to_owned()),
            ("http.lowSpeedTime".to_owned(), SLOW_SECS.to_owned()),
            // Nothing goes on in the background.
            ("gc.auto".to_owned(), "0".to_owned()),
            ("maintenance.auto".to_owned(), "false".to_owned()),
        ];
        if let Some(credentials) = &repository.credentials {
            // In the environment only its owner can read it; arguments everybody can.
            settings.push((
                format!("http.{}/.extraHeader", repository.host),
                format!("Authorization: {}", credentials.git.expose()),
            ));
        }
        let mut command = self.command(&settings);
        command
            .args(["clone", "--quiet", "--depth=1", &branch, "--single-branch"])
            .args(["--no-tags", "--template=", "--", &repository.clone_url])
            .arg(into);
        let bounds = Bounds {
            time,
            folder: Some((into.to_owned(), SOURCE_ROOM)),
        };
        self.run(command, bounds, cancel).await?;
        // A small one can be over before it was measured.
        let folder = into.to_owned();
        let measured =
            tokio::task::spawn_blocking(move || program::has_room(&folder, SOURCE_ROOM)).await;
        if !matches!(measured, Ok(true)) {
            return Err(too_large());
        }
        self.head(into, cancel).await
    }

    /// The commit that is checked out in a folder.
    async fn head(
        &self,
        folder: &Path,
        cancel: &CancellationToken,
    ) -> Result<CommitId, BuildError> {
        let mut command = self.command(&[]);
        command
            .arg("-C")
            .arg(folder)
            .args(["rev-parse", "--verify", "HEAD"]);
        let bounds = Bounds {
            time: SHORT_BOUND,
            folder: None,
        };
        let ended = self.run(command, bounds, cancel).await?;
        CommitId::parse(ended.output.trim()).ok_or_else(|| {
            BuildError::Refused("local-build: git does not say what it cloned".to_owned())
        })
    }

    fn command(&self, settings: &[(String, String)]) -> Command {
        let mut command = Command::new("git");
        command
            .env_clear()
            .env("PATH", self.search_path)
            .env("HOME", self.home)
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "false")
            .env("GIT_ALLOW_PROTOCOL", "http:https")
            .env("GIT_LFS_SKIP_SMUDGE", "1")
            .env("GIT_CONFIG_COUNT", settings.len().to_string())
            .current_dir(self.home);
        for (number, (key, value)) in settings.iter().enumerate() {
            command
                .env(format!("GIT_CONFIG_KEY_{number}"), key)
                .env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        command
    }

    async fn run(
        &self,
        command: Command,
        bounds: Bounds,
        cancel: &CancellationToken,
    ) -> Result<Ended, BuildError> {
        match program::run(command, bounds, cancel).await {
            Ok(ended) if ended.status.success() => Ok(ended),
            Ok(ended) => {
                let said = self.shown(&ended.errors);
                Err(BuildError::Trouble(format!(
                    "local-build: git failed: {said}"
                )))
            }
            Err(RunError::Cancelled) => Err(BuildError::Cancelled),
            Err(RunError::TimedOut) => Err(BuildError::TimedOut(
                "local-build: git did not end in time".to_owned(),
            )),
            Err(RunError::NoRoom) => Err(too_large()),
            Err(RunError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(BuildError::Refused(
                    "local-build: there is no git program in the PATH of this server; install git"
                        .to_owned(),
                ))
            }
            Err(RunError::Io(error)) => Err(BuildError::Trouble(format!(
                "local-build: git cannot be run ({})",
                error.kind()
            ))),
        }
    }

    /// What git complained about, without secrets and without our folders.
    fn shown(&self, errors: &str) -> String {
        let folder = self
            .home
            .parent()
            .unwrap_or(self.home)
            .to_string_lossy()
            .into_owned();
        let lines = errors
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty());
        let said: Vec<&str> = lines.collect();
        let first = said.len().saturating_sub(4);
        self.mask
            .line(&said[first..].join(" | ").replace(&*folder, "…"))
    }
}

fn too_large() -> BuildError {
    BuildError::Refused(format!(
        "local-build: the repository is larger than {} MiB or has more than {} files",
        SOURCE_ROOM.bytes / 1024 / 1024,
        SOURCE_ROOM.entries
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_program_tells_its_version_or_that_it_is_missing() {
        let home = tempfile::tempdir().unwrap();
        let mask = Mask::of([]);
        let mut git = Git {
            search_path: "/usr/local/bin:/usr/bin:/bin",
            home: home.path(),
            mask: &mask,
        };
        let version = git.version().await.unwrap();
        assert!(version.starts_with("git version "), "{version}");
        git.search_path = "/nonexistent";
        let error = git.version().await.unwrap_err().to_string();
        assert!(error.contains("there is no git program"), "{error}");
        assert!(!error.contains("/nonexistent"), "{error}");
    }

    #[tokio::test]
    async fn what_git_complains_about_has_no_secret_and_no_folder_in_it() {
        let home = tempfile::tempdir().unwrap();
        let secret = molecule_hooks::Secret::new("t0ken-value");
        let mask = Mask::of([&secret]);
        let git = Git {
            search_path: "/bin",
            home: &home.path().join("home"),
            mask: &mask,
        };
        let folder = home.path().display();
        let shown = git.shown(&format!("warning: x\nfatal: {folder}/a b t0ken-value\n\n"));
        assert_eq!(shown, "warning: x | fatal: …/a b ***");
    }
}
