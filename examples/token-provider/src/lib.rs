//! The shortest `TokenProvider`: a token that changes each time, for trying out
//! rotation without an upstream. The server caches what it is given.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use molecule_hooks::*;

/// The section `hooks.config.token-provider` of `molecule.yaml`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    ttl_secs: Option<u32>,
}

impl HookConfig for Config {
    const FIELDS: &'static [ConfigField] =
        &[ConfigField::new("ttl_secs", "life of each token, at least 1").example("3600")];

    fn validate(&self) -> Vec<String> {
        match self.ttl_secs {
            Some(0) => vec!["ttl_secs must be at least 1".to_owned()],
            _ => vec![],
        }
    }
}

struct DemoTokens {
    ttl: Duration,
    clock: Clock,
    minted: AtomicU64,
}

impl DemoTokens {
    /// A real provider would ask its upstream here.
    fn mint(&self) -> Token {
        let number = self.minted.fetch_add(1, Ordering::Relaxed) + 1;
        let now = self.clock.now();
        let noise = RandomState::new().hash_one((number, now));
        Token::new(format!("demo-{number}-{noise:016x}"), now + self.ttl)
    }
}

#[async_trait]
impl EnvMutator for DemoTokens {
    fn name(&self) -> &str {
        "token-provider"
    }
    async fn mutate_env(&self, _: &WorkspaceContext, env: &mut EnvMap) -> Result<(), HookError> {
        Ok(env.set_token("DEMO_TOKEN", &self.mint())?)
    }
    fn token_provider(&self) -> Option<&dyn TokenProvider> {
        Some(self)
    }
}

#[async_trait]
impl TokenProvider for DemoTokens {
    async fn token(&self, _: &TokenRequest) -> Result<Token, HookError> {
        Ok(self.mint())
    }
}

fn build(config: Config, context: &BuildContext) -> BuildResult {
    Ok(Some(Arc::new(DemoTokens {
        ttl: Duration::from_secs(config.ttl_secs.unwrap_or(3600).into()),
        clock: context.clock.clone(),
        minted: AtomicU64::new(0),
    })))
}

register_hook! {
    name: "token-provider",
    description: "Serves demo tokens that change each time",
    config: Config,
    build: build,
    token_provider: true,
    contract: include_str!("../contract.json"),
}
