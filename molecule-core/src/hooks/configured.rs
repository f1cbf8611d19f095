//! The secrets in the sections of the linked hooks, for the redactor: a hook may
//! put one into an error or a panic.

use std::fs::File;
use std::io::Read;

use molecule_hooks::{HookDescriptor, Secret};
use serde_json::Value;

use crate::config::HooksSection;

/// Longer files hold no secret that a hook would accept.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Every value of a field that a hook declared secret: from its section, from the
/// environment, and from the files that either of them names.
pub(crate) fn hook_secrets(hooks: &HooksSection) -> Vec<Secret> {
    let mut found = Vec::new();
    for descriptor in HookDescriptor::linked() {
        let section = hooks.config.get(descriptor.name);
        for field in descriptor.fields.iter().filter(|field| field.secret) {
            let set = |key: &str| section?.get(key)?.as_str();
            let from_env = |name: &str| hooks.env.get(name).map(String::as_str);
            let value = section.and_then(|section| section.get(field.name));
            found.extend(value.into_iter().flat_map(texts).map(Secret::new));
            found.extend(field.env.and_then(from_env).map(Secret::new));
            let key = format!("{}_file", field.name);
            let variable = field.env.map(|name| format!("{name}_FILE"));
            let files = [set(&key), variable.as_deref().and_then(from_env)];
            found.extend(files.into_iter().flatten().filter_map(read));
        }
    }
    found
}

/// Every text in a value, which may be a list or a mapping.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(values) => values.iter().flat_map(texts).collect(),
        Value::Object(values) => values.values().flat_map(texts).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

/// A file that cannot be read was reported when its hook was built.
fn read(path: &str) -> Option<Secret> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(MAX_FILE_BYTES).read_to_string(&mut text).ok()?;
    Some(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_text_in_a_secret_value_is_found() {
        let value = json!({ "a": "one", "b": ["two", 3, null, { "c": "four" }], "d": true });
        assert_eq!(texts(&value), ["one", "two", "four"]);
        assert_eq!(texts(&json!("plain")), ["plain"]);
        assert!(texts(&json!(7)).is_empty());
    }
}
