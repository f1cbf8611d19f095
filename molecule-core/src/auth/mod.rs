//! Who may do what: workspace tokens, the administrator token, and the rules of
//! the contract's tables.
//!
//! Every answer tells "not allowed" from "the database does not answer": the
//! latter is a 503 that clients retry, never a 401 and never an open door.

mod extract;
mod known;
pub(crate) mod routes;
mod store;
mod token;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;
use molecule_hooks::{Clock, Secret};
use uuid::Uuid;

pub(crate) use extract::{AdminAuth, HasAuth, WorkspaceAuth, bearer};
pub(crate) use token::{TokenHash, mint};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::redact::Redactor;
use crate::store::{Db, Tx, timestamp};

/// A revoked token may work this much longer on another server of the same
/// database; on this one it stops at once.
const CACHE_TTL: Duration = Duration::from_secs(30);
const CACHE_ENTRIES: u64 = 100_000;
/// `last_used_at` is written at most this often per token.
const LAST_USED_EVERY: chrono::TimeDelta = chrono::TimeDelta::minutes(1);

/// The room's service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Auth {
    db: Db,
    clock: Clock,
    redactor: Redactor,
    rules: Arc<Rules>,
    cache: Cache<TokenHash, LiveToken>,
    /// Counts revocations, so that a look-up that began before one does not fill
    /// the cache after it.
    revocations: Arc<AtomicU64>,
}

struct Rules {
    admin_token: Option<TokenHash>,
    legacy_workspace_admin: bool,
    fail_open: bool,
}

/// A token that is valid: its row and its workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LiveToken {
    pub(crate) token_id: Uuid,
    pub(crate) workspace_id: Uuid,
}

/// The holder of a WebSocket ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// Sees what this workspace may see; without one, everything.
    pub(crate) workspace_id: Option<Uuid>,
}

/// What the bootstrap gate of the registry found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// The caller holds a live token of the workspace.
    Token,
    /// The workspace never had a token and the caller may have its first one.
    FirstContact,
}

impl Auth {
    pub(crate) fn new(db: Db, clock: Clock, redactor: Redactor, config: &Config) -> Self {
        if let Some(token) = &config.auth.admin_token {
            redactor.learn(token.expose());
        }
        Self {
            db,
            clock,
            redactor,
            rules: Arc::new(Rules {
                admin_token: (config.auth.admin_token.as_ref())
                    .map(|token| TokenHash::of(token.expose())),
                legacy_workspace_admin: config.auth.legacy_workspace_admin,
                fail_open: config.is_fail_open(),
            }),
            cache: Cache::builder()
                .max_capacity(CACHE_ENTRIES)
                .time_to_live(CACHE_TTL)
                .build(),
            revocations: Arc::default(),
        }
    }

    /// True in development without an administrator token.
    pub(crate) fn is_fail_open(&self) -> bool {
        self.rules.fail_open
    }

    /// True when the administrator token was offered.
    fn is_admin(&self, offered: &TokenHash) -> bool {
        let expected = self.rules.admin_token.as_ref();
        expected.is_some_and(|token| offered.is(token.as_bytes()))
    }

    /// AdminAuth of the contract (§2.3), without the parts of later issues
    /// (sessions, org tokens).
    ///
    /// # Errors
    /// 401 `admin auth required` or `invalid admin auth token`; 503.
    pub(crate) async fn admin(&self, bearer: Option<&str>) -> Result<()> {
        if self.is_fail_open() {
            return Ok(());
        }
        // A server that never minted a token and has no administrator is open,
        // once: the flag is sticky, so revoking every token does not reopen it.
        if self.rules.admin_token.is_none()
            && !store::is_bootstrapped(&self.db).await.map_err(away)?
        {
            return Ok(());
        }
        let Some(bearer) = bearer else {
            return Err(Error::unauthorized("admin auth required"));
        };
        let allowed = match &self.rules.admin_token {
            Some(_) => self.is_admin(&TokenHash::of(bearer)),
            None => {
                self.rules.legacy_workspace_admin
                    && self.lookup(bearer, TokenHash::of(bearer)).await?.is_some()
            }
        };
        match allowed {
            true => Ok(()),
            false => Err(Error::unauthorized("invalid admin auth token")),
        }
    }

    /// WorkspaceAuth of the contract (§2.2), without the parts of later issues.
    ///
    /// # Errors
    /// 401 with the documented texts; 503.
    pub(crate) async fn workspace(&self, id: &str, bearer: Option<&str>) -> Result<()> {
        if id.is_empty() {
            return Err(Error::unauthorized("missing workspace ID"));
        }
        let Some(bearer) = bearer else {
            return match self.is_fail_open() {
                true => Ok(()),
                false => Err(Error::unauthorized("missing workspace auth token")),
            };
        };
        let offered = TokenHash::of(bearer);
        let allowed = self.is_admin(&offered)
            || match Uuid::parse_str(id) {
                Ok(id) => self
                    .lookup(bearer, offered)
                    .await?
                    .is_some_and(|live| live.workspace_id == id),
                Err(_) => false,
            };
        match allowed {
            true => Ok(()),
            false => Err(Error::unauthorized("invalid workspace auth token")),
        }
    }

    /// Lets in who holds a token of workspace `id`, and administrators.
    ///
    /// # Errors
    /// 401 with the registry's texts; 503.
    pub(crate) async fn own_or_admin(&self, id: Uuid, headers: &http::HeaderMap) -> Result<()> {
        let bearer = bearer(headers);
        match self.workspace(&id.to_string(), bearer).await {
            Err(error) if error.kind() == crate::error::Kind::Unauthorized => Err(refusal(bearer)),
            other => other,
        }
    }

    /// Lets in who holds a live token of workspace `id`, and nobody else. A
    /// workspace that never had one is open in development.
    ///
    /// # Errors
    /// 401 with the registry's texts; 503.
    pub(crate) async fn own_token(&self, id: Uuid, headers: &http::HeaderMap) -> Result<()> {
        self.gate(id, bearer(headers)).await.map(drop)
    }

    /// Who may open a WebSocket with this ticket; a ticket works once and for a
    /// minute. None when it is unknown, used or too old.
    pub(crate) async fn redeem_ticket(&self, _ticket: &str) -> Result<Option<Ticket>> {
        Ok(None)
    }

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
            && self
                .lookup(bearer, TokenHash::of(bearer))
                .await?
                .is_some_and(|live| live.workspace_id == id)
        {
            return Ok(Gate::Token);
        }
        // Boxed, as in `lookup`.
        Box::pin(self.first_contact(id, bearer)).await
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

    /// The live token behind `bearer`, from the cache or the database.
    async fn lookup(&self, bearer: &str, hash: TokenHash) -> Result<Option<LiveToken>> {
        match self.cache.get(&hash) {
            Some(live) => Ok(Some(live)),
            // Boxed, so that a request whose token is known does not pay for the
            // memory of queries that it never makes.
            None => Box::pin(self.read(bearer, hash)).await,
        }
    }

    /// Reads a token's row into the cache. Notes its use at most once a minute.
    async fn read(&self, bearer: &str, hash: TokenHash) -> Result<Option<LiveToken>> {
        let revocations = self.revocations.load(Ordering::Acquire);
        let Some(row) = store::find_live(&self.db, &hash).await.map_err(away)? else {
            return Ok(None);
        };
        // Minted by an earlier run, perhaps: only its hash was known until now.
        self.redactor.learn(bearer);
        let now = timestamp(&self.clock);
        if row.last_used_at.is_none_or(|at| now - at > LAST_USED_EVERY) {
            // A stamp that cannot be written is not worth a failed request.
            if let Err(error) = store::touch(&self.db, row.token_id, now).await {
                tracing::warn!(error = %error, "last_used_at could not be written");
            }
        }
        let live = LiveToken {
            token_id: row.token_id,
            workspace_id: row.workspace_id,
        };
        if self.revocations.load(Ordering::Acquire) == revocations {
            self.cache.insert(hash, live.clone());
        }
        Ok(Some(live))
    }

    /// Mints a token for a workspace in the caller's transaction, marks workspace
    /// and server as bootstrapped and spends the enrolment secret.
    pub(crate) async fn issue(&self, tx: &mut Tx, workspace: Uuid) -> Result<Secret> {
        let token = mint()?;
        self.redactor.learn(token.expose());
        let now = timestamp(&self.clock);
        store::insert(tx, workspace, &token, now).await?;
        store::mark_bootstrapped(tx, workspace, now).await?;
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
        let secret = mint()?;
        self.redactor.learn(secret.expose());
        store::set_enrolment(tx, workspace, &TokenHash::of(secret.expose())).await?;
        Ok(secret)
    }

    /// Revokes every live token of a workspace. Call [`forget`](Self::forget)
    /// after the commit.
    pub(crate) async fn revoke_all(&self, tx: &mut Tx, workspace: Uuid) -> sqlx::Result<()> {
        store::revoke_all(tx, workspace, timestamp(&self.clock)).await
    }

    /// Drops cached tokens of a workspace.
    pub(crate) fn forget(&self, workspace: Uuid) {
        self.revocations.fetch_add(1, Ordering::AcqRel);
        let stale: Vec<TokenHash> = self
            .cache
            .iter()
            .filter(|(_, live)| live.workspace_id == workspace)
            .map(|(hash, _)| *hash)
            .collect();
        for hash in stale {
            self.cache.invalidate(&hash);
        }
    }
}

/// Whatever the database says, an answer about rights that could not be had is
/// "try again", never "no".
fn away(error: sqlx::Error) -> Error {
    Error::unavailable(error)
}

/// The registry's no.
fn refusal(bearer: Option<&str>) -> Error {
    Error::unauthorized(match bearer {
        Some(_) => "invalid workspace auth token",
        None => "missing workspace auth token",
    })
}
