use std::sync::Arc;

use molecule_hooks::{
    BuildContext, BuildResult, EnvMap, EnvMutator, HookError, WorkspaceContext, async_trait,
};

use crate::config::Config;
use crate::owners::Owners;
use crate::{role, wrapper};

const ROLE: &str = "MOLECULE_AGENT_ROLE";

struct GhIdentity {
    owners: Owners,
    wrapper: String,
    wrapper_hash: String,
}

pub(crate) fn build(config: Config, _: &BuildContext) -> BuildResult {
    let path = config.config_file.unwrap_or_default();
    Ok(Some(Arc::new(GhIdentity {
        owners: Owners::load(path.trim())?,
        wrapper: wrapper::base64(),
        wrapper_hash: wrapper::short_hash(),
    })))
}

#[async_trait]
impl EnvMutator for GhIdentity {
    fn name(&self) -> &str {
        "gh-identity"
    }

    async fn mutate_env(
        &self,
        workspace: &WorkspaceContext,
        env: &mut EnvMap,
    ) -> Result<(), HookError> {
        let role = role::sanitise(env.get(ROLE).unwrap_or_default());
        if role.is_empty() {
            return Ok(());
        }
        let short_id: String = workspace.id.chars().take(8).collect();
        let badge = format!("🤖 [Agent: {role} · ws-{short_id}]");
        env.set("MOLECULE_OWNER", self.owners.of(&role))?;
        env.set("MOLECULE_WORKSPACE_ID", workspace.id.as_str())?;
        env.set("MOLECULE_ATTRIBUTION_BADGE", badge)?;
        env.set("MOLECULE_GH_WRAPPER_B64", self.wrapper.as_str())?;
        env.set("MOLECULE_GH_WRAPPER_SHA", self.wrapper_hash.as_str())?;
        env.set(ROLE, role)?;
        Ok(())
    }
}
