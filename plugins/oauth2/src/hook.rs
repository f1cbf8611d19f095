use std::sync::Arc;

use molecule_hooks::{
    BuildContext, BuildResult, EnvMap, EnvMutator, HookError, Token, TokenCache, TokenProvider,
    TokenRequest, TokenScope, WorkspaceContext, async_trait,
};

use crate::config::Config;
use crate::exchange::Exchange;

struct Oauth2 {
    exchange: Arc<Exchange>,
    tokens: TokenCache,
}

pub(crate) fn build(config: Config, context: &BuildContext) -> BuildResult {
    let Some(settings) = config.resolve()? else {
        return Ok(None);
    };
    let exchange = Arc::new(Exchange::new(settings, context.clock.clone()));
    let minter = Arc::clone(&exchange);
    let tokens = TokenCache::new(context.clock.clone(), move || {
        let minter = Arc::clone(&minter);
        async move { minter.mint().await }
    });
    Ok(Some(Arc::new(Oauth2 { exchange, tokens })))
}

#[async_trait]
impl EnvMutator for Oauth2 {
    fn name(&self) -> &str {
        "oauth2"
    }

    async fn mutate_env(
        &self,
        workspace: &WorkspaceContext,
        env: &mut EnvMap,
    ) -> Result<(), HookError> {
        let Some(variable) = self.exchange.variable() else {
            return Ok(());
        };
        let Some(token) = self.tokens.get_for_boot("oauth2", workspace).await? else {
            return Ok(());
        };
        env.set_token(variable, &token)
            .map_err(|error| HookError::permanent(format!("oauth2: {error}")))
    }

    fn token_provider(&self) -> Option<&dyn TokenProvider> {
        Some(self)
    }
}

#[async_trait]
impl TokenProvider for Oauth2 {
    async fn token(&self, _: &TokenRequest) -> Result<Token, HookError> {
        self.tokens.get().await
    }

    fn scope(&self) -> TokenScope {
        TokenScope::Shared
    }

    fn service(&self) -> &str {
        self.exchange.service()
    }
}
