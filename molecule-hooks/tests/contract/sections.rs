//! Hooks that are broken before their first call.

use std::sync::Arc;

use molecule_hooks::testing::HookContract;
use molecule_hooks::{
    BuildContext, BuildResult, ConfigField, EnvMap, EnvMutator, HookConfig, HookDescriptor,
    HookError, NoConfig, Secret, WorkspaceContext, async_trait, register_hook,
};
use serde_json::json;

use crate::{ids, violations};

struct Idle(&'static str);

#[async_trait]
impl EnvMutator for Idle {
    fn name(&self) -> &str {
        self.0
    }

    async fn mutate_env(&self, _: &WorkspaceContext, _: &mut EnvMap) -> Result<(), HookError> {
        Ok(())
    }
}

/// A config type with one key for each way to describe it wrongly.
macro_rules! config {
    ($name:ident { $($key:ident: $type:ty),* }, $fields:expr) => {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(dead_code)]
        struct $name { $(#[serde(default)] $key: $type),* }

        impl HookConfig for $name {
            const FIELDS: &'static [ConfigField] = $fields;
        }
    };
}

#[tokio::test]
async fn not_linked() {
    assert_eq!(ids(HookContract::new("absent")).await, ["not-linked"]);
}

#[tokio::test]
async fn linked_twice() {
    fn build(_: NoConfig, _: &BuildContext) -> BuildResult {
        Ok(Some(Arc::new(Idle("twice"))))
    }
    register_hook! { name: "twice", description: "One", config: NoConfig, build: build }
    register_hook! { name: "twice", description: "Two", config: NoConfig, build: build }
    assert_eq!(ids(HookContract::new("twice")).await, ["linked-twice"]);
}

#[tokio::test]
async fn bad_description() {
    fn first(_: NoConfig, _: &BuildContext) -> BuildResult {
        Ok(Some(Arc::new(Idle("silent"))))
    }
    fn second(_: NoConfig, _: &BuildContext) -> BuildResult {
        Ok(Some(Arc::new(Idle("wordy"))))
    }
    register_hook! { name: "silent", description: " ", config: NoConfig, build: first }
    register_hook! { name: "wordy", description: "two\nlines", config: NoConfig, build: second }
    assert_eq!(ids(HookContract::new("silent")).await, ["bad-description"]);
    assert_eq!(ids(HookContract::new("wordy")).await, ["bad-description"]);
}

#[tokio::test]
async fn field_listed_twice() {
    config!(Twice { a: Option<String> }, &[ConfigField::new("a", "one"), ConfigField::new("a", "two")]);
    fn build(_: Twice, _: &BuildContext) -> BuildResult {
        Ok(Some(Arc::new(Idle("repeats"))))
    }
    register_hook! { name: "repeats", description: "x", config: Twice, build: build }
    assert_eq!(
        ids(HookContract::new("repeats")).await,
        ["field-listed-twice"]
    );
}

#[tokio::test]
async fn field_not_decoded_and_key_not_in_fields() {
    config!(Renamed { new_name: Option<String> }, &[ConfigField::new("old_name", "x")]);
    fn build(_: Renamed, _: &BuildContext) -> BuildResult {
        Ok(Some(Arc::new(Idle("renamed"))))
    }
    register_hook! { name: "renamed", description: "x", config: Renamed, build: build }
    let found = violations(HookContract::new("renamed")).await;
    let ids: Vec<_> = found.iter().map(|v| v.id).collect();
    assert_eq!(ids, ["field-not-decoded", "key-not-in-fields"]);
    assert!(found[0].message.contains("\"old_name\""), "{}", found[0]);
    assert!(found[1].message.contains("\"new_name\""), "{}", found[1]);
}

#[tokio::test]
async fn unknown_key_accepted() {
    // The macro cannot produce this one; a hook that goes round it can.
    molecule_hooks::__private::inventory::submit! {
        HookDescriptor::new::<NoConfig>("lenient", "0.0.0", "x", false, |_, _| {
            Ok(Some(Arc::new(Idle("lenient"))))
        })
    }
    assert_eq!(
        ids(HookContract::new("lenient")).await,
        ["unknown-key-accepted"]
    );
}

#[tokio::test]
async fn example_refused() {
    config!(Sized { size: Option<u8> }, &[ConfigField::new("size", "x").example("large")]);
    fn build(_: Sized, _: &BuildContext) -> BuildResult {
        Ok(Some(Arc::new(Idle("misleading"))))
    }
    register_hook! { name: "misleading", description: "x", config: Sized, build: build }
    let found = violations(HookContract::new("misleading")).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].id, "example-refused");
    assert!(
        found[0]
            .message
            .starts_with("the example of \"size\": size: invalid type")
    );
}

#[tokio::test]
async fn examples_of_fields_that_exclude_each_other_are_fine() {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Either {
        #[serde(default)]
        by_name: Option<String>,
        #[serde(default)]
        by_number: Option<u8>,
    }
    impl HookConfig for Either {
        const FIELDS: &'static [ConfigField] = &[
            ConfigField::new("by_name", "x").example("a name"),
            ConfigField::new("by_number", "x").example("7"),
        ];
        fn validate(&self) -> Vec<String> {
            match (&self.by_name, self.by_number) {
                (Some(_), Some(_)) => vec!["by_name excludes by_number".to_owned()],
                _ => vec![],
            }
        }
    }
    fn build(_: Either, _: &BuildContext) -> BuildResult {
        Ok(Some(Arc::new(Idle("either"))))
    }
    register_hook! { name: "either", description: "x", config: Either, build: build }
    let contract = HookContract::new("either").section(json!({ "by_number": 1 }));
    assert_eq!(ids(contract).await, [""; 0]);
}

#[tokio::test]
async fn required_not_required() {
    config!(Claimed { url: Option<String> }, &[ConfigField::new("url", "x").required()]);
    fn build(_: Claimed, _: &BuildContext) -> BuildResult {
        Ok(Some(Arc::new(Idle("claims"))))
    }
    register_hook! { name: "claims", description: "x", config: Claimed, build: build }
    let contract = HookContract::new("claims").section(json!({ "url": "http://a" }));
    assert_eq!(ids(contract).await, ["required-not-required"]);
}

#[tokio::test]
async fn config_panics() {
    config!(Sliced { id: Option<String> }, &[ConfigField::new("id", "x")]);
    fn build(config: Sliced, _: &BuildContext) -> BuildResult {
        let id = config.id.unwrap_or_else(|| "abcdef".to_owned());
        assert!(!id[..2].is_empty()); // of the empty text, or inside a character
        Ok(Some(Arc::new(Idle("slices"))))
    }
    register_hook! { name: "slices", description: "x", config: Sliced, build: build }
    assert_eq!(ids(HookContract::new("slices")).await, ["config-panics"]);
}

#[tokio::test]
async fn config_panics_in_validate() {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Divided {
        #[serde(default)]
        by: Option<i64>,
    }
    impl HookConfig for Divided {
        const FIELDS: &'static [ConfigField] = &[ConfigField::new("by", "x")];
        fn validate(&self) -> Vec<String> {
            let rest = 100 % self.by.unwrap_or(1);
            vec!["by must divide 100".to_owned(); usize::from(rest != 0)]
        }
    }
    fn build(_: Divided, _: &BuildContext) -> BuildResult {
        Ok(Some(Arc::new(Idle("divides"))))
    }
    register_hook! { name: "divides", description: "x", config: Divided, build: build }
    assert_eq!(ids(HookContract::new("divides")).await, ["config-panics"]);
}

#[tokio::test]
async fn empty_section() {
    config!(Eager { url: Option<String> }, &[ConfigField::new("url", "x")]);
    fn build(config: Eager, _: &BuildContext) -> BuildResult {
        match config.url {
            Some(_) => Ok(Some(Arc::new(Idle("eager")))),
            None => Err(HookError::transient("no url")),
        }
    }
    register_hook! { name: "eager", description: "x", config: Eager, build: build }
    let contract = HookContract::new("eager").section(json!({ "url": "http://a" }));
    assert_eq!(ids(contract).await, ["empty-section"]);
}

config!(Optional { url: Option<String> }, &[ConfigField::new("url", "x")]);

fn optional(config: Optional, _: &BuildContext) -> BuildResult {
    Ok(config.url.map(|_| Arc::new(Idle("optional")) as _))
}

register_hook! { name: "optional", description: "x", config: Optional, build: optional }

#[tokio::test]
async fn valid_section_refused() {
    let contract = HookContract::new("optional").section(json!({ "url": 1 }));
    let found = violations(contract).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].id, "valid-section-refused");
    assert!(
        found[0].message.contains("url: invalid type"),
        "{}",
        found[0]
    );
}

#[tokio::test]
async fn valid_section_skipped() {
    assert_eq!(
        ids(HookContract::new("optional")).await,
        ["valid-section-skipped"]
    );
}

#[tokio::test]
async fn name_mismatch() {
    fn build(_: NoConfig, _: &BuildContext) -> BuildResult {
        Ok(Some(Arc::new(Idle("other"))))
    }
    register_hook! { name: "one", description: "x", config: NoConfig, build: build }
    assert_eq!(ids(HookContract::new("one")).await, ["name-mismatch"]);
}

#[tokio::test]
async fn secret_in_error_of_a_build() {
    config!(Keyed { key: Option<Secret> }, &[ConfigField::new("key", "x").secret()]);
    fn build(config: Keyed, _: &BuildContext) -> BuildResult {
        match config.key {
            Some(key) if key.expose() != "right" => {
                let cause = std::io::Error::other(format!("cannot parse {:?}", key.expose()));
                Err(HookError::config("the key is malformed").with_source(cause))
            }
            _ => Ok(Some(Arc::new(Idle("chatty")))),
        }
    }
    register_hook! { name: "chatty", description: "x", config: Keyed, build: build }
    let contract = HookContract::new("chatty").section(json!({ "key": "right" }));
    let found = violations(contract).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].id, "secret-in-error");
    assert!(!found[0].message.contains("planted"));
}

#[tokio::test]
async fn secret_in_error_of_a_secret_that_came_from_a_file() {
    config!(Filed { key: Option<Secret> }, &[ConfigField::new("key", "x").secret()]);
    fn build(config: Filed, _: &BuildContext) -> BuildResult {
        match config.key {
            None => Ok(Some(Arc::new(Idle("filed")))),
            Some(key) => Err(HookError::config(format!("the key {}", key.expose()))),
        }
    }
    register_hook! { name: "filed", description: "x", config: Filed, build: build }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "kept-in-a-file\n").unwrap();
    let contract = HookContract::new("filed").section(json!({ "key_file": file.path() }));
    let found = violations(contract).await;
    let ids: Vec<_> = found.iter().map(|v| v.id).collect();
    assert_eq!(ids, ["secret-in-error", "valid-section-refused"]);
    assert!(!format!("{found:?}").contains("kept-in-a-file"));
}

#[tokio::test]
async fn bad_field() {
    config!(Dashed { a: Option<String> }, &[ConfigField::new("my-key", "x")]);
    config!(Silent { a: Option<String> }, &[ConfigField::new("a", "")]);
    config!(Odd { a: Option<String> }, &[ConfigField::new("a", "x").env("MY KEY")]);
    config!(
        Shared { a: Option<String>, b: Option<String> },
        &[ConfigField::new("a", "x").env("KEY"), ConfigField::new("b", "x").env("KEY")]
    );
    fn dashed(_: Dashed, _: &BuildContext) -> BuildResult {
        Ok(Some(Arc::new(Idle("dashed"))))
    }
    fn silent(_: Silent, _: &BuildContext) -> BuildResult {
        Ok(Some(Arc::new(Idle("mute"))))
    }
    fn odd(_: Odd, _: &BuildContext) -> BuildResult {
        Ok(Some(Arc::new(Idle("odd"))))
    }
    fn shared(_: Shared, _: &BuildContext) -> BuildResult {
        Ok(Some(Arc::new(Idle("shared"))))
    }
    register_hook! { name: "dashed", description: "x", config: Dashed, build: dashed }
    register_hook! { name: "mute", description: "x", config: Silent, build: silent }
    register_hook! { name: "odd", description: "x", config: Odd, build: odd }
    register_hook! { name: "shared", description: "x", config: Shared, build: shared }
    for (hook, part) in [
        ("dashed", "is not snake_case"),
        ("mute", "has no description of one line"),
        ("odd", "is not a valid environment variable name"),
        ("shared", "is set by KEY, as \"a\" is"),
    ] {
        let found = violations(HookContract::new(hook)).await;
        let bad = found.iter().find(|v| v.id == "bad-field").expect(hook);
        assert!(bad.message.contains(part), "{bad}");
    }
}

#[tokio::test]
async fn config_does_io() {
    /// Looks whether the address answers, in the wrong place.
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Address {
        #[serde(default)]
        address: Option<String>,
    }
    impl HookConfig for Address {
        const FIELDS: &'static [ConfigField] = &[ConfigField::new("address", "x")];
        fn validate(&self) -> Vec<String> {
            let address = self.address.as_deref().and_then(|text| text.parse().ok());
            let address: Option<std::net::SocketAddr> = address;
            let down =
                address.is_some_and(|address| std::net::TcpStream::connect(address).is_err());
            vec!["nobody is there".to_owned(); usize::from(down)]
        }
    }
    fn connects(_: Address, _: &BuildContext) -> BuildResult {
        Ok(Some(Arc::new(Idle("connects"))))
    }
    register_hook! { name: "connects", description: "x", config: Address, build: connects }
    let found = violations(HookContract::new("connects")).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].id, "config-does-io");
    assert!(found[0].message.contains("it connects"), "{}", found[0]);
}

/// Only Linux counts the reads of a thread.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn config_does_io_on_a_file() {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Listed {
        #[serde(default)]
        list: Option<std::path::PathBuf>,
    }
    impl HookConfig for Listed {
        const FIELDS: &'static [ConfigField] = &[ConfigField::new("list", "x")];
        fn validate(&self) -> Vec<String> {
            let read = self.list.as_ref().map(std::fs::read_to_string);
            vec![
                "list is empty".to_owned();
                usize::from(matches!(read, Some(Ok(text)) if text.is_empty()))
            ]
        }
    }
    fn build(_: Listed, _: &BuildContext) -> BuildResult {
        Ok(Some(Arc::new(Idle("listed"))))
    }
    register_hook! { name: "listed", description: "x", config: Listed, build: build }
    let found = violations(HookContract::new("listed")).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].id, "config-does-io");
    assert!(found[0].message.contains("reads or writes"), "{}", found[0]);
}

#[tokio::test]
async fn task_left_behind() {
    fn build(_: NoConfig, _: &BuildContext) -> BuildResult {
        tokio::spawn(std::future::pending::<()>());
        Ok(Some(Arc::new(Idle("litters"))))
    }
    register_hook! { name: "litters", description: "x", config: NoConfig, build: build }
    let contract = HookContract::new("litters").deadline(std::time::Duration::from_secs(2));
    assert_eq!(ids(contract).await, ["task-left-behind"]);
}

#[tokio::test]
async fn a_task_that_ends_with_its_hook_is_fine() {
    struct Owner(tokio::task::AbortHandle);
    impl Drop for Owner {
        fn drop(&mut self) {
            self.0.abort();
        }
    }
    #[async_trait]
    impl EnvMutator for Owner {
        fn name(&self) -> &str {
            "owner"
        }
        async fn mutate_env(&self, _: &WorkspaceContext, _: &mut EnvMap) -> Result<(), HookError> {
            Ok(())
        }
    }
    fn build(_: NoConfig, _: &BuildContext) -> BuildResult {
        let task = tokio::spawn(std::future::pending::<()>());
        Ok(Some(Arc::new(Owner(task.abort_handle()))))
    }
    register_hook! { name: "owner", description: "x", config: NoConfig, build: build }
    assert_eq!(ids(HookContract::new("owner")).await, [""; 0]);
}
