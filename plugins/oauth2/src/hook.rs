use std::sync::Arc;
use std::time::Duration;

use molecule_hooks::{
    BuildContext, BuildResult, EnvMap, EnvMutator, HookError, Token, TokenCache, TokenProvider,
    TokenRequest, TokenScope, WorkspaceContext, async_trait, tracing,
};

use crate::config::Config;
use crate::exchange::Exchange;

/// Shorter than the server's usual deadline for a hook (10 s), whose passing
/// would keep the workspace from starting.
const BOOT_PATIENCE: Duration = Duration::from_secs(8);

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
        // Giving up here does not cancel the exchange; the next boot may find
        // its token in the cache.
        let minted = tokio::time::timeout(BOOT_PATIENCE, self.tokens.get())
            .await
            .unwrap_or_else(|_| Err(HookError::transient("no answer yet")));
        match minted {
            Ok(token) => env
                .set_token(variable, &token)
                .map_err(|error| prefixed(&error.into())),
            Err(error) if error.is_transient() => {
                tracing::warn!(
                    workspace.id = %workspace.id,
                    error = %error.chain(),
                    "oauth2: no token for now; the workspace boots without a new one"
                );
                Ok(())
            }
            Err(error) => Err(prefixed(&error)),
        }
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

/// Only permanent errors come here, and those have no source to carry over.
fn prefixed(error: &HookError) -> HookError {
    HookError::permanent(format!("oauth2: {error}"))
}
