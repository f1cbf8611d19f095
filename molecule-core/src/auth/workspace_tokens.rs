//! Tokens of a workspace that people mint, list and revoke by hand (§7.2), and the
//! one that tests ask for (§2.7).

use http::HeaderMap;
use molecule_hooks::Secret;
use uuid::Uuid;

use super::store::workspace::WorkspaceTokenRow;
use super::{Auth, Principal, TokenHash, bearer, headers, store};
use crate::error::{Error, Result};
use crate::store::timestamp;

/// Live tokens a workspace may have before minting by hand is refused.
const MOST_LIVE: i64 = 50;

impl Auth {
    /// # Errors
    /// 404 `workspace not found`; 500 `failed to list tokens`; 503.
    pub(super) async fn workspace_tokens(
        &self,
        workspace: Uuid,
        limit: i64,
        offset: i64,
    ) -> Result<Vec<WorkspaceTokenRow>> {
        let failed = |error: sqlx::Error| Error::from(error).says("failed to list tokens");
        let rows = store::workspace::list(&self.db, workspace, limit, offset);
        let rows = rows.await.map_err(failed)?;
        if rows.is_empty() && !store::exists(&self.db, workspace).await.map_err(failed)? {
            return Err(no_workspace());
        }
        Ok(rows)
    }

    /// # Errors
    /// 403 `the canvas cannot mint tokens`; 404 `workspace not found`; 429 `maximum 50 active tokens per workspace`;
    /// 500 `failed to create token`; 503.
    pub(super) async fn mint_workspace_token(
        &self,
        who: &Principal,
        workspace: Uuid,
    ) -> Result<Secret> {
        who.check_may_mint()?;
        self.mint_unless(workspace, |live| live >= MOST_LIVE)
            .await
            .map_err(|error| error.says("failed to create token"))
    }

    async fn mint_unless(
        &self,
        workspace: Uuid,
        is_too_many: impl Fn(i64) -> bool + Send,
    ) -> Result<Secret> {
        let mut tx = self.db.begin().await?;
        // Of two who count 49 at once one must wait for the other.
        if !store::lock(&mut tx, workspace).await? {
            return Err(no_workspace());
        }
        if is_too_many(store::workspace::count_live(&mut tx, workspace).await?) {
            let text = format!("maximum {MOST_LIVE} active tokens per workspace");
            return Err(Error::too_many(text));
        }
        let token = self.issue(&mut tx, workspace).await?;
        tx.commit().await?;
        Ok(token)
    }

    /// # Errors
    /// 404 `token not found or already revoked`; 500 `failed to revoke token`; 503.
    pub(super) async fn revoke_workspace_token(&self, workspace: Uuid, token: &str) -> Result<()> {
        let unknown = || Error::not_found("token not found or already revoked");
        let token = Uuid::try_parse(token).map_err(|_| unknown())?;
        let (db, now) = (self.db.clone(), timestamp(&self.clock));
        let failed = "failed to revoke token";
        let revoking = async move {
            let revoked = store::workspace::revoke(&db, token, workspace, now).await;
            revoked.map_err(|error| Error::from(error).says(failed))
        };
        if !self.change(workspace, failed, revoking).await? {
            return Err(unknown());
        }
        tracing::info!(workspace.id = %workspace, token.id = %token, "workspace token revoked");
        Ok(())
    }

    /// The token for end-to-end tests. Only in development or where
    /// `auth.test_tokens` says so; elsewhere the route is not there.
    ///
    /// The administrator token must be offered if there is one, with or without
    /// its scheme. Without one AdminAuth decides.
    ///
    /// # Errors
    /// 404 `not found` or `workspace not found`; 401; 500 `token issue failed`; 503.
    pub(super) async fn mint_test_token(
        &self,
        workspace: &str,
        headers: &HeaderMap,
    ) -> Result<(Uuid, Secret)> {
        if !self.rules.test_tokens {
            return Err(Error::not_found("not found"));
        }
        if self.rules.admin_token.is_some() {
            let offered = bearer(headers).or_else(|| headers::bare_authorization(headers));
            if !offered.is_some_and(|token| self.is_admin(&TokenHash::of(token))) {
                return Err(Error::unauthorized("admin auth required"));
            }
        } else {
            self.admin(headers).await?;
        }
        let workspace = Uuid::try_parse(workspace).map_err(|_| no_workspace())?;
        let token = self.mint_unless(workspace, |_| false).await;
        let token = token.map_err(|error| error.says("token issue failed"))?;
        Ok((workspace, token))
    }
}

pub(super) fn no_workspace() -> Error {
    Error::not_found("workspace not found")
}
