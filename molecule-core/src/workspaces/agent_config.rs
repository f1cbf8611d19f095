//! The `config.yaml` of a workspace that has no template.

use std::fmt::Write;

use super::model::Workspace;

/// Renders the file as the contract (§3.2) says.
pub(super) fn render(workspace: &Workspace, runtime: &str) -> String {
    let default_model = match runtime {
        "claude-code" => "sonnet",
        _ => "anthropic:claude-opus-4-7",
    };
    let model = workspace.model.as_deref().unwrap_or(default_model);
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key}: {}", quote(value));
    };
    line("name", &workspace.name);
    line("description", workspace.role.as_deref().unwrap_or_default());
    line("version", "1.0.0");
    let _ = writeln!(text, "tier: {}", workspace.tier);
    let _ = writeln!(text, "runtime: {}", quote(runtime));
    let _ = writeln!(text, "model: {}", quote(model));
    text.push_str("runtime_config:\n  timeout: 0\n");
    text
}

/// A double-quoted YAML string on one line.
fn quote(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push(' '),
            '\r' => {}
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A runtime name that is safe in a path and in an image reference, or the
/// default one.
pub(super) fn safe_runtime<'a>(runtime: &'a str, default: &'a str) -> &'a str {
    let ok = runtime.len() <= 64
        && runtime.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && runtime
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if ok { runtime } else { default }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unsafe_runtimes_become_the_default() {
        for runtime in ["", "../x", "a b", "UPPER", "a/b"] {
            assert_eq!(safe_runtime(runtime, "langgraph"), "langgraph");
        }
        assert_eq!(safe_runtime("claude-code", "langgraph"), "claude-code");
    }

    proptest! {
        #[test]
        fn a_quoted_string_reads_back_as_one_scalar(value: String) {
            let parsed: String = serde_yaml::from_str(&quote(&value)).unwrap();
            prop_assert_eq!(parsed, value.replace('\n', " ").replace('\r', ""));
        }
    }
}
