//! `hooks [--json]`: what is in this binary.

use molecule_hooks::{ConfigField, HookDescriptor, PluginSourceDescriptor};
use serde_json::{Value, json};

pub(super) fn print(as_json: bool) {
    let (hooks, sources) = (HookDescriptor::linked(), PluginSourceDescriptor::linked());
    match as_json {
        true => println!("{}", describe(&hooks, &sources)),
        false => lines(&hooks, &sources)
            .iter()
            .for_each(|line| println!("{line}")),
    }
}

/// One line for each, with aligned columns.
fn lines(hooks: &[&HookDescriptor], sources: &[&PluginSourceDescriptor]) -> Vec<String> {
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
        let mark = match hook.token_provider {
            true => " [token provider]",
            false => "",
        };
        line(hook.name, hook.version, hook.description, mark)
    });
    let sources = sources.iter().map(|source| {
        let mark = format!(" [plugin source {}://]", source.scheme);
        line(source.name, source.version, source.description, &mark)
    });
    hooks.chain(sources).collect()
}

fn describe(hooks: &[&HookDescriptor], sources: &[&PluginSourceDescriptor]) -> Value {
    let hooks: Vec<Value> = hooks
        .iter()
        .map(|hook| {
            json!({
                "name": hook.name,
                "version": hook.version,
                "description": hook.description,
                "env_mutator": true,
                "token_provider": hook.token_provider,
                "config": fields(hook.fields),
            })
        })
        .collect();
    let sources: Vec<Value> = sources
        .iter()
        .map(|source| {
            json!({
                "name": source.name,
                "scheme": source.scheme,
                "version": source.version,
                "description": source.description,
                "config": fields(source.fields),
            })
        })
        .collect();
    json!({ "hooks": hooks, "plugin_sources": sources })
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
    use molecule_hooks::NoConfig;

    #[test]
    fn sources_are_listed_beside_hooks() {
        let hook = HookDescriptor::new::<NoConfig>("a", "1.0.0", "A hook", true, |_, _| Ok(None));
        let source = PluginSourceDescriptor::new::<NoConfig>(
            "company-store",
            "store",
            "2.0.0",
            "A store",
            |_, _| Ok(None),
        );
        assert_eq!(
            lines(&[&hook], &[&source]),
            [
                "a              1.0.0  A hook [token provider]",
                "company-store  2.0.0  A store [plugin source store://]",
            ]
        );
        let described = describe(&[], &[&source]);
        assert_eq!(described["hooks"], json!([]));
        assert_eq!(described["plugin_sources"][0]["scheme"], "store");
        assert!(lines(&[], &[])[1].contains("use its_crate as _;"));
    }
}
