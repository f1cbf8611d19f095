use std::sync::Arc;
use std::time::Duration;

use molecule_hooks::{
    BuildContext, BuildResult, EnvMap, EnvMutator, HookError, Token, TokenCache, TokenProvider,
    TokenRequest, TokenScope, WorkspaceContext, async_trait, tracing,
};

use crate::config::Config;
use crate::tokens::Tokens;

/// Shorter than the server's usual deadline for a hook (10 s), whose passing
/// would keep the workspace from starting.
const BOOT_PATIENCE: Duration = Duration::from_secs(8);

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
                    "gitlab-token: no token for now; the workspace boots without a new one"
                );
                return Ok(());
            }
            Err(error) => return Err(prefixed(&error)),
        };
        env.set_token("GITLAB_TOKEN", &token)
            .and_then(|()| env.set("GITLAB_HOST", &self.host))
            .map_err(|error| prefixed(&error.into()))
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

/// Only permanent errors come here, and those have no source to carry over.
fn prefixed(error: &HookError) -> HookError {
    HookError::permanent(format!("gitlab-token: {error}"))
}
