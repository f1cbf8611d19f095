//! How a crate describes itself and its keys.

use serde_json::Value;

use crate::config::ConfigField;
use crate::env_map::check_env_name;

use super::findings::Findings;
use super::linked::Linked;

pub(super) fn check_description(linked: impl Linked, findings: &mut Findings) {
    let text = linked.description();
    let good = !text.trim().is_empty() && text.lines().count() == 1;
    findings.require("bad-description", good, || {
        "the description must be one line and not empty".to_owned()
    });
}

pub(super) fn check_fields(linked: impl Linked, findings: &mut Findings) {
    let listed: Vec<&str> = linked.fields().iter().map(|field| field.name).collect();
    let twice = (1..listed.len()).find(|&at| listed[..at].contains(&listed[at]));
    findings.require("field-listed-twice", twice.is_none(), || {
        format!("FIELDS lists {:?} twice", listed[twice.unwrap_or_default()])
    });
    findings.note("bad-field", Ok(()));
    for (at, field) in linked.fields().iter().enumerate() {
        let problem = bad_field(field, &linked.fields()[..at]);
        let problem = problem.map(|problem| format!("the key {:?} {problem}", field.name));
        findings.note("bad-field", problem.map_or(Ok(()), Err));
    }
    let Some(decoded) = linked.decoded_keys() else {
        return;
    };
    for name in &listed {
        findings.require("field-not-decoded", decoded.contains(name), || {
            format!("FIELDS lists {name:?}, which the config type does not read")
        });
    }
    for name in decoded {
        findings.require("key-not-in-fields", listed.contains(name), || {
            format!("the config type reads {name:?}; without an entry in FIELDS nobody can set it")
        });
    }
}

/// What is wrong with how a key is described.
fn bad_field(field: &ConfigField, earlier: &[ConfigField]) -> Option<String> {
    let mut bytes = field.name.bytes();
    let snake = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if !snake {
        return Some("is not snake_case".to_owned());
    }
    if field.description.trim().is_empty() || field.description.lines().count() != 1 {
        return Some("has no description of one line".to_owned());
    }
    let env = field.env?;
    if let Err(error) = check_env_name(env) {
        return Some(format!("names a variable that it cannot have: {error}"));
    }
    let other = earlier.iter().find(|other| other.env == Some(env))?;
    Some(format!("is set by {env}, as {:?} is", other.name))
}

/// An example as it would stand in YAML. None for flow collections that are not
/// JSON and for blocks: reading those takes a YAML parser.
pub(super) fn yaml_scalar(text: &str) -> Option<Value> {
    if let Ok(value) = serde_json::from_str(text) {
        return Some(value);
    }
    let collection = text.starts_with(['[', '{']) || text.contains('\n');
    let quoted = text.strip_prefix('\'').and_then(|t| t.strip_suffix('\''));
    match (collection, quoted) {
        (true, _) => None,
        (false, Some(inner)) => Some(Value::String(inner.replace("''", "'"))),
        (false, None) => Some(Value::String(text.to_owned())),
    }
}
