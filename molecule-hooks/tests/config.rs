//! Strict, typed configuration: file, environment and `_file` twins.

#![allow(clippy::unwrap_used)] // helpers of tests count as tests

use std::io::Write;
use std::sync::{Arc, Mutex};

use molecule_hooks::{
    BuildContext, BuildResult, ConfigField, EnvMap, EnvMutator, HookConfig, HookDescriptor,
    HookError, HooksConfig, RawConfig, Registry, RegistryError, Secret, WorkspaceContext,
    async_trait, register_hook,
};
use serde_json::{Value, json};

const SECRET: &str = "correct-horse-battery";

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    url: Option<String>,
    #[serde(default)]
    retries: u8,
    #[serde(default)]
    verify: Option<bool>,
    key: Option<Secret>,
    #[serde(default)]
    labels: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    extra: std::collections::BTreeMap<String, Secret>,
}

impl HookConfig for Config {
    const FIELDS: &'static [ConfigField] = &[
        ConfigField::new("url", "where").env("SUBJECT_URL"),
        ConfigField::new("retries", "how often").env("SUBJECT_RETRIES"),
        ConfigField::new("verify", "whether").env("SUBJECT_VERIFY"),
        ConfigField::new("key", "the key")
            .secret()
            .env("SUBJECT_KEY"),
        ConfigField::new("labels", "any"),
        ConfigField::new("extra", "any secret").secret(),
    ];

    fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.retries > 9 {
            problems.push("retries must be at most 9".to_owned());
        }
        if let Some(key) = self.key.as_ref().filter(|key| key.expose().contains(' ')) {
            problems.push(format!("key must have no space, has {:?}", key.expose()));
        }
        for value in self.extra.values().filter(|v| v.expose().contains(' ')) {
            problems.push(format!("extra has {:?}", value.expose()));
        }
        problems
    }
}

struct Subject {
    config: Config,
}

#[async_trait]
impl EnvMutator for Subject {
    fn name(&self) -> &str {
        "subject"
    }

    async fn mutate_env(&self, _: &WorkspaceContext, env: &mut EnvMap) -> Result<(), HookError> {
        let config = &self.config;
        env.set("RETRIES", config.retries.to_string())?;
        env.set("LABELS", config.labels.len().to_string())?;
        if let Some(verify) = config.verify {
            env.set("VERIFY", verify.to_string())?;
        }
        if let Some(url) = &config.url {
            env.set("URL", url)?;
        }
        if let Some(key) = &config.key {
            env.set_secret("KEY", key.expose())?;
        }
        Ok(())
    }
}

fn build(config: Config, _: &BuildContext) -> BuildResult {
    Ok(Some(Arc::new(Subject { config })))
}

register_hook! { name: "subject", description: "Shows its configuration", config: Config, build: build }

async fn outcome(config: &HooksConfig) -> Result<EnvMap, RegistryError> {
    let registry = Registry::from_linked(config)?;
    let mut env = EnvMap::new();
    registry
        .run(&WorkspaceContext::new("7aa0"), &mut env)
        .await
        .unwrap();
    Ok(env)
}

fn section(section: Value) -> HooksConfig {
    HooksConfig::new().with_section("subject", section)
}

async fn problem(config: &HooksConfig) -> String {
    let mut problems = outcome(config).await.unwrap_err().problems;
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}

fn secret_file(text: &str) -> (tempfile::NamedTempFile, String) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap().to_owned();
    (file, path)
}

#[tokio::test]
async fn the_section_is_decoded_into_its_type() {
    let env = outcome(&section(
        json!({ "url": "http://a", "retries": 3, "verify": false, "labels": { "a": "b" } }),
    ))
    .await
    .unwrap();
    assert_eq!(env.get("URL"), Some("http://a"));
    assert_eq!(env.get("RETRIES"), Some("3"));
    assert_eq!(env.get("VERIFY"), Some("false"));
    assert_eq!(env.get("LABELS"), Some("1"));
}

#[tokio::test]
async fn an_unknown_key_is_refused_with_the_known_ones() {
    assert_eq!(
        problem(&section(json!({ "ulr": "http://a" }))).await,
        "hook \"subject\": unknown key \"ulr\"; known keys: url, retries, verify, key (or key_file), labels, extra (or extra_file); did you mean \"url\"?"
    );
}

#[tokio::test]
async fn a_section_that_is_no_mapping_is_refused() {
    for bad in [json!([]), json!("url"), json!(1), json!(true)] {
        let problem = problem(&section(bad)).await;
        assert!(problem.contains("must be a mapping"), "{problem}");
    }
    assert!(outcome(&section(Value::Null)).await.is_ok());
}

#[tokio::test]
async fn types_are_strict_and_the_message_names_the_key() {
    let problem = problem(&section(json!({ "retries": "3" }))).await;
    assert!(
        problem.contains("retries: invalid type: string"),
        "{problem}"
    );
}

#[tokio::test]
async fn unknown_keys_and_broken_rules_are_reported_together() {
    let problem = problem(&section(json!({ "retries": 10, "more": 1 }))).await;
    assert!(problem.contains("unknown key \"more\""), "{problem}");
    assert!(problem.contains("retries must be at most 9"), "{problem}");
}

#[tokio::test]
async fn the_environment_wins_over_the_section() {
    let config = section(json!({ "url": "http://file" })).with_env("SUBJECT_URL", "http://env");
    assert_eq!(
        outcome(&config).await.unwrap().get("URL"),
        Some("http://env")
    );
}

#[tokio::test]
async fn an_empty_environment_variable_counts_as_unset() {
    let config = section(json!({ "url": "http://file" })).with_env("SUBJECT_URL", "");
    assert_eq!(
        outcome(&config).await.unwrap().get("URL"),
        Some("http://file")
    );
}

#[tokio::test]
async fn numbers_and_booleans_may_come_from_the_environment() {
    let config = HooksConfig::new()
        .with_env("SUBJECT_RETRIES", "7")
        .with_env("SUBJECT_VERIFY", "true")
        .with_env("SUBJECT_URL", "42");
    let env = outcome(&config).await.unwrap();
    assert_eq!(env.get("RETRIES"), Some("7"));
    assert_eq!(env.get("VERIFY"), Some("true"));
    assert_eq!(env.get("URL"), Some("42"), "text stays text");

    let words = problem(&HooksConfig::new().with_env("SUBJECT_RETRIES", "seven")).await;
    assert!(words.contains("retries: invalid type: string"), "{words}");
    let big = problem(&HooksConfig::new().with_env("SUBJECT_RETRIES", "700")).await;
    assert!(big.contains("retries: invalid value"), "{big}");
}

#[tokio::test]
async fn a_secret_may_stand_in_a_file_without_its_line_end() {
    let (_file, path) = secret_file("correct-horse-battery\r\n");
    let from_section = section(json!({ "key_file": path }));
    let from_env = HooksConfig::new().with_env("SUBJECT_KEY_FILE", &path);
    for config in [from_section, from_env] {
        let env = outcome(&config).await.unwrap();
        assert_eq!(env.get("KEY"), Some(SECRET));
        assert!(env.is_secret("KEY"));
    }
}

#[tokio::test]
async fn either_twin_of_the_environment_wins_over_either_twin_of_the_section() {
    let (_file, path) = secret_file("from-a-file");
    for section_twin in [
        json!({ "key": "section" }),
        json!({ "key_file": "/nowhere" }),
    ] {
        let by_value = section(section_twin.clone()).with_env("SUBJECT_KEY", "env");
        assert_eq!(outcome(&by_value).await.unwrap().get("KEY"), Some("env"));
        let by_file = section(section_twin).with_env("SUBJECT_KEY_FILE", &path);
        assert_eq!(
            outcome(&by_file).await.unwrap().get("KEY"),
            Some("from-a-file")
        );
    }
}

#[tokio::test]
async fn both_twins_in_one_place_are_refused() {
    let in_section = problem(&section(json!({ "key": SECRET, "key_file": "/x" }))).await;
    assert!(in_section.contains("set either key or key_file, not both"));
    let in_env = HooksConfig::new()
        .with_env("SUBJECT_KEY", SECRET)
        .with_env("SUBJECT_KEY_FILE", "/x");
    let in_env = problem(&in_env).await;
    assert!(in_env.contains("set either SUBJECT_KEY or SUBJECT_KEY_FILE, not both"));
    assert!(!in_section.contains(SECRET) && !in_env.contains(SECRET));
}

#[tokio::test]
async fn a_file_that_is_missing_empty_or_huge_is_refused() {
    let missing = problem(&section(json!({ "key_file": "/no/such/file" }))).await;
    assert!(
        missing.contains("key_file: \"/no/such/file\" cannot be read"),
        "{missing}"
    );
    let (_empty, path) = secret_file("\n");
    let empty = problem(&section(json!({ "key_file": path }))).await;
    assert!(empty.contains("is empty"), "{empty}");
    let (_huge, path) = secret_file(&"x".repeat(1024 * 1024 + 1));
    let huge = problem(&section(json!({ "key_file": path }))).await;
    assert!(huge.contains("is longer than 1048576 bytes"), "{huge}");
    let odd = problem(&section(json!({ "key_file": 7 }))).await;
    assert!(odd.contains("key_file must be the path of a file"), "{odd}");
}

#[tokio::test]
async fn a_visible_field_has_no_file_twin() {
    let with_env = section(json!({ "url_file": "/x" })).with_env("SUBJECT_URL", "http://env");
    for config in [section(json!({ "url_file": "/x" })), with_env] {
        let problem = problem(&config).await;
        assert!(problem.contains("unknown key \"url_file\""), "{problem}");
    }
}

#[tokio::test]
async fn no_message_repeats_a_secret() {
    let spaced = format!("{SECRET} {SECRET}");
    for key in [
        json!([SECRET]),
        json!({ "inner": SECRET }),
        json!(spaced), // refused by validate(), which quotes it
    ] {
        let config = section(json!({ "key": key }));
        let error = outcome(&config).await.unwrap_err();
        assert!(!error.to_string().contains(SECRET), "{error}");
        assert!(!format!("{error:?}").contains(SECRET), "{error:?}");
        assert!(!format!("{config:?}").contains(SECRET));
    }
    let config = section(json!({ "extra": { "a": spaced } }));
    let error = outcome(&config).await.unwrap_err();
    assert!(!error.to_string().contains(SECRET), "{error}");
    let raw = RawConfig::new(json!({ "key": SECRET })).unwrap();
    assert_eq!(format!("{raw:?}"), r#"{"key"}"#);
}

#[tokio::test]
async fn a_secret_is_masked_whole_and_however_it_is_quoted() {
    // One begins like the other, and a message quotes both
    let longer = format!("{SECRET} and its tail");
    let (key, extra) = (format!("{SECRET} "), json!({ "a": longer, "b": longer }));
    let error = problem(&section(json!({ "key": key, "extra": extra }))).await;
    assert!(!error.contains("and its tail"), "{error}");

    // Quoting escapes line ends and quotes
    let lines = format!("{SECRET}\n second \"line\" of the key");
    for wrong in [json!({ "key": lines }), json!({ "extra": { "a": lines } })] {
        let error = problem(&section(wrong)).await;
        assert!(!error.contains("of the key"), "{error}");
    }
}

#[test]
fn a_descriptor_checks_without_building() {
    let linked = HookDescriptor::linked();
    let subject = linked.iter().find(|d| d.name == "subject").unwrap();
    assert_eq!(subject.version, env!("CARGO_PKG_VERSION"));
    assert!(!subject.token_provider);
    let good = RawConfig::new(json!({ "retries": 1 })).unwrap();
    assert!(subject.check(&good).is_ok());
    let bad = RawConfig::new(json!({ "retries": -1 })).unwrap();
    assert!(subject.check(&bad).is_err());
}

#[test]
fn the_build_context_carries_the_clock_of_the_server() {
    // Other tests build this hook too, each with its own clock.
    static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());
    fn build(_: molecule_hooks::NoConfig, context: &BuildContext) -> BuildResult {
        SEEN.lock().unwrap().push(context.clock.now().to_rfc3339());
        Ok(None)
    }
    register_hook! { name: "watcher", description: "Looks at the clock", config: molecule_hooks::NoConfig, build: build }

    let mut config = HooksConfig::new();
    config.context.clock = molecule_hooks::testing::FakeClock::new().clock();
    let registry = Registry::from_linked(&config).unwrap();

    assert_eq!(registry.skipped(), ["watcher"]);
    let seen = SEEN.lock().unwrap();
    assert!(seen.contains(&"2026-01-01T00:00:00+00:00".to_owned()));
}
