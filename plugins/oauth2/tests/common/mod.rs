//! What every test of this crate needs: an issuer, a clock, a registry.
#![allow(dead_code, reason = "each test program uses its own part")]

use molecule_hook_oauth2 as _;
use molecule_hooks::testing::FakeClock;
use molecule_hooks::testing::oauth2::OauthIssuer;
use molecule_hooks::{
    EnvMap, HookError, HooksConfig, RegisteredHook, Registry, RegistryError, Token, TokenRequest,
    WorkspaceContext,
};
use serde_json::{Value, json};

pub(crate) const CLIENT_ID: &str = "molecule:agents & co";
pub(crate) const CLIENT_SECRET: &str = "p&ss+w%rd:of/the=client";

/// A hook that is configured for an issuer of its own.
pub(crate) struct World {
    pub(crate) issuer: OauthIssuer,
    pub(crate) clock: FakeClock,
    pub(crate) hook: RegisteredHook,
}

pub(crate) fn build(config: &HooksConfig) -> Result<RegisteredHook, RegistryError> {
    let registry = Registry::from_linked(config)?;
    Ok(registry.snapshot().pop().expect("the hook is configured"))
}

/// The problem that start-up reports.
pub(crate) fn refusal(section: Value) -> String {
    let config = HooksConfig::new().with_section("oauth2", section);
    let error = build(&config).expect_err("start-up must refuse");
    assert_eq!(error.problems.len(), 1, "{error}");
    error.problems[0].clone()
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(json!({})).await
    }

    /// `more` on top of what the hook needs and of a variable.
    pub(crate) async fn with(more: Value) -> Self {
        let issuer = OauthIssuer::start().await.unwrap();
        issuer.add_client(CLIENT_ID, CLIENT_SECRET, &["read", "write:all"]);
        let mut section = json!({
            "token_url": issuer.token_url(),
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "variable": "API_TOKEN",
        });
        for (key, value) in more.as_object().unwrap() {
            section[key] = value.clone();
        }
        let clock = FakeClock::new();
        let mut config = HooksConfig::new().with_section("oauth2", section);
        config.context.clock = clock.clock();
        let hook = build(&config).unwrap();
        Self {
            issuer,
            clock,
            hook,
        }
    }

    pub(crate) async fn token(&self) -> Result<Token, HookError> {
        let provider = self.hook.token_provider().expect("it provides tokens");
        provider.token(&TokenRequest::admin()).await
    }

    /// Boots a workspace whose owner stored a token by hand.
    pub(crate) async fn boot(&self) -> (Result<(), HookError>, EnvMap) {
        let mut env = EnvMap::new();
        env.set_secret("API_TOKEN", "stored-by-hand").unwrap();
        let workspace = WorkspaceContext::new("7aa08951-00d0-4000-8000-000000000001");
        let result = self.hook.apply(&workspace, &mut env).await;
        (result, env)
    }
}
