//! What this binary holds: one answer for `build-info`, `hooks`, the log line of a
//! start and `GET /admin/build-info`.
//!
//! What is linked is asked of the registries of the SDK; the rest was written down by
//! `molecule_build::embed()` and handed over by [`build_info!`](crate::build_info).

mod embedded;
pub(crate) mod routes;
mod verdict;

use molecule_hooks::{ConfigField, HookDescriptor, PluginSourceDescriptor};
use serde::Serialize;

pub use embedded::EmbeddedManifest;
use embedded::{Commit, Crate};
pub(crate) use embedded::{Manifest, manifest};
pub(crate) use verdict::Verdict;

/// What this binary holds. What no build script wrote down is null.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct BuildInfo {
    /// Name of the server's package.
    package: Option<String>,
    /// Version of the server's package.
    version: Option<String>,
    /// Version of molecule-core.
    core_version: &'static str,
    /// Version of the SDK of the hooks, molecule-hooks.
    sdk_version: &'static str,
    /// What the sources were.
    git: Option<Commit>,
    /// SHA-256 of `Cargo.lock`, hexadecimal.
    lock_sha256: Option<String>,
    /// The compiler, as it calls itself.
    rustc: Option<String>,
    /// What it was compiled for.
    target: Option<String>,
    /// Name of the profile it was compiled with.
    profile: Option<String>,
    /// Features of the server's package that are on.
    features: Option<Vec<String>>,
    /// `SOURCE_DATE_EPOCH` of the build, RFC 3339.
    source_date: Option<String>,
    /// Hook crates in `Cargo.lock`, linked or not.
    hook_crates: Option<Vec<Crate>>,
    /// The hooks that are linked, by name.
    hooks: Vec<LinkedHook>,
    /// The sources of plugins that are linked, by name.
    plugin_sources: Vec<LinkedSource>,
}

/// One hook that is compiled in.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct LinkedHook {
    pub(crate) name: &'static str,
    /// Its crate.
    #[serde(rename = "crate")]
    pub(crate) package: &'static str,
    pub(crate) version: &'static str,
    pub(crate) description: &'static str,
    pub(crate) env_mutator: bool,
    pub(crate) token_provider: bool,
    /// What the contract kit found; null for a crate that embeds nothing.
    pub(crate) contract: Option<Verdict>,
    /// The keys its section may have, which only `hooks` shows.
    #[serde(skip)]
    pub(crate) fields: &'static [ConfigField],
}

/// One source of workspace plugins that is compiled in.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub(crate) struct LinkedSource {
    pub(crate) name: &'static str,
    /// What stands before `://`.
    pub(crate) scheme: &'static str,
    /// Its crate.
    #[serde(rename = "crate")]
    pub(crate) package: &'static str,
    pub(crate) version: &'static str,
    pub(crate) description: &'static str,
    /// What the contract kit found; null for a crate that embeds nothing.
    pub(crate) contract: Option<Verdict>,
    /// The keys its section may have, which only `hooks` shows.
    #[serde(skip)]
    pub(crate) fields: &'static [ConfigField],
}

impl BuildInfo {
    /// Of the binary that runs.
    pub(crate) fn of_this_binary() -> Self {
        Self::new(
            manifest(),
            &HookDescriptor::linked(),
            &PluginSourceDescriptor::linked(),
        )
    }

    /// Of a binary with this manifest and these descriptors.
    pub(crate) fn new(
        manifest: Option<Manifest>,
        hooks: &[&HookDescriptor],
        sources: &[&PluginSourceDescriptor],
    ) -> Self {
        let is_known = manifest.is_some();
        let manifest = manifest.unwrap_or_default();
        let package = manifest
            .package
            .map(|package| (package.name, package.version));
        let (package, version) = package.unzip();
        Self {
            package,
            version,
            core_version: env!("CARGO_PKG_VERSION"),
            sdk_version: molecule_hooks::VERSION,
            git: manifest.git,
            lock_sha256: manifest.lock_sha256,
            rustc: manifest.rustc,
            target: manifest.target,
            profile: manifest.profile,
            features: is_known.then_some(manifest.features),
            source_date: manifest.source_date_epoch.and_then(embedded::date),
            hook_crates: is_known.then_some(manifest.hook_crates),
            hooks: hooks.iter().map(|hook| LinkedHook::new(hook)).collect(),
            plugin_sources: sources
                .iter()
                .map(|source| LinkedSource::new(source))
                .collect(),
        }
    }

    /// Whether a build script wrote down what it found.
    pub(crate) fn is_complete(&self) -> bool {
        self.package.is_some()
    }

    pub(crate) fn hooks(&self) -> &[LinkedHook] {
        &self.hooks
    }

    pub(crate) fn plugin_sources(&self) -> &[LinkedSource] {
        &self.plugin_sources
    }

    /// What stands in front of the hooks, as pairs for people; what is not known is
    /// left out.
    pub(crate) fn facts(&self) -> Vec<(&'static str, String)> {
        let git = self.git.as_ref().map(|commit| match commit.dirty {
            true => format!("{} (with changes)", commit.revision),
            false => commit.revision.clone(),
        });
        let server = self.package.as_ref().zip(self.version.as_ref());
        let features = self.features.as_deref().filter(|list| !list.is_empty());
        let crates = self.hook_crates.as_deref().filter(|list| !list.is_empty());
        let facts = [
            (
                "package",
                server.map(|(name, version)| format!("{name} {version}")),
            ),
            ("molecule-core", Some(self.core_version.to_owned())),
            ("molecule-hooks", Some(self.sdk_version.to_owned())),
            ("git", git),
            (
                "Cargo.lock",
                self.lock_sha256.as_ref().map(|sum| format!("sha256:{sum}")),
            ),
            ("rustc", self.rustc.clone()),
            ("target", self.target.clone()),
            ("profile", self.profile.clone()),
            ("features", features.map(|features| features.join(", "))),
            ("source date", self.source_date.clone()),
            ("hook crates", crates.map(listed)),
        ];
        let known = facts.into_iter();
        known
            .filter_map(|(what, text)| Some((what, text?)))
            .collect()
    }

    /// Says in one line of the log what runs.
    pub(crate) fn log(&self) {
        let hooks = self.hooks.iter().map(|hook| (hook.name, hook.version));
        let sources = self.plugin_sources.iter();
        let linked = hooks.chain(sources.map(|source| (source.name, source.version)));
        let linked: Vec<String> = linked
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        tracing::info!(
            build.package = self.package,
            build.version = self.version,
            build.core_version = self.core_version,
            build.sdk_version = self.sdk_version,
            build.git_revision = self.git.as_ref().map(|commit| &*commit.revision),
            build.git_dirty = self.git.as_ref().map(|commit| commit.dirty),
            build.lock_sha256 = self.lock_sha256,
            build.rustc = self.rustc,
            build.target = self.target,
            build.profile = self.profile,
            linked = linked.join(", "),
            "this binary"
        );
    }
}

/// Name and version of every hook crate in the lock file this binary was built from;
/// none when nobody wrote that down.
pub(crate) fn hook_crates() -> Vec<(String, String)> {
    let crates = manifest().unwrap_or_default().hook_crates.into_iter();
    crates.map(|found| (found.name, found.version)).collect()
}

fn listed(crates: &[Crate]) -> String {
    let one = |found: &Crate| format!("{} {}", found.name, found.version);
    crates.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl LinkedHook {
    fn new(hook: &HookDescriptor) -> Self {
        Self {
            name: hook.name,
            package: hook.package,
            version: hook.version,
            description: hook.description,
            env_mutator: true,
            token_provider: hook.token_provider,
            contract: hook
                .contract
                .map(|text| Verdict::read(text, hook.name, hook.version)),
            fields: hook.fields,
        }
    }
}

impl LinkedSource {
    fn new(source: &PluginSourceDescriptor) -> Self {
        Self {
            name: source.name,
            scheme: source.scheme,
            package: source.package,
            version: source.version,
            description: source.description,
            contract: source
                .contract
                .map(|text| Verdict::read(text, source.name, source.version)),
            fields: source.fields,
        }
    }
}

/// Shows in this server what it is made of: `build-info`, `GET /admin/build-info` and a
/// line of the log. Write it once in `main.rs`, outside of any function, in a package
/// whose `build.rs` calls `molecule_build::embed()`:
///
/// ```ignore
/// molecule_core::build_info!();
/// ```
///
/// Without it the server works the same and knows less about itself.
#[macro_export]
macro_rules! build_info {
    () => {
        const _: () = {
            $crate::__private::inventory::submit! {
                $crate::__private::EmbeddedManifest::new(::core::include_str!(::core::concat!(
                    ::core::env!(
                        "OUT_DIR",
                        "build_info! reads what a build script wrote: add a build.rs with `fn main() { molecule_build::embed(); }` and molecule-build to the [build-dependencies]"
                    ),
                    "/molecule-build-info.json"
                )))
            }
        };
    };
}
