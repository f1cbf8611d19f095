//! `hooks [--json]`: what is in this binary.

use molecule_hooks::HookDescriptor;
use serde_json::{Value, json};

pub(super) fn print(as_json: bool) {
    let linked = HookDescriptor::linked();
    if as_json {
        let list: Vec<Value> = linked.iter().map(|hook| describe(hook)).collect();
        println!("{}", json!({ "hooks": list }));
        return;
    }
    if linked.is_empty() {
        println!("no hooks are linked into this binary");
        println!(
            "hint: a hook needs two lines: the dependency in Cargo.toml and `use its_crate as _;` in main.rs"
        );
        return;
    }
    let width = linked
        .iter()
        .map(|hook| hook.name.len())
        .max()
        .unwrap_or_default();
    for hook in linked {
        let token = if hook.token_provider {
            " [token provider]"
        } else {
            ""
        };
        println!(
            "{:width$}  {}  {}{token}",
            hook.name, hook.version, hook.description
        );
    }
}

fn describe(hook: &HookDescriptor) -> Value {
    let fields: Vec<Value> = hook
        .fields
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
        .collect();
    json!({
        "name": hook.name,
        "version": hook.version,
        "description": hook.description,
        "env_mutator": true,
        "token_provider": hook.token_provider,
        "config": fields,
    })
}
