//! One private repository, for as long as something is fetched.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use molecule_hooks::{PluginSourceError, TreeLimits};
use tempfile::TempDir;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::latest::{self, Dated};
use super::listing;
use super::trouble::Trouble;
use crate::config::ProcessConfig;
use crate::git::{Bounds, CommitId, Ended, Git, GitError, Output, Room, SHORT_BOUND};
use crate::tree::Folder;

/// What a repository may take besides the files of one commit: names, folders, an index.
const SLACK_BYTES: u64 = 16 * 1024 * 1024;
/// Files of a repository that was just fetched; everything is in one pack.
const REPOSITORY_FILES: u64 = 2000;
/// Most commits whose dates are compared.
const MAX_DATED: usize = 1000;
/// What comparing them may take.
const DATES_BOUND: Duration = Duration::from_secs(60);
const DATES_BYTES: u64 = 128 * 1024 * 1024;
/// How long after its time a folder counts as left behind by a server that was killed.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);
/// Beginning of the names of our folders.
const PREFIX: &str = "fetch-";

/// What every run in the repository is told.
const SETTINGS: [(&str, &str); 9] = [
    ("protocol.version", "2"),
    // Objects that git itself would not write are not taken.
    ("fetch.fsckObjects", "true"),
    ("fetch.unpackLimit", "1"),
    ("pack.threads", "1"),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    // A link stays one, for those who refuse it; as a file it would be its target's name.
    ("core.symlinks", "true"),
    ("core.fileMode", "true"),
    ("core.bigFileThreshold", "16m"),
];
/// Files are written as they are stored, whatever attributes the repository has: no line
/// ends, no encodings, no keywords, no filters.
const ATTRIBUTES: &str = "* -text -eol -crlf -ident -filter -working-tree-encoding\n";

/// Where git works. Gone when dropped.
pub(super) struct Work {
    dir: Folder,
    search_path: String,
    protocols: &'static str,
    /// For everything that talks to the other side.
    time: Duration,
}

impl Work {
    /// An empty folder below `scratch`.
    pub(super) async fn begin(
        scratch: PathBuf,
        protocols: &'static str,
        time: Duration,
    ) -> Result<Self, PluginSourceError> {
        let made = tokio::task::spawn_blocking(move || make(&scratch, time)).await;
        let dir = made.map_err(|_| failed("no folder to fetch into"))?;
        Ok(Self {
            dir: dir.map(Folder::from).map_err(|error| {
                PluginSourceError::Failed(format!("no folder to fetch into: {}", error.kind()))
            })?,
            search_path: ProcessConfig::search_path(),
            protocols,
            time,
        })
    }

    /// Removes the folder. Dropping does too, a little later.
    pub(super) async fn end(self) {
        self.dir.remove().await;
    }

    /// The names that the repository at `url` has, as `ls-remote` tells them.
    pub(super) async fn list(
        &self,
        url: &str,
        names: &[String],
        bound: Duration,
    ) -> Result<Vec<u8>, Trouble> {
        // Of no repository, so that nobody looks for one around our folder.
        let mut command = self.inside(&self.dir.path().join("none"));
        command.args(["ls-remote", "--quiet"]);
        if !names.is_empty() && names.iter().all(|name| name.starts_with("refs/")) {
            // So that the server leaves out what it keeps for itself: a busy repository
            // has one name per change that anybody ever proposed.
            command.args(["--tags", "--heads"]);
        }
        command.arg("--").arg(url).args(names);
        let bounds = Bounds::within(bound).keep(Output::Whole(crate::git::MAX_REFS_BYTES));
        Ok(self.run(command, bounds).await?.output)
    }

    /// Makes the repository, empty.
    pub(super) async fn initialise(&self, commit: &CommitId) -> Result<(), Trouble> {
        self.initialise_at(&self.repository(), commit).await?;
        let info = self.repository().join("info");
        let written = tokio::task::spawn_blocking(move || {
            fs::create_dir_all(&info)?;
            fs::write(info.join("attributes"), ATTRIBUTES)
        });
        match written.await {
            Ok(Ok(())) => Ok(()),
            _ => Err(failed("the folder to fetch into cannot be written").into()),
        }
    }

    async fn initialise_at(&self, folder: &Path, commit: &CommitId) -> Result<(), Trouble> {
        let mut command = self.command();
        command.args(["init", "--quiet", "--bare", "--template="]);
        if commit.as_str().len() == 64 {
            command.arg("--object-format=sha256");
        }
        command.arg("--").arg(folder);
        self.run(command, Bounds::within(SHORT_BOUND)).await?;
        Ok(())
    }

    /// Fetches one commit without its history, by its id or by a name.
    pub(super) async fn fetch(
        &self,
        url: &str,
        what: &str,
        limits: &TreeLimits,
    ) -> Result<(), Trouble> {
        let mut command = self.in_repository();
        command
            // No object of a tree that fits is larger; git refuses to make room for one.
            .env(
                "GIT_ALLOC_LIMIT",
                (limits.bytes + SLACK_BYTES * 4).to_string(),
            )
            .args(["fetch", "--quiet", "--depth=1", "--no-tags"])
            .args(["--no-recurse-submodules", "--no-auto-maintenance", "--"])
            .args([url, what]);
        let room = Room {
            bytes: limits.bytes + limits.bytes / 16 + SLACK_BYTES,
            entries: REPOSITORY_FILES,
        };
        let bounds = Bounds::within(self.time).filling(&self.repository(), room);
        self.run(command, bounds).await?;
        Ok(())
    }

    /// The commit that a name of the repository means.
    pub(super) async fn commit_at(&self, name: &str) -> Result<Option<CommitId>, Trouble> {
        let mut command = self.in_repository();
        command
            .args(["rev-parse", "--verify", "--quiet", "--end-of-options"])
            .arg(format!("{name}^{{commit}}"));
        match self.ended(command, Bounds::within(SHORT_BOUND)).await {
            Ok(ended) => Ok(CommitId::parse(ended.text().trim())),
            // It is something else: a file, a folder.
            Err(GitError::Failed(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the files of a commit that is here into an empty folder, if they keep the
    /// limits.
    pub(super) async fn check_out(
        &self,
        commit: &CommitId,
        into: &Path,
        limits: &TreeLimits,
    ) -> Result<(), Trouble> {
        let mut command = self.in_repository();
        command.args([
            "ls-tree",
            "-r",
            "-t",
            "-l",
            "-z",
            "--full-tree",
            commit.as_str(),
        ]);
        let bounds = Bounds::within(self.time).keep(Output::Whole(listing::MAX_BYTES));
        let listed = match self.ended(command, bounds).await {
            Ok(listed) => listed.output,
            Err(GitError::TooMuchOutput) => {
                let text = "the commit has too many files and folders";
                return Err(PluginSourceError::TooLarge(text.to_owned()).into());
            }
            Err(error) => return Err(error.into()),
        };
        listing::check(&listed, limits)?;
        // git works elsewhere.
        let into = std::path::absolute(into).map_err(|_| failed("no folder to write to"))?;
        let mut command = self.in_repository();
        command
            .arg("--work-tree")
            .arg(into)
            .args(["checkout", "--quiet", "--force", "--detach"])
            .args(["--no-recurse-submodules", commit.as_str(), "--"]);
        self.run(command, Bounds::within(self.time)).await?;
        match self.commit_at("HEAD").await? {
            Some(head) if head == *commit => Ok(()),
            _ => Err(failed("git checked out another commit").into()),
        }
    }

    /// The newest of these commits, by the dates they have. Fetches them without their
    /// files.
    pub(super) async fn newest(
        &self,
        url: &str,
        commits: &[&CommitId],
    ) -> Result<Option<CommitId>, Trouble> {
        let [first, others @ ..] = commits else {
            return Ok(None);
        };
        if others.is_empty() {
            return Ok(Some((*first).clone()));
        }
        if commits.len() > MAX_DATED {
            let text = "more tags than are looked at, and none is the version of a release";
            return Err(failed(text).into());
        }
        // Of its own: a repository that knows a commit without its files believes to have it.
        let folder = self.dir.path().join("dates");
        self.initialise_at(&folder, first).await?;
        let ids = commits.iter().map(|commit| commit.as_str());
        let mut command = self.inside(&folder);
        command
            .env("GIT_ALLOC_LIMIT", DATES_BYTES.to_string())
            .args([
                "fetch",
                "--quiet",
                "--depth=1",
                "--no-tags",
                "--filter=tree:0",
            ])
            .args([
                "--no-recurse-submodules",
                "--no-auto-maintenance",
                "--",
                url,
            ])
            .args(ids.clone());
        let room = Room {
            bytes: DATES_BYTES,
            entries: REPOSITORY_FILES,
        };
        let bounds = Bounds::within(DATES_BOUND).filling(&folder, room);
        self.run(command, bounds).await?;
        let mut command = self.inside(&folder);
        command
            .args(["log", "--no-walk=unsorted", "--format=%H %ct"])
            .args(ids)
            .arg("--");
        let bounds = Bounds::within(SHORT_BOUND).keep(Output::Whole(MAX_DATED * 100));
        let ended = self.run(command, bounds).await?;
        let dated = Dated::parse(&ended.output);
        let dated = dated.ok_or_else(|| failed("git does not say how old commits are"))?;
        Ok(latest::newest(dated))
    }

    fn repository(&self) -> PathBuf {
        self.dir.path().join("repository")
    }

    fn command(&self) -> Command {
        self.git().command(&SETTINGS)
    }

    fn in_repository(&self) -> Command {
        self.inside(&self.repository())
    }

    fn inside(&self, folder: &Path) -> Command {
        let mut command = self.command();
        command.arg("--git-dir").arg(folder);
        command
    }

    fn git(&self) -> Git<'_> {
        Git {
            search_path: &self.search_path,
            home: self.dir.path(),
            protocols: self.protocols,
        }
    }

    async fn run(&self, command: Command, bounds: Bounds) -> Result<Ended, Trouble> {
        Ok(self.ended(command, bounds).await?)
    }

    async fn ended(&self, command: Command, bounds: Bounds) -> Result<Ended, GitError> {
        // Whoever no longer wants it drops the future, which ends the program.
        let never = CancellationToken::new();
        self.git().run(command, bounds, &never).await
    }
}

fn make(scratch: &Path, time: Duration) -> io::Result<TempDir> {
    let scratch = &std::path::absolute(scratch)?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(scratch)?;
    for child in fs::read_dir(scratch)?.flatten() {
        let ours = child.file_name().to_string_lossy().starts_with(PREFIX);
        let made = child.metadata().and_then(|metadata| metadata.modified());
        let age = made.map(|made| SystemTime::now().duration_since(made).unwrap_or_default());
        if ours && age.is_ok_and(|age| age > time.saturating_add(LEFT_BEHIND)) {
            // Somebody else may have been faster.
            let _ = fs::remove_dir_all(child.path());
        }
    }
    tempfile::Builder::new().prefix(PREFIX).tempdir_in(scratch)
}

fn failed(text: &str) -> PluginSourceError {
    PluginSourceError::Failed(text.to_owned())
}
