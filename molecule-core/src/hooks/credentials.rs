//! Live tokens from the hooks that can provide them.

mod provider;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use moka::sync::Cache;
use molecule_hooks::{
    Clock, EMPTY_TOKEN, GITHUB, HookError, Registry, Token, TokenCache, TokenRequest, TokenScope,
    WorkspaceContext,
};
use tracing::Instrument;

pub(crate) use self::provider::Provider;
use super::isolate::{Ended, isolated};
use crate::error::{Error, Result};
use crate::redact::Redactor;

/// Caches of workspaces that did not ask for this long are dropped.
const IDLE: Duration = Duration::from_secs(2 * 3600);
/// Of one provider.
const MOST_CACHES: u64 = 100_000;

/// The room behind the token-refresh endpoints. Cheap to clone.
///
/// One [`TokenCache`] per provider and scope gives every provider, however simple,
/// the same behaviour: one refresh at a time, background renewal, stale while valid,
/// a pause after failures. Providers share nothing: one in trouble holds up no other.
#[derive(Clone)]
pub(crate) struct Credentials {
    registry: Registry,
    /// By the name of the provider. Only those of the registry get in.
    caches: Arc<Mutex<HashMap<String, Arc<Caches>>>>,
    redactor: Redactor,
    clock: Clock,
}

/// What one provider gave.
struct Caches {
    /// Of a shared token, and of the admin route.
    shared: OnceLock<TokenCache>,
    by_workspace: Cache<String, TokenCache>,
}

impl Caches {
    fn new() -> Self {
        let by_workspace = Cache::builder()
            .max_capacity(MOST_CACHES)
            .time_to_idle(IDLE)
            .build();
        Self {
            shared: OnceLock::new(),
            by_workspace,
        }
    }
}

impl Credentials {
    pub(crate) fn new(registry: Registry, redactor: Redactor, clock: Clock) -> Self {
        Self {
            registry,
            caches: Arc::default(),
            redactor,
            clock,
        }
    }

    /// Every provider, in the order of the chain. Of two with one name the first
    /// counts.
    pub(crate) fn providers(&self) -> Vec<Provider> {
        let mut found: Vec<Provider> = Vec::new();
        for provider in (self.registry.snapshot().into_iter()).filter_map(Provider::of) {
            if !found.iter().any(|other| other.name() == provider.name()) {
                found.push(provider);
            }
        }
        found
    }

    /// The provider behind the endpoints for GitHub.
    ///
    /// # Errors
    /// 404 `no GitHub App configured` without any hook, 404 `no token provider
    /// registered` without a provider of tokens for GitHub.
    pub(crate) fn github(&self) -> Result<Provider> {
        let mut providers = self.providers().into_iter();
        let first = providers.find(|provider| provider.service() == GITHUB);
        first.ok_or_else(|| {
            Error::not_found(match self.registry.is_empty() {
                true => "no GitHub App configured",
                false => "no token provider registered",
            })
        })
    }

    /// The provider of this name.
    ///
    /// # Errors
    /// 404 `no token provider of that name`.
    pub(crate) fn named(&self, name: &str) -> Result<Provider> {
        let mut providers = self.providers().into_iter();
        providers
            .find(|provider| provider.name() == name)
            .ok_or_else(|| Error::not_found("no token provider of that name"))
    }

    /// A token for the administrator.
    ///
    /// # Errors
    /// 500 `token refresh failed`, with `: empty token` when the provider returned
    /// none. The cause is logged, the token never.
    pub(crate) async fn for_admin(&self, provider: &Provider) -> Result<Token> {
        let caches = self.caches_of(provider);
        let cache = caches.shared.get_or_init(|| self.cache(provider, None));
        answer(provider, cache).await
    }

    /// A token for a workspace; `load` reads what the provider may know of it and
    /// runs only before its first token. `require` answers whether it still
    /// exists when there was one already: an administrator may ask for any id.
    ///
    /// # Errors
    /// As [`for_admin`](Self::for_admin), and whatever `load` returns.
    pub(crate) async fn for_workspace<R, F>(
        &self,
        provider: &Provider,
        id: &str,
        require: impl FnOnce() -> R,
        load: impl FnOnce() -> F,
    ) -> Result<Token>
    where
        R: Future<Output = Result<()>>,
        F: Future<Output = Result<WorkspaceContext>>,
    {
        if provider.scope() == TokenScope::Shared {
            return self.for_admin(provider).await;
        }
        let caches = self.caches_of(provider);
        let cache = match caches.by_workspace.get(id) {
            Some(cache) => {
                require().await?;
                cache
            }
            None => {
                // Boxed: it happens once per workspace, and is large.
                let workspace = Box::pin(load()).await?;
                let caches = &caches.by_workspace;
                caches.get_with_by_ref(id, || self.cache(provider, Some(workspace)))
            }
        };
        answer(provider, &cache).await
    }

    fn caches_of(&self, provider: &Provider) -> Arc<Caches> {
        let mut all = self.caches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(caches) = all.get(provider.name()) {
            return Arc::clone(caches);
        }
        let caches = Arc::new(Caches::new());
        all.insert(provider.name().to_owned(), Arc::clone(&caches));
        caches
    }

    fn cache(&self, provider: &Provider, workspace: Option<WorkspaceContext>) -> TokenCache {
        // A shared token is nobody's in particular.
        let request = workspace.map_or_else(TokenRequest::admin, TokenRequest::for_workspace);
        let (provider, request) = (provider.clone(), Arc::new(request));
        let (redactor, clock) = (self.redactor.clone(), self.clock.clone());
        TokenCache::new(self.clock.clone(), move || {
            let (provider, request) = (provider.clone(), Arc::clone(&request));
            let (redactor, clock) = (redactor.clone(), clock.clone());
            async move {
                let mut refresh = Refresh::of(&provider);
                let token = mint(&provider, request).await?;
                redactor.learn_passing(token.secret.expose());
                refresh.is_ok = true;
                tracing::info!(
                    hook.name = provider.name(),
                    expires_at = %token.expires_at,
                    ttl_secs = (token.expires_at - clock.now()).num_seconds(),
                    "[{}] token refreshed",
                    provider.service()
                );
                Ok(token)
            }
        })
    }
}

/// Calls the provider behind the fence.
async fn mint(provider: &Provider, request: Arc<TokenRequest>) -> Result<Token, HookError> {
    let theirs = provider.clone();
    let minting = async move { theirs.token(&request).await };
    isolated(minting).await.unwrap_or_else(|end| {
        Err(match end {
            Ended::Panicked(_) => HookError::permanent("token provider panicked"),
            Ended::Cancelled => HookError::transient("token refresh was interrupted"),
        })
    })
}

async fn answer(provider: &Provider, cache: &TokenCache) -> Result<Token> {
    // A refresh goes on when its caller left; its lines name the provider, not the
    // request that happened to begin it.
    let span = tracing::info_span!(
        parent: None, "credential", hook.name = provider.name(), service = provider.service()
    );
    let outcome = cache.get().instrument(span).await;
    let label = if outcome.is_ok() { "ok" } else { "error" };
    let labels = [
        ("hook", provider.name().to_owned()),
        ("outcome", label.to_owned()),
    ];
    metrics::counter!("molecule_token_requests_total", &labels).increment(1);
    outcome.map_err(|error| {
        tracing::warn!(
            hook.name = provider.name(),
            error = error.chain(),
            "[{}] token refresh failed",
            provider.service()
        );
        let text = match error.to_string().as_str() {
            EMPTY_TOKEN => "token refresh failed: empty token",
            _ => "token refresh failed",
        };
        Error::internal(text, error)
    })
}

/// Measures a call of a provider, also one that is given up.
struct Refresh {
    hook: String,
    started: Instant,
    is_ok: bool,
}

impl Refresh {
    fn of(provider: &Provider) -> Self {
        Self {
            hook: provider.name().to_owned(),
            started: Instant::now(),
            is_ok: false,
        }
    }
}

impl Drop for Refresh {
    fn drop(&mut self) {
        let outcome = if self.is_ok { "ok" } else { "error" };
        let labels = [("hook", self.hook.clone()), ("outcome", outcome.to_owned())];
        metrics::counter!("molecule_token_refreshes_total", &labels).increment(1);
        metrics::histogram!("molecule_token_refresh_duration_seconds", "hook" => self.hook.clone())
            .record(self.started.elapsed().as_secs_f64());
    }
}
