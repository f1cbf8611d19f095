//! Which skills of a workspace belong to a plugin that is removed.

use std::collections::{BTreeMap, BTreeSet};

use molecule_hooks::PluginName;
use serde::Deserialize;

use super::{InstalledPlugin, PluginRemoval};

/// `.plugins-ledger.json` of a config folder, in which a runtime writes down which
/// plugin brought what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::backend) enum Ledger {
    /// There is none: the runtime keeps none.
    Nothing,
    /// It cannot be read.
    Unreadable,
    /// Its content.
    Text(Vec<u8>),
}

impl Ledger {
    pub(in crate::backend) const FILE: &'static str = ".plugins-ledger.json";
}

/// What one owner brought.
#[derive(Default, Deserialize)]
struct Owned {
    #[serde(default)]
    skills: Vec<String>,
}

/// `{"version":1,"plugins":{"<name>":{"skills":[…]}},"user":{"skills":[…]}}`; the owners
/// may also be at the top.
#[derive(Deserialize)]
struct Owners {
    #[serde(default)]
    plugins: BTreeMap<String, Owned>,
    #[serde(flatten)]
    others: BTreeMap<String, serde_json::Value>,
}

impl Owners {
    fn read(text: &[u8]) -> Option<BTreeMap<String, Vec<String>>> {
        let owners: Self = serde_json::from_slice(text).ok()?;
        let others = owners.others.into_iter().filter_map(|(name, value)| {
            let owned: Owned = serde_json::from_value(value).ok()?;
            Some((name, owned.skills))
        });
        let plugins = owners.plugins.into_iter();
        Some(
            others
                .chain(plugins.map(|(name, owned)| (name, owned.skills)))
                .collect(),
        )
    }
}

/// The skills to delete: those that the ledger says the plugin brought, else those that
/// the removal names; never one that the ledger gives to somebody else or that the
/// manifest of another installed plugin names. A ledger that cannot be read keeps all.
pub(in crate::backend) fn doomed_skills(
    removal: &PluginRemoval,
    ledger: &Ledger,
    installed: &[InstalledPlugin],
) -> Vec<PluginName> {
    let owners = match ledger {
        Ledger::Nothing => BTreeMap::new(),
        Ledger::Unreadable => return Vec::new(),
        Ledger::Text(text) => match Owners::read(text) {
            Some(owners) => owners,
            None => return Vec::new(),
        },
    };
    let own = removal.name.as_str();
    let mut kept: BTreeSet<String> = BTreeSet::new();
    for (owner, skills) in &owners {
        if owner != own {
            kept.extend(skills.iter().cloned());
        }
    }
    for plugin in installed
        .iter()
        .filter(|plugin| plugin.name != removal.name)
    {
        kept.extend(skills_of(plugin.manifest.as_deref().unwrap_or_default()));
    }
    let wanted: BTreeSet<PluginName> = match owners.get(own) {
        Some(skills) => skills
            .iter()
            .filter_map(|name| PluginName::parse(name))
            .collect(),
        None => removal.skills.iter().cloned().collect(),
    };
    wanted
        .into_iter()
        .filter(|skill| !kept.contains(skill.as_str()))
        .collect()
}

/// The `skills` of a manifest; none when it makes no sense.
fn skills_of(manifest: &[u8]) -> Vec<String> {
    let manifest: Option<serde_yaml::Value> = serde_yaml::from_slice(manifest).ok();
    let skills = manifest
        .as_ref()
        .and_then(|manifest| manifest.get("skills"));
    let skills = skills.and_then(serde_yaml::Value::as_sequence);
    let names = skills
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str());
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> PluginName {
        PluginName::parse(text).unwrap()
    }

    fn removal(skills: &[&str]) -> PluginRemoval {
        PluginRemoval {
            name: name("own"),
            skills: skills.iter().map(|skill| name(skill)).collect(),
        }
    }

    fn other(manifest: &str) -> InstalledPlugin {
        InstalledPlugin {
            name: name("other"),
            manifest: Some(manifest.as_bytes().to_vec()),
            marker: None,
        }
    }

    fn doomed(skills: &[&str], ledger: &str, installed: &[InstalledPlugin]) -> Vec<String> {
        let ledger = match ledger {
            "" => Ledger::Nothing,
            text => Ledger::Text(text.as_bytes().to_vec()),
        };
        let doomed = doomed_skills(&removal(skills), &ledger, installed);
        doomed.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_a_ledger_the_listed_skills_go_that_nobody_else_lists() {
        assert_eq!(doomed(&["a", "b"], "", &[]), ["a", "b"]);
        let others = [other("skills: [b, 7]\nname: x"), other(": {"), other("- b")];
        assert_eq!(doomed(&["a", "b"], "", &others), ["a"]);
        // Its own manifest keeps nothing
        let own = InstalledPlugin {
            name: name("own"),
            ..other("skills: [a]")
        };
        assert_eq!(doomed(&["a"], "", &[own]), ["a"]);
    }

    #[test]
    fn a_ledger_has_the_last_word() {
        let ledger = r#"{"version":1,"plugins":{"own":{"skills":["a","c","../x"]},
            "other":{"skills":["b","c"],"hooks":[]}},"user":{"skills":["d"]}}"#;
        // What it says is owned, and neither what is only listed nor what is shared
        assert_eq!(doomed(&["b", "d", "e"], ledger, &[]), ["a"]);
        assert_eq!(doomed(&[], ledger, &[other("skills: [a]")]), [""; 0]);
        // A plugin that it does not know
        let ledger = r#"{"other":{"skills":["b"]},"version":1}"#;
        assert_eq!(doomed(&["a", "b"], ledger, &[]), ["a"]);
        // One that makes no sense
        for broken in ["{", "[]", "\"x\"", r#"{"plugins":[]}"#] {
            assert_eq!(doomed(&["a"], broken, &[]), [""; 0], "{broken}");
        }
        let unreadable = doomed_skills(&removal(&["a"]), &Ledger::Unreadable, &[]);
        assert!(unreadable.is_empty());
    }

    proptest! {
        #[test]
        fn any_ledger_and_manifest_is_survived(
            ledger in "[\\PC\n]{0,60}", manifest in "[\\PC\n]{0,60}"
        ) {
            let ledger = Ledger::Text(ledger.into_bytes());
            doomed_skills(&removal(&["a"]), &ledger, &[other(&manifest)]);
        }
    }
}
