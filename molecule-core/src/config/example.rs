//! `config example`: a commented file.

use std::fmt::Write;

use molecule_hooks::{ConfigField, HookDescriptor, PluginSourceDescriptor};

use super::ENV_VARS;

/// What every setting looks like, with its default. The test of this module
/// checks that the text decodes to exactly the defaults.
const BODY: &str = include_str!("example.yaml");

/// A complete, commented `molecule.yaml` for this binary: the server's settings
/// with their defaults, and a commented section for every linked hook and every linked
/// source of plugins.
pub fn example() -> String {
    let mut text = BODY.to_owned();
    for hook in HookDescriptor::linked() {
        section(&mut text, hook.name, hook.description, hook.fields);
    }
    for source in PluginSourceDescriptor::linked() {
        let description = format!("{} ({}://)", source.description, source.scheme);
        section(&mut text, source.name, &description, source.fields);
    }
    let _ = writeln!(text, "\n# Environment variables (they win over this file):");
    for var in ENV_VARS {
        let _ = writeln!(
            text,
            "#   {:<33} {:<32} {}",
            var.name, var.field, var.description
        );
    }
    text
}

fn section(text: &mut String, name: &str, description: &str, fields: &[ConfigField]) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n    # {name}: {description}");
    let _ = writeln!(text, "    # {name}:");
    for field in fields {
        let value = field.example.unwrap_or("…");
        let required = if field.required { ", required" } else { "" };
        let env = field
            .env
            .map(|name| format!(", {name}"))
            .unwrap_or_default();
        let _ = writeln!(
            text,
            "    #   {}: {value}   # {}{required}{env}",
            field.name, field.description
        );
    }
}
