use std::sync::Arc;

use molecule_hooks::{
    BuildContext, BuildResult, EnvMap, EnvMutator, HookError, Token, TokenCache, TokenProvider,
    TokenRequest, TokenScope, WorkspaceContext, async_trait,
};

use crate::config::Config;
use crate::exchange::Exchange;

struct GithubAppAuth {
    tokens: TokenCache,
}

pub(crate) fn build(config: Config, context: &BuildContext) -> BuildResult {
    let Some(settings) = config.resolve()? else {
        return Ok(None);
    };
    let clock = context.clock.clone();
    let exchange = Arc::new(Exchange::new(settings, clock.clone())?);
    let tokens = TokenCache::new(clock, move || {
        let exchange = Arc::clone(&exchange);
        async move { exchange.mint().await }
    });
    Ok(Some(Arc::new(GithubAppAuth { tokens })))
}

#[async_trait]
impl EnvMutator for GithubAppAuth {
    fn name(&self) -> &str {
        "github-app-auth"
    }

    async fn mutate_env(
        &self,
        workspace: &WorkspaceContext,
        env: &mut EnvMap,
    ) -> Result<(), HookError> {
        let Some(token) = self
            .tokens
            .get_for_boot("github-app-auth", workspace)
            .await?
        else {
            return Ok(());
        };
        for name in ["GITHUB_TOKEN", "GH_TOKEN"] {
            env.set_token(name, &token)
                .map_err(|error| HookError::permanent(format!("github-app-auth: {error}")))?;
        }
        Ok(())
    }

    fn token_provider(&self) -> Option<&dyn TokenProvider> {
        Some(self)
    }
}

#[async_trait]
impl TokenProvider for GithubAppAuth {
    async fn token(&self, _: &TokenRequest) -> Result<Token, HookError> {
        self.tokens.get().await
    }

    fn scope(&self) -> TokenScope {
        TokenScope::Shared
    }
}
