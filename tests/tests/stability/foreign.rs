//! Types of other crates in our interface: their breaking releases are ours.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::api::{Api, repository};

/// Crates whose types a hook author sees, and why.
const ALLOWED: [(&str, &str); 10] = [
    ("alloc", "the standard library"),
    ("core", "the standard library"),
    ("std", "the standard library"),
    ("async_trait", "re-exported: the traits are written with it"),
    ("chrono", "times: when a token ends"),
    (
        "inventory",
        "descriptors are collected by it; authors only meet the macros",
    ),
    ("serde_core", "configuration types are `Deserialize`"),
    (
        "serde_json",
        "sections of the configuration, and bodies of scripted upstreams",
    ),
    ("tokio", "archives are read from an `AsyncRead`"),
    (
        "tracing",
        "re-exported: what hooks log reaches the server's log",
    ),
];

/// Crates that a line of the listing names, ours excepted.
fn crates_in(line: &str) -> BTreeSet<&str> {
    // A whole crate, or a macro of one, under its own name.
    if let Some(name) = line.strip_prefix("pub use molecule_hooks::") {
        return BTreeSet::from([name]);
    }
    let is_path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    line.split(|c| !is_path(c))
        .filter_map(|word| word.trim_start_matches(':').split_once("::"))
        .map(|(head, _)| head)
        .filter(|head| head.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter(|head| *head != "molecule_hooks")
        .collect()
}

/// A line for each foreign crate with the part of its version that must not change.
pub(crate) fn versions(lines: &BTreeSet<String>) -> Vec<String> {
    let named: BTreeSet<&str> = lines.iter().flat_map(|line| crates_in(line)).collect();
    let linked = dependencies();
    named
        .into_iter()
        .filter_map(|name| {
            let version = linked.get(&name.replace('_', "-")).or(linked.get(name))?;
            Some(format!("foreign crate: {name} {}", compatible(version)))
        })
        .collect()
}

/// `1.2.3` is compatible with all of `1`, `0.4.45` with all of `0.4`.
pub(crate) fn compatible(version: &str) -> String {
    let mut parts = version.split('.');
    match (parts.next(), parts.next()) {
        (Some("0"), Some(minor)) => format!("0.{minor}"),
        (Some(major), _) => major.to_owned(),
        _ => version.to_owned(),
    }
}

/// Versions of what molecule-hooks is built with.
fn dependencies() -> BTreeMap<String, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "tree",
            "--package=molecule-hooks",
            "--all-features",
            "--edges=normal",
        ])
        .args(["--prefix=none", "--format={p}"])
        .current_dir(repository())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo tree failed");
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        Some((name, words.next()?.trim_start_matches('v').to_owned()))
    });
    found.collect()
}

#[test]
fn foreign_types_are_those_that_were_decided_on() {
    let api = Api::current();
    assert!(
        !api.lines.is_empty(),
        "molecule-hooks/api/current.txt is empty"
    );
    let offenders: Vec<_> = api
        .lines
        .iter()
        .filter(|line| !line.starts_with("foreign crate: "))
        .flat_map(|line| crates_in(line).into_iter().map(move |name| (name, line)))
        .filter(|(name, _)| !ALLOWED.iter().any(|(allowed, _)| allowed == name))
        .map(|(name, line)| format!("{name}: {line}"))
        .collect();
    crate::assert_none(
        &offenders,
        "the interface of molecule-hooks shows types of a crate that is not on the list: with each \
         breaking release of that crate, every hook crate would have to move. Wrap the type, or add \
         the crate to ALLOWED with a reason",
    );
}

#[test]
fn a_reason_stays_only_as_long_as_it_is_one() {
    let api = Api::current();
    let used: BTreeSet<&str> = api.lines.iter().flat_map(|line| crates_in(line)).collect();
    let offenders: Vec<_> = ALLOWED
        .iter()
        .filter(|(name, _)| !used.contains(name) && *name != "alloc")
        .map(|(name, reason)| format!("{name}: {reason}"))
        .collect();
    crate::assert_none(&offenders, "these crates are not in the interface any more");
}

#[test]
fn names_of_crates_are_found_in_lines() {
    let line = "pub fn molecule_hooks::Token::new(impl core::convert::Into<molecule_hooks::Secret>, \
                chrono::datetime::DateTime<chrono::offset::utc::Utc>) -> Self";
    assert_eq!(crates_in(line), BTreeSet::from(["chrono", "core"]));
    assert_eq!(crates_in("pub fn molecule_hooks::T::Err"), BTreeSet::new());
    assert_eq!(compatible("0.4.45"), "0.4");
    assert_eq!(compatible("1.0.229"), "1");
}

#[test]
fn foreign_crates_keep_their_version() {
    // The lines of current.txt are checked against the compiler elsewhere; here,
    // against the lock file, which any `cargo update` may change.
    let api = Api::current();
    let linked = dependencies();
    let offenders: Vec<_> = api
        .lines
        .iter()
        .filter_map(|line| line.strip_prefix("foreign crate: "))
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, version)| {
            let linked = linked.get(&name.replace('_', "-")).or(linked.get(*name));
            linked.is_none_or(|linked| compatible(linked) != **version)
        })
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    crate::assert_none(
        &offenders,
        "another version of these is linked now: a breaking change",
    );
}
