//! The shortest `EnvMutator`: every workspace gets the variable `GREETING`.

use std::sync::Arc;

use molecule_hooks::*;

/// The section `hooks.config.env-mutator` of `molecule.yaml`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    greeting: Option<String>,
}

impl HookConfig for Config {
    const FIELDS: &'static [ConfigField] =
        &[ConfigField::new("greeting", "value of GREETING").example("hello")];
}

struct Greeter(String);

#[async_trait]
impl EnvMutator for Greeter {
    fn name(&self) -> &str {
        "env-mutator"
    }
    async fn mutate_env(&self, _: &WorkspaceContext, env: &mut EnvMap) -> Result<(), HookError> {
        Ok(env.set("GREETING", &self.0)?)
    }
}

fn build(config: Config, _: &BuildContext) -> BuildResult {
    let greeting = config.greeting.unwrap_or_else(|| "hello".to_owned());
    Ok(Some(Arc::new(Greeter(greeting))))
}

register_hook! {
    name: "env-mutator",
    description: "Sets GREETING",
    config: Config,
    build: build,
    contract: include_str!("../contract.json"),
}
