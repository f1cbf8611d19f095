//! Browser sessions: the control plane is asked whether a cookie belongs to a
//! member of this organisation.
//!
//! Its word is kept for half a minute, its no for five seconds, its silence not
//! at all. Many requests of one browser cause one question.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, TimeDelta, Utc};
use http::header::COOKIE;
use http::{HeaderMap, HeaderValue, StatusCode};
use moka::sync::Cache;
use molecule_hooks::Clock;
use reqwest::{Client, Url};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::canvas_cookie;
use super::headers::cookies;
use super::principal::Principal;
use crate::config::ControlPlaneConfig;
use crate::error::{Error, Result};
use crate::supervisor::Supervisor;

const TIMEOUT: Duration = Duration::from_secs(3);
/// A real answer has about a hundred bytes.
const LARGEST_BODY_BYTES: usize = 64 * 1024;
const LONGEST_USER_ID_BYTES: usize = 256;
const POSITIVE_FOR: TimeDelta = TimeDelta::seconds(30);
const NEGATIVE_FOR: TimeDelta = TimeDelta::seconds(5);
/// Answers remembered at most.
const ENTRIES: u64 = 10_000;
/// Questions under way at most: strangers can make up cookies, and each would
/// cost a connection to the control plane.
const QUESTIONS: usize = 64;
const USER_AGENT: &str = "molecule-tenant-platform/session-verifier";
/// Seconds after which a client should try again when there is no answer.
const RETRY_SECS: u64 = 2;

/// What is known of a request's session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The request has no cookie, or this server has no organisation.
    NotPresented,
    /// There is a cookie, and it is nobody's of this organisation.
    Stranger,
    /// A member; the control plane's name for the user.
    Member(Arc<str>),
}

impl Verdict {
    pub(super) fn principal(self) -> Option<Principal> {
        match self {
            Self::Member(user_id) => Some(Principal::Session { user_id }),
            Self::Stranger | Self::NotPresented => None,
        }
    }
}

type Key = [u8; 32];
/// A member's id, or none for a stranger.
type Answer = Option<Arc<str>>;
/// The outer none: not answered yet. The middle one: no answer could be had.
type Landing = Option<Option<Answer>>;

#[derive(Clone)]
struct Known {
    answer: Answer,
    /// By the server's clock; the cache has its own, which only bounds it.
    until: DateTime<Utc>,
}

/// Verifies sessions, if this server belongs to an organisation.
pub(super) struct Sessions {
    slug: String,
    /// None without a control plane: then every cookie is a stranger's.
    upstream: Option<Upstream>,
    known: Cache<Key, Known>,
    flights: Mutex<HashMap<Key, watch::Receiver<Landing>>>,
    clock: Clock,
    supervisor: Supervisor,
}

struct Upstream {
    client: Client,
    endpoint: Url,
}

impl Sessions {
    /// None when sessions are not configured.
    pub(super) fn new(
        config: &ControlPlaneConfig,
        clock: Clock,
        supervisor: Supervisor,
    ) -> anyhow::Result<Option<Arc<Self>>> {
        let slug = config.org_slug.as_deref().unwrap_or_default().trim();
        if slug.is_empty() {
            return Ok(None);
        }
        let upstream = config.upstream_url.as_deref();
        let upstream = upstream.map(|url| Upstream::new(url, slug)).transpose()?;
        Ok(Some(Arc::new(Self {
            slug: slug.to_owned(),
            upstream,
            known: Cache::builder()
                .max_capacity(ENTRIES)
                .time_to_live(POSITIVE_FOR.to_std().unwrap_or_default())
                .build(),
            flights: Mutex::default(),
            clock,
            supervisor,
        })))
    }

    /// # Errors
    /// 503 when the control plane does not answer: that is not a no.
    pub(super) async fn verify(self: &Arc<Self>, headers: &HeaderMap) -> Result<Verdict> {
        let Some(cookie) = session_cookie(headers) else {
            return Ok(Verdict::NotPresented);
        };
        if self.upstream.is_none() {
            return Ok(Verdict::Stranger);
        }
        let key = self.key(&cookie);
        let answer = match self.remembered(&key) {
            Some(answer) => answer,
            None => self.ask_once(key, cookie).await?,
        };
        Ok(match answer {
            Some(user_id) => Verdict::Member(user_id),
            None => Verdict::Stranger,
        })
    }

    fn key(&self, cookie: &HeaderValue) -> Key {
        let mut hash = Sha256::new();
        hash.update(self.slug.as_bytes());
        hash.update([0]);
        hash.update(cookie.as_bytes());
        hash.finalize().into()
    }

    fn remembered(&self, key: &Key) -> Option<Answer> {
        let known = self.known.get(key)?;
        (self.clock.now() < known.until).then_some(known.answer)
    }

    /// Joins the question that is under way for this cookie, or asks it. The
    /// question goes on when the caller leaves.
    async fn ask_once(self: &Arc<Self>, key: Key, cookie: HeaderValue) -> Result<Answer> {
        let mut landing = self.flight(key, cookie).ok_or_else(unanswered)?;
        let landed = landing.wait_for(Option::is_some).await;
        match landed.as_deref() {
            Ok(Some(Some(answer))) => Ok(answer.clone()),
            _ => Err(unanswered()),
        }
    }

    /// None when too many questions are under way.
    fn flight(self: &Arc<Self>, key: Key, cookie: HeaderValue) -> Option<watch::Receiver<Landing>> {
        let mut flights = self.flights();
        if let Some(flight) = flights.get(&key) {
            return Some(flight.clone());
        }
        if flights.len() >= QUESTIONS {
            return None;
        }
        let (sender, receiver) = watch::channel(None);
        flights.insert(key, receiver.clone());
        drop(flights);
        let flight = Flight {
            sessions: Arc::clone(self),
            key,
        };
        self.supervisor.spawn("session-verify", async move {
            // The callers' requests end with the server; so may the question.
            let stop = flight.sessions.supervisor.token();
            let answer = tokio::select! {
                () = stop.cancelled() => None,
                answer = flight.sessions.ask(cookie) => answer,
            };
            if let Some(answer) = &answer {
                flight.sessions.remember(flight.key, answer.clone());
            }
            // First off the list: who asks after the answer asks anew.
            drop(flight);
            let _ = sender.send(Some(answer));
        });
        Some(receiver)
    }

    fn remember(&self, key: Key, answer: Answer) {
        let lifetime = match answer {
            Some(_) => POSITIVE_FOR,
            None => NEGATIVE_FOR,
        };
        let until = self.clock.now() + lifetime;
        self.known.insert(key, Known { answer, until });
    }

    /// None when no answer could be had.
    async fn ask(&self, cookie: HeaderValue) -> Option<Answer> {
        let upstream = self.upstream.as_ref()?;
        match upstream.ask(cookie).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                tracing::warn!(cause = %format!("{error:#}"), "a session could not be verified");
                None
            }
        }
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Key, watch::Receiver<Landing>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A question under way; its end is its drop, a panic's too.
struct Flight {
    sessions: Arc<Sessions>,
    key: Key,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.sessions.flights().remove(&self.key);
    }
}

#[derive(Deserialize)]
struct Membership {
    member: bool,
    user_id: String,
}

impl Upstream {
    fn new(url: &str, slug: &str) -> anyhow::Result<Self> {
        let endpoint = format!("{}/cp/auth/tenant-member", url.trim_end_matches('/'));
        let mut endpoint = Url::parse(&endpoint).context("is not a URL")?;
        endpoint.query_pairs_mut().append_pair("slug", slug);
        let mut client = Client::builder()
            .user_agent(USER_AGENT)
            .timeout(TIMEOUT)
            // The cookie goes to the configured host and to no other.
            .redirect(reqwest::redirect::Policy::none());
        if is_loopback(&endpoint) {
            client = client.no_proxy();
        }
        let client = client.build().map_err(reqwest::Error::without_url);
        let client = client.context("the HTTP client cannot start; are CA certificates there?")?;
        Ok(Self { client, endpoint })
    }

    async fn ask(&self, cookie: HeaderValue) -> anyhow::Result<Answer> {
        let request = self
            .client
            .get(self.endpoint.clone())
            .header(COOKIE, cookie);
        let mut response = request.send().await.map_err(reqwest::Error::without_url)?;
        let status = response.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            anyhow::bail!("the control plane answered {}", status.as_u16());
        }
        if status != StatusCode::OK {
            return Ok(None);
        }
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(reqwest::Error::without_url)?
        {
            if body.len() + chunk.len() > LARGEST_BODY_BYTES {
                return Ok(None);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(read_membership(&body))
    }
}

/// A member's id; none for everything else a control plane may say.
fn read_membership(body: &[u8]) -> Answer {
    let membership: Membership = serde_json::from_slice(body).ok()?;
    let id = membership.user_id;
    let is_plain =
        !id.is_empty() && id.len() <= LONGEST_USER_ID_BYTES && !id.chars().any(char::is_control);
    (membership.member && is_plain).then(|| id.into())
}

/// The request's cookies but for our own, which is nobody else's business.
fn session_cookie(headers: &HeaderMap) -> Option<HeaderValue> {
    let pairs: Vec<_> = cookies(headers)
        .filter(|(name, _)| *name != canvas_cookie::NAME)
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    match pairs.is_empty() {
        true => None,
        false => HeaderValue::from_str(&pairs.join("; ")).ok(),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn unanswered() -> Error {
    Error::not_now("session could not be verified; retry shortly").retry_after(RETRY_SECS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_a_named_member_is_one() {
        let member = read_membership(br#"{"member":true,"user_id":"u1","extra":[1]}"#);
        assert_eq!(member.as_deref(), Some("u1"));
        let long = format!(r#"{{"member":true,"user_id":"{}"}}"#, "u".repeat(257));
        for stranger in [
            r#"{"member":false,"user_id":"u1"}"#,
            r#"{"member":true,"user_id":""}"#,
            r#"{"member":true}"#,
            r#"{"user_id":"u1"}"#,
            r#"{"member":"true","user_id":"u1"}"#,
            r#"{"member":true,"user_id":7}"#,
            r#"{"member":true,"user_id":"a\u0000b"}"#,
            r#"{"member":true,"user_id":"u1"} and more"#,
            "[true]",
            "<html>",
            "",
            &long,
        ] {
            assert_eq!(read_membership(stranger.as_bytes()), None, "{stranger}");
        }
    }

    #[test]
    fn our_own_cookie_stays_here() {
        let cookie = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, HeaderValue::from_static(text));
            let value = session_cookie(&headers)?;
            Some(value.to_str().unwrap_or_default().to_owned())
        };
        assert_eq!(
            cookie("a=b; molecule_canvas=x; c=d"),
            Some("a=b; c=d".into())
        );
        assert_eq!(cookie("molecule_canvas=x"), None);
        assert_eq!(cookie("  "), None);
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_a_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read_membership(&body);
        }
    }
}
