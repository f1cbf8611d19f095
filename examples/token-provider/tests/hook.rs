//! A hook crate is tested through the registry, as the server uses it.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

use std::time::Duration;

use molecule_hooks::testing::{FakeClock, HookContract, assert_hook_contract};
use molecule_hooks::{Clock, EnvMap, HooksConfig, Registry, TokenRequest, WorkspaceContext};
use serde_json::json;
use token_provider as _; // links the hook; without this line the chain is empty

#[tokio::test]
async fn every_token_is_new_and_lives_as_long_as_configured() {
    let now = Clock::system().now();
    for (section, ttl_secs) in [(json!({}), 3600), (json!({"ttl_secs": 5}), 5)] {
        let mut config = HooksConfig::new().with_section("token-provider", section);
        config.context.clock = Clock::from_fn(move || now);
        let registry = Registry::from_linked(&config).unwrap();
        let mut env = EnvMap::new();
        let workspace = WorkspaceContext::new("7aa08951-00d0-4000-8000-000000000001");
        registry.run(&workspace, &mut env).await.unwrap();
        assert!(env.is_secret("DEMO_TOKEN"));

        let hook = registry.first_token_provider().unwrap();
        let provider = hook.token_provider().unwrap();
        let first = provider.token(&TokenRequest::admin()).await.unwrap();
        let second = provider.token(&TokenRequest::admin()).await.unwrap();
        assert!(first.secret.expose().starts_with("demo-"));
        assert_ne!(first.secret, second.secret);
        assert_ne!(env.get("DEMO_TOKEN"), Some(first.secret.expose()));
        assert_eq!(first.expires_at, now + Duration::from_secs(ttl_secs));
    }
}

#[test]
fn a_life_of_zero_is_refused() {
    let config = HooksConfig::new().with_section("token-provider", json!({"ttl_secs": 0}));
    let error = Registry::from_linked(&config).unwrap_err();
    assert!(error.to_string().contains("ttl_secs must be at least 1"));
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let contract = HookContract::new("token-provider")
        .section(json!({ "ttl_secs": 60 }))
        .token_lifetime(Duration::from_secs(60))
        .clock(FakeClock::new().clock())
        .verdict_file(concat!(env!("CARGO_MANIFEST_DIR"), "/contract.json"));
    assert_hook_contract(contract).await;
}
