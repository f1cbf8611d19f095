//! The git program, run so that it knows nothing of this server and runs nothing of what
//! it fetches.

mod commit;
mod program;
mod refs;

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::process::Command;
use tokio_util::sync::CancellationToken;

pub(crate) use self::commit::CommitId;
pub(crate) use self::program::{Bounds, Ended, Output, Room, has_room};
use self::program::{RunError, run};
pub(crate) use self::refs::{MAX_BYTES as MAX_REFS_BYTES, RefList};

/// What the program may take to say something about itself or about a folder.
pub(crate) const SHORT_BOUND: Duration = Duration::from_secs(30);
/// A transfer that brings less than this many bytes per second for this many seconds is
/// given up.
const SLOW_BYTES: &str = "100";
const SLOW_SECS: &str = "60";

/// Settings of every run.
const ALWAYS: [(&str, &str); 13] = [
    // Whatever the repository is named after it was fetched, none of its code runs.
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.autocrlf", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("submodule.recurse", "false"),
    ("credential.helper", ""),
    // Or what we say to this host could reach another one.
    ("http.followRedirects", "false"),
    ("http.lowSpeedLimit", SLOW_BYTES),
    ("http.lowSpeedTime", SLOW_SECS),
    // Nothing goes on in the background.
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("fetch.writeCommitGraph", "false"),
];

/// Runs git with an environment of its own: nothing of the server's or of the user's
/// settings has a say.
pub(crate) struct Git<'a> {
    /// Where programs are looked for.
    pub(crate) search_path: &'a str,
    /// An empty folder that counts as home: git reads passwords from there.
    pub(crate) home: &'a Path,
    /// What git may speak: `https`, or `http:https`.
    pub(crate) protocols: &'a str,
}

/// Why git did not do it.
#[derive(Debug)]
pub(crate) enum GitError {
    /// There is no such program here.
    Missing,
    /// It could not be run.
    Io(io::ErrorKind),
    /// It said no. Holds the end of its error output, without our folders; may hold
    /// anything that the other side said.
    Failed(String),
    TimedOut,
    Cancelled,
    /// It wrote more than there is room for.
    NoRoom,
    /// It said more than anybody wants to hear.
    TooMuchOutput,
}

impl Git<'_> {
    /// A run with these settings besides the ones of every run. They go through the
    /// environment, which only its owner can read; arguments everybody can.
    pub(crate) fn command(&self, settings: &[(&str, &str)]) -> Command {
        let mut command = Command::new("git");
        command
            .env_clear()
            .env("PATH", self.search_path)
            .env("HOME", self.home)
            // So that what it says has one form.
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "false")
            .env("GIT_ALLOW_PROTOCOL", self.protocols)
            .env("GIT_LFS_SKIP_SMUDGE", "1")
            // What is missing is an error and no reason to connect anywhere.
            .env("GIT_NO_LAZY_FETCH", "1")
            .current_dir(self.home);
        // Or the settings of a repository that our folder happens to lie in would count.
        let above = std::path::absolute(self.home).ok();
        if let Some(above) = above.as_deref().and_then(Path::parent) {
            command.env("GIT_CEILING_DIRECTORIES", above);
        }
        let all = ALWAYS.iter().chain(settings);
        let mut number = 0_usize;
        for (key, value) in all {
            command
                .env(format!("GIT_CONFIG_KEY_{number}"), key)
                .env(format!("GIT_CONFIG_VALUE_{number}"), value);
            number += 1;
        }
        command.env("GIT_CONFIG_COUNT", number.to_string());
        command
    }

    /// Runs it to a good end.
    pub(crate) async fn run(
        &self,
        command: Command,
        bounds: Bounds,
        cancel: &CancellationToken,
    ) -> Result<Ended, GitError> {
        match run(command, bounds, cancel).await {
            Ok(ended) if ended.status.success() => Ok(ended),
            Ok(ended) => Err(GitError::Failed(self.shown(&ended.errors))),
            Err(RunError::Cancelled) => Err(GitError::Cancelled),
            Err(RunError::TimedOut) => Err(GitError::TimedOut),
            Err(RunError::NoRoom) => Err(GitError::NoRoom),
            Err(RunError::TooMuchOutput) => Err(GitError::TooMuchOutput),
            Err(RunError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                Err(GitError::Missing)
            }
            Err(RunError::Io(error)) => Err(GitError::Io(error.kind())),
        }
    }

    /// The last lines of a complaint as one, without our folders.
    fn shown(&self, errors: &str) -> String {
        let folder = self.home.parent().unwrap_or(self.home).to_string_lossy();
        let lines = errors.lines().map(str::trim);
        let said: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
        let first = said.len().saturating_sub(4);
        let text = said[first..].join(" | ");
        match &*folder {
            "" | "/" => text,
            folder => text.replace(folder, "…"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

    #[tokio::test]
    async fn nothing_of_the_servers_environment_reaches_git() {
        let home = tempfile::tempdir().unwrap();
        let git = Git {
            search_path: PATH,
            home: home.path(),
            protocols: "https",
        };
        let command = git.command(&[("alias.env", "!env")]);
        let mut command = command;
        command.arg("env");
        let bounds = Bounds::within(Duration::from_secs(60)).keep(Output::Whole(64 * 1024));
        let ended = git.run(command, bounds, &CancellationToken::new()).await;
        let output = ended.unwrap().text();
        let home = format!("HOME={}", home.path().display());
        assert!(output.lines().any(|line| line == home), "{output}");
        for line in output.lines() {
            let name = line.split('=').next().unwrap_or_default();
            // The last ones are of git itself and of the shell between.
            let known = name.starts_with("GIT_") || matches!(name, "PATH" | "HOME" | "LC_ALL");
            let shell = matches!(name, "PWD" | "OLDPWD" | "SHLVL" | "_");
            assert!(known || shell, "{line}");
        }
    }

    #[tokio::test]
    async fn a_repository_around_our_folder_has_no_say() {
        let outer = tempfile::tempdir().unwrap();
        let home = outer.path().join("data/fetches/x1");
        std::fs::create_dir_all(&home).unwrap();
        let run = async |home: &Path, arguments: &[&str]| {
            let git = Git {
                search_path: PATH,
                home,
                protocols: "https",
            };
            let mut command = git.command(&[]);
            command.args(arguments);
            let bounds = Bounds::within(Duration::from_secs(60)).keep(Output::Whole(64 * 1024));
            git.run(command, bounds, &CancellationToken::new()).await
        };
        run(outer.path(), &["init", "--quiet"]).await.unwrap();
        let leak = ["config", "http.extraHeader", "X-Leak: secret"];
        run(outer.path(), &leak).await.unwrap();
        let listed = run(&home, &["config", "--list"]).await.unwrap().text();
        assert!(listed.contains("core.hookspath"), "{listed}");
        assert!(!listed.contains("X-Leak"), "{listed}");
        let found = run(&home, &["rev-parse", "--git-dir"]).await;
        assert!(matches!(found, Err(GitError::Failed(_))), "{found:?}");
    }

    #[test]
    fn a_complaint_is_one_line_without_our_folders() {
        let home = Path::new("/data/fetches/x1/home");
        let git = Git {
            search_path: PATH,
            home,
            protocols: "https",
        };
        let said = "a\n\nwarning: x\nfatal: /data/fetches/x1/tree is b\nc\nd\n";
        assert_eq!(git.shown(said), "warning: x | fatal: …/tree is b | c | d");
    }
}
