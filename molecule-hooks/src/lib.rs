#![doc = include_str!("../README.md")]

#[cfg(feature = "archive")]
pub mod archive;
mod clock;
mod closest;
mod config;
mod descriptor;
mod env_map;
mod env_mutator;
mod error;
mod linkable;
mod plugin_source;
mod registry;
mod secret;
mod source_descriptor;
#[cfg(feature = "testing")]
pub mod testing;
mod token_cache;
mod token_provider;
mod verdict;

pub use async_trait::async_trait;
pub use clock::Clock;
pub use config::{BuildContext, ConfigField, HookConfig, HooksConfig, NoConfig, RawConfig};
pub use descriptor::{BuildResult, HookDescriptor, is_valid_hook_name};
pub use env_map::{
    EnvError, EnvMap, EnvSource, EnvStep, MAX_ENV_NAME_BYTES, MAX_ENV_VALUE_BYTES,
    RESERVED_ENV_NAMES, check_env_name, check_foreign_env_name,
};
pub use env_mutator::{EnvMutator, WorkspaceContext};
pub use error::{HookError, HookErrorKind};
pub use plugin_source::{
    FetchRequest, FetchedPlugin, MAX_FRAGMENT_BYTES, MAX_PLUGIN_NAME_BYTES, PluginName, PluginRef,
    PluginSource, PluginSourceError, TreeLimits,
};
pub use registry::{ChainError, RegisteredHook, Registry, RegistryError};
pub use secret::{REDACTED, Secret, redact_token_shapes};
pub use source_descriptor::{BuildSourceResult, PluginSourceDescriptor, is_valid_scheme};
pub use token_cache::{EMPTY_TOKEN, TokenCache};
pub use token_provider::{GITHUB, Token, TokenProvider, TokenRequest, TokenScope};
/// The `tracing` this SDK logs through; use it so that events reach the server's log.
pub use tracing;
pub use verdict::{Verdict, VerdictCheck, VerdictResult};

/// Version of this SDK.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[doc(hidden)]
pub mod __private {
    pub use inventory;

    pub use crate::closest::{closest, did_you_mean};
    pub use crate::registry::BUILD_THREAD;
}
