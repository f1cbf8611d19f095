//! What only made-up descriptors can show: the linked ones have valid, distinct
//! names already.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use super::*;
use crate::config::{BuildContext, ConfigField, HookConfig, NoConfig};
use crate::descriptor::BuildResult;

struct Named(&'static str);

#[async_trait]
impl EnvMutator for Named {
    fn name(&self) -> &str {
        self.0
    }

    async fn mutate_env(&self, _: &WorkspaceContext, _: &mut EnvMap) -> Result<(), HookError> {
        Ok(())
    }
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    limit: u32,
}

impl HookConfig for Limits {
    const FIELDS: &'static [ConfigField] = &[ConfigField::new("limit", "a number").required()];

    fn validate(&self) -> Vec<String> {
        match self.limit {
            0 => vec!["limit must not be 0".to_owned()],
            _ => vec![],
        }
    }
}

fn descriptor<C: HookConfig>(
    name: &'static str,
    build: fn(&RawConfig, &BuildContext) -> BuildResult,
) -> &'static HookDescriptor {
    Box::leak(Box::new(HookDescriptor::new::<C>(
        name, "1.2.3", "a test", false, build,
    )))
}

fn plain(name: &'static str) -> &'static HookDescriptor {
    match name {
        "alpha" => descriptor::<NoConfig>(name, |_, _| Ok(Some(Arc::new(Named("alpha"))))),
        "beta" => descriptor::<NoConfig>(name, |_, _| Ok(Some(Arc::new(Named("beta"))))),
        _ => descriptor::<NoConfig>(name, |_, _| Ok(Some(Arc::new(Named("gamma"))))),
    }
}

fn limited(name: &'static str) -> &'static HookDescriptor {
    descriptor::<Limits>(name, |raw, _| raw.decode::<Limits>().map(|_| None))
}

fn problems(linked: &[&'static HookDescriptor], config: &HooksConfig) -> Vec<String> {
    Registry::from_descriptors(linked, config)
        .expect_err("must be refused")
        .problems
}

#[test]
fn link_order_means_nothing_and_the_operators_order_comes_first() {
    let linked = [plain("gamma"), plain("alpha"), plain("beta")];
    let by_name = Registry::from_descriptors(&linked, &HooksConfig::new()).unwrap();
    assert_eq!(by_name.names(), ["alpha", "beta", "gamma"]);

    let mut config = HooksConfig::new();
    config.order = vec!["gamma".into(), "alpha".into()];
    let ordered = Registry::from_descriptors(&linked, &config).unwrap();
    assert_eq!(ordered.names(), ["gamma", "alpha", "beta"]);
    assert_eq!(ordered.snapshot()[0].version(), "1.2.3");
}

#[test]
fn two_linked_hooks_of_one_name_are_refused() {
    let found = problems(&[plain("alpha"), plain("alpha")], &HooksConfig::new());
    assert_eq!(
        found,
        ["two linked hooks are called \"alpha\"; remove one of the two crates"]
    );
}

#[test]
fn an_order_that_lists_a_hook_twice_is_refused() {
    let mut config = HooksConfig::new();
    config.order = vec!["alpha".into(), "alpha".into()];
    assert_eq!(
        problems(&[plain("alpha")], &config),
        ["hooks.order lists \"alpha\" twice"]
    );
}

#[test]
fn a_hook_that_calls_itself_otherwise_is_refused() {
    let linked = [descriptor::<NoConfig>("alpha", |_, _| {
        Ok(Some(Arc::new(Named("omega"))))
    })];
    let found = problems(&linked, &HooksConfig::new());
    assert_eq!(found.len(), 1);
    assert!(
        found[0].contains("hook \"alpha\": it calls itself \"omega\""),
        "{found:?}"
    );
}

#[test]
fn a_build_that_panics_is_one_problem_among_others() {
    let linked = [
        descriptor::<NoConfig>("alpha", |_, _| panic!("on purpose")),
        limited("beta"),
    ];
    let found = problems(&linked, &HooksConfig::new());
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("hook \"alpha\": it panicked while it was built"));
    assert!(found[1].starts_with("hook \"beta\": missing field `limit`"));
}

#[test]
fn a_name_that_is_not_lower_kebab_is_refused() {
    let found = problems(
        &[descriptor::<NoConfig>("Not_Kebab", |_, _| Ok(None))],
        &HooksConfig::new(),
    );
    assert_eq!(found, ["hook \"Not_Kebab\": its name is not lower-kebab"]);
}

#[test]
fn all_problems_are_reported_at_once() {
    let mut config = HooksConfig::new()
        .with_section("beta", json!({ "limit": 0 }))
        .with_section("gamma", json!({ "limit": "many", "limits": 1 }))
        .with_section("vault-env", json!({}));
    config.order = vec!["missing".into()];

    let error = Registry::from_descriptors(&[limited("beta"), limited("gamma")], &config)
        .expect_err("must be refused");

    let found = &error.problems;
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(found[0].starts_with("hooks.config.vault-env names the hook \"vault-env\""));
    assert!(found[0].contains("linked: beta, gamma"));
    assert!(found[0].contains("`vault-env = \"…\"` to Cargo.toml"));
    assert!(found[0].contains("`use vault_env as _;` to main.rs"));
    assert!(found[1].starts_with("hooks.order names the hook \"missing\""));
    assert_eq!(found[2], "hook \"beta\": limit must not be 0");
    assert!(found[3].contains("unknown key \"limits\"; known keys: limit"));
    assert!(found[3].contains("limit: invalid type"));
    let shown = error.to_string();
    assert!(shown.starts_with("4 problem(s) with the hooks of this server:\n  - "));
    assert_eq!(shown.lines().count(), 5);
}

#[test]
fn a_hook_that_builds_nothing_is_skipped_and_listed() {
    let linked = [
        descriptor::<NoConfig>("alpha", |_, _| Ok(None)),
        plain("beta"),
    ];
    let registry = Registry::from_descriptors(&linked, &HooksConfig::new()).unwrap();
    assert_eq!(registry.names(), ["beta"]);
    assert_eq!(registry.skipped(), ["alpha"]);
}

#[test]
fn a_secret_in_a_build_error_is_masked() {
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Keyed {
        key: String,
    }
    impl HookConfig for Keyed {
        const FIELDS: &'static [ConfigField] = &[ConfigField::new("key", "a key").secret()];
    }
    let linked = [descriptor::<Keyed>("alpha", |raw, _| {
        let key = raw.decode::<Keyed>()?.key;
        Err(HookError::config(format!("cannot parse {key}")))
    })];
    let config = HooksConfig::new().with_section("alpha", json!({ "key": "hunter2-hunter2" }));
    assert_eq!(
        problems(&linked, &config),
        ["hook \"alpha\": cannot parse [REDACTED]"]
    );
}
