//! Tells every agent which releases it works on.

use std::collections::BTreeMap;
use std::sync::Arc;

use molecule_hooks::*;

/// The section `hooks.config.release-channel` of `molecule.yaml`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    channel: Option<String>,
    #[serde(default)]
    roles: BTreeMap<String, String>,
}

impl HookConfig for Config {
    const FIELDS: &'static [ConfigField] = &[
        ConfigField::new(
            "channel",
            "stable, beta or nightly; without it the hook is off",
        )
        .env("RELEASE_CHANNEL")
        .example("stable"),
        ConfigField::new("roles", "channels of roles that have another one")
            .example("{ tester: nightly }"),
    ];

    fn validate(&self) -> Vec<String> {
        let named = self.channel.iter().chain(self.roles.values());
        let unknown = |name: &&String| !["stable", "beta", "nightly"].contains(&name.as_str());
        match named.filter(unknown).count() {
            0 => vec![],
            _ => vec!["channel and roles must name stable, beta or nightly".to_owned()],
        }
    }
}

struct ReleaseChannel {
    channel: String,
    roles: BTreeMap<String, String>,
}

impl ReleaseChannel {
    fn of(&self, workspace: &WorkspaceContext) -> &str {
        let role = workspace.role.as_deref().unwrap_or_default();
        self.roles.get(role).unwrap_or(&self.channel)
    }
}

#[async_trait]
impl EnvMutator for ReleaseChannel {
    fn name(&self) -> &str {
        "release-channel"
    }

    async fn mutate_env(
        &self,
        workspace: &WorkspaceContext,
        env: &mut EnvMap,
    ) -> Result<(), HookError> {
        env.set("RELEASE_CHANNEL", self.of(workspace))?;
        Ok(())
    }
}

fn build(config: Config, _: &BuildContext) -> BuildResult {
    let roles = config.roles;
    let hook = config
        .channel
        .map(|channel| ReleaseChannel { channel, roles });
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
    use molecule_hooks::testing::{HookContract, assert_hook_contract, run_hook};
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn the_hook_keeps_its_contract() {
        let section = json!({ "channel": "beta", "roles": { "tester": "nightly" } });
        assert_hook_contract(HookContract::new("release-channel").section(section)).await;
    }

    #[tokio::test]
    async fn testers_get_their_own_channel() {
        let hook = || ReleaseChannel {
            channel: "stable".to_owned(),
            roles: BTreeMap::from([("tester".to_owned(), "nightly".to_owned())]),
        };
        for (role, channel) in [("tester", "nightly"), ("writer", "stable")] {
            let workspace = WorkspaceContext::new("7aa0").with_role(role);
            let env = run_hook(hook(), &workspace, [("PATH", "/bin")])
                .await
                .unwrap();
            assert_eq!(env.get("RELEASE_CHANNEL"), Some(channel));
        }
    }
}
