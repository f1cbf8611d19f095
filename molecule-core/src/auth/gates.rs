//! The gates of the contract (§2.2 to §2.8), with its §8 in place of what it
//! calls unsafe: who is let in where, and what the others are told.

use http::HeaderMap;
use http::header::ORIGIN;
use uuid::Uuid;

use super::session::Verdict;
use super::{Auth, Principal, away, bearer, caller_id, headers, refusal, store};
use crate::error::{Error, Result};

/// Where the reference's own canvas runs while it is developed.
const DEVELOPMENT_ORIGINS: [&str; 2] = ["http://localhost:3000", "http://localhost:3001"];

impl Auth {
    /// AdminAuth (§2.3): the administrator token, an org token or a verified
    /// session; a workspace token in the legacy mode; everyone in development and
    /// on a server that has neither an administrator nor ever had a token.
    ///
    /// # Errors
    /// 401 `admin auth required` or `invalid admin auth token`; 503.
    pub(crate) async fn admin(&self, headers: &HeaderMap) -> Result<Principal> {
        let bearer = bearer(headers);
        if self.is_fail_open() {
            return Ok(self.name_if_possible(bearer).await);
        }
        // Before any token there is nobody to ask for.
        if self.is_open().await? {
            return Ok(Principal::Open);
        }
        if let Some(bearer) = bearer
            && let Some(who) = self.identify(bearer).await?
            && self.is_administrator(&who)
        {
            return Ok(who);
        }
        if let Some(who) = self.session(headers).await?.principal() {
            return Ok(who);
        }
        Err(Error::unauthorized(match bearer {
            Some(_) => "invalid admin auth token",
            None => "admin auth required",
        }))
    }

    /// True for who passes AdminAuth with this credential.
    pub(crate) fn is_administrator(&self, who: &Principal) -> bool {
        match who {
            Principal::Admin | Principal::Org(_) => true,
            Principal::Workspace(_) => {
                self.rules.admin_token.is_none() && self.rules.legacy_workspace_admin
            }
            Principal::Session { .. } | Principal::Canvas | Principal::Open => false,
        }
    }

    /// In development nobody is refused; who it was still belongs into
    /// `created_by`.
    async fn name_if_possible(&self, bearer: Option<&str>) -> Principal {
        let Some(bearer) = bearer else {
            return Principal::Open;
        };
        match self.identify(bearer).await {
            Ok(Some(who)) => who,
            Ok(None) | Err(_) => Principal::Open,
        }
    }

    /// WorkspaceAuth (§2.2 and §8.4): a token of the workspace in the path, an
    /// administrator, a verified session; without a bearer also the canvas by its
    /// signed cookie, and everyone in development.
    ///
    /// # Errors
    /// 401 with the documented texts; 503.
    pub(crate) async fn workspace(&self, id: &str, headers: &HeaderMap) -> Result<Principal> {
        if id.is_empty() {
            return Err(Error::unauthorized("missing workspace ID"));
        }
        let bearer = bearer(headers);
        match bearer {
            Some(bearer) => {
                let own = Uuid::parse_str(id).ok();
                if let Some(who) = self.identify(bearer).await?
                    && who.speaks_for(own)
                {
                    return Ok(who);
                }
            }
            None if self.is_trusted_canvas(headers) => return Ok(Principal::Canvas),
            None if self.is_fail_open() => return Ok(Principal::Open),
            None => {}
        }
        if let Some(who) = self.session(headers).await?.principal() {
            return Ok(who);
        }
        Err(refusal(bearer))
    }

    /// CanvasOrBearer (§2.4 as §8.4, §8.6 and §8.7 want it): any live token, the
    /// administrator token, a verified session, or the canvas by its signed cookie.
    ///
    /// Two differences from the reference are meant. An `Origin` header, which
    /// anybody can write, counts in development only. And a database that does
    /// not answer, or an administrator who has not minted a token yet, does not
    /// open the door.
    ///
    /// # Errors
    /// 401 `admin auth required` or `invalid admin auth token`; 503.
    pub(crate) async fn canvas_or_bearer(&self, headers: &HeaderMap) -> Result<Principal> {
        let bearer = bearer(headers);
        if self.is_fail_open() && !store::any_live(&self.db).await.map_err(away)? {
            return Ok(Principal::Open);
        }
        if !self.is_fail_open() && self.is_open().await? {
            return Ok(Principal::Open);
        }
        match bearer {
            Some(bearer) => {
                if let Some(who) = self.identify(bearer).await? {
                    return Ok(who);
                }
            }
            None if self.is_trusted_canvas(headers) => return Ok(Principal::Canvas),
            None if self.is_fail_open() && self.has_known_origin(headers) => {
                return Ok(Principal::Open);
            }
            None => {}
        }
        if let Some(who) = self.session(headers).await?.principal() {
            return Ok(who);
        }
        Err(Error::unauthorized(match bearer {
            Some(_) => "invalid admin auth token",
            None => "admin auth required",
        }))
    }

    fn has_known_origin(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = origin(headers) else {
            return false;
        };
        DEVELOPMENT_ORIGINS.contains(&origin.as_str())
            || self.lists(&origin)
            || self.rules.cors_origins.iter().any(|known| known == "*")
    }

    /// True for an origin that the configuration names; `*` names nobody.
    fn lists(&self, origin: &str) -> bool {
        let mut listed = self.rules.cors_origins.iter().filter(|known| *known != "*");
        listed.any(|known| known.trim().eq_ignore_ascii_case(origin))
    }

    /// True when the browser says that a page made the request which is neither of
    /// this server nor of an origin that the configuration names. A visitor's cookies
    /// come along without the visitor having asked for anything.
    fn is_of_foreign_page(&self, headers: &HeaderMap) -> bool {
        let external_host = self.rules.external_host.as_deref();
        headers.contains_key(ORIGIN)
            && !headers::is_same_origin(headers, external_host)
            && !origin(headers).is_some_and(|origin| self.lists(&origin))
    }

    /// The discovery gate and that of `/state` (§2.8 with §8.7): a token of
    /// workspace `id`, the administrator token, an org token or a verified
    /// session; everyone in development.
    ///
    /// # Errors
    /// 401 with the registry's texts, or `invalid session` when a session was
    /// presented that is none; 503.
    pub(crate) async fn own_or_admin(&self, id: Uuid, headers: &HeaderMap) -> Result<Principal> {
        let bearer = bearer(headers);
        if self.is_fail_open() {
            return Ok(self.name_if_possible(bearer).await);
        }
        if let Some(bearer) = bearer
            && let Some(who) = self.identify(bearer).await?
            && who.speaks_for(Some(id))
        {
            return Ok(who);
        }
        match self.session(headers).await? {
            Verdict::Member(user_id) => Ok(Principal::Session { user_id }),
            Verdict::Stranger => Err(Error::unauthorized("invalid session")),
            Verdict::NotPresented => Err(refusal(bearer)),
        }
    }

    /// Lets in who holds a live token of workspace `id`, and nobody else. In
    /// development a workspace without a live token is open.
    ///
    /// # Errors
    /// 401 with the registry's texts; 503.
    pub(crate) async fn own_token(&self, id: Uuid, headers: &HeaderMap) -> Result<()> {
        let bearer = bearer(headers);
        match self.holds_own_token(id, bearer).await? {
            true => Ok(()),
            false => Err(refusal(bearer)),
        }
    }

    /// Lets in who holds a live token of workspace `id`, and everybody when it has none.
    /// For routes whose callers passed another gate before.
    ///
    /// # Errors
    /// 401 with the registry's texts; 500 `auth check failed`.
    pub(crate) async fn own_token_if_any(&self, id: Uuid, headers: &HeaderMap) -> Result<()> {
        let failed = |error: sqlx::Error| Error::internal("auth check failed", error);
        let unknown = |error: Error| {
            let cause = anyhow::Error::msg(error.internal_context());
            Error::internal("auth check failed", cause)
        };
        let state = store::bootstrap_state(&self.db, id).await.map_err(failed)?;
        if !state.is_some_and(|state| state.has_live_token) {
            return Ok(());
        }
        let bearer = bearer(headers);
        match bearer {
            Some(bearer) if self.is_own(id, bearer).await.map_err(unknown)? => Ok(()),
            _ => Err(refusal(bearer)),
        }
    }

    async fn holds_own_token(&self, id: Uuid, bearer: Option<&str>) -> Result<bool> {
        if let Some(bearer) = bearer
            && self.is_own(id, bearer).await?
        {
            return Ok(true);
        }
        Box::pin(self.is_tokenless_in_development(id)).await
    }

    /// The workspace that calls, as `X-Workspace-ID` says and its own token
    /// proves, also when it calls itself. None without the header: whether that is
    /// allowed is for the route to say.
    ///
    /// # Errors
    /// 403 `invalid caller ID` for the platform's own names; 400 `invalid
    /// X-Workspace-ID`; 401 `missing caller auth token` or `invalid caller auth
    /// token`; 503.
    pub(crate) async fn caller(&self, headers: &HeaderMap) -> Result<Option<Uuid>> {
        let Some(id) = caller_id(headers)? else {
            return Ok(None);
        };
        let bearer = bearer(headers);
        match (self.holds_own_token(id, bearer).await?, bearer) {
            (true, _) => Ok(Some(id)),
            (false, Some(_)) => Err(Error::unauthorized("invalid caller auth token")),
            (false, None) => Err(Error::unauthorized("missing caller auth token")),
        }
    }

    /// True for a request of this server's own canvas: it carries the signed
    /// cookie and the browser says that a page of this host made it. Costs no I/O.
    pub(crate) fn is_trusted_canvas(&self, headers: &HeaderMap) -> bool {
        let Some(cookie) = &self.rules.canvas_cookie else {
            return false;
        };
        let external_host = self.rules.external_host.as_deref();
        cookie.is_in(headers, self.clock.now()) && headers::is_same_origin(headers, external_host)
    }

    /// The value of a new canvas cookie.
    ///
    /// An org token gets none: nothing ends a cookie before its time, and so it
    /// would outlive the revocation of the token.
    ///
    /// # Errors
    /// 403 `org tokens cannot open a canvas session`; 404 `canvas sessions are not enabled` without a canvas or without an
    /// administrator token, whose key signs it.
    pub(super) fn open_canvas_session(&self, who: &Principal) -> Result<molecule_hooks::Secret> {
        let cookie = self.rules.canvas_cookie.as_ref();
        let cookie = cookie.ok_or_else(|| Error::not_found("canvas sessions are not enabled"))?;
        if matches!(who, Principal::Org(_)) {
            return Err(Error::forbidden("org tokens cannot open a canvas session"));
        }
        let value = cookie.seal(self.clock.now());
        self.redactor.learn_passing(value.expose());
        Ok(value)
    }

    /// What the control plane says of the session in this request. A page of
    /// another site presents none, whatever its visitor's browser sends along.
    async fn session(&self, headers: &HeaderMap) -> Result<Verdict> {
        match &self.sessions {
            // Boxed: agents have no sessions.
            Some(sessions) if !self.is_of_foreign_page(headers) => {
                Box::pin(sessions.verify(headers)).await
            }
            Some(_) | None => Ok(Verdict::NotPresented),
        }
    }
}

/// The origin of a request in lower case, when there is exactly one.
fn origin(headers: &HeaderMap) -> Option<String> {
    let mut origins = headers.get_all(ORIGIN).iter();
    let origin = origins.next()?.to_str().ok()?;
    let is_only = origins.next().is_none();
    is_only.then(|| origin.trim().to_ascii_lowercase())
}
