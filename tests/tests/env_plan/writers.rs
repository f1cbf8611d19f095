//! Who wrote what, in which order, and who won.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use molecule_core::Registry;
use molecule_hooks::{
    BuildContext, BuildResult, EnvMap, EnvMutator, HookError, HooksConfig, NoConfig, Token,
    WorkspaceContext, async_trait, register_hook,
};
use molecule_tests::hooks::FnHook;
use molecule_tests::support::strict;
use molecule_tests::{ADMIN, on_both_engines};
use serde_json::{Value, json};

use crate::shared::{
    find, hash, key, named, plan, scripted, started, store_global, store_own, try_out, winner,
    writers,
};

struct Versioned;

#[async_trait]
impl EnvMutator for Versioned {
    fn name(&self) -> &str {
        "versioned"
    }

    async fn mutate_env(&self, _: &WorkspaceContext, env: &mut EnvMap) -> Result<(), HookError> {
        Ok(env.set("VERSIONED", "yes")?)
    }
}

fn build(_: NoConfig, _: &BuildContext) -> BuildResult {
    Ok(Some(Arc::new(Versioned)))
}

register_hook! { name: "versioned", description: "Has a version", config: NoConfig, build: build }

on_both_engines! {
    async fn every_writer_is_named_in_order_and_the_last_one_won(engine: Engine) {
        let (first, _) = scripted("first", &[("SHARED", Some("3")), ("GONE", None)]);
        let (second, _) = scripted("second", &[("SHARED", Some("4")), ("BACK", Some("again"))]);
        let (remover, _) = scripted("remover", &[("BACK", None), ("NEVER", None)]);
        let app = strict(engine).hook(remover).hook(first).hook(second).start().await;
        store_global(&app, engine, "SHARED", "1").await;
        store_global(&app, engine, "PYTHONPATH", "/mine").await;
        store_global(&app, engine, "ONLY_GLOBAL", "g").await;
        let parent = started(&app, named("parent")).await;

        let id = started(&app, json!({
            "name": "Child", "role": "worker", "model": "anthropic/large", "parent_id": parent,
            "secrets": { "SHARED": "2", "GONE": "soon", "BACK": "first", "GIT_AUTHOR_NAME": "me" },
        })).await;
        let plan = plan(&app, &id).await;

        let chains: [(&str, &[&str]); 16] = [
            ("PLUGINS_DIR", &["platform"]),
            ("PYTHONPATH", &["platform", "global_secret"]),
            ("ONLY_GLOBAL", &["global_secret"]),
            ("SHARED", &["global_secret", "workspace_secret", "hook:first", "hook:second"]),
            ("GONE", &["workspace_secret", "-hook:first"]),
            ("BACK", &["workspace_secret", "-hook:remover", "hook:second"]),
            ("GIT_AUTHOR_NAME", &["workspace_secret"]),
            ("GIT_COMMITTER_NAME", &["identity"]),
            ("MODEL_PROVIDER", &["workspace_secret"]),
            ("LLM_PROVIDER", &["workspace_secret"]),
            ("MODEL", &["identity"]),
            ("MOLECULE_AGENT_ROLE", &["identity"]),
            ("PARENT_ID", &["identity"]),
            ("WORKSPACE_ID", &["platform"]),
            ("PLATFORM_URL", &["platform"]),
            ("TIER", &["platform"]),
        ];
        for (name, chain) in chains {
            assert_eq!(writers(&plan, name), chain, "{name}");
            assert_eq!(winner(&plan, name), chain[chain.len() - 1], "{name}");
            assert_eq!(key(&plan, name)["present"], json!(name != "GONE"), "{name}");
            let reserved = ["WORKSPACE_ID", "PLATFORM_URL", "TIER"].contains(&name);
            assert_eq!(key(&plan, name)["reserved"], json!(reserved), "{name}");
        }
        assert!(find(&plan, "NEVER").is_none(), "nobody ever set it");
        assert!(key(&plan, "GONE")["hash"].is_null());
        assert_eq!(key(&plan, "SHARED")["sensitive"], true);
        assert_eq!(key(&plan, "PLUGINS_DIR")["sensitive"], false);
        assert_eq!((plan["error"].clone(), plan["missing"].clone()), (Value::Null, json!([])));
        assert_eq!(plan["made_up_id"], false);

        // What was said is what was booted.
        let names: Vec<&str> = plan["keys"].as_array().expect("keys").iter()
            .map(|key| key["key"].as_str().expect("a name")).collect();
        assert!(names.is_sorted(), "{names:?}");
        let booted = app.backend.env(&id);
        for name in &names {
            let expected = key(&plan, name)["present"] == json!(true);
            let forced = ["MOLECULE_URL", "PLATFORM_URL", "TIER", "WORKSPACE_CONFIG_PATH", "WORKSPACE_ID"];
            let is_there = booted.contains_key(*name) || forced.contains(name);
            assert_eq!(is_there, expected, "{name}");
        }
        assert!(booted.keys().all(|name| names.contains(&name.as_str())));
    }

    async fn a_linked_hook_is_shown_with_the_version_of_its_crate(engine: Engine) {
        let registry = Registry::from_linked(&HooksConfig::default()).expect("a chain");
        let app = strict(engine).registry(registry).start().await;
        let id = started(&app, named("one")).await;
        let plan = plan(&app, &id).await;
        assert_eq!(
            key(&plan, "VERSIONED")["won_by"],
            json!({ "source": "hook", "hook": "versioned", "version": env!("CARGO_PKG_VERSION") })
        );
        assert_eq!(key(&plan, "VERSIONED")["sensitive"], false);
    }

    async fn a_token_is_shown_with_its_end(engine: Engine) {
        let end = Utc::now() + TimeDelta::hours(1);
        let hook = FnHook::new("minting", move |_, env| {
            env.set_token("GITHUB_TOKEN", &Token::new("ghs_of_a_plan", end))?;
            Ok(env.set_secret("OTHER", "for good")?)
        });
        let app = strict(engine).hook(hook).start().await;
        let id = started(&app, named("one")).await;
        let plan = plan(&app, &id).await;
        let shown = key(&plan, "GITHUB_TOKEN")["expires_at"].as_str().expect("a time");
        let shown = DateTime::parse_from_rfc3339(shown).expect("RFC 3339");
        assert!((shown.to_utc() - end).abs() < TimeDelta::milliseconds(1));
        assert!(key(&plan, "OTHER")["expires_at"].is_null());
    }

    async fn stored_secrets_that_no_environment_holds_are_named_with_the_reason(engine: Engine) {
        let app = strict(engine).start().await;
        let id = started(&app, named("one")).await;
        let long = "x".repeat(64 * 1024 + 1);
        for (name, value) in [("TIER", "9"), ("ADMIN_TOKEN", "t"), ("A-B", "v"), ("NUL", "a\0b"), ("LONG", &long)] {
            store_own(&app, engine, &id, name, value).await;
        }
        store_global(&app, engine, "WORKSPACE_ID", "someone-else").await;
        let plan = plan(&app, &id).await;
        let ignored: BTreeMap<String, (Value, Value)> = plan["ignored"].as_array().expect("a list")
            .iter()
            .map(|one| (one["key"].as_str().expect("a name").to_owned(), (one["source"].clone(), one["reason"].clone())))
            .collect();
        let own = |reason: &str| (json!("workspace_secret"), json!(reason));
        assert_eq!(ignored, BTreeMap::from([
            ("TIER".to_owned(), own("reserved")),
            ("ADMIN_TOKEN".to_owned(), own("reserved")),
            ("A-B".to_owned(), own("invalid_name")),
            ("NUL".to_owned(), own("nul_byte")),
            ("LONG".to_owned(), own("too_long")),
            ("WORKSPACE_ID".to_owned(), (json!("global_secret"), json!("reserved"))),
        ]));
        assert_eq!(writers(&plan, "TIER"), ["platform"]);
        for name in ["ADMIN_TOKEN", "A-B", "NUL", "LONG"] {
            assert!(find(&plan, name).is_none(), "{name}");
        }
        assert_eq!(plan["booted"]["differs"], false, "{plan:#}");
    }

    async fn a_hook_that_replaces_the_whole_map_or_names_others_hides_nothing(engine: Engine) {
        let hook = FnHook::new("sweeping", |_, env| {
            let kept = env.get("KEPT").map(str::to_owned);
            *env = EnvMap::new();
            env.set_writer(molecule_hooks::EnvSource::Identity);
            env.set("KEPT", kept.unwrap_or_default())?;
            env.set("CHANGED", "by the hook")?;
            Ok(env.set("NEW", "one")?)
        });
        let app = strict(engine).hook(hook).start().await;
        let body = json!({ "name": "one", "secrets": { "KEPT": "k", "CHANGED": "c", "LOST": "l" } });
        let id = started(&app, body).await;
        let plan = plan(&app, &id).await;
        assert_eq!(writers(&plan, "KEPT"), ["workspace_secret"]);
        assert_eq!(writers(&plan, "CHANGED"), ["workspace_secret", "hook:sweeping"]);
        assert_eq!(writers(&plan, "NEW"), ["hook:sweeping"]);
        assert_eq!(writers(&plan, "LOST"), ["workspace_secret", "-hook:sweeping"]);
        assert_eq!(writers(&plan, "PYTHONPATH"), ["platform", "-hook:sweeping"]);
        assert_eq!(key(&plan, "KEPT")["sensitive"], true, "a secret stays one");
    }

    async fn equal_values_have_equal_hashes_in_one_place_only(engine: Engine) {
        let app = strict(engine).start().await;
        let secrets = json!({ "PASSWORD": "hunter22", "ALIAS": "hunter22", "EMPTY": "" });
        let one = started(&app, json!({ "name": "one", "secrets": secrets })).await;
        let two = started(&app, json!({ "name": "two", "secrets": secrets })).await;
        let (first, again, other) =
            (plan(&app, &one).await, plan(&app, &one).await, plan(&app, &two).await);
        for name in ["PASSWORD", "ALIAS", "EMPTY"] {
            assert_eq!(hash(&first, name), hash(&again, name));
            assert_ne!(hash(&first, name), hash(&other, name), "another workspace");
        }
        assert_ne!(hash(&first, "PASSWORD"), hash(&first, "ALIAS"), "another name");
        let dry = json!({ "name": "three", "secrets": secrets });
        let (dry, again) = (try_out(&app, dry.clone()).await.json(), try_out(&app, dry).await.json());
        assert_ne!(hash(&dry, "PASSWORD"), hash(&first, "PASSWORD"));
        assert_ne!(hash(&dry, "PASSWORD"), hash(&again, "PASSWORD"));
        let list = app.get("/workspaces").bearer(ADMIN).send().await.json();
        assert_eq!(list.as_array().map(Vec::len), Some(2));
    }
}
