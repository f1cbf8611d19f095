//! A change that others see is a change that somebody wrote down for them.

use std::fs;

use crate::api::{Api, repository};
use crate::semver::{Change, changes};

/// The section of what is not released yet.
fn unreleased(changelog: &str) -> &str {
    let Some((_, rest)) = changelog.split_once("\n## Unreleased\n") else {
        return "";
    };
    rest.split("\n## ").next().unwrap_or_default()
}

/// The entries of a section: each list item with the lines that continue it.
fn entries(section: &str) -> Vec<String> {
    let mut entries: Vec<String> = Vec::new();
    for line in section.lines() {
        if let Some(text) = line.strip_prefix("- ") {
            entries.push(text.to_owned());
        } else if let (Some(entry), Some(text)) = (entries.last_mut(), line.strip_prefix("  ")) {
            entry.push(' ');
            entry.push_str(text.trim_start());
        }
    }
    entries
}

/// The names in the path that a line is about, from the crate down.
fn names(line: &str) -> Vec<&str> {
    let subject = match line.split_once(": ") {
        Some(("must be implemented" | "foreign crate" | "matched whole" | "built whole", rest)) => {
            rest.trim_start_matches("enum ")
                .trim_start_matches("struct ")
        }
        _ => match line.find("molecule_hooks::") {
            Some(at) => &line[at + "molecule_hooks::".len()..],
            None => line,
        },
    };
    let end = subject.find(['(', '<', ' ', '!']).unwrap_or(subject.len());
    let path = subject[..end].trim_end_matches(':');
    path.split("::").filter(|name| !name.is_empty()).collect()
}

/// Whether an entry names, as code, what a line is about or what that is part of.
fn tells_of(entry: &str, line: &str) -> bool {
    let names = names(line);
    entry
        .split('`')
        .skip(1)
        .step_by(2)
        .flat_map(|code| code.split(|c: char| !(c.is_alphanumeric() || c == '_')))
        .any(|word| word.len() > 1 && names.contains(&word))
}

/// Changes that nobody wrote down; breaking ones need an entry that says so.
fn untold(changes: &[Change], changelog: &str) -> Vec<String> {
    let entries = entries(unreleased(changelog));
    let is_told = |change: &Change| {
        entries.iter().any(|entry| {
            (!change.breaking || entry.starts_with("**breaking**")) && tells_of(entry, &change.line)
        })
    };
    let said = |change: &Change| match change.breaking {
        true => format!("**breaking** {}", change.line),
        false => change.line.clone(),
    };
    let untold = changes.iter().filter(|change| !is_told(change));
    untold.map(said).collect()
}

#[test]
fn the_changelog_tells_of_every_change() {
    let path = repository().join("CHANGELOG.md");
    let changelog = fs::read_to_string(path).expect("CHANGELOG.md can be read");
    assert!(
        changelog.contains("\n## Unreleased\n"),
        "CHANGELOG.md has no section \"## Unreleased\""
    );
    let changes = changes(&Api::released(), &Api::current());
    crate::assert_none(
        &untold(&changes, &changelog),
        "the interface of molecule-hooks changed since the last release, and the section Unreleased of \
         CHANGELOG.md has no entry that names the item, its type or its module in `code` (for a breaking \
         change: an entry that begins with **breaking** and says what to do)",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANGELOG: &str = "# Changelog\n\n## Unreleased\n\n- `EnvMap::set_token`, which\n  also \
                             knows `TokenScope`.\n- **breaking** `Token::new` takes a time.\n\n\
                             ## 0.1.0\n\n- `Registry` came.\n";

    fn change(line: &str, breaking: bool) -> Change {
        let line = line.to_owned();
        Change { line, breaking }
    }

    #[test]
    fn what_is_written_down_is_found() {
        for line in [
            "pub fn molecule_hooks::EnvMap::set_token(&mut self, name: &str)",
            "pub molecule_hooks::TokenScope::PerRole",
            "impl core::marker::Send for molecule_hooks::EnvMap",
        ] {
            assert_eq!(untold(&[change(line, false)], CHANGELOG), [""; 0], "{line}");
        }
        let line = "pub fn molecule_hooks::Token::new() -> Self";
        assert_eq!(untold(&[change(line, true)], CHANGELOG), [""; 0]);
    }

    #[test]
    fn what_is_not_written_down_is_told() {
        // An earlier version's entry is not about this change.
        let line = "pub fn molecule_hooks::Registry::clear(&self)";
        assert_eq!(untold(&[change(line, false)], CHANGELOG), [line]);
        // And one that does not say it breaks is not enough for what does.
        let line = "pub fn molecule_hooks::EnvMap::set_token(&mut self)";
        let told = untold(&[change(line, true)], CHANGELOG);
        assert_eq!(told, [format!("**breaking** {line}")]);
    }

    #[test]
    fn lines_are_about_paths() {
        for (line, wanted) in [
            (
                "pub fn molecule_hooks::EnvMap::len(&self) -> usize",
                vec!["EnvMap", "len"],
            ),
            ("pub struct molecule_hooks::Secret", vec!["Secret"]),
            (
                "pub macro molecule_hooks::register_hook!",
                vec!["register_hook"],
            ),
            (
                "must be implemented: EnvMutator::name",
                vec!["EnvMutator", "name"],
            ),
            ("built whole: struct Token", vec!["Token"]),
            ("foreign crate: chrono 0.4", vec!["chrono"]),
            (
                "pub molecule_hooks::Token::secret: molecule_hooks::Secret",
                vec!["Token", "secret"],
            ),
        ] {
            assert_eq!(names(line), wanted, "{line}");
        }
    }
}
