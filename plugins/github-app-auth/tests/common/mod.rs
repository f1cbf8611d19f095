//! What every test of this crate needs: a GitHub, a clock, a registry.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use github_stand_in::{GithubStandIn, Options};
use molecule_hook_github_app_auth as _;
use molecule_hooks::{
    Clock, EnvMap, HookError, HooksConfig, RegisteredHook, Registry, RegistryError, Token,
    TokenRequest, WorkspaceContext,
};

pub(crate) const PUBLIC_KEY: &str = include_str!("../fixtures/test-only-public.pem");

/// The path of a key that exists for tests only.
pub(crate) fn fixture(name: &str) -> String {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    directory.join(name).to_str().unwrap().to_owned()
}

/// A clock that starts at the real time and moves when told to.
#[derive(Clone, Default)]
pub(crate) struct MovedClock(Arc<AtomicI64>);

impl MovedClock {
    pub(crate) fn now(&self) -> DateTime<Utc> {
        Utc::now() + TimeDelta::seconds(self.0.load(Ordering::SeqCst))
    }

    pub(crate) fn advance(&self, minutes: i64) {
        self.0.fetch_add(minutes * 60, Ordering::SeqCst);
    }
}

/// A hook that is configured for a GitHub of its own.
pub(crate) struct World {
    pub(crate) github: GithubStandIn,
    pub(crate) clock: MovedClock,
    pub(crate) hook: RegisteredHook,
}

/// The sections' worth of environment that configures the hook.
pub(crate) fn configured(api_url: &str, key: &str) -> HooksConfig {
    HooksConfig::new()
        .with_env("GITHUB_APP_ID", "4242")
        .with_env("GITHUB_APP_INSTALLATION_ID", "77")
        .with_env("GITHUB_APP_PRIVATE_KEY_FILE", &fixture(key))
        .with_env("GITHUB_API_URL", api_url)
}

pub(crate) fn build(config: &HooksConfig) -> Result<RegisteredHook, RegistryError> {
    let registry = Registry::from_linked(config)?;
    Ok(registry.snapshot().pop().expect("the hook is configured"))
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|config| config).await
    }

    pub(crate) async fn with_key(key: &str) -> Self {
        Self::with(|config| config.with_env("GITHUB_APP_PRIVATE_KEY_FILE", &fixture(key))).await
    }

    pub(crate) async fn with(change: impl FnOnce(HooksConfig) -> HooksConfig) -> Self {
        let clock = MovedClock::default();
        let (for_github, for_hook) = (clock.clone(), clock.clone());
        let options = Options::default().with_clock(move || for_github.now());
        let github = GithubStandIn::start_with(PUBLIC_KEY, options)
            .await
            .unwrap();
        let mut config = change(configured(&github.url(), "test-only-pkcs8.pem"));
        config.context.clock = Clock::from_fn(move || for_hook.now());
        let hook = build(&config).unwrap();
        Self {
            github,
            clock,
            hook,
        }
    }

    /// Boots a workspace whose owner stored a `GITHUB_TOKEN` of their own.
    pub(crate) async fn boot(&self) -> (Result<(), HookError>, EnvMap) {
        let mut env = EnvMap::new();
        env.set_secret("GITHUB_TOKEN", "stored-by-hand").unwrap();
        let workspace = WorkspaceContext::new("7aa08951-00d0-4000-8000-000000000001");
        let result = self.hook.apply(&workspace, &mut env).await;
        (result, env)
    }

    pub(crate) async fn token(&self) -> Result<Token, HookError> {
        let provider = self.hook.token_provider().expect("it provides tokens");
        provider.token(&TokenRequest::admin()).await
    }
}

/// Waits until `done`, at most five seconds.
pub(crate) async fn eventually(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Every text an error can show.
pub(crate) fn faces(error: &HookError) -> String {
    let mut text = format!("{error}\n{error:?}\n{error:#?}\n{}", error.chain());
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!("\n{cause}\n{cause:?}"));
        source = cause.source();
    }
    text
}
