//! Workspace templates: folders with a `config.yaml`, below one directory.

use std::path::{Path, PathBuf};

use serde_yaml::Value;

use super::payload::is_plain_relative;

/// Largest `config.yaml` that is read.
const MAX_CONFIG_BYTES: u64 = 256 * 1024;
/// Longest time a template may give an agent to register: a day.
const MAX_TIMEOUT_SECS: i64 = 86_400;
/// Name of the file in a template and in the config volume.
pub(super) const CONFIG_FILE: &str = "config.yaml";

/// What the server reads of a `config.yaml`. Unreadable files and unknown keys
/// are fine: the agent is the one who must understand it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ConfigFacts {
    pub(super) name: Option<String>,
    pub(super) runtime: Option<String>,
    pub(super) model: Option<String>,
    pub(super) required_env: Vec<String>,
    /// Seconds an agent of this template has to register.
    pub(super) provision_timeout_secs: Option<i64>,
}

impl ConfigFacts {
    pub(super) fn parse(text: &str) -> Self {
        let Ok(root) = serde_yaml::from_str::<Value>(text) else {
            return Self::default();
        };
        let nested = root.get("runtime_config");
        let text_of = |value: Option<&Value>| {
            value
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        Self {
            name: text_of(root.get("name")),
            runtime: text_of(root.get("runtime")),
            model: text_of(root.get("model"))
                .or_else(|| text_of(nested.and_then(|nested| nested.get("model")))),
            required_env: nested
                .and_then(|nested| nested.get("required_env"))
                .and_then(Value::as_sequence)
                .map(|names| {
                    names
                        .iter()
                        .filter_map(Value::as_str)
                        .map(str::to_owned)
                        .collect()
                })
                .unwrap_or_default(),
            provision_timeout_secs: nested
                .and_then(|nested| nested.get("provision_timeout_seconds"))
                .and_then(Value::as_i64)
                .filter(|secs| (1..=MAX_TIMEOUT_SECS).contains(secs)),
        }
    }

    /// Reads `<dir>/config.yaml`; no facts when there is none.
    pub(super) async fn of_folder(dir: &Path) -> Self {
        let path = dir.join(CONFIG_FILE);
        // A link is not brought to the agent, so it says nothing of it.
        match tokio::fs::symlink_metadata(&path).await {
            Ok(meta) if meta.is_file() && meta.len() <= MAX_CONFIG_BYTES => {}
            _ => return Self::default(),
        }
        match tokio::fs::read_to_string(&path).await {
            Ok(text) => Self::parse(&text),
            Err(_) => Self::default(),
        }
    }
}

/// True when an agent that is started from the template in `dir` gets a `config.yaml`
/// from there. Backends copy files and no links.
pub(super) async fn brings_config(dir: &Path) -> bool {
    let found = tokio::fs::symlink_metadata(dir.join(CONFIG_FILE)).await;
    found.is_ok_and(|meta| meta.is_file())
}

/// The folder of a template the caller named, if it exists below `root`.
pub(super) async fn named(root: &Path, name: &str) -> Option<PathBuf> {
    if !is_plain_relative(name) {
        return None;
    }
    let root = tokio::fs::canonicalize(root).await.ok()?;
    let dir = tokio::fs::canonicalize(root.join(name)).await.ok()?;
    (dir.starts_with(&root) && dir.is_dir()).then_some(dir)
}

/// The folder `<runtime>-default`, if there is one.
pub(super) async fn default_for(root: &Path, runtime: &str) -> Option<PathBuf> {
    named(root, &format!("{runtime}-default")).await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn facts_are_found_at_the_top_and_under_runtime_config() {
        let facts = ConfigFacts::parse(
            "runtime: hermes\nruntime_config:\n  model: \"m\"\n  required_env: [A, B]\n",
        );
        assert_eq!(facts.runtime.as_deref(), Some("hermes"));
        assert_eq!(facts.model.as_deref(), Some("m"));
        assert_eq!(facts.required_env, ["A", "B"]);
        assert_eq!(ConfigFacts::parse("{{{"), ConfigFacts::default());
    }

    #[test]
    fn only_a_sensible_number_of_seconds_is_a_timeout() {
        let of = |value: &str| {
            let text = format!("runtime_config: {{provision_timeout_seconds: {value}}}");
            ConfigFacts::parse(&text).provision_timeout_secs
        };
        assert_eq!((of("1"), of("86400")), (Some(1), Some(86_400)));
        for value in [
            "0", "-5", "86401", "1.5", "\"600\"", "soon", "null", "[]", "1e99",
        ] {
            assert_eq!(of(value), None, "{value}");
        }
        let top = ConfigFacts::parse("provision_timeout_seconds: 5\n");
        assert_eq!(top.provision_timeout_secs, None);
    }

    #[tokio::test]
    async fn a_link_out_of_the_folder_is_not_a_template() {
        let outside = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("in")).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("out")).unwrap();
        assert!(named(root.path(), "in").await.is_some());
        for name in ["out", "../x", "missing", "", "."] {
            assert!(named(root.path(), name).await.is_none(), "{name}");
        }
    }

    #[tokio::test]
    async fn a_configuration_that_is_a_link_is_none() {
        let root = tempfile::tempdir().unwrap();
        let (real, linked) = (root.path().join("real"), root.path().join("linked"));
        for dir in [&real, &linked] {
            std::fs::create_dir(dir).unwrap();
        }
        std::fs::write(real.join(CONFIG_FILE), "runtime: hermes\n").unwrap();
        std::os::unix::fs::symlink(real.join(CONFIG_FILE), linked.join(CONFIG_FILE)).unwrap();
        assert!(brings_config(&real).await && !brings_config(&linked).await);
        let runtime = ConfigFacts::of_folder(&real).await.runtime;
        assert_eq!(runtime.as_deref(), Some("hermes"));
        assert_eq!(
            ConfigFacts::of_folder(&linked).await,
            ConfigFacts::default()
        );
        assert!(!brings_config(root.path()).await);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC{0,200}") {
            ConfigFacts::parse(&text);
        }
    }
}
