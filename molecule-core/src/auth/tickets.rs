//! WebSocket tickets (§8.9): a browser cannot send a header with its upgrade, so
//! it fetches a ticket first, which works once and for a minute.

use chrono::TimeDelta;
use http::HeaderMap;
use molecule_hooks::Secret;
use uuid::Uuid;

use super::workspace_tokens::no_workspace;
use super::{Auth, TokenHash, away, mint, store};
use crate::error::{Error, Result};
use crate::store::timestamp;

/// Seconds a ticket is good for.
pub(super) const LIFETIME_SECS: u32 = 60;

/// The holder of a WebSocket ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// Sees what this workspace may see; without one, everything.
    pub(crate) workspace_id: Option<Uuid>,
}

impl Auth {
    /// A ticket for everything, for an administrator; or for what a workspace may
    /// see, for who holds its token and administrators.
    ///
    /// # Errors
    /// 401 of AdminAuth or of the discovery gate; 404 `workspace not found`; 500
    /// `failed to create ticket`; 503.
    pub(super) async fn issue_ticket(
        &self,
        workspace: Option<Uuid>,
        headers: &HeaderMap,
    ) -> Result<Secret> {
        match workspace {
            Some(id) => self.own_or_admin(id, headers).await?,
            None => drop(self.admin(headers).await?),
        }
        self.write_ticket(workspace)
            .await
            .map_err(|error| error.says("failed to create ticket"))
    }

    async fn write_ticket(&self, workspace: Option<Uuid>) -> Result<Secret> {
        let ticket = mint()?;
        self.redactor.learn_passing(ticket.expose());
        let mut tx = self.db.begin().await?;
        if let Some(id) = workspace
            && !store::lock(&mut tx, id).await?
        {
            return Err(no_workspace());
        }
        let hash = TokenHash::of(ticket.expose());
        let expires_at = timestamp(&self.clock) + TimeDelta::seconds(LIFETIME_SECS.into());
        store::tickets::insert(&mut tx, &hash, workspace, expires_at).await?;
        tx.commit().await?;
        Ok(ticket)
    }

    /// Who may open a WebSocket with this ticket; a ticket works once and for a
    /// minute. None when it is unknown, used or too old, and when its workspace
    /// was removed meanwhile.
    ///
    /// # Errors
    /// 503.
    pub(crate) async fn redeem_ticket(&self, ticket: &str) -> Result<Option<Ticket>> {
        let hash = TokenHash::of(ticket);
        let row = store::tickets::take(&self.db, &hash).await.map_err(away)?;
        let now = timestamp(&self.clock);
        let Some(row) = row.filter(|row| now < row.expires_at) else {
            return Ok(None);
        };
        if let Some(id) = row.workspace_id
            && !store::exists(&self.db, id).await.map_err(away)?
        {
            return Ok(None);
        }
        Ok(Some(Ticket {
            workspace_id: row.workspace_id,
        }))
    }

    /// Deletes tickets that nobody used in time.
    pub(super) async fn sweep_tickets(&self) {
        if let Err(error) = store::tickets::sweep(&self.db, timestamp(&self.clock)).await {
            let error = Error::from(error).internal_context();
            tracing::warn!(error, "old tickets could not be deleted");
        }
    }
}
