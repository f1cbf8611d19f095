//! The configuration reference: types say what there is, `config example` what it is
//! by default, `ENV_VARS` which variable sets it, hook crates what theirs are.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use molecule_core::config::{ENV_VARS, example};
use molecule_hook_env_file as _;
use molecule_hook_gh_identity as _;
use molecule_hook_github_app_auth as _;
use molecule_hook_gitlab_token as _;
use molecule_hook_oauth2 as _;
use molecule_hook_vault as _;
use molecule_hooks::{ConfigField, HookDescriptor};
use serde_json::Value;
use syn::{Fields, GenericArgument, Item, PathArguments, Type};

use crate::generated::{self, cell, code};
use crate::source::{self, summary};

/// A setting: where it is, what it may be, and what for.
struct Setting {
    path: String,
    kind: String,
    docs: String,
}

/// The types below `molecule-core/src/config`, by name.
struct Types(BTreeMap<String, Item>);

impl Types {
    fn read() -> Self {
        let mut types = BTreeMap::new();
        for source in source::below("molecule-core/src/config") {
            for item in source.file.items {
                let name = match &item {
                    Item::Struct(item) => item.ident.to_string(),
                    Item::Enum(item) => item.ident.to_string(),
                    _ => continue,
                };
                types.insert(name, item);
            }
        }
        Self(types)
    }

    /// Every setting of a section, those of its sections after its own.
    fn settings(&self, name: &str, prefix: &str) -> Vec<Setting> {
        let Some(Item::Struct(section)) = self.0.get(name) else {
            panic!("there is no section {name}");
        };
        let (mut own, mut below) = (Vec::new(), Vec::new());
        for field in named(&section.fields) {
            if is_skipped(&field.attrs) {
                continue;
            }
            let name = field
                .ident
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            let path = match prefix {
                "" => name,
                prefix => format!("{prefix}.{name}"),
            };
            match self.section(&field.ty) {
                Some(section) => below.extend(self.settings(&section, &path)),
                None => own.push(Setting {
                    path,
                    kind: self.kind(&field.ty),
                    docs: summary(&field.attrs),
                }),
            }
        }
        own.extend(below);
        own
    }

    /// The name of a type that is a section of the file.
    fn section(&self, wanted: &Type) -> Option<String> {
        let (name, _) = path(wanted);
        match self.0.get(&name)? {
            Item::Struct(item) => matches!(item.fields, Fields::Named(_)).then_some(name),
            _ => None,
        }
    }

    /// What a value may be, in words.
    fn kind(&self, wanted: &Type) -> String {
        if let Type::Array(array) = wanted {
            return format!("list of exactly so many: {}", self.kind(&array.elem));
        }
        let (name, inner) = path(wanted);
        let first = || {
            inner
                .first()
                .map(|inner| self.kind(inner))
                .unwrap_or_default()
        };
        match (name.as_str(), self.0.get(&name)) {
            ("Option", _) => first(),
            ("Vec", _) => format!("list of {}", first()),
            ("BTreeMap", _) => {
                let value = inner
                    .get(1)
                    .map(|inner| self.value(inner))
                    .unwrap_or_default();
                format!("mapping of names to {value}")
            }
            (_, Some(Item::Enum(item))) => {
                let words = item
                    .variants
                    .iter()
                    .map(|variant| code(&snake(&variant.ident.to_string())));
                words.collect::<Vec<_>>().join(", ")
            }
            ("PathBuf" | "DataDir", _) => "path".to_owned(),
            ("Secret", _) => "secret text".to_owned(),
            ("String", _) => "text".to_owned(),
            ("bool", _) => "`true`, `false`".to_owned(),
            ("IpAddr", _) => "IP address".to_owned(),
            ("u8" | "u16" | "u32" | "u64" | "usize" | "i64", _) => "number".to_owned(),
            ("Value", _) => "section".to_owned(),
            (name, _) => panic!("the reference does not know what {name} looks like in a file"),
        }
    }

    fn value(&self, wanted: &Type) -> String {
        match self.section(wanted) {
            None => self.kind(wanted),
            Some(section) => {
                let fields = self.settings(&section, "");
                let fields = fields.iter().map(|field| code(&field.path));
                format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

fn named(fields: &Fields) -> Vec<&syn::Field> {
    match fields {
        Fields::Named(fields) => fields.named.iter().collect(),
        _ => Vec::new(),
    }
}

fn is_skipped(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => list.path.is_ident("serde") && list.tokens.to_string() == "skip",
        _ => false,
    })
}

/// The last word of a type's path, and what stands in its brackets.
fn path(wanted: &Type) -> (String, Vec<&Type>) {
    let Type::Path(wanted) = wanted else {
        return (String::new(), Vec::new());
    };
    let Some(last) = wanted.path.segments.last() else {
        return (String::new(), Vec::new());
    };
    let inner = match &last.arguments {
        PathArguments::AngleBracketed(inner) => {
            let types = inner.args.iter().filter_map(|argument| match argument {
                GenericArgument::Type(inner) => Some(inner),
                _ => None,
            });
            types.collect()
        }
        _ => Vec::new(),
    };
    (last.ident.to_string(), inner)
}

/// `ControlPlane` as serde writes it: `control_plane`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for (at, c) in name.chars().enumerate() {
        if c.is_uppercase() && at > 0 {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

/// The default as it would be written, or a dash.
fn default_of(example: &Value, path: &str) -> String {
    let pointer = format!("/{}", path.replace('.', "/"));
    match example.pointer(&pointer) {
        None | Some(Value::Null) => "–".to_owned(),
        Some(Value::String(text)) => code(text),
        Some(value) => code(&value.to_string()),
    }
}

fn variables(field: &str) -> String {
    let names = ENV_VARS.iter().filter(|var| var.field == field);
    names
        .map(|var| code(var.name))
        .collect::<Vec<_>>()
        .join(", ")
}

fn settings() -> Vec<Setting> {
    Types::read().settings("Config", "")
}

fn reference() -> String {
    let example: Value = serde_yaml::from_str(&example()).expect("the example is YAML");
    let mut text = String::from(
        "# Configuration reference\n\n\
         Every setting of `molecule.yaml`, read off the types that decode it. Unknown keys are refused, and \
         `myserver config check` tells all problems at once. A variable of the environment wins over the file; \
         one that is empty counts as not set. `myserver config example` prints the same as a commented file, with \
         the settings of the hook crates in that binary; those of ours are in [Hook crates](hook-crates.md). \
         Numbers whose names end in `_secs`, `_bytes`, `_days`, `_hours`, `_mb` are in that unit.\n",
    );
    let mut section = None;
    for setting in settings() {
        let (parent, name) = setting.path.rsplit_once('.').unwrap_or(("", &setting.path));
        if section.as_deref() != Some(parent) {
            let title = match parent {
                "" => "At the top".to_owned(),
                parent => format!("`{parent}`"),
            };
            let _ = write!(
                text,
                "\n## {title}\n\n| key | value | default | variable | what it is for |\n|---|---|---|---|---|\n"
            );
            section = Some(parent.to_owned());
        }
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            code(name),
            cell(&setting.kind),
            default_of(&example, &setting.path),
            variables(&setting.path),
            cell(&setting.docs)
        );
    }
    text.push_str(
        "\n## Variables\n\nEvery variable the server reads, and `TIER2_MEMORY_MB`, `TIER2_CPU_SHARES` and their like for \
         tiers 3 and 4, which set one number of the two lists in `backend.docker`. Hook crates read those they declare.\n\n\
         | variable | key | what it is |\n|---|---|---|\n",
    );
    for var in ENV_VARS {
        let _ = writeln!(
            text,
            "| {} | {} | {} |",
            code(var.name),
            code(var.field),
            cell(var.description)
        );
    }
    text
}

fn hook_reference() -> String {
    let mut text = String::from(
        "# Hook crates\n\n\
         The hooks that come with Molecule, each in the crate `molecule-hook-` with its name behind, with the keys of their sections below `hooks.config`, read off the \
         crates themselves. A secret key may also be given as a file, with `_file` behind its name (and `_FILE` behind \
         its variable). What each does, and how it fails, is in its README below `plugins/`.\n",
    );
    for hook in HookDescriptor::linked() {
        let token = if hook.token_provider {
            " It also serves live tokens."
        } else {
            ""
        };
        let _ = write!(
            text,
            "\n## {}\n\n{}.{token}\n",
            code(hook.name),
            hook.description.trim_end_matches('.')
        );
        fields(&mut text, hook.fields);
    }
    text
}

fn fields(text: &mut String, fields: &[ConfigField]) {
    if fields.is_empty() {
        text.push_str("\nIt has no settings.\n");
        return;
    }
    text.push_str("\n| key | variable | example | what it is for |\n|---|---|---|---|\n");
    for field in fields {
        let mut about = cell(field.description);
        for (is, word) in [(field.required, "required"), (field.secret, "secret")] {
            if is {
                let _ = write!(about, " ({word})");
            }
        }
        let env = field.env.map(code).unwrap_or_default();
        let example = field.example.map(code).unwrap_or_default();
        let _ = writeln!(
            text,
            "| {} | {env} | {example} | {about} |",
            code(field.name)
        );
    }
}

#[test]
fn the_configuration_reference_is_what_the_types_say() {
    generated::page("reference/configuration.md", &reference());
}

#[test]
fn the_reference_of_hook_crates_is_what_they_say() {
    generated::page("reference/hook-crates.md", &hook_reference());
}

#[test]
fn every_setting_and_every_variable_is_known_to_the_other_side() {
    let paths: BTreeSet<String> = settings().into_iter().map(|setting| setting.path).collect();
    let unknown: Vec<_> = ENV_VARS
        .iter()
        .filter(|var| !paths.contains(var.field))
        .map(|var| format!("{} sets {}", var.name, var.field))
        .collect();
    crate::assert_none(
        &unknown,
        "a variable sets a field that the types do not have",
    );
    let undocumented: Vec<_> = settings()
        .into_iter()
        .filter(|setting| setting.docs.is_empty())
        .map(|setting| setting.path)
        .collect();
    crate::assert_none(
        &undocumented,
        "a setting has no documentation, so the reference is empty there",
    );
    let example: Value = serde_yaml::from_str(&example()).expect("the example is YAML");
    let mut written = Vec::new();
    leaves(&example, "", &mut written);
    let unknown: Vec<_> = written
        .into_iter()
        .filter(|path| {
            let known = paths
                .iter()
                .any(|known| known == path || known.starts_with(&format!("{path}.")));
            !known && !path.starts_with("hooks.config")
        })
        .collect();
    crate::assert_none(
        &unknown,
        "`config example` prints keys that the types do not have",
    );
}

fn leaves(value: &Value, prefix: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let path = match prefix {
                    "" => key.clone(),
                    prefix => format!("{prefix}.{key}"),
                };
                leaves(value, &path, found);
            }
        }
        _ => found.push(prefix.to_owned()),
    }
}

#[test]
fn names_of_variants_are_written_as_serde_does() {
    for (name, wanted) in [("Auto", "auto"), ("ControlPlane", "control_plane")] {
        assert_eq!(snake(name), wanted);
    }
}
