//! Which URLs an agent may register, and which this server calls or hands out.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use url::{Host, Url};
use uuid::Uuid;

use super::address::{Place, place};
use super::resolve::{Resolve, SystemResolver};
use crate::config::{Config, Environment};

const MAX_URL_BYTES: usize = 2048;
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a URL was refused. The texts are for the agent that registers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Not a URL that anybody could call.
    #[error("url must be an http:// or https:// URL with a host and without credentials")]
    Malformed,
    /// An address, or one of the addresses of the name, is not allowed.
    #[error("url points to an address that is not allowed")]
    Blocked,
    /// The name has no address, or nobody said so in time.
    #[error("the host of url cannot be resolved")]
    Unresolvable,
}

/// Whose word a URL is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// An agent or a caller claimed it. This machine is allowed in development,
    /// private networks in development and under a control plane.
    Claimed,
    /// The backend found it out about an instance that this server started: this
    /// machine and private networks are where such instances are.
    Inspected,
}

/// A URL whose every address is allowed, with these addresses.
#[derive(Debug, Clone)]
pub(crate) struct VettedUrl {
    pub(super) url: Url,
    pub(super) addresses: Vec<SocketAddr>,
}

impl VettedUrl {
    /// The URL, as the parser normalised it.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }
}

/// Decides about URLs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Guard {
    resolver: Arc<dyn Resolve>,
    lookup_timeout: Duration,
    development: bool,
    control_plane: bool,
}

impl Guard {
    /// A guard with the rules of this environment, asking the system's resolver.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            resolver: Arc::new(SystemResolver::default()),
            lookup_timeout: LOOKUP_TIMEOUT,
            development: config.environment == Environment::Development,
            control_plane: config.control_plane.org_id.is_some(),
        }
    }

    /// Checks the URL that an agent of `workspace` registers.
    ///
    /// `localhost` and the container names of that very workspace are taken as
    /// they are; every address of any other host must be public, or private under
    /// a control plane. Stricter than [`Policy::Claimed`] on purpose: development
    /// relaxes nothing here.
    ///
    /// # Errors
    /// [`Refusal`], after two seconds at the latest.
    pub(crate) async fn check_registration(
        &self,
        text: &str,
        workspace: Uuid,
    ) -> Result<(), Refusal> {
        let url = parse(text)?;
        if let Some(Host::Domain(name)) = url.host()
            && (name == "localhost" || is_own_container(name, workspace))
        {
            return Ok(());
        }
        let allowed = |place| match place {
            Place::Public => true,
            Place::Private => self.control_plane,
            Place::Loopback | Place::Forbidden => false,
        };
        self.resolve(url, allowed).await.map(drop)
    }

    /// Checks a URL that is about to be called or handed to another agent, and
    /// pins its addresses.
    ///
    /// # Errors
    /// [`Refusal`], after two seconds at the latest.
    pub(crate) async fn vet(&self, text: &str, policy: Policy) -> Result<VettedUrl, Refusal> {
        self.resolve(parse(text)?, |place| self.allows(policy, place))
            .await
    }

    /// As [`vet`](Self::vet) for lists: names are not looked up and pass.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] or [`Refusal::Blocked`].
    pub(crate) fn glance(&self, text: &str, policy: Policy) -> Result<Url, Refusal> {
        let url = parse(text)?;
        let is_local_name = matches!(url.host(), Some(Host::Domain("localhost")));
        let seen = match is_local_name {
            true => Some(Place::Loopback),
            false => literal(&url).map(place),
        };
        match seen.is_none_or(|place| self.allows(policy, place)) {
            true => Ok(url),
            false => Err(Refusal::Blocked),
        }
    }

    fn allows(&self, policy: Policy, place: Place) -> bool {
        match (place, policy) {
            (Place::Forbidden, _) => false,
            (Place::Public, _) | (_, Policy::Inspected) => true,
            (Place::Loopback, Policy::Claimed) => self.development,
            (Place::Private, Policy::Claimed) => self.development || self.control_plane,
        }
    }

    /// The addresses of a URL, if all of them are allowed.
    async fn resolve(
        &self,
        url: Url,
        allowed: impl Fn(Place) -> bool,
    ) -> Result<VettedUrl, Refusal> {
        let port = url.port_or_known_default().ok_or(Refusal::Malformed)?;
        let addresses = match (literal(&url), url.host_str()) {
            (Some(ip), _) => vec![SocketAddr::new(ip, port)],
            (None, Some(name)) => {
                let lookup = self.resolver.lookup(name, port);
                match tokio::time::timeout(self.lookup_timeout, lookup).await {
                    Ok(Ok(found)) if !found.is_empty() => found,
                    _ => return Err(Refusal::Unresolvable),
                }
            }
            (None, None) => return Err(Refusal::Malformed),
        };
        match addresses.iter().all(|found| allowed(place(found.ip()))) {
            true => Ok(VettedUrl { url, addresses }),
            false => Err(Refusal::Blocked),
        }
    }
}

/// The URL of a text that somebody else may be told as it is.
fn parse(text: &str) -> Result<Url, Refusal> {
    // The parser drops or escapes control characters; what is stored is the text.
    if text.len() > MAX_URL_BYTES || text.contains(char::is_control) {
        return Err(Refusal::Malformed);
    }
    let url = Url::parse(text).map_err(|_| Refusal::Malformed)?;
    let plain = url.username().is_empty() && url.password().is_none();
    match matches!(url.scheme(), "http" | "https") && url.has_host() && plain {
        true => Ok(url),
        false => Err(Refusal::Malformed),
    }
}

/// The address that a URL names directly. The parser has normalised integers,
/// octal and hexadecimal numbers and missing parts by now.
fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(ip) => Some(IpAddr::V4(ip)),
        Host::Ipv6(ip) => Some(IpAddr::V6(ip)),
        Host::Domain(_) => None,
    }
}

/// The names that containers of this server have on their own network.
fn is_own_container(name: &str, workspace: Uuid) -> bool {
    let id = workspace.to_string();
    name.strip_prefix("ws-")
        .is_some_and(|rest| rest == id || rest == &id[..12])
}

#[cfg(test)]
#[path = "guard_tests.rs"]
pub(super) mod tests;
