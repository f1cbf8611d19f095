//! Tells every agent which releases it works on.

use std::sync::Arc;

use molecule_hooks::*;

struct ReleaseChannel;

#[async_trait]
impl EnvMutator for ReleaseChannel {
    fn name(&self) -> &str {
        "release-channel"
    }

    async fn mutate_env(&self, _: &WorkspaceContext, env: &mut EnvMap) -> Result<(), HookError> {
        env.set("RELEASE_CHANNEL", "stable")?;
        Ok(())
    }
}

fn build(_: NoConfig, _: &BuildContext) -> BuildResult {
    Ok(Some(Arc::new(ReleaseChannel)))
}

register_hook! {
    name: "release-channel",
    description: "Tells every agent which releases it works on",
    config: NoConfig,
    build: build
}

#[cfg(test)]
mod tests {
    use molecule_hooks::testing::{HookContract, assert_hook_contract};

    #[tokio::test]
    async fn the_hook_keeps_its_contract() {
        assert_hook_contract(HookContract::new("release-channel")).await;
    }
}
