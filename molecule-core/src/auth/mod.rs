//! Who may do what: workspace tokens, org tokens, the administrator token,
//! sessions, the canvas cookie, and the rules of the contract's tables.
//!
//! Every answer tells "not allowed" from "the database does not answer": the
//! latter is a 503 that clients retry, never a 401 and never an open door.

mod bootstrap;
mod cache;
mod canvas_cookie;
mod extract;
mod gates;
mod headers;
mod known;
mod mint_limit;
mod org_tokens;
mod principal;
pub(crate) mod routes;
mod session;
mod store;
#[cfg(test)]
mod tests;
mod tickets;
mod token;
mod uses;
mod workspace_tokens;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use molecule_hooks::{Clock, Secret};
use tokio::sync::oneshot;
use uuid::Uuid;

pub(crate) use bootstrap::Gate;
pub(crate) use extract::{AdminAuth, CanvasOrBearer, HasAuth, WorkspaceAuth};
pub(crate) use headers::{bearer, caller_id};
pub(crate) use principal::Principal;
pub(crate) use tickets::Ticket;
pub(crate) use token::{TokenHash, mint};

use crate::config::{Config, Environment};
use crate::error::{Error, Result};
use crate::redact::Redactor;
use crate::store::{Db, Relay, Topic, timestamp};
use crate::supervisor::Supervisor;
use cache::{Holder, LiveToken, TokenCache};
use canvas_cookie::CanvasCookie;
use mint_limit::MintLimit;
use principal::OrgToken;
use session::Sessions;
use uses::Uses;

/// How often the uses of tokens are written.
const WRITE_USES_EVERY: Duration = Duration::from_secs(2);
/// How often tickets that nobody used are deleted.
const SWEEP_TICKETS_EVERY: Duration = Duration::from_secs(60);

/// The room's service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Auth {
    db: Db,
    clock: Clock,
    redactor: Redactor,
    relay: Relay,
    rules: Arc<Rules>,
    tokens: Arc<TokenCache>,
    uses: Arc<Uses>,
    sessions: Option<Arc<Sessions>>,
    mint_limit: Arc<MintLimit>,
    supervisor: Supervisor,
    /// Set once the server has had a token; it stays so.
    bootstrapped: Arc<AtomicBool>,
}

/// What the configuration says.
struct Rules {
    admin_token: Option<TokenHash>,
    legacy_workspace_admin: bool,
    fail_open: bool,
    test_tokens: bool,
    /// Signs and checks the canvas cookie; none without a canvas or a key.
    canvas_cookie: Option<CanvasCookie>,
    /// Host and port of this server as seen from outside, if configured.
    external_host: Option<String>,
    /// Lower case; what a browser may claim as its origin in development.
    cors_origins: Vec<String>,
}

impl Rules {
    fn new(config: &Config) -> Self {
        let admin_token = config.auth.admin_token.as_ref();
        let has_canvas = config.server.canvas_proxy_url.is_some();
        let external = config.server.external_url.as_deref();
        let external = external.and_then(|url| url::Url::parse(url).ok());
        Self {
            admin_token: admin_token.map(|token| TokenHash::of(token.expose())),
            legacy_workspace_admin: config.auth.legacy_workspace_admin,
            fail_open: config.is_fail_open(),
            test_tokens: config.environment == Environment::Development || config.auth.test_tokens,
            canvas_cookie: admin_token.filter(|_| has_canvas).map(CanvasCookie::new),
            external_host: external.map(|url| url.authority().to_owned()),
            cors_origins: config.server.cors_origins.clone(),
        }
    }
}

impl Auth {
    /// # Errors
    /// When the client that asks the control plane cannot be made.
    pub(crate) fn new(
        db: Db,
        clock: Clock,
        redactor: Redactor,
        config: &Config,
        relay: Relay,
        supervisor: &Supervisor,
    ) -> anyhow::Result<Self> {
        if let Some(token) = &config.auth.admin_token {
            redactor.learn(token.expose());
        }
        Ok(Self {
            sessions: Sessions::new(&config.control_plane, clock.clone(), supervisor.clone())?,
            db,
            clock,
            redactor,
            relay,
            rules: Arc::new(Rules::new(config)),
            tokens: Arc::new(TokenCache::new()),
            uses: Arc::default(),
            mint_limit: Arc::default(),
            supervisor: supervisor.clone(),
            bootstrapped: Arc::default(),
        })
    }

    /// Starts hearing of other servers' revocations, writing when tokens were
    /// used, and sweeping tickets.
    pub(crate) fn start(&self, supervisor: &Supervisor) {
        let this = self.clone();
        supervisor.run("token-revocations", move || {
            let this = this.clone();
            async move { this.listen().await }
        });
        let this = self.clone();
        supervisor.every("token-uses", WRITE_USES_EVERY, move || {
            let this = this.clone();
            async move { this.write_uses().await }
        });
        let this = self.clone();
        supervisor.every("ticket-sweep", SWEEP_TICKETS_EVERY, move || {
            let this = this.clone();
            async move { this.sweep_tickets().await }
        });
    }

    /// Hears of revocations until the relay ends.
    async fn listen(&self) {
        let mut notices = self.relay.subscribe(Topic::TokensRevoked);
        // What was said before this moment nobody heard.
        self.tokens.clear();
        loop {
            let notice = notices.recv().await;
            let is_over = matches!(
                notice,
                Err(tokio::sync::broadcast::error::RecvError::Closed)
            );
            self.tokens.hear(notice);
            if is_over {
                return;
            }
        }
    }

    /// Writes when tokens were used since the last time.
    pub(crate) async fn write_uses(&self) {
        let uses = self.uses.take();
        if uses.is_empty() {
            return;
        }
        if let Err(error) = store::touch(&self.db, &uses).await {
            // The next use in a minute makes up for it.
            tracing::warn!(%error, count = uses.len(), "last_used_at could not be written");
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

    /// Whose bearer this is; none when it is nobody's.
    async fn identify(&self, bearer: &str) -> Result<Option<Principal>> {
        let offered = TokenHash::of(bearer);
        if self.is_admin(&offered) {
            return Ok(Some(Principal::Admin));
        }
        let live = self.lookup(bearer, offered).await?;
        Ok(live.map(|live| live.principal()))
    }

    /// The live token behind `bearer`, from the cache or the database.
    async fn lookup(&self, bearer: &str, hash: TokenHash) -> Result<Option<Arc<LiveToken>>> {
        let live = match self.tokens.get(&hash) {
            Some(live) => live,
            // Boxed, so that a request whose token is known does not pay for the
            // memory of queries that it never makes.
            None => match Box::pin(self.read(&hash)).await? {
                Some(live) => {
                    // Minted by an earlier run, perhaps: only its hash was known
                    // until now.
                    self.redactor.learn(bearer);
                    live
                }
                None => return Ok(None),
            },
        };
        let now = self.clock.now();
        if live.is_worth_noting(now) {
            let of_workspace = matches!(live.holder, Holder::Workspace(_));
            self.uses
                .note((live.token_id, of_workspace, timestamp(&self.clock)));
        }
        Ok(Some(live))
    }

    /// Reads a token's row into the cache.
    async fn read(&self, hash: &TokenHash) -> Result<Option<Arc<LiveToken>>> {
        let revocations = self.tokens.revocations();
        let Some(row) = store::find_live(&self.db, hash).await.map_err(away)? else {
            self.tokens.is_unknown(hash);
            return Ok(None);
        };
        let holder = match (row.of_workspace, row.scope_id) {
            (true, Some(id)) => Holder::Workspace(id),
            // The column does not allow it.
            (true, None) => return Ok(None),
            (false, org_id) => Holder::Org(OrgToken {
                id: row.token_id,
                prefix: row.prefix.into(),
                org_id,
            }),
        };
        let live = Arc::new(LiveToken::new(row.token_id, holder, row.last_used_at));
        self.tokens.insert(*hash, Arc::clone(&live), revocations);
        Ok(Some(live))
    }

    /// The live token with this hash. Nobody shows it now, so this is no use of it.
    async fn live(&self, hash: &TokenHash) -> Result<Option<Arc<LiveToken>>> {
        match self.tokens.get(hash) {
            Some(live) => Ok(Some(live)),
            None => self.read(hash).await,
        }
    }

    /// Makes this server and the others forget what they know of a workspace's
    /// tokens, or of one org token. Call it after the commit that revoked them.
    pub(crate) fn forget(&self, owner: Uuid) {
        self.tokens.forget(owner);
        self.relay.send(Topic::TokensRevoked, owner.to_string());
    }

    /// Makes a change of `owner`'s tokens in a task of its own and then forgets
    /// them, whatever became of it: the client may leave half-way, and an answer of
    /// the database that was lost may belong to a change that was made. `failed` is
    /// the text of a change that panicked.
    async fn change<T: Send + 'static>(
        &self,
        owner: Uuid,
        failed: &'static str,
        change: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (sender, outcome) = oneshot::channel();
        let this = self.clone();
        self.supervisor.spawn("token-change", async move {
            let changed = change.await;
            this.forget(owner);
            // Nobody listens any more when the client left.
            let _ = sender.send(changed);
        });
        outcome.await.unwrap_or_else(|_| {
            let cause = anyhow::anyhow!("the change of a token panicked");
            Err(Error::internal(failed, cause))
        })
    }

    /// Counts what may have ended a credential: who keeps a connection open asks
    /// again when it changes.
    pub(crate) fn revocations(&self) -> u64 {
        self.tokens.revocations()
    }

    /// The credential of a request, if it is known in memory to be valid, or to
    /// have been so not long ago: whom a limit of requests counts. Opens nothing
    /// and never asks the database.
    pub(crate) fn known_credential(&self, headers: &http::HeaderMap) -> Option<TokenHash> {
        let offered = TokenHash::of(bearer(headers)?);
        let is_known = self.is_admin(&offered) || self.tokens.is_counted(&offered);
        is_known.then_some(offered)
    }

    /// True while the server has no administrator token and never had another
    /// one. Revoking every token does not reopen it.
    async fn is_open(&self) -> Result<bool> {
        if self.rules.admin_token.is_some() || self.bootstrapped.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let bootstrapped = store::is_bootstrapped(&self.db).await.map_err(away)?;
        if bootstrapped {
            self.bootstrapped.store(true, Ordering::Relaxed);
        }
        Ok(!bootstrapped)
    }

    /// A new token that no log line will show.
    fn mint(&self) -> Result<Secret> {
        let token = mint()?;
        self.redactor.learn(token.expose());
        Ok(token)
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
