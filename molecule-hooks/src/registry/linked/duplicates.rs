//! Names, schemes and crates that are linked more than once.

use std::collections::{BTreeMap, BTreeSet};

use crate::descriptor::HookDescriptor;
use crate::source_descriptor::PluginSourceDescriptor;

/// Something linked.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    name: &'static str,
    kind: &'static str,
    package: &'static str,
    version: &'static str,
}

/// One sentence for each, with what to remove. One name is one section, so hooks and
/// sources share them.
pub(super) fn problems(
    hooks: &[&'static HookDescriptor],
    sources: &[&'static PluginSourceDescriptor],
) -> Vec<String> {
    let hooks = hooks.iter().map(|hook| Entry {
        name: hook.name,
        kind: "hook",
        package: hook.package,
        version: hook.version,
    });
    let entries: Vec<Entry> = hooks
        .chain(sources.iter().map(|source| Entry {
            name: source.name,
            kind: "plugin source",
            package: source.package,
            version: source.version,
        }))
        .collect();
    let versions = versions(&entries);
    let mut problems: Vec<String> = versions
        .iter()
        .filter(|(_, versions)| versions.len() > 1)
        .map(|(package, versions)| two_versions(package, versions))
        .collect();
    let mut names: BTreeMap<&str, Entry> = BTreeMap::new();
    for entry in entries {
        let Some(other) = names.insert(entry.name, entry) else {
            continue;
        };
        // Two versions of one crate were told; they bring everything twice.
        if other.package != entry.package || other.version == entry.version {
            problems.push(one_name(&other, &entry));
        }
    }
    let mut schemes: BTreeMap<&str, &PluginSourceDescriptor> = BTreeMap::new();
    for source in sources {
        let Some(other) = schemes.insert(source.scheme, source) else {
            continue;
        };
        if other.package != source.package || other.version == source.version {
            problems.push(format!(
                "two linked plugin sources answer to {:?}{}; remove one of the two crates",
                source.scheme,
                of_crates([
                    (other.package, other.version),
                    (source.package, source.version)
                ])
            ));
        }
    }
    problems
}

/// The versions of each crate that registered something.
fn versions(entries: &[Entry]) -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let mut found: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| !entry.package.is_empty()) {
        found
            .entry(entry.package)
            .or_default()
            .insert(entry.version);
    }
    found
}

fn two_versions(package: &str, versions: &BTreeSet<&str>) -> String {
    let versions: Vec<&str> = versions.iter().copied().collect();
    format!(
        "the hook crate {package} is linked in {} versions ({}); let Cargo.toml ask for one, and see \
         `cargo tree --duplicates` for who asks for the other",
        versions.len(),
        versions.join(", ")
    )
}

fn one_name(one: &Entry, other: &Entry) -> String {
    let name = one.name;
    if !one.package.is_empty() && one.package == other.package {
        return format!(
            "the crate {} registers the name {name:?} twice; one crate registers a name once",
            one.package
        );
    }
    let crates = of_crates([(one.package, one.version), (other.package, other.version)]);
    let remedy = "remove one of the two crates";
    match one.kind == other.kind {
        true => format!(
            "two linked {}s are called {name:?}{crates}; {remedy}",
            one.kind
        ),
        false => format!(
            "a linked {} and a linked {} are both called {name:?}{crates}; {remedy}",
            one.kind, other.kind
        ),
    }
}

/// Nothing for what was registered without a crate.
fn of_crates(crates: [(&str, &str); 2]) -> String {
    if crates.iter().any(|(package, _)| package.is_empty()) {
        return String::new();
    }
    let [one, other] = crates.map(|(package, version)| format!("{package} {version}"));
    format!(" ({one} and {other})")
}
