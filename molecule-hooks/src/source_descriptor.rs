use std::sync::Arc;

use crate::config::{BuildContext, ConfigField, HookConfig, RawConfig};
use crate::error::HookError;
use crate::linkable::linkable;
use crate::plugin_source::PluginSource;

/// What a build function of a source returns: the source, nothing when it is linked but
/// not configured, or an error that stops start-up.
pub type BuildSourceResult = Result<Option<Arc<dyn PluginSource>>, HookError>;

/// One linked source of workspace plugins, submitted by
/// [`register_plugin_source!`](crate::register_plugin_source).
#[derive(Debug)]
#[non_exhaustive]
pub struct PluginSourceDescriptor {
    /// Lower-kebab name; also the key of its section under `hooks.config`, which it
    /// shares with the hooks.
    pub name: &'static str,
    /// The scheme that it answers to.
    pub scheme: &'static str,
    /// Name of the hook crate; empty when it was not registered by the macro.
    pub package: &'static str,
    /// Version of the hook crate.
    pub version: &'static str,
    /// One line for `hooks`.
    pub description: &'static str,
    /// The keys its section may have.
    pub fields: &'static [ConfigField],
    /// The verdict of the contract kit, as JSON, when the crate embeds one.
    pub contract: Option<&'static str>,
    check: fn(&RawConfig) -> Result<(), HookError>,
    build: fn(&RawConfig, &BuildContext) -> BuildSourceResult,
    #[cfg(feature = "testing")]
    decoded: fn() -> Option<&'static [&'static str]>,
}

impl PluginSourceDescriptor {
    /// Used by [`register_plugin_source!`](crate::register_plugin_source).
    #[doc(hidden)]
    pub const fn new<C: HookConfig>(
        name: &'static str,
        scheme: &'static str,
        version: &'static str,
        description: &'static str,
        build: fn(&RawConfig, &BuildContext) -> BuildSourceResult,
    ) -> Self {
        Self {
            name,
            scheme,
            package: "",
            version,
            description,
            fields: C::FIELDS,
            contract: None,
            check: |raw| raw.decode::<C>().map(drop),
            build,
            #[cfg(feature = "testing")]
            decoded: crate::testing::decoded_keys::<C>,
        }
    }
}

linkable!(PluginSourceDescriptor builds dyn PluginSource as BuildSourceResult, "plugin source");

/// True for a letter, followed by letters, digits, `+`, `.` and `-`, at most 64 bytes.
pub const fn is_valid_scheme(scheme: &str) -> bool {
    let bytes = scheme.as_bytes();
    if bytes.is_empty() || bytes.len() > 64 || !bytes[0].is_ascii_alphabetic() {
        return false;
    }
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if !(byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'.' | b'-')) {
            return false;
        }
        at += 1;
    }
    true
}

/// Registers a source of workspace plugins at link time. Write it once, in the root of a
/// hook crate:
///
/// ```
/// # use molecule_hooks::{BuildContext, BuildSourceResult, NoConfig as Config};
/// # fn build(_: Config, _: &BuildContext) -> BuildSourceResult { Ok(None) }
/// molecule_hooks::register_plugin_source! {
///     name: "company-store",
///     scheme: "store",
///     description: "Plugins of the company's store",
///     config: Config,
///     build: build,
/// }
/// ```
///
/// `build` is `fn(Config, &BuildContext) -> BuildSourceResult`. A source without settings
/// uses `config: molecule_hooks::NoConfig`. The name is that of its section under
/// `hooks.config`; the scheme is what stands before `://`, and may be that of a source
/// the server brings (`local`, `github`), which it then replaces. The last line may be
/// `contract: include_str!("../contract.json")`, the verdict of
/// `assert_plugin_source_contract`.
///
/// The server sees the source only if its `main.rs` names the crate:
/// `use molecule_hook_company_store as _;`. A line in `Cargo.toml` alone links nothing.
#[macro_export]
macro_rules! register_plugin_source {
    (
        name: $name:literal,
        scheme: $scheme:literal,
        description: $description:literal,
        config: $config:ty,
        build: $build:path
        $(, contract: $contract:expr)? $(,)?
    ) => {
        const _: () = {
            ::core::assert!(
                $crate::is_valid_hook_name($name),
                "source name must be lower-kebab (a-z, 0-9, single hyphens), at most 64 bytes"
            );
            ::core::assert!(
                $crate::is_valid_scheme($scheme),
                "scheme must be a letter, then letters, digits, '+', '.' or '-', at most 64 bytes"
            );
            $crate::__private::inventory::submit! {
                $crate::PluginSourceDescriptor::new::<$config>(
                    $name,
                    $scheme,
                    ::core::env!("CARGO_PKG_VERSION"),
                    $description,
                    |raw, context| {
                        let build: fn($config, &$crate::BuildContext) -> $crate::BuildSourceResult =
                            $build;
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
            "register_plugin_source! wants, in this order: name: \"lower-kebab\", scheme: \"scheme\", description: \"one line\", config: Type, build: function, and optionally contract: include_str!(\"../contract.json\")"
        );
    };
}
