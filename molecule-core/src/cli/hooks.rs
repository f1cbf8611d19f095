//! `hooks [--json]`: what is in this binary.

use molecule_hooks::ConfigField;
use serde::Serialize;
use serde_json::{Value, json};

use crate::build_info::{BuildInfo, Verdict};

pub(super) fn print(as_json: bool) {
    let info = BuildInfo::of_this_binary();
    match as_json {
        true => println!("{}", describe(&info)),
        false => lines(&info).iter().for_each(|line| println!("{line}")),
    }
}

/// One line for each, with aligned columns.
pub(super) fn lines(info: &BuildInfo) -> Vec<String> {
    let (hooks, sources) = (info.hooks(), info.plugin_sources());
    if hooks.is_empty() && sources.is_empty() {
        return vec![
            "no hooks are linked into this binary".to_owned(),
            "hint: a hook needs two lines: the dependency in Cargo.toml and `use its_crate as _;` \
             in main.rs"
                .to_owned(),
        ];
    }
    let names = hooks.iter().map(|hook| hook.name);
    let names = names.chain(sources.iter().map(|source| source.name));
    let width = names.map(str::len).max().unwrap_or_default();
    let line = |name: &str, version: &str, description: &str, mark: &str| {
        format!("{name:width$}  {version}  {description}{mark}")
    };
    let hooks = hooks.iter().map(|hook| {
        let tokens = match hook.token_provider {
            true => " [token provider]",
            false => "",
        };
        let mark = format!("{tokens}{}", mark(hook.contract.as_ref()));
        line(hook.name, hook.version, hook.description, &mark)
    });
    let sources = sources.iter().map(|source| {
        let verdict = mark(source.contract.as_ref());
        let mark = format!(" [plugin source {}://]{verdict}", source.scheme);
        line(source.name, source.version, source.description, &mark)
    });
    hooks.chain(sources).collect()
}

fn mark(verdict: Option<&Verdict>) -> String {
    verdict
        .map(|verdict| format!(" [{}]", verdict.in_short()))
        .unwrap_or_default()
}

/// An entry of `build-info` with the keys its section may have.
#[derive(Serialize)]
struct Listed<'a, T> {
    #[serde(flatten)]
    entry: &'a T,
    config: Vec<Value>,
}

fn describe(info: &BuildInfo) -> Value {
    let hooks = info.hooks().iter();
    let hooks: Vec<_> = hooks.map(|entry| listed(entry, entry.fields)).collect();
    let sources = info.plugin_sources().iter();
    let sources: Vec<_> = sources.map(|entry| listed(entry, entry.fields)).collect();
    json!({ "hooks": hooks, "plugin_sources": sources })
}

fn listed<'a, T>(entry: &'a T, keys: &[ConfigField]) -> Listed<'a, T> {
    let config = fields(keys);
    Listed { entry, config }
}

fn fields(fields: &[ConfigField]) -> Vec<Value> {
    fields
        .iter()
        .map(|field| {
            json!({
                "name": field.name,
                "description": field.description,
                "required": field.required,
                "secret": field.secret,
                "env": field.env,
                "example": field.example,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use molecule_hooks::{HookDescriptor, NoConfig, PluginSourceDescriptor};

    #[test]
    fn sources_are_listed_beside_hooks() {
        let hook = HookDescriptor::new::<NoConfig>("a", "1.0.0", "A hook", true, |_, _| Ok(None))
            .in_package("acme-a")
            .with_contract("{}");
        let source = PluginSourceDescriptor::new::<NoConfig>(
            "company-store",
            "store",
            "2.0.0",
            "A store",
            |_, _| Ok(None),
        );
        let info = BuildInfo::new(None, &[&hook], &[&source]);
        assert_eq!(
            lines(&info),
            [
                "a              1.0.0  A hook [token provider] [contract of another version]",
                "company-store  2.0.0  A store [plugin source store://]",
            ]
        );
        let described = describe(&info);
        assert_eq!(described["hooks"][0]["crate"], "acme-a");
        assert_eq!(described["hooks"][0]["contract"]["current"], false);
        assert_eq!(described["hooks"][0]["config"], json!([]));
        assert_eq!(described["plugin_sources"][0]["scheme"], "store");
        let nothing = BuildInfo::new(None, &[], &[]);
        assert!(lines(&nothing)[1].contains("use its_crate as _;"));
    }
}
