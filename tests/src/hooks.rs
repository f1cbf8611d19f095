//! Hooks that behave as a test needs.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use molecule_hooks::{
    EnvMap, EnvMutator, GITHUB, HookError, Token, TokenProvider, TokenRequest, TokenScope,
    WorkspaceContext,
};

type Mutate = dyn Fn(&WorkspaceContext, &mut EnvMap) -> Result<(), HookError> + Send + Sync;

/// A mutator made of a closure.
pub struct FnHook {
    name: &'static str,
    mutate: Box<Mutate>,
}

impl FnHook {
    /// A hook called `name` that does `mutate`.
    pub fn new(
        name: &'static str,
        mutate: impl Fn(&WorkspaceContext, &mut EnvMap) -> Result<(), HookError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            mutate: Box::new(mutate),
        }
    }
}

#[async_trait]
impl EnvMutator for FnHook {
    fn name(&self) -> &str {
        self.name
    }

    async fn mutate_env(
        &self,
        workspace: &WorkspaceContext,
        env: &mut EnvMap,
    ) -> Result<(), HookError> {
        (self.mutate)(workspace, env)
    }
}

/// A mutator that never ends.
pub struct HangingHook;

#[async_trait]
impl EnvMutator for HangingHook {
    fn name(&self) -> &str {
        "hanging"
    }

    async fn mutate_env(&self, _: &WorkspaceContext, _: &mut EnvMap) -> Result<(), HookError> {
        std::future::pending().await
    }
}

type Minted = Pin<Box<dyn Future<Output = Result<Token, HookError>> + Send>>;

/// A token provider made of a closure.
#[derive(Clone)]
pub struct FnTokens {
    name: &'static str,
    service: &'static str,
    scope: TokenScope,
    mint: Arc<dyn Fn(TokenRequest) -> Minted + Send + Sync>,
}

impl FnTokens {
    /// A provider called `tokens` that does `mint`.
    pub fn new<F, Fut>(scope: TokenScope, mint: F) -> Self
    where
        F: Fn(TokenRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Token, HookError>> + Send + 'static,
    {
        Self {
            name: "tokens",
            service: GITHUB,
            scope,
            mint: Arc::new(move |request| Box::pin(mint(request))),
        }
    }

    /// The same provider under another name, for another service.
    pub fn serving(mut self, name: &'static str, service: &'static str) -> Self {
        (self.name, self.service) = (name, service);
        self
    }
}

#[async_trait]
impl EnvMutator for FnTokens {
    fn name(&self) -> &str {
        self.name
    }

    async fn mutate_env(&self, _: &WorkspaceContext, _: &mut EnvMap) -> Result<(), HookError> {
        Ok(())
    }

    fn token_provider(&self) -> Option<&dyn TokenProvider> {
        Some(self)
    }
}

#[async_trait]
impl TokenProvider for FnTokens {
    async fn token(&self, request: &TokenRequest) -> Result<Token, HookError> {
        (self.mint)(request.clone()).await
    }

    fn scope(&self) -> TokenScope {
        self.scope
    }

    fn service(&self) -> &str {
        self.service
    }
}
