//! A deployment for tests: the whole command line of a server, and hooks that
//! misbehave as their configuration says.
//!
//! | hook | what it is for |
//! |---|---|
//! | `a-first` | runs before the one in the middle |
//! | `m-middle` | the one that usually misbehaves |
//! | `z-last` | shows whether the chain went on |
//! | `token-source` | serves live tokens |
//!
//! A hook that has no section is skipped.

use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{TimeDelta, Utc};
use molecule_hooks::{
    BuildContext, BuildResult, ConfigField, EnvMap, EnvMutator, HookConfig, HookError,
    MAX_ENV_VALUE_BYTES, Secret, Token, TokenProvider, TokenRequest, TokenScope, WorkspaceContext,
};
use serde::Deserialize;

fn main() -> ExitCode {
    molecule_core::cli::main()
}

/// What a scripted hook does when it is called.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Behaviour {
    /// Writes `<NAME>_SEEN=yes`.
    Ok,
    /// Writes the same and then fails, with the password in the text.
    Error,
    /// Writes the same and then panics, with the password in the text.
    Panic,
    /// Writes the same and never ends.
    Hang,
    /// Writes a variable that belongs to the platform.
    ReservedName,
    /// Writes a variable whose name no process can have.
    InvalidName,
    /// Writes a value no process can have.
    HugeValue,
    /// Writes the password as a secret variable.
    WritesSecret,
    /// Whatever the name of the workspace says; `ok` when it says nothing.
    ByName,
    /// Panics when the server starts, with the password in the text.
    PanicWhenBuilt,
    /// Is never built.
    HangWhenBuilt,
}

impl Behaviour {
    fn of(name: &str) -> Self {
        serde_json::from_value(name.into()).unwrap_or(Self::Ok)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScriptedConfig {
    behaviour: Option<Behaviour>,
    password: Option<Secret>,
}

impl HookConfig for ScriptedConfig {
    const FIELDS: &'static [ConfigField] = &[
        ConfigField::new("behaviour", "what the hook does").example("ok"),
        ConfigField::new("password", "a secret it may give away")
            .secret()
            .env("FAULT_HOOK_PASSWORD"),
    ];
}

struct Scripted {
    name: &'static str,
    behaviour: Behaviour,
    password: String,
}

fn scripted(name: &'static str, config: ScriptedConfig) -> BuildResult {
    let Some(behaviour) = config.behaviour else {
        return Ok(None);
    };
    let password = config.password.map(|password| password.expose().to_owned());
    match behaviour {
        Behaviour::PanicWhenBuilt => {
            panic!("cannot be built with {}", password.unwrap_or_default())
        }
        Behaviour::HangWhenBuilt => loop {
            std::thread::park();
        },
        _ => {}
    }
    Ok(Some(Arc::new(Scripted {
        name,
        behaviour,
        password: password.unwrap_or_default(),
    })))
}

fn first(config: ScriptedConfig, _: &BuildContext) -> BuildResult {
    scripted("a-first", config)
}

fn middle(config: ScriptedConfig, _: &BuildContext) -> BuildResult {
    scripted("m-middle", config)
}

fn last(config: ScriptedConfig, _: &BuildContext) -> BuildResult {
    scripted("z-last", config)
}

molecule_hooks::register_hook! {
    name: "a-first",
    description: "A scripted hook that runs first",
    config: ScriptedConfig,
    build: first,
}

molecule_hooks::register_hook! {
    name: "m-middle",
    description: "A scripted hook that runs in the middle",
    config: ScriptedConfig,
    build: middle,
}

molecule_hooks::register_hook! {
    name: "z-last",
    description: "A scripted hook that runs last",
    config: ScriptedConfig,
    build: last,
}

#[async_trait]
impl EnvMutator for Scripted {
    fn name(&self) -> &str {
        self.name
    }

    async fn mutate_env(
        &self,
        workspace: &WorkspaceContext,
        env: &mut EnvMap,
    ) -> Result<(), HookError> {
        let seen = format!("{}_SEEN", self.name.replace('-', "_").to_uppercase());
        env.set(&seen, "yes")?;
        let behaviour = match self.behaviour {
            Behaviour::ByName => Behaviour::of(&workspace.name),
            fixed => fixed,
        };
        match behaviour {
            Behaviour::Ok
            | Behaviour::ByName
            | Behaviour::PanicWhenBuilt
            | Behaviour::HangWhenBuilt => Ok(()),
            Behaviour::Error => Err(HookError::permanent(format!(
                "refused with {}",
                self.password
            ))),
            Behaviour::Panic => panic!("panicked with {}", self.password),
            Behaviour::Hang => std::future::pending().await,
            Behaviour::ReservedName => Ok(env.set("PLATFORM_URL", self.password.as_str())?),
            Behaviour::InvalidName => Ok(env.set("NOT A NAME", self.password.as_str())?),
            Behaviour::HugeValue => Ok(env.set("HUGE", "x".repeat(MAX_ENV_VALUE_BYTES + 1))?),
            Behaviour::WritesSecret => Ok(env.set_secret("HOOK_PASSWORD", self.password.as_str())?),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenConfig {
    token: Option<Secret>,
}

impl HookConfig for TokenConfig {
    const FIELDS: &'static [ConfigField] = &[ConfigField::new("token", "the token it serves")
        .secret()
        .env("FAULT_TOKEN")];
}

struct TokenSource(Secret);

fn token_source(config: TokenConfig, _: &BuildContext) -> BuildResult {
    Ok(config
        .token
        .map(|token| Arc::new(TokenSource(token)) as Arc<dyn EnvMutator>))
}

molecule_hooks::register_hook! {
    name: "token-source",
    description: "Serves one token for ever",
    config: TokenConfig,
    build: token_source,
    token_provider: true,
}

#[async_trait]
impl EnvMutator for TokenSource {
    fn name(&self) -> &str {
        "token-source"
    }

    async fn mutate_env(&self, _: &WorkspaceContext, env: &mut EnvMap) -> Result<(), HookError> {
        Ok(env.set_secret("SERVED_TOKEN", self.0.expose())?)
    }

    fn token_provider(&self) -> Option<&dyn TokenProvider> {
        Some(self)
    }
}

#[async_trait]
impl TokenProvider for TokenSource {
    async fn token(&self, _: &TokenRequest) -> Result<Token, HookError> {
        Ok(Token::new(self.0.clone(), Utc::now() + TimeDelta::hours(1)))
    }

    fn scope(&self) -> TokenScope {
        TokenScope::Shared
    }
}
