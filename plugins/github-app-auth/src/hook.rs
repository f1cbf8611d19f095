use std::sync::Arc;
use std::time::Duration;

use molecule_hooks::{
    BuildContext, BuildResult, EnvMap, EnvMutator, HookError, Token, TokenCache, TokenProvider,
    TokenRequest, TokenScope, WorkspaceContext, async_trait, tracing,
};

use crate::config::Config;
use crate::exchange::Exchange;

/// A workspace that boots waits this long for a token, then boots without one.
/// Shorter than the server's usual deadline for a hook (10 s), whose passing
/// would keep the workspace from starting.
const BOOT_PATIENCE: Duration = Duration::from_secs(8);

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
        // Giving up here does not cancel the exchange; the next boot may find
        // its token in the cache.
        let minted = tokio::time::timeout(BOOT_PATIENCE, self.tokens.get())
            .await
            .unwrap_or_else(|_| Err(HookError::transient("no answer yet")));
        let token = match minted {
            Ok(token) => token,
            Err(error) if error.is_transient() => {
                tracing::warn!(
                    workspace.id = %workspace.id,
                    error = %error.chain(),
                    "github-app-auth: no token for now; the workspace boots without a new one"
                );
                return Ok(());
            }
            Err(error) => return Err(prefixed(&error)),
        };
        for name in ["GITHUB_TOKEN", "GH_TOKEN"] {
            env.set_token(name, &token)
                .map_err(|error| prefixed(&error.into()))?;
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

/// Only permanent errors come here, and those have no source to carry over.
fn prefixed(error: &HookError) -> HookError {
    HookError::permanent(format!("github-app-auth: {error}"))
}
