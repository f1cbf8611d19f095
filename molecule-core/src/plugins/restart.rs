//! Whether an agent must be restarted to see a plugin that was delivered to it.

use std::collections::BTreeMap;

use crate::backend::{InstalledFile, MARKER_FILE};
use crate::tree::{EntryKind, Tree};

/// Files that agents read again by themselves.
const HOT_FILE: &str = "SKILL.md";

/// What a delivery changed, as far as a running agent is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RestartReason {
    /// The plugin was not there.
    FirstInstall,
    /// What was there could not be read.
    Unreadable,
    /// Nobody knows whether the agent saw what was there.
    Unrecorded,
    /// Files came, went, or changed that agents read once.
    FilesChanged,
    /// Only texts of skills changed: agents read those again by themselves.
    SkillContentOnly,
    /// It was there already, whole.
    Unchanged,
}

impl RestartReason {
    /// True when a running agent does not see it without a restart.
    pub(super) fn needs_restart(self) -> bool {
        !matches!(self, Self::SkillContentOnly | Self::Unchanged)
    }

    /// The class, as answers name it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::FirstInstall | Self::Unreadable | Self::Unrecorded | Self::FilesChanged => "cold",
            Self::SkillContentOnly => "skill-content-only",
            Self::Unchanged => "unchanged",
        }
    }

    /// Why it is of that class, for people.
    pub(super) fn explain(self) -> &'static str {
        match self {
            Self::FirstInstall => "the plugin was not there before",
            Self::Unreadable => "the installed files could not be read",
            Self::Unrecorded => "it is not known whether the agent saw the installed files",
            Self::FilesChanged => "files other than SKILL.md changed",
            Self::SkillContentOnly => "agents read changed skills again by themselves",
            Self::Unchanged => "the same tree is installed already",
        }
    }
}

/// Compares what is to be delivered with what is there. `is_recorded` says that a
/// delivery of what is there ended as it should.
pub(super) fn classify(
    staged: &Tree,
    installed: Option<&[InstalledFile]>,
    is_recorded: bool,
) -> RestartReason {
    let Some(installed) = installed else {
        return RestartReason::FirstInstall;
    };
    let new = digests(staged);
    let mut old: BTreeMap<&str, &[u8; 32]> = BTreeMap::new();
    for file in installed.iter().filter(|file| file.path != MARKER_FILE) {
        old.insert(&file.path, &file.sha256);
    }
    if !new.keys().eq(old.keys()) {
        return RestartReason::FilesChanged;
    }
    let mut changed = new.iter().filter(|(path, digest)| old[*path] != **digest);
    let is_hot = changed.all(|(path, _)| path.rsplit('/').next() == Some(HOT_FILE));
    match (is_hot, is_recorded) {
        (false, _) => RestartReason::FilesChanged,
        (true, false) => RestartReason::Unrecorded,
        (true, true) => RestartReason::SkillContentOnly,
    }
}

/// True when exactly the files of a tree are there.
pub(super) fn is_same(staged: &Tree, installed: &[InstalledFile]) -> bool {
    let new = digests(staged);
    let others = installed.iter().filter(|file| file.path != MARKER_FILE);
    let mut found = 0;
    for file in others {
        if new.get(file.path.as_str()) != Some(&&file.sha256) {
            return false;
        }
        found += 1;
    }
    found == new.len()
}

/// The files of a tree but its marker, which is not content.
fn digests(tree: &Tree) -> BTreeMap<&str, &[u8; 32]> {
    let files = tree.entries().iter().filter_map(|entry| match &entry.kind {
        EntryKind::File { sha256, .. } if entry.path != MARKER_FILE => {
            Some((entry.path.as_str(), sha256))
        }
        EntryKind::File { .. } | EntryKind::Folder => None,
    });
    files.collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use molecule_hooks::TreeLimits;
    use sha2::{Digest, Sha256};

    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let from = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = from.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let into = tempfile::tempdir().unwrap();
        Tree::copy(from.path(), into, &TreeLimits::default()).unwrap()
    }

    fn installed(files: &[(&str, &str)]) -> Vec<InstalledFile> {
        files
            .iter()
            .map(|(path, content)| InstalledFile {
                path: (*path).to_owned(),
                sha256: Sha256::digest(content).into(),
            })
            .collect()
    }

    #[test]
    fn only_changed_skills_need_no_restart() {
        let one = [
            ("plugin.yaml", "1"),
            ("skills/a/SKILL.md", "a"),
            ("skills/b/SKILL.md", "b"),
        ];
        let cases: &[(&[(&str, &str)], RestartReason)] = &[
            (&one, RestartReason::SkillContentOnly),
            (
                &[
                    ("plugin.yaml", "1"),
                    ("skills/a/SKILL.md", "x"),
                    ("skills/b/SKILL.md", "y"),
                ],
                RestartReason::SkillContentOnly,
            ),
            (
                &[
                    ("plugin.yaml", "2"),
                    ("skills/a/SKILL.md", "a"),
                    ("skills/b/SKILL.md", "b"),
                ],
                RestartReason::FilesChanged,
            ),
            (
                &[("plugin.yaml", "1"), ("skills/a/SKILL.md", "x")],
                RestartReason::FilesChanged,
            ),
            (
                &[
                    ("plugin.yaml", "1"),
                    ("skills/a/SKILL.md", "a"),
                    ("skills/b/SKILL.md", "b"),
                    ("skills/c/SKILL.md", "c"),
                ],
                RestartReason::FilesChanged,
            ),
            (
                // The same number of files under another name.
                &[
                    ("plugin.yaml", "1"),
                    ("skills/a/SKILL.md", "a"),
                    ("skills/c/SKILL.md", "b"),
                ],
                RestartReason::FilesChanged,
            ),
            (&[], RestartReason::FilesChanged),
        ];
        for (now, wanted) in cases {
            let found = classify(&tree(now), Some(&installed(&one)), true);
            assert_eq!(found, *wanted, "{now:?}");
            assert_eq!(
                found.needs_restart(),
                *wanted == RestartReason::FilesChanged
            );
        }
        assert_eq!(
            classify(&tree(&one), None, true),
            RestartReason::FirstInstall
        );
    }

    #[test]
    fn names_that_only_end_like_a_skill_do_not_count() {
        let before = installed(&[("skills/a/MY-SKILL.md", "a"), ("skills/a/skill.md", "a")]);
        let now = tree(&[("skills/a/MY-SKILL.md", "b"), ("skills/a/skill.md", "a")]);
        assert_eq!(
            classify(&now, Some(&before), true),
            RestartReason::FilesChanged
        );
        let now = tree(&[("skills/a/MY-SKILL.md", "a"), ("skills/a/skill.md", "b")]);
        assert_eq!(
            classify(&now, Some(&before), true),
            RestartReason::FilesChanged
        );
    }

    #[test]
    fn what_nobody_recorded_may_not_have_been_seen() {
        let files = [("SKILL.md", "a")];
        let found = classify(&tree(&files), Some(&installed(&files)), false);
        assert_eq!(found, RestartReason::Unrecorded);
        assert!(found.needs_restart());
    }

    #[test]
    fn the_marker_is_no_content() {
        let staged = tree(&[("a", "a"), (".complete", "shipped")]);
        let there = installed(&[("a", "a"), (".complete", "ours")]);
        assert!(is_same(&staged, &there));
        assert!(is_same(&staged, &installed(&[("a", "a")])));
        assert_eq!(
            classify(&staged, Some(&there), true),
            RestartReason::SkillContentOnly
        );
        for other in [&[("a", "b")][..], &[], &[("a", "a"), ("b", "b")]] {
            assert!(!is_same(&staged, &installed(other)), "{other:?}");
        }
    }
}
