//! A hook as a provider of tokens.

use std::sync::Arc;

use molecule_hooks::{HookError, RegisteredHook, Token, TokenRequest, TokenScope};

/// A hook that provides tokens, and what it says of them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Provider(Arc<Inner>);

struct Inner {
    hook: RegisteredHook,
    service: String,
    scope: TokenScope,
}

impl Provider {
    /// None for a hook that provides no tokens.
    pub(super) fn of(hook: RegisteredHook) -> Option<Self> {
        let tokens = hook.token_provider()?;
        let (service, scope) = (tokens.service().to_owned(), tokens.scope());
        Some(Self(Arc::new(Inner {
            hook,
            service,
            scope,
        })))
    }

    /// The name of the hook.
    pub(crate) fn name(&self) -> &str {
        self.0.hook.name()
    }

    /// What its tokens open.
    pub(crate) fn service(&self) -> &str {
        &self.0.service
    }

    /// Whom one token is good for.
    pub(crate) fn scope(&self) -> TokenScope {
        self.0.scope
    }

    pub(super) async fn token(&self, request: &TokenRequest) -> Result<Token, HookError> {
        match self.0.hook.token_provider() {
            Some(tokens) => tokens.token(request).await,
            None => Err(HookError::permanent("the hook no longer provides tokens")),
        }
    }
}
