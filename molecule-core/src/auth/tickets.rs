//! WebSocket tickets (§8.9): a browser cannot send a header with its upgrade, so
//! it fetches a ticket first, which works once and for a minute.

use chrono::TimeDelta;
use http::HeaderMap;
use molecule_hooks::Secret;
use uuid::Uuid;

use super::workspace_tokens::no_workspace;
use super::{Auth, Principal, TokenHash, away, bearer, mint, store};
use crate::error::{Error, Result};
use crate::store::timestamp;

/// Seconds a ticket is good for.
pub(super) const LIFETIME_SECS: u32 = 60;

/// The holder of a WebSocket ticket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// Sees what this workspace may see; without one, everything.
    pub(crate) workspace_id: Option<Uuid>,
    issuer: Issuer,
}

/// What a ticket was asked for with. The right that it gives ends with that of its
/// issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Issuer {
    /// The administrator token.
    Admin,
    /// The token with this hash.
    Token(TokenHash),
    /// The session of this user. It cannot be asked about without its cookie.
    Session(String),
    /// Nobody had to show anything.
    Open,
}

impl Issuer {
    fn to_text(&self) -> String {
        match self {
            Self::Admin => "admin".to_owned(),
            Self::Token(hash) => format!("token:{}", hash.to_hex()),
            Self::Session(user) => format!("session:{user}"),
            Self::Open => "open".to_owned(),
        }
    }

    /// None for what no version of this server wrote.
    fn from_text(text: &str) -> Option<Self> {
        match text.split_once(':') {
            Some(("token", hash)) => TokenHash::from_hex(hash).map(Self::Token),
            Some(("session", user)) => Some(Self::Session(user.to_owned())),
            None if text == "admin" => Some(Self::Admin),
            None if text == "open" => Some(Self::Open),
            _ => None,
        }
    }
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
        let who = match workspace {
            Some(id) => self.own_or_admin(id, headers).await?,
            None => self.admin(headers).await?,
        };
        let issuer = match (who, bearer(headers)) {
            // Whatever was shown, nothing was needed.
            _ if self.is_fail_open() => Issuer::Open,
            (Principal::Admin, _) => Issuer::Admin,
            (Principal::Session { user_id }, _) => Issuer::Session(user_id.to_string()),
            (Principal::Org(_) | Principal::Workspace(_), Some(bearer)) => {
                Issuer::Token(TokenHash::of(bearer))
            }
            _ => Issuer::Open,
        };
        self.write_ticket(workspace, &issuer)
            .await
            .map_err(|error| error.says("failed to create ticket"))
    }

    async fn write_ticket(&self, workspace: Option<Uuid>, issuer: &Issuer) -> Result<Secret> {
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
        let row = store::tickets::TicketRow {
            workspace_id: workspace,
            expires_at,
            issued_to: Some(issuer.to_text()),
        };
        store::tickets::insert(&mut tx, &hash, &row).await?;
        tx.commit().await?;
        Ok(ticket)
    }

    /// Who may open a WebSocket with this ticket; a ticket works once and for a
    /// minute. None when it is unknown, used or too old, when nobody knows whose it is, and
    /// when its workspace or the right of its issuer ended meanwhile.
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
        // A server of an older version did not write down whose the ticket is: its
        // client asks for another one.
        let Some(issuer) = row.issued_to.as_deref().and_then(Issuer::from_text) else {
            return Ok(None);
        };
        let ticket = Ticket {
            workspace_id: row.workspace_id,
            issuer,
        };
        let holds = self.ticket_holder(&ticket).await?.is_some();
        Ok(holds.then_some(ticket))
    }

    /// Whoever asked for a ticket, as long as they could do it again; asked for as
    /// long as what was opened with it is open.
    ///
    /// # Errors
    /// 503.
    pub(crate) async fn ticket_holder(&self, ticket: &Ticket) -> Result<Option<Principal>> {
        Ok(match &ticket.issuer {
            Issuer::Admin => (self.rules.admin_token.is_some()).then_some(Principal::Admin),
            Issuer::Token(hash) => {
                let live = self.live(hash).await?;
                live.map(|live| live.principal())
                    .filter(|who| match ticket.workspace_id {
                        Some(id) => who.speaks_for(Some(id)),
                        None => self.is_administrator(who),
                    })
            }
            Issuer::Session(user) => Some(Principal::Session {
                user_id: user.as_str().into(),
            }),
            Issuer::Open => {
                let is_open = self.is_fail_open() || self.is_open().await?;
                is_open.then_some(Principal::Open)
            }
        })
    }

    /// Deletes tickets that nobody used in time.
    pub(super) async fn sweep_tickets(&self) {
        if let Err(error) = store::tickets::sweep(&self.db, timestamp(&self.clock)).await {
            let error = Error::from(error).internal_context();
            tracing::warn!(error, "old tickets could not be deleted");
        }
    }
}
