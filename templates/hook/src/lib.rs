#![doc = include_str!("../README.md")]

mod config;
mod hook;
{%- if token_provider %}
mod token;
{%- endif %}

use std::sync::Arc;

use molecule_hooks::{BuildContext, BuildResult, register_hook};

use crate::config::Config;
use crate::hook::Hook;

/// From the section of the operator to a hook. It runs once, while the server starts,
/// and may not wait for anything: no files, no network.
{%- unless token_provider %}
fn build(config: Config, _: &BuildContext) -> BuildResult {
    // Without an endpoint the hook is linked, but there is nothing for it to do.
    let hook = config.endpoint.map(Hook::new);
    Ok(hook.map(|hook| Arc::new(hook) as _))
}
{%- endunless %}
{%- if token_provider %}
fn build(config: Config, context: &BuildContext) -> BuildResult {
    let tokens = config.tokens(&context.clock);
    // Without an endpoint the hook is linked, but there is nothing for it to do.
    let hook = config.endpoint.map(|endpoint| Hook::new(endpoint, tokens));
    Ok(hook.map(|hook| Arc::new(hook) as _))
}
{%- endif %}

register_hook! {
    name: "{{project-name}}",
    description: "Tells every workspace where a service is",
    config: Config,
    build: build,
{%- if token_provider %}
    token_provider: true,
{%- endif %}
    // What the contract test found; `just verdict` writes it.
    contract: include_str!("../contract.json"),
}
