//! What only made-up descriptors can show: the linked ones have valid, distinct
//! names already.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use super::*;
use crate::config::{BuildContext, HookConfig, NoConfig};
use crate::descriptor::BuildResult;
use crate::env_map::EnvMap;
use crate::env_mutator::WorkspaceContext;
use crate::error::HookError;
use crate::plugin_source::{FetchRequest, FetchedPlugin, PluginSourceError};
use crate::source_descriptor::BuildSourceResult;

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

fn from_descriptors(
    linked: &[&'static HookDescriptor],
    config: &HooksConfig,
) -> Result<Registry, RegistryError> {
    Linked {
        hooks: linked,
        sources: &[],
    }
    .build(config)
}

fn problems(linked: &[&'static HookDescriptor], config: &HooksConfig) -> Vec<String> {
    from_descriptors(linked, config)
        .expect_err("must be refused")
        .problems
}

struct Scheme(&'static str);

#[async_trait]
impl PluginSource for Scheme {
    fn scheme(&self) -> &str {
        self.0
    }

    fn check(&self, _: &str) -> Result<(), PluginSourceError> {
        Ok(())
    }

    async fn fetch(&self, request: FetchRequest<'_>) -> Result<FetchedPlugin, PluginSourceError> {
        Ok(FetchedPlugin::new(request.spec))
    }
}

fn source<C: HookConfig>(
    name: &'static str,
    scheme: &'static str,
    build: fn(&RawConfig, &BuildContext) -> BuildSourceResult,
) -> &'static PluginSourceDescriptor {
    Box::leak(Box::new(PluginSourceDescriptor::new::<C>(
        name, scheme, "1.2.3", "a test", build,
    )))
}

fn store(name: &'static str) -> &'static PluginSourceDescriptor {
    source::<NoConfig>(name, "store", |_, _| Ok(Some(Arc::new(Scheme("store")))))
}

#[test]
fn link_order_means_nothing_and_the_operators_order_comes_first() {
    let linked = [plain("gamma"), plain("alpha"), plain("beta")];
    let by_name = from_descriptors(&linked, &HooksConfig::new()).unwrap();
    assert_eq!(by_name.names(), ["alpha", "beta", "gamma"]);

    let mut config = HooksConfig::new();
    config.order = vec!["gamma".into(), "alpha".into()];
    let ordered = from_descriptors(&linked, &config).unwrap();
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

fn of(package: &'static str, version: &'static str, name: &'static str) -> &'static HookDescriptor {
    let hook = HookDescriptor::new::<NoConfig>(name, version, "a test", false, |_, _| Ok(None));
    Box::leak(Box::new(hook.in_package(package)))
}

#[test]
fn two_crates_with_one_name_are_both_told() {
    let linked = [
        of("acme-store", "1.0.0", "store"),
        of("store", "0.3.1", "store"),
    ];
    assert_eq!(
        problems(&linked, &HooksConfig::new()),
        [
            "two linked hooks are called \"store\" (acme-store 1.0.0 and store 0.3.1); remove one of \
          the two crates"
        ]
    );
    let linked = [of("store", "0.3.1", "store"), of("store", "0.3.1", "store")];
    assert_eq!(
        problems(&linked, &HooksConfig::new()),
        ["the crate store registers the name \"store\" twice; one crate registers a name once"]
    );
}

#[test]
fn two_versions_of_one_crate_are_one_problem_whatever_they_register() {
    let linked = [
        of("store", "0.2.0", "store"),
        of("store", "0.1.0", "store"),
        of("store", "0.1.0", "store-tokens"),
    ];
    assert_eq!(
        problems(&linked, &HooksConfig::new()),
        [
            "the hook crate store is linked in 2 versions (0.1.0, 0.2.0); let Cargo.toml ask for one, \
          and see `cargo tree --duplicates` for who asks for the other"
        ]
    );
}

#[test]
fn a_crate_that_is_a_dependency_already_lacks_one_line_only() {
    let mut config = HooksConfig::new().with_section("login-token", json!({}));
    for package in ["store", "login-token", "molecule-hook-proxy", "acme"] {
        config
            .hook_crates
            .push((package.to_owned(), "0.4.0".to_owned()));
    }
    let linked = [of("store", "0.4.0", "store")];
    let found = problems(&linked, &config);
    assert_eq!(
        found,
        [
            "hooks.config.login-token names the hook \"login-token\", which is not linked into this \
          binary (linked: store). Its crate login-token 0.4.0 is a dependency already; add the line \
          `use login_token as _;` to main.rs"
        ]
    );
    config.sections.clear();
    let with =
        |name: &str| problems(&linked, &config.clone().with_section(name, json!({}))).remove(0);
    assert!(with("proxy").contains("`use molecule_hook_proxy as _;`"));
    // Misspelled: of what is linked, or of what only lacks its line
    let misspelled = with("sotre");
    assert!(
        misspelled.contains("(linked: store). Did you mean \"store\"? If not, add the dependency"),
        "{misspelled}"
    );
    assert!(with("login-tokens").contains("Did you mean \"login-token\"?"));
    assert!(with("proxi").contains("Did you mean \"proxy\"?"));
    // What is nowhere near has the name that hook crates have, not one of a stranger
    let unknown = with("corporate-egress");
    assert!(
        unknown.contains("`molecule-hook-corporate-egress = \"…\"` to Cargo.toml")
            && unknown.contains("`use molecule_hook_corporate_egress as _;` to main.rs"),
        "{unknown}"
    );
    let shouted = with("My Store!");
    assert!(
        shouted.ends_with("lower-kebab, such as corporate-proxy"),
        "{shouted}"
    );
    assert!(!shouted.contains("Cargo.toml"), "{shouted}");
}

#[test]
fn a_build_that_never_ends_is_one_problem_among_others() {
    let linked = [
        descriptor::<NoConfig>("alpha", |_, _| {
            loop {
                std::thread::park();
            }
        }),
        limited("beta"),
    ];
    let mut config = HooksConfig::new();
    config.build_timeout = std::time::Duration::from_millis(50);
    let found = problems(&linked, &config);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0]
            .starts_with("hook \"alpha\": it was not built within 0 s (hooks.build_timeout_secs)")
    );
    assert!(found[1].starts_with("hook \"beta\": missing field `limit`"));
}

#[test]
fn a_build_has_the_runtime_of_its_caller_and_its_panic_gives_no_secret_away() {
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Keyed {
        key: String,
    }
    impl HookConfig for Keyed {
        const FIELDS: &'static [ConfigField] = &[ConfigField::new("key", "a key").secret()];
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    let linked = [descriptor::<Keyed>("alpha", |raw, _| {
        tokio::runtime::Handle::current();
        let key = raw.decode::<Keyed>()?.key;
        panic!("cannot parse {key}")
    })];
    let config = HooksConfig::new().with_section("alpha", json!({ "key": "hunter2-hunter2" }));
    let found = problems(&linked, &config);
    assert!(
        found[0].starts_with(
            "hook \"alpha\": it panicked while it was built: cannot parse [REDACTED]; this is"
        ),
        "{found:?}"
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
        .with_section("store-env", json!({}));
    config.order = vec!["missing".into()];

    let error = from_descriptors(&[limited("beta"), limited("gamma")], &config)
        .expect_err("must be refused");

    let found = &error.problems;
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(found[0].starts_with("hooks.config.store-env names the hook \"store-env\""));
    assert!(found[0].contains("linked: beta, gamma"));
    assert!(found[0].contains("`molecule-hook-store-env = \"…\"` to Cargo.toml"));
    assert!(found[0].contains("`use molecule_hook_store_env as _;` to main.rs"));
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
    let registry = from_descriptors(&linked, &HooksConfig::new()).unwrap();
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

#[test]
fn sources_are_built_beside_hooks_and_may_be_skipped() {
    let linked = Linked {
        hooks: &[plain("alpha")],
        sources: &[
            source::<NoConfig>("unset", "unset", |_, _| Ok(None)),
            store("company-store"),
            source::<NoConfig>("better-local", "local", |_, _| {
                Ok(Some(Arc::new(Scheme("local"))))
            }),
        ],
    };
    let registry = linked.build(&HooksConfig::new()).unwrap();
    let sources = registry.sources();
    let schemes: Vec<&str> = sources.iter().map(|source| source.scheme()).collect();
    assert_eq!(schemes, ["local", "store"]);
    assert_eq!(registry.names(), ["alpha"]);
    assert_eq!(registry.skipped(), ["unset"]);
    registry.register_source(Arc::new(Scheme("late")));
    assert_eq!(registry.clone().sources().len(), 3);
}

#[test]
fn the_problems_of_hooks_and_sources_are_reported_together() {
    let limited_source = |name, scheme| {
        source::<Limits>(name, scheme, |raw, _| raw.decode::<Limits>().map(|_| None))
    };
    let linked = Linked {
        hooks: &[plain("alpha"), limited("beta")],
        sources: &[
            store("alpha"),
            store("gamma"),
            limited_source("delta", "delta"),
            source::<NoConfig>("epsilon", "epsilon", |_, _| {
                Ok(Some(Arc::new(Scheme("zeta"))))
            }),
            source::<NoConfig>("eta", "e t a", |_, _| Ok(None)),
            source::<NoConfig>("theta", "theta", |_, _| panic!("on purpose")),
        ],
    };
    let mut config = HooksConfig::new()
        .with_section("delta", json!({ "limit": 0 }))
        .with_section("missing", json!({}));
    config.order = vec!["gamma".into()];

    let found = linked.build(&config).expect_err("must be refused").problems;

    let beginnings = [
        "a linked hook and a linked plugin source are both called \"alpha\"",
        "two linked plugin sources answer to \"store\"; remove one",
        "hooks.config.missing names the hook \"missing\", which is not linked",
        "hooks.order lists \"gamma\", which is a plugin source and has no order",
        "hook \"beta\": missing field `limit`",
        "plugin source \"delta\": limit must not be 0",
        "plugin source \"epsilon\": it answers to \"zeta\"; the scheme given",
        "plugin source \"eta\": \"e t a\" is no scheme",
        "plugin source \"theta\": it panicked while it was built",
    ];
    assert_eq!(found.len(), beginnings.len(), "{found:#?}");
    for (problem, beginning) in found.iter().zip(beginnings) {
        assert!(problem.starts_with(beginning), "{problem}");
    }
    assert!(
        found[2].contains("(linked: alpha, beta, delta"),
        "{}",
        found[2]
    );
}

#[test]
fn schemes_are_told_from_other_texts() {
    for scheme in ["a", "github", "git+ssh", "x.y-1", "HTTPS"] {
        assert!(is_valid_scheme(scheme), "{scheme}");
    }
    for text in [
        "",
        "1a",
        "+a",
        "a b",
        "a/b",
        "a:b",
        "ä",
        "a_b",
        &"a".repeat(65),
    ] {
        assert!(!is_valid_scheme(text), "{text}");
    }
}
