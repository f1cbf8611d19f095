//! "Did you mean …?" for what an operator wrote.

use std::collections::BTreeMap;

use molecule_hooks::__private::{closest, did_you_mean};
use molecule_hooks::{HookDescriptor, PluginSourceDescriptor};

use super::ENV_VARS;

/// What variables of this server begin with, if they are not older than it.
const PREFIX: &str = "MOLECULE_";

/// What to add to an error of serde about a key or a value that nobody knows: the one
/// that was probably meant, if there is one. Never anything of what was written, which
/// may be a secret in the wrong place.
pub(super) fn meant(cause: &str) -> String {
    let unknown = ["unknown field `", "unknown variant `"];
    let Some(rest) = unknown.iter().find_map(|start| cause.strip_prefix(start)) else {
        return String::new();
    };
    // The last backtick of what was written is the one before what would be right.
    let Some((typed, expected)) = rest.split_once("`, expected ") else {
        return String::new();
    };
    let known = expected.split('`').skip(1).step_by(2);
    // The section of a hook belongs one place deeper, and its name is longer than a
    // misspelling of ours.
    let mut hooks = HookDescriptor::linked().into_iter();
    if cause.starts_with("unknown field") && hooks.any(|hook| hook.name == typed) {
        return format!("; did you mean \"hooks.config.{typed}\"?");
    }
    let meant = did_you_mean(typed, known);
    if !meant.is_empty() || !cause.starts_with("unknown field") {
        return meant;
    }
    // The right key in the wrong section.
    let elsewhere = ENV_VARS.iter().map(|var| var.field);
    let same = elsewhere
        .into_iter()
        .find(|field| field.rsplit_once('.').is_some_and(|(_, key)| key == typed));
    same.map(|field| format!("; did you mean {field:?}?"))
        .unwrap_or_default()
}

/// What to add to an error of YAML when a line of the text is indented with a tab: the
/// parser only speaks of a character that cannot start a token.
pub(super) fn spaces_for_tabs(text: &str) -> String {
    let indent = |line: &&str| line[..line.len() - line.trim_start().len()].contains('\t');
    match text.lines().position(|line| indent(&line)) {
        Some(at) => format!(
            "; line {} is indented with a tab, YAML wants spaces",
            at + 1
        ),
        None => String::new(),
    }
}

/// Variables with our prefix that nobody reads and that look like one of ours.
pub(super) fn misspelled_variables(env: &BTreeMap<String, String>) -> Vec<String> {
    let fields = HookDescriptor::linked().into_iter().map(|hook| hook.fields);
    let sources = PluginSourceDescriptor::linked().into_iter();
    let of_hooks: Vec<&str> = fields
        .chain(sources.map(|source| source.fields))
        .flatten()
        .filter_map(|field| field.env)
        .collect();
    let is_known = |name: &str| {
        let plain = name.strip_suffix("_FILE").unwrap_or(name);
        of_hooks.contains(&plain)
            || ENV_VARS
                .iter()
                .any(|var| var.name == name || var.name == plain)
    };
    env.keys()
        .filter(|name| name.starts_with(PREFIX) && !is_known(name))
        .filter_map(|name| {
            let ours = ENV_VARS.iter().filter_map(|var| var.name.strip_prefix(PREFIX));
            let meant = closest(name.strip_prefix(PREFIX)?, ours)?;
            Some(format!(
                "{name}: is no variable of this server and does nothing; did you mean {PREFIX}{meant}?"
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelled_key_or_value_leads_to_the_right_one() {
        for (cause, meant_to_be) in [
            (
                "unknown field `prot`, expected one of `address`, `port`",
                "; did you mean \"port\"?",
            ),
            (
                "unknown field `colour`, expected `color`",
                "; did you mean \"color\"?",
            ),
            (
                "unknown variant `dokcer`, expected one of `auto`, `docker`",
                "; did you mean \"docker\"?",
            ),
            // In the wrong section
            (
                "unknown field `admin_token`, expected `server` or `auth`",
                "; did you mean \"auth.admin_token\"?",
            ),
            // Nothing near, nothing readable
            ("unknown field `nonsense`, expected `server` or `auth`", ""),
            ("unknown variant `hunter2-hunter2`, expected `a` or `b`", ""),
            ("unknown field `x`, there are no fields", ""),
            ("unknown field `", ""),
            ("invalid type: string", ""),
        ] {
            assert_eq!(meant(cause), meant_to_be, "{cause}");
        }
    }

    #[test]
    fn a_tab_before_a_line_is_told_and_one_inside_is_not() {
        let told = spaces_for_tabs("server:\n  port: 1\n \tadmin: 2\n");
        assert!(
            told.contains("line 3 ") && told.contains("spaces"),
            "{told}"
        );
        for text in ["", "a: 1\t# one\n", "a:\n  b: \"\t\"\n"] {
            assert_eq!(spaces_for_tabs(text), "", "{text:?}");
        }
    }

    #[test]
    fn a_misspelled_variable_is_told_and_others_are_left_alone() {
        let names = [
            "MOLECULE_BAKEND",
            "MOLECULE_BACKEND",
            "MOLECULE_TEST_POSTGRES_URL",
            "PROT",
        ];
        let env = names.map(|name| (name.to_owned(), "planted".to_owned()));
        let told = misspelled_variables(&env.into_iter().collect());
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("MOLECULE_BAKEND: ") && told[0].ends_with("MOLECULE_BACKEND?"));
    }
}
