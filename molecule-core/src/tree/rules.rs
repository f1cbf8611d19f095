//! What of a tree is left out, because it only matters where the tree is made.
//!
//! Never part of a tree: `.git` wherever it is, and at the root `.pluginignore`, the
//! signature and the marker that tells of a delivery. Left out unless `.pluginignore`
//! brings it back: what version control and its services keep (`.git*`, `.hg`, `.svn`,
//! `.molecule-ci`). Left out besides: what `.pluginignore` says.

use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::TreeError;
use super::ignore::{Effort, Ignore, MAX_BYTES};

/// Says, one pattern per line, what is left out. A pattern without a slash, but at its
/// end, counts in every folder; `!` brings back; the last match counts.
const IGNORE_FILE: &str = ".pluginignore";
/// Signature of the digest of the tree.
pub(crate) const SIGNATURE_FILE: &str = "plugin.minisig";
/// A tree that brought its own would look delivered before it is.
const MARKER_FILE: &str = ".complete";
/// What version control and its services keep.
const NOISE: &str = "**/.git*\n**/.hg\n**/.svn\n**/.molecule-ci\n";
/// Every pattern is tried on every name.
const MAX_LINES: usize = 200;
/// Comparisons that all patterns and all names of one tree may need together: a second or
/// two, far more than a tree of the largest size with ordinary patterns.
const MAX_EFFORT: u64 = 500_000_000;

/// The rules of one tree.
pub(super) struct Rules {
    ignore: Ignore,
    effort: Effort,
}

impl Rules {
    /// Those that count for the tree in `root`.
    pub(super) fn of(root: &Path) -> Result<Self, TreeError> {
        let unsupported = |what| TreeError::Unsupported {
            path: IGNORE_FILE.to_owned(),
            what,
        };
        let own = super::read_regular(&root.join(IGNORE_FILE), MAX_BYTES + 1);
        let own = own.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => unsupported("not a regular file"),
            _ if Errno::from_io_error(&error) == Some(Errno::LOOP) => {
                unsupported("a symbolic link")
            }
            kind => TreeError::Io(IGNORE_FILE.to_owned(), kind),
        })?;
        let own = own.unwrap_or_default();
        if own.len() as u64 > MAX_BYTES {
            return Err(too_many());
        }
        let own = String::from_utf8(own).map_err(|_| unsupported("not text"))?;
        Self::parse(&own).ok_or_else(too_many)
    }

    /// None when there are too many.
    fn parse(own: &str) -> Option<Self> {
        let mut patterns = NOISE.to_owned();
        for (number, line) in own.trim_start_matches('\u{feff}').lines().enumerate() {
            if number >= MAX_LINES {
                return None;
            }
            patterns.push_str(&anywhere(line));
            patterns.push('\n');
        }
        Some(Self {
            ignore: Ignore::parse(&patterns)?,
            effort: Effort::new(MAX_EFFORT),
        })
    }

    /// Whether an entry at a path is left out, and all that is below it. Refused when
    /// `wanted` says that nobody wants to know any more, and when finding out is too much
    /// work.
    pub(super) fn leave_out(
        &self,
        path: &str,
        wanted: &dyn Fn() -> bool,
    ) -> Result<bool, TreeError> {
        let name = path.rsplit('/').next().unwrap_or(path);
        let never = [IGNORE_FILE, SIGNATURE_FILE, MARKER_FILE].contains(&path) || is_git(name);
        if never {
            return Ok(true);
        }
        let covered = (self.ignore).covers_within(&self.effort, path, || !wanted());
        covered.ok_or_else(|| match self.effort.is_spent() {
            true => too_many(),
            false => TreeError::Cancelled,
        })
    }
}

fn too_many() -> TreeError {
    TreeError::TooLarge("too many patterns in .pluginignore")
}

/// The folder, or the file, that makes a folder a clone. Not even looked at.
pub(super) fn is_git(name: &str) -> bool {
    name == ".git"
}

/// A line in which a pattern without a slash, but at its end, counts in every folder.
fn anywhere(line: &str) -> String {
    let line = line.trim();
    let (back, pattern) = match line.strip_prefix('!') {
        Some(pattern) => ("!", pattern.trim()),
        None => ("", line),
    };
    let is_name = !pattern.trim_end_matches('/').contains('/');
    match is_name && !pattern.is_empty() && !line.starts_with('#') {
        true => format!("{back}**/{pattern}"),
        false => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_version_control_keeps_is_left_out_and_can_be_brought_back() {
        for (file, path, expected) in [
            ("", ".git", true),
            ("", "a/.git", true),
            ("", ".gitignore", true),
            ("", ".github", true),
            ("", "a/.gitkeep", true),
            ("", ".molecule-ci", true),
            ("", ".complete", true),
            ("", "a/.complete", false),
            ("", ".pluginignore", true),
            ("", "plugin.minisig", true),
            ("", "skills/plugin.minisig", false),
            ("", "plugin.yaml", false),
            ("", ".claude", false),
            ("", "git", false),
            ("!.gitignore", "assets/.gitignore", false),
            ("!assets/.gitignore", "assets/.gitignore", false),
            ("!assets/.gitignore", ".gitignore", true),
            ("!.git\n!.complete\n!plugin.minisig", ".git", true),
            ("!.git\n!.complete\n!plugin.minisig", ".complete", true),
            ("!.git\n!.complete\n!plugin.minisig", "plugin.minisig", true),
            ("*.bak", "a/b.bak", true),
            ("/tests/", "tests", true),
            ("/tests/", "a/tests", false),
            ("tests/", "a/tests", true),
            ("docs/*.md", "docs/a.md", true),
            ("docs/*.md", "a/docs/a.md", false),
            ("# x\n#y", "x", false),
            ("*\n!keep", "keep", false),
            ("  spaced  ", "spaced", true),
        ] {
            let rules = Rules::parse(file).unwrap();
            let left_out = rules.leave_out(path, &|| true).unwrap();
            assert_eq!(left_out, expected, "{file:?} {path}");
        }
        assert!(Rules::parse(&"a\n".repeat(MAX_LINES + 1)).is_none());
        let unwanted = Rules::parse("a").unwrap().leave_out("x", &|| false);
        assert!(matches!(unwanted, Err(TreeError::Cancelled)));
    }

    #[test]
    fn a_tree_whose_patterns_are_too_much_work_is_refused() {
        let mut rules = Rules::parse("*a*a*a*b").unwrap();
        assert!(!rules.leave_out(&"a".repeat(255), &|| true).unwrap());
        rules.effort = Effort::new(10_000);
        let refused = (0..1000).find_map(|_| rules.leave_out(&"a".repeat(255), &|| true).err());
        assert!(
            matches!(refused, Some(TreeError::TooLarge(_))),
            "{refused:?}"
        );
    }
}
