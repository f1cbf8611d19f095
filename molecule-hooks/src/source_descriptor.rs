use std::sync::Arc;

use crate::config::{BuildContext, ConfigField, HookConfig, RawConfig};
use crate::error::HookError;
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
            check: |raw| raw.decode::<C>().map(drop),
            build,
            #[cfg(feature = "testing")]
            decoded: crate::testing::decoded_keys::<C>,
        }
    }

    /// Used by [`register_plugin_source!`](crate::register_plugin_source).
    #[doc(hidden)]
    pub const fn in_package(mut self, package: &'static str) -> Self {
        self.package = package;
        self
    }

    /// The keys its config type reads, if it is a plain struct.
    #[cfg(feature = "testing")]
    pub(crate) fn decoded_keys(&self) -> Option<&'static [&'static str]> {
        (self.decoded)()
    }

    /// Decodes and validates a section without building; no I/O.
    ///
    /// # Errors
    /// A config error naming every problem.
    pub fn check(&self, raw: &RawConfig) -> Result<(), HookError> {
        (self.check)(raw)
    }

    /// Builds the source from its section.
    ///
    /// # Errors
    /// Whatever the build function returns; config errors for a section that does not
    /// decode.
    pub fn build(&self, raw: &RawConfig, context: &BuildContext) -> BuildSourceResult {
        (self.build)(raw, context)
    }

    /// Every source linked into this binary, ordered by name. Link order means nothing.
    pub fn linked() -> Vec<&'static PluginSourceDescriptor> {
        let mut all: Vec<_> = inventory::iter::<PluginSourceDescriptor>
            .into_iter()
            .collect();
        all.sort_by_key(|descriptor| descriptor.name);
        all
    }
}

inventory::collect!(PluginSourceDescriptor);

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
/// the server brings (`local`, `github`), which it then replaces.
///
/// The server sees the source only if its `main.rs` names the crate:
/// `use company_store as _;`. A line in `Cargo.toml` alone links nothing.
#[macro_export]
macro_rules! register_plugin_source {
    (
        name: $name:literal,
        scheme: $scheme:literal,
        description: $description:literal,
        config: $config:ty,
        build: $build:path $(,)?
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
            }
        };
    };
    ($($anything:tt)*) => {
        ::core::compile_error!(
            "register_plugin_source! wants, in this order: name: \"lower-kebab\", scheme: \"scheme\", description: \"one line\", config: Type, build: function"
        );
    };
}
