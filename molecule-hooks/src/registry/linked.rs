//! From what is linked and what is configured to a registry.

mod build;
mod duplicates;

pub use build::BUILD_THREAD;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Registry, RegistryError};
use crate::closest::closest;
use crate::config::{ConfigField, HooksConfig, RawConfig};
use crate::descriptor::{HookDescriptor, is_valid_hook_name};
use crate::env_mutator::EnvMutator;
use crate::plugin_source::PluginSource;
use crate::source_descriptor::{PluginSourceDescriptor, is_valid_scheme};

/// What hook crates brought into this binary.
pub(super) struct Linked<'a> {
    pub(super) hooks: &'a [&'static HookDescriptor],
    pub(super) sources: &'a [&'static PluginSourceDescriptor],
}

impl Linked<'_> {
    pub(super) fn build(&self, config: &HooksConfig) -> Result<Registry, RegistryError> {
        let mut problems = duplicates::problems(self.hooks, self.sources);
        let (hooks, sources) = (self.hooks_by_name(), self.sources_by_name());
        let names: BTreeSet<&str> = hooks.keys().chain(sources.keys()).copied().collect();
        for name in config.sections.keys() {
            if !names.contains(name.as_str()) {
                let place = format!("hooks.config.{name}");
                problems.push(self.not_linked(&place, name, &names, config));
            }
        }
        let mut listed = BTreeSet::new();
        for name in &config.order {
            if sources.contains_key(name.as_str()) {
                problems.push(format!(
                    "hooks.order lists {name:?}, which is a plugin source and has no order"
                ));
            } else if !hooks.contains_key(name.as_str()) {
                let hooks = hooks.keys().copied().collect();
                problems.push(self.not_linked("hooks.order", name, &hooks, config));
            }
            if !listed.insert(name.as_str()) {
                problems.push(format!("hooks.order lists {name:?} twice"));
            }
        }
        let ordered = config
            .order
            .iter()
            .filter_map(|name| hooks.get(name.as_str()))
            .chain(hooks.values().filter(|d| !listed.contains(d.name)));
        let registry = Registry::new();
        let mut skipped = Vec::new();
        let mut note = |kind: &str, name: &str, found: Vec<String>| {
            let named = found.into_iter().map(|p| format!("{kind} {name:?}: {p}"));
            problems.extend(named);
        };
        for descriptor in ordered {
            match build_hook(descriptor, config) {
                Ok(Some(mutator)) => registry.push(mutator, descriptor.version.to_owned()),
                Ok(None) => skipped.push(descriptor.name),
                Err(found) => note("hook", descriptor.name, found),
            }
        }
        for descriptor in sources.values() {
            match build_source(descriptor, config) {
                Ok(Some(source)) => registry.register_source(source),
                Ok(None) => skipped.push(descriptor.name),
                Err(found) => note("plugin source", descriptor.name, found),
            }
        }
        match problems.is_empty() {
            true => Ok(Registry {
                skipped: Arc::new(skipped),
                ..registry
            }),
            false => Err(RegistryError { problems }),
        }
    }

    fn hooks_by_name(&self) -> BTreeMap<&'static str, &'static HookDescriptor> {
        self.hooks.iter().map(|hook| (hook.name, *hook)).collect()
    }

    fn sources_by_name(&self) -> BTreeMap<&'static str, &'static PluginSourceDescriptor> {
        let sources = self.sources.iter();
        sources.map(|source| (source.name, *source)).collect()
    }

    /// Says what to write where so that the hook is there.
    fn not_linked(
        &self,
        place: &str,
        name: &str,
        linked: &BTreeSet<&str>,
        config: &HooksConfig,
    ) -> String {
        let known: Vec<&str> = linked.iter().copied().collect();
        let known = match known[..] {
            [] => "none".to_owned(),
            _ => known.join(", "),
        };
        let told = format!(
            "{place} names the hook {name:?}, which is not linked into this binary (linked: {known})."
        );
        let idle = self.idle_crates(config);
        if let Some((package, version)) =
            idle.iter().find(|(package, _)| is_crate_of(package, name))
        {
            return format!(
                "{told} Its crate {package} {version} is a dependency already; add the line \
                 `use {} as _;` to main.rs",
                package.replace('-', "_")
            );
        }
        let names = linked.iter().copied();
        let meant = closest(
            name,
            names.chain(idle.iter().map(|(package, _)| hook_of(package))),
        );
        let told = match meant {
            Some(meant) => format!("{told} Did you mean {meant:?}?"),
            None => told,
        };
        if !is_valid_hook_name(name) {
            return format!("{told} Names of hooks are lower-kebab, such as corporate-proxy");
        }
        let package = format!("{PACKAGE_PREFIX}{name}");
        let crate_name = package.replace('-', "_");
        // Who mistyped must not be sent to a crate of the wrong name.
        let add = if meant.is_some() {
            "If not, add"
        } else {
            "Add"
        };
        format!(
            "{told} {add} the dependency `{package} = \"…\"` to Cargo.toml and the line \
             `use {crate_name} as _;` to main.rs, or those of the crate that has this hook"
        )
    }

    /// Hook crates that are dependencies and register nothing here: the `use` is missing.
    fn idle_crates<'a>(&self, config: &'a HooksConfig) -> Vec<(&'a str, &'a str)> {
        let linked = |package: &str| {
            self.hooks.iter().any(|hook| hook.package == package)
                || self.sources.iter().any(|source| source.package == package)
        };
        let crates = config.hook_crates.iter();
        crates
            .map(|(package, version)| (package.as_str(), version.as_str()))
            .filter(|(package, _)| !linked(package))
            .collect()
    }
}

/// What the crate of a hook is called, by convention, before the name of the hook: a
/// bare `vault` on crates.io is somebody else's.
const PACKAGE_PREFIX: &str = "molecule-hook-";

/// The hook that a crate is called after.
fn hook_of(package: &str) -> &str {
    package.strip_prefix(PACKAGE_PREFIX).unwrap_or(package)
}

/// A crate is called after its hook, perhaps with a word around it.
fn is_crate_of(package: &str, hook: &str) -> bool {
    let package = package.replace('_', "-");
    let name = hook_of(&package);
    let shorter = name.strip_suffix("-hook").unwrap_or(name);
    let ours = name.strip_prefix("molecule-").unwrap_or(name);
    [package.as_str(), name, shorter, ours].contains(&hook)
}

fn build_hook(
    descriptor: &'static HookDescriptor,
    config: &HooksConfig,
) -> Result<Option<Arc<dyn EnvMutator>>, Vec<String>> {
    let raw = section(descriptor.name, descriptor.fields, config)?;
    let (theirs, context) = (raw.clone(), config.context.clone());
    let built = build::bounded(descriptor.name, config.build_timeout, move || {
        descriptor.build(&theirs, &context)
    })
    .map_err(|problem| vec![raw.mask_secrets(&problem, descriptor.fields)])?;
    match built {
        Some(hook) if hook.name() != descriptor.name => Err(vec![format!(
            "it calls itself {:?}; the name given to register_hook! and EnvMutator::name must agree",
            hook.name()
        )]),
        built => Ok(built),
    }
}

fn build_source(
    descriptor: &'static PluginSourceDescriptor,
    config: &HooksConfig,
) -> Result<Option<Arc<dyn PluginSource>>, Vec<String>> {
    if !is_valid_scheme(descriptor.scheme) {
        return Err(vec![format!("{:?} is no scheme", descriptor.scheme)]);
    }
    let raw = section(descriptor.name, descriptor.fields, config)?;
    let (theirs, context) = (raw.clone(), config.context.clone());
    let built = build::bounded(descriptor.name, config.build_timeout, move || {
        descriptor.build(&theirs, &context)
    })
    .map_err(|problem| vec![raw.mask_secrets(&problem, descriptor.fields)])?;
    match built {
        Some(source) if source.scheme() != descriptor.scheme => Err(vec![format!(
            "it answers to {:?}; the scheme given to register_plugin_source! and \
             PluginSource::scheme must agree",
            source.scheme()
        )]),
        built => Ok(built),
    }
}

/// The section of one name, with the environment merged in.
fn section(
    name: &str,
    fields: &[ConfigField],
    config: &HooksConfig,
) -> Result<RawConfig, Vec<String>> {
    if !is_valid_hook_name(name) {
        return Err(vec!["its name is not lower-kebab".to_owned()]);
    }
    let section = config.sections.get(name).cloned().unwrap_or_default();
    RawConfig::new(section)
        .map_err(|error| vec![error.chain()])?
        .overlay(fields, &config.env)
}

#[cfg(test)]
mod tests;
