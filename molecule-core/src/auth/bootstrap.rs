//! How an agent comes to its first token, and why the door then stays shut.

use molecule_hooks::Secret;
use uuid::Uuid;

use super::cache::Holder;
use super::{Auth, TokenHash, away, refusal, store};
use crate::error::Result;
use crate::store::{Tx, timestamp};

/// What the bootstrap gate of the registry found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// The caller holds a live token of the workspace.
    Token,
    /// The workspace never had a token and the caller may have its first one.
    FirstContact,
}

impl Auth {
    /// The bootstrap gate (§2.8, made safe by §8.1 and §8.2) for a workspace that
    /// exists and is not removed.
    ///
    /// A workspace that ever had a token wants a live one. One that never had
    /// wants its enrolment secret or the administrator token, and nothing at all
    /// in development.
    ///
    /// # Errors
    /// 401 `missing workspace auth token` or `invalid workspace auth token`; 503.
    pub(crate) async fn gate(&self, id: Uuid, bearer: Option<&str>) -> Result<Gate> {
        if let Some(bearer) = bearer
            && self.is_own(id, bearer).await?
        {
            return Ok(Gate::Token);
        }
        // Boxed, as in `lookup`.
        Box::pin(self.first_contact(id, bearer)).await
    }

    /// True when the bearer is a live token of this very workspace.
    pub(super) async fn is_own(&self, id: Uuid, bearer: &str) -> Result<bool> {
        let live = self.lookup(bearer, TokenHash::of(bearer)).await?;
        Ok(live.is_some_and(|live| live.holder == Holder::Workspace(id)))
    }

    async fn first_contact(&self, id: Uuid, bearer: Option<&str>) -> Result<Gate> {
        let state = store::bootstrap_state(&self.db, id)
            .await
            .map_err(away)?
            .ok_or_else(|| refusal(bearer))?;
        if self.is_fail_open() && !state.has_live_token {
            return Ok(Gate::FirstContact);
        }
        let may_enrol = |bearer: &str| {
            let offered = TokenHash::of(bearer);
            let expected = state.enrolment_hash.as_deref();
            expected.is_some_and(|hash| offered.is(hash)) || self.is_admin(&offered)
        };
        match (state.bootstrapped, bearer) {
            (false, Some(bearer)) if may_enrol(bearer) => {
                self.redactor.learn(bearer);
                Ok(Gate::FirstContact)
            }
            (false, None) if !self.closes_first_contact() => Ok(Gate::FirstContact),
            _ => Err(refusal(bearer)),
        }
    }

    /// Only the legacy mode keeps the reference's open first contact.
    fn closes_first_contact(&self) -> bool {
        !self.rules.legacy_workspace_admin
    }

    /// True for a workspace without a live token in development: the reference's
    /// gates are open for it, and its tests rely on that.
    pub(super) async fn is_tokenless_in_development(&self, id: Uuid) -> Result<bool> {
        if !self.is_fail_open() {
            return Ok(false);
        }
        let state = store::bootstrap_state(&self.db, id).await.map_err(away)?;
        Ok(state.is_some_and(|state| !state.has_live_token))
    }

    /// Mints a token for a workspace in the caller's transaction, marks workspace
    /// and server as bootstrapped and spends the enrolment secret.
    pub(crate) async fn issue(&self, tx: &mut Tx, workspace: Uuid) -> Result<Secret> {
        let token = self.mint()?;
        let now = timestamp(&self.clock);
        store::workspace::insert(tx, workspace, &token, now).await?;
        store::mark_workspace(tx, workspace, now).await?;
        store::mark_server(tx).await?;
        Ok(token)
    }

    /// As [`issue`](Self::issue), for a caller that the gate let in as a first
    /// contact. Of several who got so far at once one wins.
    ///
    /// # Errors
    /// 401 as the gate's.
    pub(crate) async fn issue_first(
        &self,
        tx: &mut Tx,
        workspace: Uuid,
        bearer: Option<&str>,
    ) -> Result<Secret> {
        // Locks the row: who comes second reads what the first one wrote.
        store::spend_enrolment(tx, workspace).await?;
        let state = store::bootstrap_state_in(tx, workspace).await?;
        let is_first = state.is_some_and(|state| match self.is_fail_open() {
            true => !state.has_live_token,
            false => !state.bootstrapped,
        });
        match is_first {
            true => self.issue(tx, workspace).await,
            false => Err(refusal(bearer)),
        }
    }

    /// Makes a one-time enrolment secret for a workspace whose agent gets its
    /// first token by registering.
    pub(crate) async fn issue_enrolment(&self, tx: &mut Tx, workspace: Uuid) -> Result<Secret> {
        let secret = self.mint()?;
        store::set_enrolment(tx, workspace, &TokenHash::of(secret.expose())).await?;
        Ok(secret)
    }

    /// Revokes every live token of a workspace. Call [`forget`](Self::forget)
    /// after the commit.
    pub(crate) async fn revoke_all(&self, tx: &mut Tx, workspace: Uuid) -> sqlx::Result<()> {
        store::workspace::revoke_all(tx, workspace, timestamp(&self.clock)).await
    }
}
