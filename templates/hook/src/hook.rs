//! What happens before a workspace boots.
{%- if token_provider %}

use molecule_hooks::{
    EnvMap, EnvMutator, HookError, Token, TokenProvider, TokenRequest, TokenScope,
    WorkspaceContext, async_trait, tracing,
};

use crate::token::FileTokens;
{%- endif %}
{%- unless token_provider %}

use molecule_hooks::{EnvMap, EnvMutator, HookError, WorkspaceContext, async_trait};
{%- endunless %}

/// The variable that the hook writes.
const ENDPOINT: &str = "{{crate_name | upcase}}_ENDPOINT";
{%- if token_provider %}
const TOKEN: &str = "{{crate_name | upcase}}_TOKEN";
{%- endif %}

pub(crate) struct Hook {
    endpoint: String,
{%- if token_provider %}
    tokens: FileTokens,
{%- endif %}
}

impl Hook {
{%- unless token_provider %}
    pub(crate) fn new(endpoint: String) -> Self {
        Self { endpoint }
    }
{%- endunless %}
{%- if token_provider %}
    pub(crate) fn new(endpoint: String, tokens: FileTokens) -> Self {
        Self { endpoint, tokens }
    }
{%- endif %}
}

#[async_trait]
impl EnvMutator for Hook {
    fn name(&self) -> &str {
        "{{project-name}}"
    }
{%- unless token_provider %}

    /// Called for every start of every workspace, several at once, and dropped half-way
    /// when the start is cancelled. An error keeps the workspace from starting: when an
    /// upstream has trouble that passes, leave the variable out instead.
    async fn mutate_env(&self, _: &WorkspaceContext, env: &mut EnvMap) -> Result<(), HookError> {
        env.set(ENDPOINT, &self.endpoint)?;
        Ok(())
    }
{%- endunless %}
{%- if token_provider %}

    /// Called for every start of every workspace, several at once, and dropped half-way
    /// when the start is cancelled. An error keeps the workspace from starting, so the
    /// token is left out while it cannot be had.
    async fn mutate_env(
        &self,
        workspace: &WorkspaceContext,
        env: &mut EnvMap,
    ) -> Result<(), HookError> {
        env.set(ENDPOINT, &self.endpoint)?;
        match self.tokens.read().await {
            // Marked as secret, and a plan of the boot shows when it ends.
            Ok(token) => env.set_token(TOKEN, &token)?,
            Err(error) => tracing::warn!(
                workspace.id = %workspace.id,
                error = %error.chain(),
                "no token for now; the workspace boots without it"
            ),
        }
        Ok(())
    }

    fn token_provider(&self) -> Option<&dyn TokenProvider> {
        Some(self)
    }
{%- endif %}
}
{%- if token_provider %}

/// The server caches what this gives until shortly before its end.
#[async_trait]
impl TokenProvider for Hook {
    async fn token(&self, _: &TokenRequest) -> Result<Token, HookError> {
        self.tokens.read().await
    }

    /// One token serves every workspace.
    fn scope(&self) -> TokenScope {
        TokenScope::Shared
    }

    /// Agents find the token under `GET /workspaces/:id/credentials`.
    fn service(&self) -> &str {
        "{{project-name}}"
    }
}
{%- endif %}
