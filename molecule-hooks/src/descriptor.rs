use std::sync::Arc;

use crate::config::{BuildContext, ConfigField, HookConfig, RawConfig};
use crate::env_mutator::EnvMutator;
use crate::error::HookError;
use crate::linkable::linkable;

/// What a build function returns: the hook, nothing when it is linked but not
/// configured, or an error that stops start-up.
pub type BuildResult = Result<Option<Arc<dyn EnvMutator>>, HookError>;

/// One linked hook, submitted by [`register_hook!`](crate::register_hook).
#[derive(Debug)]
#[non_exhaustive]
pub struct HookDescriptor {
    /// Lower-kebab name; also the key of its section under `hooks.config`.
    pub name: &'static str,
    /// Name of the hook crate; empty when it was not registered by the macro.
    pub package: &'static str,
    /// Version of the hook crate.
    pub version: &'static str,
    /// One line for `hooks`.
    pub description: &'static str,
    /// True when it may also serve live tokens.
    pub token_provider: bool,
    /// The keys its section may have.
    pub fields: &'static [ConfigField],
    /// The verdict of the contract kit, as JSON, when the crate embeds one.
    pub contract: Option<&'static str>,
    check: fn(&RawConfig) -> Result<(), HookError>,
    build: fn(&RawConfig, &BuildContext) -> BuildResult,
    #[cfg(feature = "testing")]
    decoded: fn() -> Option<&'static [&'static str]>,
}

impl HookDescriptor {
    /// Used by [`register_hook!`](crate::register_hook).
    #[doc(hidden)]
    pub const fn new<C: HookConfig>(
        name: &'static str,
        version: &'static str,
        description: &'static str,
        token_provider: bool,
        build: fn(&RawConfig, &BuildContext) -> BuildResult,
    ) -> Self {
        Self {
            name,
            package: "",
            version,
            description,
            token_provider,
            fields: C::FIELDS,
            contract: None,
            check: |raw| raw.decode::<C>().map(drop),
            build,
            #[cfg(feature = "testing")]
            decoded: crate::testing::decoded_keys::<C>,
        }
    }
}

linkable!(HookDescriptor builds dyn EnvMutator as BuildResult, "hook");

/// True for `a`, `gh-identity`, `vault2`: lower-case letters and digits in
/// segments joined by single hyphens, starting with a letter, at most 64 bytes.
pub const fn is_valid_hook_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > 64 || !bytes[0].is_ascii_lowercase() {
        return false;
    }
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        let hyphen = byte == b'-';
        if !(byte.is_ascii_lowercase() || byte.is_ascii_digit() || hyphen) {
            return false;
        }
        if hyphen && (at + 1 == bytes.len() || bytes[at + 1] == b'-') {
            return false;
        }
        at += 1;
    }
    true
}

/// Registers a hook at link time. Write it once, in the root of a hook crate:
///
/// ```
/// # use molecule_hooks::{BuildContext, BuildResult, NoConfig as Config};
/// # fn build(_: Config, _: &BuildContext) -> BuildResult { Ok(None) }
/// molecule_hooks::register_hook! {
///     name: "corporate-proxy",
///     description: "Sets HTTPS_PROXY in every workspace",
///     config: Config,
///     build: build,
/// }
/// ```
///
/// `build` is `fn(Config, &BuildContext) -> BuildResult`. A hook that also serves
/// tokens adds the line `token_provider: true`; a hook without settings uses
/// `config: molecule_hooks::NoConfig`. A crate that keeps the verdict of
/// `assert_hook_contract` in a file shows it in `hooks --json` with the last line
/// `contract: include_str!("../contract.json")`.
///
/// The server sees the hook only if its `main.rs` names the crate:
/// `use molecule_hook_corporate_proxy as _;`. A line in `Cargo.toml` alone links nothing.
#[macro_export]
macro_rules! register_hook {
    (
        name: $name:literal,
        description: $description:literal,
        config: $config:ty,
        build: $build:path
        $(, token_provider: $token_provider:literal)?
        $(, contract: $contract:expr)? $(,)?
    ) => {
        const _: () = {
            ::core::assert!(
                $crate::is_valid_hook_name($name),
                "hook name must be lower-kebab (a-z, 0-9, single hyphens), at most 64 bytes"
            );
            $crate::__private::inventory::submit! {
                $crate::HookDescriptor::new::<$config>(
                    $name,
                    ::core::env!("CARGO_PKG_VERSION"),
                    $description,
                    false $(|| $token_provider)?,
                    |raw, context| {
                        let build: fn($config, &$crate::BuildContext) -> $crate::BuildResult = $build;
                        build(raw.decode::<$config>()?, context)
                    },
                )
                .in_package(::core::env!("CARGO_PKG_NAME"))
                $(.with_contract($contract))?
            }
        };
    };
    ($($anything:tt)*) => {
        ::core::compile_error!(
            "register_hook! wants, in this order: name: \"lower-kebab\", description: \"one line\", config: Type, build: function, and optionally token_provider: true, contract: include_str!(\"../contract.json\")"
        );
    };
}
