//! A hook crate is tested through the registry, as the server uses it.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

use env_mutator as _; // links the hook; without this line the chain is empty
use molecule_hooks::testing::{HookContract, assert_hook_contract};
use molecule_hooks::{EnvMap, HooksConfig, Registry, WorkspaceContext};
use serde_json::json;

#[tokio::test]
async fn a_workspace_is_greeted_as_configured() {
    for (section, greeting) in [(json!({}), "hello"), (json!({"greeting": "hi"}), "hi")] {
        let config = HooksConfig::new().with_section("env-mutator", section);
        let registry = Registry::from_linked(&config).unwrap();
        let mut env = EnvMap::new();
        let workspace = WorkspaceContext::new("7aa08951-00d0-4000-8000-000000000001");
        registry.run(&workspace, &mut env).await.unwrap();
        assert_eq!(env.get("GREETING"), Some(greeting));
    }
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let contract = HookContract::new("env-mutator")
        .section(json!({ "greeting": "hi" }))
        .workspace_env("GREETING", "set by hand")
        .verdict_file(concat!(env!("CARGO_MANIFEST_DIR"), "/contract.json"));
    assert_hook_contract(contract).await;
}
