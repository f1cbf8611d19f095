//! What every test of this crate needs: a Vault, files, a registry.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use molecule_hook_vault as _;
use molecule_hooks::testing::vault::VaultStandIn;
use molecule_hooks::{
    Clock, EnvMap, HookError, HooksConfig, RegisteredHook, Registry, RegistryError,
    WorkspaceContext,
};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

pub(crate) const TOKEN: &str = "hvs.givenByTheOperator";
pub(crate) const SECRET_ID: &str = "b1f2c3d4-secret-id-of-the-tests";
pub(crate) const ROLE_ID: &str = "a9e8d7c6-role-id-of-the-tests";
pub(crate) const JWT: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtb2xlY3VsZSJ9.c2ln";

/// A hook that is configured for a Vault of its own.
pub(crate) struct World {
    pub(crate) vault: VaultStandIn,
    pub(crate) hook: RegisteredHook,
    pub(crate) files: TempDir,
}

pub(crate) fn build(section: Value) -> Result<RegisteredHook, RegistryError> {
    build_with_clock(section, Clock::system())
}

fn build_with_clock(section: Value, clock: Clock) -> Result<RegisteredHook, RegistryError> {
    let mut config = HooksConfig::new().with_section("vault", section);
    config.context.clock = clock;
    let registry = Registry::from_linked(&config)?;
    Ok(registry.snapshot().pop().expect("the hook is configured"))
}

/// The problem that start-up reports.
pub(crate) fn refusal(section: Value) -> String {
    let error = build(section).expect_err("start-up must refuse");
    assert_eq!(error.problems.len(), 1, "{error}");
    error.problems[0].clone()
}

pub(crate) fn approle(files: &TempDir) -> Value {
    json!({
        "auth": "approle",
        "role_id": ROLE_ID,
        "secret_id_file": write(files, "secret-id", SECRET_ID),
    })
}

pub(crate) fn write(files: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = files.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

impl World {
    /// Logs in with a token that never ends.
    pub(crate) async fn new() -> Self {
        let vault = VaultStandIn::start().await.unwrap();
        vault.add_token(TOKEN, None);
        Self::with(vault, |_| json!({ "token": TOKEN }))
    }

    /// Logs in with a role id and a secret id.
    pub(crate) async fn with_approle() -> Self {
        let vault = VaultStandIn::start().await.unwrap();
        vault.set_approle(ROLE_ID, SECRET_ID);
        Self::with(vault, approle)
    }

    /// `section` on top of the address and of two paths.
    pub(crate) fn with(vault: VaultStandIn, section: impl FnOnce(&TempDir) -> Value) -> Self {
        Self::with_clock(vault, Clock::system(), section)
    }

    /// As [`with`](World::with), with a clock of the server that is not Vault's.
    pub(crate) fn with_clock(
        vault: VaultStandIn,
        clock: Clock,
        section: impl FnOnce(&TempDir) -> Value,
    ) -> Self {
        let files = tempfile::tempdir().unwrap();
        let mut all: Map<String, Value> = Map::new();
        all.insert("url".into(), json!(vault.url()));
        all.insert(
            "paths".into(),
            json!(["molecule/common", "molecule/roles/{role}"]),
        );
        let Value::Object(more) = section(&files) else {
            panic!("a section is an object");
        };
        all.extend(more);
        let hook = build_with_clock(Value::Object(all), clock).unwrap();
        Self { vault, hook, files }
    }

    pub(crate) async fn boot(&self) -> (Result<(), HookError>, EnvMap) {
        self.boot_as("pmm-lead").await
    }

    pub(crate) async fn boot_as(&self, role: &str) -> (Result<(), HookError>, EnvMap) {
        let mut env = EnvMap::new();
        env.set_secret("API_KEY", "stored-by-hand").unwrap();
        let workspace =
            WorkspaceContext::new("7aa08951-00d0-4000-8000-000000000001").with_role(role);
        let result = self.hook.apply(&workspace, &mut env).await;
        (result, env)
    }
}

/// Waits until `done`, at most a minute.
pub(crate) async fn eventually(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
