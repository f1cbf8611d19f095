//! Tells every agent which releases it works on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use molecule_hooks::*;

/// The section `hooks.config.release-channel` of `molecule.yaml`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    channel: Option<String>,
    #[serde(default)]
    roles: BTreeMap<String, String>,
    token_file: Option<PathBuf>,
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
        ConfigField::new(
            "token_file",
            "file with a token, which something else keeps fresh",
        )
        .example("/run/releases/token"),
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
    token_file: Option<PathBuf>,
    clock: Clock,
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

    fn token_provider(&self) -> Option<&dyn TokenProvider> {
        self.token_file.is_some().then_some(self as _)
    }
}

#[async_trait]
impl TokenProvider for ReleaseChannel {
    async fn token(&self, _: &TokenRequest) -> Result<Token, HookError> {
        let Some(path) = &self.token_file else {
            return Err(HookError::config("token_file is not set"));
        };
        let read = tokio::fs::read_to_string(path).await;
        // The path and the file stay out of the text, which an operator's log shows.
        let text = read.map_err(|error| HookError::transient("token_file").with_source(error))?;
        let lives = std::time::Duration::from_secs(300);
        Ok(Token::new(text.trim_end(), self.clock.now() + lives))
    }

    fn scope(&self) -> TokenScope {
        TokenScope::Shared
    }

    fn service(&self) -> &str {
        "releases"
    }
}

fn build(config: Config, context: &BuildContext) -> BuildResult {
    let roles = config.roles;
    let hook = config.channel.map(|channel| ReleaseChannel {
        channel,
        roles,
        token_file: config.token_file,
        clock: context.clock.clone(),
    });
    Ok(hook.map(|hook| Arc::new(hook) as _))
}

register_hook! {
    name: "release-channel",
    description: "Tells every agent which releases it works on",
    config: Config,
    build: build,
    token_provider: true
}

#[cfg(test)]
mod tests {
    use molecule_hooks::testing::{HookContract, assert_hook_contract, run_hook};
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn the_hook_keeps_its_contract() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "a-token-of-this-test\n").unwrap();
        let section = json!({
            "channel": "beta", "roles": { "tester": "nightly" }, "token_file": file.path(),
        });
        let contract = HookContract::new("release-channel").section(section);
        assert_hook_contract(contract.secret("a-token-of-this-test")).await;
    }

    #[tokio::test]
    async fn testers_get_their_own_channel() {
        let hook = || ReleaseChannel {
            channel: "stable".to_owned(),
            roles: BTreeMap::from([("tester".to_owned(), "nightly".to_owned())]),
            token_file: None,
            clock: Clock::system(),
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
