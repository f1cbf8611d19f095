//! The git program: fetching one commit, without telling anybody our token.

use std::path::Path;
use std::time::Duration;

use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::error::BuildError;
use super::mask::Mask;
use super::source::{BRANCH, Repository};
use crate::git::{self, Bounds, CommitId, Ended, GitError, Room, SHORT_BOUND};

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
        let mut command = self.program().command(&[]);
        command.arg("--version");
        let bounds = Bounds::within(SHORT_BOUND);
        let ended = self.run(command, bounds, &CancellationToken::new()).await?;
        Ok(self.mask.line(&ended.text()))
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
        let header = repository.credentials.as_ref().map(|credentials| {
            let key = format!("http.{}/.extraHeader", repository.host);
            let value = format!("Authorization: {}", credentials.git.expose());
            (key, value)
        });
        let header = header.iter().map(|(key, value)| (&**key, &**value));
        let settings: Vec<(&str, &str)> = header.collect();
        let mut command = self.program().command(&settings);
        command
            .args(["clone", "--quiet", "--depth=1", &branch, "--single-branch"])
            .args(["--no-tags", "--template=", "--", &repository.clone_url])
            .arg(into);
        let bounds = Bounds::within(time).filling(into, SOURCE_ROOM);
        self.run(command, bounds, cancel).await?;
        // A small one can be over before it was measured.
        let folder = into.to_owned();
        let measured =
            tokio::task::spawn_blocking(move || git::has_room(&folder, SOURCE_ROOM)).await;
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
        let mut command = self.program().command(&[]);
        command
            .arg("-C")
            .arg(folder)
            .args(["rev-parse", "--verify", "HEAD"]);
        let bounds = Bounds::within(SHORT_BOUND);
        let ended = self.run(command, bounds, cancel).await?;
        CommitId::parse(ended.text().trim()).ok_or_else(|| {
            BuildError::Refused("local-build: git does not say what it cloned".to_owned())
        })
    }

    fn program(&self) -> git::Git<'_> {
        git::Git {
            search_path: self.search_path,
            home: self.home,
            protocols: "http:https",
        }
    }

    async fn run(
        &self,
        command: Command,
        bounds: Bounds,
        cancel: &CancellationToken,
    ) -> Result<Ended, BuildError> {
        let ended = self.program().run(command, bounds, cancel).await;
        ended.map_err(|error| match error {
            GitError::Failed(said) => BuildError::Trouble(format!(
                "local-build: git failed: {}",
                self.mask.line(&said)
            )),
            GitError::Cancelled => BuildError::Cancelled,
            GitError::TimedOut => {
                BuildError::TimedOut("local-build: git did not end in time".to_owned())
            }
            GitError::NoRoom => too_large(),
            GitError::Missing => BuildError::Refused(
                "local-build: there is no git program in the PATH of this server; install git"
                    .to_owned(),
            ),
            GitError::TooMuchOutput => {
                BuildError::Trouble("local-build: git says too much".to_owned())
            }
            GitError::Io(kind) => {
                BuildError::Trouble(format!("local-build: git cannot be run ({kind})"))
            }
        })
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
            search_path: "/usr/local/bin:/usr/bin:/bin",
            home: &home.path().join("home"),
            mask: &mask,
        };
        std::fs::create_dir(git.home).unwrap();
        let mut command = git.program().command(&[]);
        command.args(["-C", "t0ken-value", "rev-parse"]);
        let bounds = Bounds::within(SHORT_BOUND);
        let error = git.run(command, bounds, &CancellationToken::new()).await;
        let text = error.unwrap_err().to_string();
        assert!(
            text.starts_with("local-build: git failed: fatal: "),
            "{text}"
        );
        assert!(text.contains("***") && !text.contains("t0ken"), "{text}");
        let folder = home.path().to_string_lossy().into_owned();
        assert!(!text.contains(&folder), "{text}");
    }
}
