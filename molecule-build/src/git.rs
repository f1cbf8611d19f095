//! What git knows of the sources.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::manifest::Commit;

/// What moves when the commit or what is tracked does.
const MOVING: [&str; 4] = ["HEAD", "index", "logs/HEAD", "packed-refs"];

/// The state of a working tree.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) commit: Commit,
    /// Files that say so when the state is another.
    pub(crate) watched: Vec<PathBuf>,
}

/// A revision as an operator writes it: hexadecimal digits, perhaps with `-dirty`.
pub(crate) fn parse_revision(text: &str) -> Option<Commit> {
    let text = text.trim();
    let (digits, dirty) = match text.strip_suffix("-dirty") {
        Some(digits) => (digits, true),
        None => (text, false),
    };
    let is_revision =
        (7..=64).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_revision.then(|| Commit {
        revision: digits.to_ascii_lowercase(),
        dirty,
    })
}

/// The commit of the folder `root` and whether tracked files below it differ. Nothing
/// when there is no repository, no commit yet, or when `package` is not in it.
///
/// # Errors
/// Why git refuses a repository that is there.
pub(crate) fn examine(root: &Path, package: &Path) -> Result<Option<State>, String> {
    if !root.ancestors().any(|folder| folder.join(".git").exists()) {
        return Ok(None);
    }
    let tracked = git(root, &["ls-files", "-z", "--", "."])?;
    let tracked: Vec<PathBuf> = tracked
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(|name| root.join(name))
        .collect();
    if !tracked.contains(&package.join("Cargo.toml")) {
        return Ok(None);
    }
    // Fails where nothing was committed yet.
    let Ok(revision) = git(root, &["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]) else {
        return Ok(None);
    };
    let changes = git(
        root,
        &["status", "--porcelain", "--untracked-files=no", "--", "."],
    )?;
    let branch = git(root, &["symbolic-ref", "--quiet", "HEAD"]).unwrap_or_default();
    let moving = MOVING.into_iter().chain([branch.trim()]);
    let moving = moving.filter(|name| !name.is_empty()).filter_map(|name| {
        let path = git(root, &["rev-parse", "--git-path", name]).ok()?;
        // One that is not there would have the build script run each time.
        Some(root.join(path.trim_end_matches('\n'))).filter(|path| path.exists())
    });
    Ok(Some(State {
        commit: Commit {
            revision: revision.trim().to_owned(),
            dirty: !changes.is_empty(),
        },
        watched: moving.chain(tracked.iter().cloned()).collect(),
    }))
}

fn git(folder: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("git")
        // A program that the repository names is not ours to start.
        .args(["-c", "core.fsmonitor=false"])
        .args(arguments)
        .current_dir(folder)
        // Looking must not write, not even the index.
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("LC_ALL", "C")
        // Set while a git hook runs, and then about another folder.
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .env_remove("GIT_PREFIX")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("git does not run: {}", error.kind()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(said.lines().next().unwrap_or("git failed").to_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_hexadecimal_digits() {
        let commit = |text| parse_revision(text).map(|c| (c.revision, c.dirty));
        assert_eq!(commit("0123abc"), Some(("0123abc".to_owned(), false)));
        assert_eq!(
            commit(" 0123ABC-dirty\n"),
            Some(("0123abc".to_owned(), true))
        );
        for text in [
            "main",
            "0123ab",
            "v1.2.3-dirty",
            "-dirty",
            &"a".repeat(65),
            "0123abé",
        ] {
            assert_eq!(commit(text), None, "{text}");
        }
    }
}
