use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::env_mutator::WorkspaceContext;
use crate::error::HookError;
use crate::secret::Secret;

/// A source of live, short-lived tokens.
///
/// The server calls it for `GET /workspaces/:id/credentials/:provider` and, when it
/// [serves](TokenProvider::service) GitHub, for
/// `GET /workspaces/:id/github-installation-token` and
/// `GET /admin/github-installation-token`. It caches the answer until shortly
/// before [`Token::expires_at`] and lets at most one call run at a time per
/// [scope](TokenProvider::scope), so a provider may simply mint. A provider that
/// also writes the token into the environment should share one
/// [`TokenCache`](crate::TokenCache) between both.
#[async_trait]
pub trait TokenProvider: Send + Sync {
    /// A token that is valid now. May block to fetch one; the server gives up
    /// after 30 seconds.
    ///
    /// # Errors
    /// [`HookError`]; a transient one with
    /// [`retry_after`](HookError::with_retry_after) keeps the server from asking
    /// again too early. An empty or expired token counts as an error.
    async fn token(&self, request: &TokenRequest) -> Result<Token, HookError>;

    /// Whom a token is good for. The default is the careful one.
    fn scope(&self) -> TokenScope {
        TokenScope::PerWorkspace
    }

    /// What a token opens, as one lower-case word: [`GITHUB`] unless the
    /// provider says otherwise. The `github-installation-token` endpoints ask the first
    /// provider for `github`; every provider is reachable under the name of its hook at
    /// `GET /workspaces/:id/credentials/:provider`. Constant for the life of the hook.
    fn service(&self) -> &str {
        GITHUB
    }
}

/// The [`service`](TokenProvider::service) of tokens for GitHub.
pub const GITHUB: &str = "github";

/// Whether one token may be handed to several workspaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenScope {
    /// Each workspace gets its own; the server caches per workspace.
    PerWorkspace,
    /// One token serves every workspace; the server caches a single one.
    Shared,
}

/// For whom a token is wanted.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct TokenRequest {
    /// The workspace that asks; none on the admin route.
    pub workspace: Option<WorkspaceContext>,
}

impl TokenRequest {
    /// A request from the admin route.
    pub fn admin() -> Self {
        Self::default()
    }

    /// A request on behalf of a workspace.
    pub fn for_workspace(workspace: WorkspaceContext) -> Self {
        Self {
            workspace: Some(workspace),
        }
    }
}

/// A credential with an end.
#[derive(Debug, Clone)]
pub struct Token {
    /// The credential itself.
    pub secret: Secret,
    /// When it stops working, UTC.
    pub expires_at: DateTime<Utc>,
}

impl Token {
    /// A token that works until `expires_at`.
    pub fn new(secret: impl Into<Secret>, expires_at: DateTime<Utc>) -> Self {
        Self {
            secret: secret.into(),
            expires_at,
        }
    }
}
