//! Who may talk to whom, and where.

use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Presence;
use super::store::{self, Peer};
use crate::error::{Error, Result};
use crate::outbound::Policy;
use crate::workspaces::Status;

/// Names the workspace that asks.
const CALLER_HEADER: &str = "x-workspace-id";
/// Peers in one answer; `q` finds the others.
const MAX_PEERS: usize = 1000;

/// Where an agent is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Discovered {
    id: Uuid,
    /// URL at which the caller reaches it.
    url: String,
    name: String,
}

/// A workspace that the caller may talk to directly.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PeerView {
    id: Uuid,
    name: String,
    role: Option<String>,
    tier: i64,
    status: String,
    agent_card: Option<Value>,
    /// URL at which the caller reaches it; empty when that is not possible now.
    url: String,
    parent_id: Option<Uuid>,
    active_tasks: i64,
}

/// May one talk to the other?
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct AccessQuestion {
    /// Who wants to talk, required.
    caller_id: Option<String>,
    /// To whom, required.
    target_id: Option<String>,
}

/// What the address of an agent depends on.
struct Callee<'a> {
    id: Uuid,
    tier: i64,
    status: Status,
    url: &'a str,
    external: bool,
    hosted: bool,
    for_external: bool,
}

impl Presence {
    /// Where workspace `target` is, for the workspace named in the header.
    ///
    /// # Errors
    /// 400 `X-Workspace-ID header is required`; 401; 403 `not authorized to
    /// discover this workspace`, also for unknown ones; 404 `workspace not found`;
    /// 503 `workspace not available` with its `status`, and `workspace URL failed
    /// safety check`; 500 `lookup failed`.
    pub(crate) async fn discover(&self, target: &str, headers: &HeaderMap) -> Result<Discovered> {
        let caller = caller(headers)?;
        self.may_ask(caller, headers).await?;
        let refused = || Error::forbidden("not authorized to discover this workspace");
        let target = Uuid::parse_str(target).map_err(|_| refused())?;
        let tree = self.workspaces.hierarchy().tree().await.map_err(failed)?;
        if !tree.can_communicate(caller, target) {
            return Err(refused());
        }
        let row = store::target(&self.db, target, caller)
            .await
            .map_err(failed)?
            .ok_or_else(|| Error::not_found("workspace not found"))?;
        let status = Status::parse(&row.status);
        let callee = Callee {
            id: target,
            tier: row.tier,
            status,
            url: &row.url,
            external: row.external,
            hosted: row.hosted,
            for_external: row.for_external,
        };
        if callee.is_claimed() {
            let vetted = self.workspaces.guard().vet(&row.url, Policy::Claimed);
            if let Err(refusal) = vetted.await {
                tracing::debug!(workspace.id = %target, %refusal, "URL of an external agent not handed out");
                return Err(Error::not_now("workspace URL failed safety check"));
            }
        }
        match self.address(&callee) {
            Some(url) => Ok(Discovered {
                id: target,
                url,
                name: row.name,
            }),
            None => Err(Error::not_now("workspace not available").with("status", status.as_str())),
        }
    }

    /// The peers of a workspace: siblings, children, its parent. At most a
    /// thousand; `q` is a part of the name or the role, in any case.
    ///
    /// # Errors
    /// 401; 404 `workspace not found`; 500 `lookup failed`; 503.
    pub(crate) async fn peers(
        &self,
        id: &str,
        q: &str,
        headers: &HeaderMap,
    ) -> Result<Vec<PeerView>> {
        let not_found = || Error::not_found("workspace not found");
        let id = Uuid::parse_str(id).map_err(|_| not_found())?;
        self.may_ask(id, headers).await?;
        let status = self.workspaces.directory().status(id).await;
        status.map_err(failed)?.ok_or_else(not_found)?;
        let wanted = fold(q.trim());
        let matches = |peer: &Peer| {
            let role = peer.role.as_deref().unwrap_or_default();
            fold(&peer.name).contains(&wanted) || fold(role).contains(&wanted)
        };
        let filter: Option<&(dyn Fn(&Peer) -> bool + Send + Sync)> = match wanted.as_str() {
            "" => None,
            _ => Some(&matches),
        };
        let peers = store::peers(&self.db, id, MAX_PEERS, filter)
            .await
            .map_err(failed)?;
        Ok(peers.into_iter().map(|peer| self.view(peer)).collect())
    }

    fn view(&self, peer: Peer) -> PeerView {
        let callee = Callee {
            id: peer.id,
            tier: peer.tier,
            status: Status::parse(&peer.status),
            url: &peer.url,
            external: peer.external,
            hosted: peer.hosted,
            for_external: peer.for_external,
        };
        // A thousand names are not looked up for one list; discover does that for
        // the one that is called.
        let refused = callee.is_claimed()
            && (self.workspaces.guard())
                .glance(&peer.url, Policy::Claimed)
                .is_err();
        let url = match refused {
            true => None,
            false => self.address(&callee),
        };
        PeerView {
            id: peer.id,
            name: peer.name,
            role: peer.role,
            tier: peer.tier,
            status: peer.status,
            agent_card: peer.agent_card.map(|card| card.0),
            url: url.unwrap_or_default(),
            parent_id: peer.parent_id,
            active_tasks: peer.active_tasks,
        }
    }

    /// Whether the communication rule lets one workspace talk to another. Outside
    /// development only somebody whom this server knows may ask: the answer tells
    /// strangers who belongs to whom.
    ///
    /// # Errors
    /// 400 `invalid request body`; 401; 500 `lookup failed`; 503.
    pub(crate) async fn check_access(&self, question: AccessQuestion) -> Result<bool> {
        let required = |value: Option<String>, name: &str| {
            value.filter(|id| !id.is_empty()).ok_or_else(|| {
                Error::invalid("invalid request body").with("detail", format!("{name} is required"))
            })
        };
        let caller = required(question.caller_id, "caller_id")?;
        let target = required(question.target_id, "target_id")?;
        if caller == target {
            return Ok(true);
        }
        let (Ok(caller), Ok(target)) = (Uuid::parse_str(&caller), Uuid::parse_str(&target)) else {
            // Nobody is called that.
            return Ok(false);
        };
        let tree = self.workspaces.hierarchy().tree().await.map_err(failed)?;
        Ok(tree.can_communicate(caller, target))
    }

    /// Lets everybody in whom this server knows, and in development everybody.
    ///
    /// # Errors
    /// 401; 503.
    pub(crate) async fn somebody_known(&self, headers: &HeaderMap) -> Result<()> {
        match self.auth.is_fail_open() {
            true => Ok(()),
            false => self.auth.somebody(headers).await,
        }
    }

    /// The discovery gate.
    async fn may_ask(&self, caller: Uuid, headers: &HeaderMap) -> Result<()> {
        match self.auth.is_fail_open() {
            true => Ok(()),
            false => self.auth.own_or_admin(caller, headers).await.map(drop),
        }
    }

    /// Where the caller reaches an agent, if it does. The URL of an external agent
    /// must have been checked.
    fn address(&self, callee: &Callee<'_>) -> Option<String> {
        let as_seen = |url: &str| match callee.for_external {
            true => url.to_owned(),
            false => self.workspaces.as_agents_see_it(url),
        };
        match callee.status {
            _ if callee.is_claimed() => Some(as_seen(callee.url)),
            Status::Online | Status::Degraded if callee.hosted => {
                let own = (!callee.url.is_empty()).then(|| as_seen(callee.url));
                self.workspaces.internal_url(callee.id, callee.tier).or(own)
            }
            Status::Online | Status::Degraded if !callee.url.is_empty() => {
                Some(as_seen(callee.url))
            }
            _ => None,
        }
    }
}

impl Callee<'_> {
    /// An external agent, or whoever created it, says where it is.
    fn is_claimed(&self) -> bool {
        (self.external || !self.hosted) && !self.url.is_empty()
    }
}

/// The workspace that a request says it comes from.
fn caller(headers: &HeaderMap) -> Result<Uuid> {
    let required = || Error::invalid("X-Workspace-ID header is required");
    let value = headers
        .get(CALLER_HEADER)
        .filter(|value| !value.is_empty())
        .ok_or_else(required)?;
    let id = value.to_str().ok().and_then(|id| Uuid::parse_str(id).ok());
    id.ok_or_else(|| required().with("detail", "it must be the UUID of a workspace"))
}

fn fold(text: &str) -> String {
    text.to_lowercase()
}

fn failed(error: sqlx::Error) -> Error {
    Error::from(error).says("lookup failed")
}
