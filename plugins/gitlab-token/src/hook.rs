use std::sync::Arc;

use molecule_hooks::{
    BuildContext, BuildResult, EnvMap, EnvMutator, HookError, Token, TokenCache, TokenProvider,
    TokenRequest, TokenScope, WorkspaceContext, async_trait,
};

use crate::config::Config;
use crate::tokens::Tokens;

struct GitlabToken {
    tokens: TokenCache,
    host: String,
}

pub(crate) fn build(config: Config, context: &BuildContext) -> BuildResult {
    let Some(settings) = config.resolve()? else {
        return Ok(None);
    };
    let host = settings.host.clone();
    let tokens = Arc::new(Tokens::new(settings, context.clock.clone()));
    let tokens = TokenCache::new(context.clock.clone(), move || {
        let tokens = Arc::clone(&tokens);
        async move { tokens.mint().await }
    });
    Ok(Some(Arc::new(GitlabToken { tokens, host })))
}

#[async_trait]
impl EnvMutator for GitlabToken {
    fn name(&self) -> &str {
        "gitlab-token"
    }

    async fn mutate_env(
        &self,
        workspace: &WorkspaceContext,
        env: &mut EnvMap,
    ) -> Result<(), HookError> {
        let Some(token) = self.tokens.get_for_boot("gitlab-token", workspace).await? else {
            return Ok(());
        };
        env.set_token("GITLAB_TOKEN", &token)
            .and_then(|()| env.set("GITLAB_HOST", &self.host))
            .map_err(|error| HookError::permanent(format!("gitlab-token: {error}")))
    }

    fn token_provider(&self) -> Option<&dyn TokenProvider> {
        Some(self)
    }
}

#[async_trait]
impl TokenProvider for GitlabToken {
    async fn token(&self, _: &TokenRequest) -> Result<Token, HookError> {
        self.tokens.get().await
    }

    fn scope(&self) -> TokenScope {
        TokenScope::Shared
    }

    fn service(&self) -> &str {
        "gitlab"
    }
}
