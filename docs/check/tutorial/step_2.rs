//! Tells every agent which releases it works on.

use std::sync::Arc;

use molecule_hooks::*;

/// The section `hooks.config.release-channel` of `molecule.yaml`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    channel: Option<String>,
}

impl HookConfig for Config {
    const FIELDS: &'static [ConfigField] = &[ConfigField::new(
        "channel",
        "stable, beta or nightly; without it the hook is off",
    )
    .env("RELEASE_CHANNEL")
    .example("stable")];

    fn validate(&self) -> Vec<String> {
        match self.channel.as_deref() {
            None | Some("stable" | "beta" | "nightly") => vec![],
            Some(_) => vec!["channel must be stable, beta or nightly".to_owned()],
        }
    }
}

struct ReleaseChannel {
    channel: String,
}

#[async_trait]
impl EnvMutator for ReleaseChannel {
    fn name(&self) -> &str {
        "release-channel"
    }

    async fn mutate_env(&self, _: &WorkspaceContext, env: &mut EnvMap) -> Result<(), HookError> {
        env.set("RELEASE_CHANNEL", &self.channel)?;
        Ok(())
    }
}

fn build(config: Config, _: &BuildContext) -> BuildResult {
    let hook = config.channel.map(|channel| ReleaseChannel { channel });
    Ok(hook.map(|hook| Arc::new(hook) as _))
}

register_hook! {
    name: "release-channel",
    description: "Tells every agent which releases it works on",
    config: Config,
    build: build
}

#[cfg(test)]
mod tests {
    use molecule_hooks::testing::{HookContract, assert_hook_contract};
    use serde_json::json;

    #[tokio::test]
    async fn the_hook_keeps_its_contract() {
        let section = json!({ "channel": "beta" });
        assert_hook_contract(HookContract::new("release-channel").section(section)).await;
    }
}
