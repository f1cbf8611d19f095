//! From what is linked and what is configured to a registry.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::{Registry, RegistryError};
use crate::config::{ConfigField, HooksConfig, RawConfig};
use crate::descriptor::{HookDescriptor, is_valid_hook_name};
use crate::env_mutator::EnvMutator;
use crate::error::HookError;
use crate::plugin_source::PluginSource;
use crate::source_descriptor::{PluginSourceDescriptor, is_valid_scheme};

/// What hook crates brought into this binary.
pub(super) struct Linked<'a> {
    pub(super) hooks: &'a [&'static HookDescriptor],
    pub(super) sources: &'a [&'static PluginSourceDescriptor],
}

impl Linked<'_> {
    pub(super) fn build(&self, config: &HooksConfig) -> Result<Registry, RegistryError> {
        let mut problems = self.duplicates();
        let (hooks, sources) = (self.hooks_by_name(), self.sources_by_name());
        let names: BTreeSet<&str> = hooks.keys().chain(sources.keys()).copied().collect();
        for name in config.sections.keys() {
            if !names.contains(name.as_str()) {
                problems.push(not_linked(&format!("hooks.config.{name}"), name, &names));
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
                problems.push(not_linked("hooks.order", name, &hooks));
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

    /// Names and schemes that are there more than once. One name is one section, so
    /// hooks and sources share them.
    fn duplicates(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let (mut names, mut schemes) = (BTreeMap::new(), BTreeSet::new());
        let hooks = self.hooks.iter().map(|hook| (hook.name, "hook"));
        let sources = self.sources.iter();
        let sources = sources.map(|source| (source.name, "plugin source"));
        for (name, kind) in hooks.chain(sources) {
            match names.insert(name, kind) {
                Some(other) if other == kind => problems.push(format!(
                    "two linked {kind}s are called {name:?}; remove one of the two crates"
                )),
                Some(other) => problems.push(format!(
                    "a linked {other} and a linked {kind} are both called {name:?}; remove one of \
                     the two crates"
                )),
                None => {}
            }
        }
        for source in self.sources {
            if !schemes.insert(source.scheme) {
                problems.push(format!(
                    "two linked plugin sources answer to {:?}; remove one of the two crates",
                    source.scheme
                ));
            }
        }
        problems
    }
}

fn build_hook(
    descriptor: &HookDescriptor,
    config: &HooksConfig,
) -> Result<Option<Arc<dyn EnvMutator>>, Vec<String>> {
    let built = from_section(descriptor.name, descriptor.fields, config, |raw| {
        descriptor.build(raw, &config.context)
    })?;
    match built {
        Some(hook) if hook.name() != descriptor.name => Err(vec![format!(
            "it calls itself {:?}; the name given to register_hook! and EnvMutator::name must agree",
            hook.name()
        )]),
        built => Ok(built),
    }
}

fn build_source(
    descriptor: &PluginSourceDescriptor,
    config: &HooksConfig,
) -> Result<Option<Arc<dyn PluginSource>>, Vec<String>> {
    if !is_valid_scheme(descriptor.scheme) {
        return Err(vec![format!("{:?} is no scheme", descriptor.scheme)]);
    }
    let built = from_section(descriptor.name, descriptor.fields, config, |raw| {
        descriptor.build(raw, &config.context)
    })?;
    match built {
        Some(source) if source.scheme() != descriptor.scheme => Err(vec![format!(
            "it answers to {:?}; the scheme given to register_plugin_source! and \
             PluginSource::scheme must agree",
            source.scheme()
        )]),
        built => Ok(built),
    }
}

/// Reads a section and builds what it is for.
fn from_section<T>(
    name: &str,
    fields: &[ConfigField],
    config: &HooksConfig,
    build: impl FnOnce(&RawConfig) -> Result<Option<T>, HookError>,
) -> Result<Option<T>, Vec<String>> {
    if !is_valid_hook_name(name) {
        return Err(vec!["its name is not lower-kebab".to_owned()]);
    }
    let section = config.sections.get(name).cloned().unwrap_or_default();
    let raw = RawConfig::new(section)
        .map_err(|error| vec![error.chain()])?
        .overlay(fields, &config.env)?;
    // A panicking build must not hide what else is wrong.
    catch_unwind(AssertUnwindSafe(|| build(&raw)))
        .map_err(|_| vec!["it panicked while it was built; this is a bug in the hook".to_owned()])?
        .map_err(|error| vec![raw.mask_secrets(&error.chain(), fields)])
}

fn not_linked(place: &str, name: &str, linked: &BTreeSet<&str>) -> String {
    let known: Vec<&str> = linked.iter().copied().collect();
    let known = match known[..] {
        [] => "none".to_owned(),
        _ => known.join(", "),
    };
    let crate_name = name.replace('-', "_");
    format!(
        "{place} names the hook {name:?}, which is not linked into this binary (linked: {known}). \
         Add the dependency `{name} = \"…\"` to Cargo.toml and the line `use {crate_name} as _;` to main.rs"
    )
}

#[cfg(test)]
mod tests;
