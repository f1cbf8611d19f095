use std::sync::Arc;
use std::time::Duration;

use molecule_hooks::testing::{
    FakeClock, HookContract, Reply, ScriptedUpstream, assert_hook_contract,
};
use molecule_hooks::{
    BuildContext, BuildResult, Clock, ConfigField, EnvMap, EnvMutator, HookConfig, HookError,
    Secret, Token, TokenCache, TokenProvider, TokenRequest, TokenScope, WorkspaceContext,
    async_trait, register_hook, tracing,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A hook with everything: settings of every kind, an upstream and a token.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    address: std::net::SocketAddr,
    key: Secret,
    #[serde(default)]
    role_variable: Option<String>,
    #[serde(default)]
    lifetime_secs: Option<u32>,
}

impl HookConfig for Config {
    const FIELDS: &'static [ConfigField] = &[
        ConfigField::new("address", "host and port of the token service")
            .required()
            .example("127.0.0.1:80"),
        ConfigField::new("key", "what to show it")
            .required()
            .secret()
            .env("GOOD_KEY"),
        ConfigField::new("role_variable", "where to put the role").example("'ROLE'"),
        ConfigField::new("lifetime_secs", "how long a token lives").example("3600"),
    ];

    fn validate(&self) -> Vec<String> {
        match self.key.is_empty() {
            true => vec!["key must not be empty".to_owned()],
            false => vec![],
        }
    }
}

struct Good {
    tokens: TokenCache,
    role_variable: Option<String>,
}

#[async_trait]
impl EnvMutator for Good {
    fn name(&self) -> &str {
        "good"
    }

    async fn mutate_env(
        &self,
        workspace: &WorkspaceContext,
        env: &mut EnvMap,
    ) -> Result<(), HookError> {
        let token = self.tokens.get().await?;
        tracing::info!(workspace.role = ?workspace.role, expires = %token.expires_at, "minted");
        if let (Some(name), Some(role)) = (&self.role_variable, &workspace.role) {
            env.set(name, role)?;
        }
        Ok(env.set_token("GOOD_TOKEN", &token)?)
    }

    fn token_provider(&self) -> Option<&dyn TokenProvider> {
        Some(self)
    }
}

#[async_trait]
impl TokenProvider for Good {
    async fn token(&self, _: &TokenRequest) -> Result<Token, HookError> {
        self.tokens.get().await
    }

    fn scope(&self) -> TokenScope {
        TokenScope::Shared
    }
}

async fn mint(config: Arc<Config>, clock: Clock) -> Result<Token, HookError> {
    let down = |error: std::io::Error| HookError::transient("no token service").with_source(error);
    let mut stream = TcpStream::connect(config.address).await.map_err(down)?;
    let key = config.key.expose();
    let request = format!("GET / HTTP/1.0\r\nAuthorization: Bearer {key}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(down)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(down)?;
    let token = answer
        .rsplit_once("\r\n\r\n")
        .map(|(_, body)| body)
        .unwrap_or_default();
    let lifetime_secs = config.lifetime_secs.unwrap_or(3600);
    Ok(Token::new(
        token,
        clock.now() + Duration::from_secs(lifetime_secs.into()),
    ))
}

fn build(config: Config, context: &BuildContext) -> BuildResult {
    let role_variable = config.role_variable.clone();
    let (config, clock) = (Arc::new(config), context.clock.clone());
    let tokens = TokenCache::new(clock.clone(), move || {
        mint(Arc::clone(&config), clock.clone())
    });
    Ok(Some(Arc::new(Good {
        tokens,
        role_variable,
    })))
}

register_hook! {
    name: "good",
    description: "Breaks nothing",
    config: Config,
    build: build,
    token_provider: true,
}

/// What `contract.json` says of the hook above.
pub(crate) fn contract(upstream: &ScriptedUpstream) -> HookContract {
    upstream.default_reply(Reply::text(200, "minted-token-1"));
    HookContract::new("good")
        .section(json!({ "address": upstream.address().to_string(), "role_variable": "ROLE" }))
        .env("GOOD_KEY", "key-that-nobody-may-see")
        .clock(FakeClock::new().clock())
        .workspace_env("ROLE", "earlier")
        .workspace_secret("GOOD_TOKEN", "left-by-the-operator")
        .secret("minted-token-1")
        .token_lifetime(Duration::from_secs(3600))
}

/// Every rule for hooks. The names are stable: renaming one breaks whoever looks for it.
const STABLE_NAMES: [&str; 46] = [
    "not-linked",
    "linked-twice",
    "bad-description",
    "bad-field",
    "field-listed-twice",
    "field-not-decoded",
    "key-not-in-fields",
    "config-panics",
    "valid-section-refused",
    "valid-section-skipped",
    "unknown-key-accepted",
    "empty-section",
    "example-refused",
    "required-not-required",
    "config-does-io",
    "name-mismatch",
    "invalid-name",
    "call-panics",
    "call-timeout",
    "call-failed",
    "env-key-invalid",
    "env-value-invalid",
    "env-expired",
    "secret-visible",
    "not-idempotent",
    "not-concurrent",
    "not-cancel-safe",
    "hostile-env-panics",
    "hostile-workspace-panics",
    "token-provider-undeclared",
    "token-service-invalid",
    "token-panics",
    "token-timeout",
    "token-failed",
    "token-empty",
    "token-expired",
    "token-endless",
    "token-overstated",
    "token-not-concurrent",
    "token-not-cancel-safe",
    "token-undated",
    "token-outlived",
    "secret-in-error",
    "secret-in-log",
    "blocks-the-thread",
    "task-left-behind",
];

#[tokio::test]
async fn a_hook_in_order_passes_every_rule() {
    let upstream = ScriptedUpstream::start().await.unwrap();
    let contract = contract(&upstream);

    assert_hook_contract(contract.clone()).await;

    let report = contract.check().await.unwrap();
    assert_eq!(report.hook, "good");
    assert_eq!(report.checked, STABLE_NAMES);
    let sent = &upstream.requests()[0];
    assert_eq!(
        sent.header("authorization"),
        Some("Bearer key-that-nobody-may-see")
    );
}

/// The shortest hook in order.
pub(crate) struct Plain;

#[async_trait]
impl EnvMutator for Plain {
    fn name(&self) -> &str {
        "plain"
    }
    async fn mutate_env(
        &self,
        workspace: &WorkspaceContext,
        env: &mut EnvMap,
    ) -> Result<(), HookError> {
        Ok(env.set("ID", &workspace.id)?)
    }
}

#[tokio::test]
async fn an_instance_is_checked_without_a_configuration() {
    assert_hook_contract(Arc::new(Plain) as Arc<dyn EnvMutator>).await;
}

#[tokio::test]
#[should_panic(
    expected = "hook \"absent-hook\" breaks 1 rule(s) of its contract:\n  - [not-linked] \
    no linked hook is called \"absent-hook\"; add `use its_crate as _;` to the test"
)]
async fn the_assertion_lists_what_is_broken() {
    assert_hook_contract("absent-hook").await;
}

#[test]
fn the_contract_shows_no_section() {
    let contract = HookContract::new("good").section(json!({ "key": "hunter2" }));
    assert_eq!(format!("{contract:?}"), r#"HookContract("good")"#);
}
