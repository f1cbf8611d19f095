//! Repositories that tests change.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::backend::GitFolder;

/// What lies under a name in a repository.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// A file with this text.
    Text(&'a str),
    /// A file with these bytes.
    Bytes(&'a [u8]),
    /// A file that may be executed.
    Program(&'a [u8]),
    /// A symbolic link to this target.
    Link(&'a str),
}

impl Content<'_> {
    fn write(&self, path: &Path) {
        use std::os::unix::fs::PermissionsExt;
        let parent = path.parent().expect("a parent");
        fs::create_dir_all(parent).expect("a folder");
        let written = match self {
            Self::Text(text) => fs::write(path, text),
            Self::Bytes(bytes) => fs::write(path, bytes),
            Self::Program(bytes) => fs::write(path, bytes)
                .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755))),
            Self::Link(target) => std::os::unix::fs::symlink(target, path),
        };
        written.expect("a file of a repository");
    }
}

/// A repository of a [`GitFolder`]. Its branch is called `main`.
#[derive(Debug, Clone)]
pub struct Repository {
    folder: GitFolder,
    path: String,
}

impl Repository {
    pub(super) fn open(folder: GitFolder, path: &str) -> Self {
        let repository = Self {
            folder,
            path: path.to_owned(),
        };
        let (bare, work) = (repository.bare(), repository.work());
        if !bare.exists() {
            for (place, kind) in [(&bare, &["--bare"][..]), (&work, &[])] {
                fs::create_dir_all(place).expect("a folder");
                let init = [&["init", "--quiet", "--initial-branch=main"], kind].concat();
                git(place, &init);
            }
            // Files are stored as they are, whatever attributes they have.
            let attributes = "* -text -eol -ident -filter -working-tree-encoding\n";
            let info = work.join(".git/info");
            fs::create_dir_all(&info).expect("a folder");
            fs::write(info.join("attributes"), attributes).expect("a file");
            // As public hosts do.
            git(&bare, &["config", "uploadpack.allowFilter", "true"]);
            git(&bare, &["config", "uploadpack.allowAnySHA1InWant", "true"]);
        }
        repository
    }

    /// Commits these files, and nothing else, to the branch. Answers with the commit.
    pub fn commit(&self, files: &[(&str, Content<'_>)]) -> String {
        self.commit_as(files, None)
    }

    /// As [`commit`](Self::commit), at a time in seconds since 1970.
    pub fn commit_dated(&self, files: &[(&str, Content<'_>)], at: i64) -> String {
        self.commit_as(files, Some(at))
    }

    fn commit_as(&self, files: &[(&str, Content<'_>)], at: Option<i64>) -> String {
        let work = self.work();
        for child in fs::read_dir(&work).expect("a folder").flatten() {
            if child.file_name() == ".git" {
                continue;
            }
            let removed = match child.file_type().is_ok_and(|kind| kind.is_dir()) {
                true => fs::remove_dir_all(child.path()),
                false => fs::remove_file(child.path()),
            };
            removed.expect("a file of before");
        }
        for (name, content) in files {
            content.write(&work.join(name));
        }
        git(&work, &["add", "--all", "--force"]);
        let mut command = plain_git(&work);
        if let Some(at) = at {
            let at = format!("{at} +0000");
            command
                .env("GIT_COMMITTER_DATE", &at)
                .env("GIT_AUTHOR_DATE", at);
        }
        run(command.args([
            "commit",
            "--quiet",
            "--allow-empty",
            "--message",
            "a change",
        ]));
        self.push(&["HEAD:refs/heads/main"]);
        self.head()
    }

    /// Puts a tag on the newest commit, also where it is somewhere else already.
    pub fn tag(&self, name: &str) {
        git(&self.work(), &["tag", "--force", name]);
        self.push(&[&format!("refs/tags/{name}")]);
    }

    /// As [`tag`](Self::tag), with a message, which makes the tag an object of its own.
    pub fn annotated_tag(&self, name: &str) {
        git(
            &self.work(),
            &["tag", "--force", "--annotate", "--message=a tag", name],
        );
        self.push(&[&format!("refs/tags/{name}")]);
    }

    /// Takes a tag away.
    pub fn delete_tag(&self, name: &str) {
        git(&self.work(), &["tag", "--delete", name]);
        self.push(&[&format!(":refs/tags/{name}")]);
    }

    /// Puts a branch on the newest commit.
    pub fn branch(&self, name: &str) {
        self.push(&[&format!("HEAD:refs/heads/{name}")]);
    }

    /// Puts a tag on a file instead of a commit.
    pub fn tag_on_file(&self, name: &str, file: &str) {
        let object = git(&self.work(), &["rev-parse", &format!("HEAD:{file}")]);
        git(&self.work(), &["tag", "--force", name, &object]);
        self.push(&[&format!("refs/tags/{name}")]);
    }

    /// The newest commit.
    pub fn head(&self) -> String {
        git(&self.work(), &["rev-parse", "HEAD"])
    }

    /// What git says when run with these arguments in the repository.
    pub fn git(&self, arguments: &[&str]) -> String {
        git(&self.bare(), arguments)
    }

    /// Removes the repository.
    pub fn remove(self) {
        fs::remove_dir_all(self.bare()).expect("a repository");
    }

    fn push(&self, what: &[&str]) {
        let bare = self.bare();
        let target = bare.to_str().expect("a plain path");
        git(
            &self.work(),
            &[&["push", "--quiet", "--force", target], what].concat(),
        );
    }

    fn bare(&self) -> PathBuf {
        self.folder.bare(&self.path)
    }

    fn work(&self) -> PathBuf {
        self.folder.work(&self.path)
    }
}

/// Git with nobody's settings.
pub(super) fn plain_git(folder: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_NAME", "Author")
        .env("GIT_AUTHOR_EMAIL", "author@example.org")
        .env("GIT_COMMITTER_NAME", "Author")
        .env("GIT_COMMITTER_EMAIL", "author@example.org");
    command
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    run(plain_git(folder).args(arguments))
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("the git program (Debian: git)");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
