//! Live tokens from the first hook that can provide them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use moka::sync::Cache;
use molecule_hooks::{
    Clock, EMPTY_TOKEN, HookError, RegisteredHook, Registry, Token, TokenCache, TokenRequest,
    TokenScope, WorkspaceContext,
};

use super::isolate::{Ended, isolated};
use crate::error::{Error, Result};
use crate::redact::Redactor;

/// Caches of workspaces that did not ask for this long are dropped.
const IDLE: Duration = Duration::from_secs(2 * 3600);
const MOST_CACHES: u64 = 100_000;

/// The room behind the token-refresh endpoints. Cheap to clone.
///
/// One [`TokenCache`] per scope gives every provider, however simple, the same
/// behaviour: one refresh at a time, background renewal, stale while valid, a
/// pause after failures.
#[derive(Clone)]
pub(crate) struct Credentials {
    registry: Registry,
    /// Of a shared token, and of the admin route.
    shared: Arc<OnceLock<TokenCache>>,
    /// By workspace.
    caches: Cache<String, TokenCache>,
    redactor: Redactor,
    clock: Clock,
}

impl Credentials {
    pub(crate) fn new(registry: Registry, redactor: Redactor, clock: Clock) -> Self {
        let caches = Cache::builder()
            .max_capacity(MOST_CACHES)
            .time_to_idle(IDLE)
            .build();
        Self {
            registry,
            shared: Arc::default(),
            caches,
            redactor,
            clock,
        }
    }

    /// A token for the administrator.
    ///
    /// # Errors
    /// 404 `no GitHub App configured` without any hook, 404 `no token provider
    /// registered` without a provider; 500 `token refresh failed`, with `: empty
    /// token` when the provider returned none. The cause is logged, the token
    /// never.
    pub(crate) async fn for_admin(&self) -> Result<Token> {
        let (hook, scope) = self.provider()?;
        self.shared(hook, scope).await
    }

    async fn shared(&self, hook: RegisteredHook, scope: TokenScope) -> Result<Token> {
        let cache = self.shared.get_or_init(|| self.cache(hook, scope, None));
        answer(cache).await
    }

    /// A token for a workspace; `load` reads what the provider may know of it and
    /// runs only before its first token. `require` answers whether it still
    /// exists when there was one already: an administrator may ask for any id.
    ///
    /// # Errors
    /// As [`for_admin`](Self::for_admin), and whatever `load` returns.
    pub(crate) async fn for_workspace<R, F>(
        &self,
        id: &str,
        require: impl FnOnce() -> R,
        load: impl FnOnce() -> F,
    ) -> Result<Token>
    where
        R: Future<Output = Result<()>>,
        F: Future<Output = Result<WorkspaceContext>>,
    {
        let (hook, scope) = self.provider()?;
        if scope == TokenScope::Shared {
            return self.shared(hook, scope).await;
        }
        let cache = match self.caches.get(id) {
            Some(cache) => {
                require().await?;
                cache
            }
            None => {
                // Boxed: it happens once per workspace, and is large.
                let workspace = Box::pin(load()).await?;
                self.caches
                    .get_with_by_ref(id, || self.cache(hook, scope, Some(workspace)))
            }
        };
        answer(&cache).await
    }

    fn provider(&self) -> Result<(RegisteredHook, TokenScope)> {
        let Some(hook) = self.registry.first_token_provider() else {
            return Err(Error::not_found(match self.registry.is_empty() {
                true => "no GitHub App configured",
                false => "no token provider registered",
            }));
        };
        let scope = hook
            .token_provider()
            .map_or(TokenScope::PerWorkspace, |p| p.scope());
        Ok((hook, scope))
    }

    fn cache(
        &self,
        hook: RegisteredHook,
        scope: TokenScope,
        workspace: Option<WorkspaceContext>,
    ) -> TokenCache {
        // A shared token is nobody's in particular.
        let request = match (scope, workspace) {
            (TokenScope::Shared, _) | (_, None) => TokenRequest::admin(),
            (_, Some(workspace)) => TokenRequest::for_workspace(workspace),
        };
        let (hook, request) = (Arc::new(hook), Arc::new(request));
        let (redactor, clock) = (self.redactor.clone(), self.clock.clone());
        TokenCache::new(self.clock.clone(), move || {
            let (hook, request) = (Arc::clone(&hook), Arc::clone(&request));
            let (redactor, clock) = (redactor.clone(), clock.clone());
            async move {
                let theirs = Arc::clone(&hook);
                let minting = async move {
                    let Some(provider) = theirs.token_provider() else {
                        return Err(HookError::permanent("the hook no longer provides tokens"));
                    };
                    provider.token(&request).await
                };
                let token = isolated(minting).await.unwrap_or_else(|end| {
                    Err(match end {
                        Ended::Panicked(_) => HookError::permanent("token provider panicked"),
                        Ended::Cancelled => HookError::transient("token refresh was interrupted"),
                    })
                })?;
                redactor.learn_passing(token.secret.expose());
                let ttl_secs = (token.expires_at - clock.now()).num_seconds();
                tracing::info!(
                    hook.name = hook.name(),
                    expires_at = %token.expires_at,
                    ttl_secs,
                    "[github] token refreshed"
                );
                Ok(token)
            }
        })
    }
}

async fn answer(cache: &TokenCache) -> Result<Token> {
    cache.get().await.map_err(|error| {
        tracing::warn!(error = error.chain(), "[github] token refresh failed");
        let text = match error.to_string().as_str() {
            EMPTY_TOKEN => "token refresh failed: empty token",
            _ => "token refresh failed",
        };
        Error::internal(text, error)
    })
}
