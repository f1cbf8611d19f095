//! What happens around every request. From the outside in: security headers,
//! metrics and the log line, a fence against panics, CORS, the limit of requests,
//! the tenant guard, a deadline.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::mem;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::HttpBody;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use super::ApiError;
use super::caller::{Caller, Client};
use super::cors::{Cors, Granted, Verdict};
use super::error::InternalContext;
use super::guard::TenantGuard;
use super::headers::{self, Headers};
use super::limit::{Quota, RateLimiter};
use super::measure::{Exchange, Measures, Streaming, method_label};
use crate::cidr::Cidr;
use crate::error::Error;
use crate::redact::Redactor;
use crate::supervisor::Supervisor;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Routes that wait for an agent; their caller says how long.
const BOUNDED_BY_CALLER: [&str; 1] = ["/workspaces/:id/a2a"];
/// A little more than a caller may ask for.
const LONGEST_CALL: Duration = Duration::from_secs(31 * 60);
/// A caller's own id is kept up to this length.
const MAX_REQUEST_ID_BYTES: usize = 64;

/// The SHA-256 of the credential of a request, if it is known in memory to be
/// valid, or to have been so not long ago. Must not look further: it is asked before anybody was counted.
pub(crate) type KnownCredential = Box<dyn Fn(&HeaderMap) -> Option<[u8; 32]> + Send + Sync>;

/// What a [`Shell`] is made of.
pub(crate) struct ShellParts {
    pub(crate) redactor: Redactor,
    /// For the head of a response; its body may take longer.
    pub(crate) timeout: Duration,
    /// Routes that take longer than others by their nature, as the metrics call them,
    /// and how long.
    pub(crate) slow: Vec<(&'static str, Duration)>,
    /// Templates of the routes, for the metrics.
    pub(crate) templates: Vec<String>,
    pub(crate) cors: Cors,
    /// None lets everybody ask as often as they like.
    pub(crate) limiter: Option<RateLimiter>,
    pub(crate) known_credential: KnownCredential,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub(crate) trusted_proxies: Vec<Cidr>,
    pub(crate) guard: Option<TenantGuard>,
    /// Ends streams of events when the server shuts down.
    pub(crate) closing: CancellationToken,
    /// Owns changes that outlive the client who asked for them.
    pub(crate) supervisor: Supervisor,
}

/// What the shell needs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shell(Arc<Inner>);

struct Inner {
    parts: ShellParts,
    headers: Headers,
    /// `/workspaces/{id}` as the metrics call it: `/workspaces/:id`.
    labels: HashMap<String, &'static str>,
    measures: Measures,
    ids: RequestIds,
}

/// Names for requests: a random start and a count. They are not secret, and asking
/// the system for randomness every time costs more than a request should.
struct RequestIds {
    start: u64,
    given: AtomicU64,
}

/// What the checks on the way in want to say on the answer, whatever it will be.
#[derive(Default)]
struct Said {
    granted: Option<Granted>,
    quota: Option<Quota>,
    is_unlimited: bool,
}

impl Shell {
    pub(crate) fn new(mut parts: ShellParts) -> Self {
        let labels = mem::take(&mut parts.templates)
            .into_iter()
            .map(|template| {
                let label = template
                    .replace("{*", "*")
                    .replace('{', ":")
                    .replace('}', "");
                // One per route and process: labels must be static for the metrics
                // to be cheap.
                (template, &*String::leak(label))
            })
            .collect();
        Self(Arc::new(Inner {
            parts,
            headers: Headers::new(),
            labels,
            measures: Measures::default(),
            ids: RequestIds::new(),
        }))
    }

    pub(super) fn measures(&self) -> &Measures {
        &self.0.measures
    }

    pub(super) fn redactor(&self) -> &Redactor {
        &self.0.parts.redactor
    }

    pub(super) fn supervisor(&self) -> &Supervisor {
        &self.0.parts.supervisor
    }

    /// How long a request may take.
    pub(super) fn limit_of(&self, request: &Request) -> Duration {
        self.0.limit_of(self.0.label_of(request))
    }

    /// True for a request whose caller says how long it may take.
    pub(super) fn is_bounded_by_caller(&self, request: &Request) -> bool {
        BOUNDED_BY_CALLER.contains(&self.0.label_of(request))
    }

    /// Who asks, and whether they may go on. Answers those who may not.
    fn admit(&self, request: &mut Request, now: Instant, said: &mut Said) -> Option<Response> {
        let parts = &self.0.parts;
        let judged = match request.uri().path() {
            // A WebSocket has its own rule for origins, and its own words.
            "/ws" if request.method() == http::Method::GET => Verdict::Skip,
            _ => (parts.cors).judge(request.method(), request.uri(), request.headers()),
        };
        match judged {
            Verdict::Skip => {}
            Verdict::Allow(granted) => said.granted = Some(granted),
            Verdict::End(response) => return Some(response),
        }
        name_host(request);
        let caller = self.identify(request);
        let path = request.uri().path();
        if !headers::is_unlimited(path) {
            match &parts.limiter {
                None => said.is_unlimited = true,
                Some(limiter) => {
                    let quota = limiter.take_at(&caller, now);
                    if !quota.is_allowed() {
                        return Some(quota.refusal("rate limit exceeded"));
                    }
                    said.quota = Some(quota);
                }
            }
        }
        match &parts.guard {
            Some(guard) if !guard.lets_pass(path, request.headers()) => {
                Some(StatusCode::NOT_FOUND.into_response())
            }
            _ => None,
        }
    }

    /// Completes the [`Client`] in the extensions.
    fn identify(&self, request: &mut Request) -> Caller {
        let parts = &self.0.parts;
        let known = (parts.known_credential)(request.headers()).map(Caller::Credential);
        let headers = mem::take(request.headers_mut());
        let mut caller = known.unwrap_or(Caller::Unknown);
        if let Some(client) = request.extensions_mut().get_mut::<Client>() {
            client.resolve(&headers, &parts.trusted_proxies);
            client.caller = known.unwrap_or(client.caller);
            caller = client.caller;
        }
        *request.headers_mut() = headers;
        caller
    }
}

pub(super) async fn shell(
    State(shell): State<Shell>,
    mut request: Request,
    next: Next,
) -> Response {
    let (inner, started) = (&*shell.0, Instant::now());
    let id = request_id(request.headers(), &inner.ids);
    let method = method_label(request.method());
    let path = inner.label_of(&request);
    let mut common = (inner.headers).copy_for(headers::is_api(request.uri().path()));
    let span = tracing::info_span!("request", request.id = id.to_str().unwrap_or_default());
    let mut said = Said::default();
    let answering = async {
        match shell.admit(&mut request, started, &mut said) {
            Some(answer) => answer,
            None => within(inner.limit_of(path), next.run(request)).await,
        }
    };
    let answering = AssertUnwindSafe(answering).catch_unwind();
    let answered = answering.instrument(span.clone()).await;
    let mut response = answered.unwrap_or_else(|_| failed("the handler panicked"));

    if let Some(quota) = said.quota {
        quota.write_to(&mut common);
    } else if said.is_unlimited {
        headers::write_unlimited(&mut common);
    }
    common.extend(mem::take(response.headers_mut()));
    if let Some(granted) = said.granted {
        granted.write_to(&mut common);
    }
    common.insert(REQUEST_ID, id);
    *response.headers_mut() = common;
    let exchange = Exchange {
        shell: shell.clone(),
        span,
        method,
        path,
        started,
    };
    finish(exchange, response)
}

/// Ends the exchange, now or with the stream that is the body.
fn finish(exchange: Exchange, mut response: Response) -> Response {
    let status = response.status();
    if response.body().size_hint().exact().is_some() {
        let failure = response.extensions_mut().remove::<InternalContext>();
        exchange.end(status, failure);
        return response;
    }
    let kind = response.headers().get(CONTENT_TYPE);
    let is_endless = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    let closing = is_endless.then(|| exchange.shell.0.parts.closing.clone());
    response.map(|body| Streaming::wrap(body, exchange, status, closing))
}

impl Inner {
    /// Template of the route that takes a request, as the metrics call it.
    fn label_of(&self, request: &Request) -> &'static str {
        let path = request.extensions().get::<MatchedPath>();
        let label = path.and_then(|path| self.labels.get(path.as_str()));
        label.copied().unwrap_or("unmatched")
    }

    /// How long a request may take.
    fn limit_of(&self, path: &str) -> Duration {
        let usual = self.parts.timeout;
        let slow = self.parts.slow.iter().find(|(slow, _)| *slow == path);
        match BOUNDED_BY_CALLER.contains(&path) {
            true => LONGEST_CALL.max(usual),
            false => slow.map_or(usual, |(_, limit)| usual.max(*limit)),
        }
    }
}

async fn within(timeout: Duration, answering: impl Future<Output = Response>) -> Response {
    match tokio::time::timeout(timeout, answering).await {
        Ok(response) => response,
        Err(_) => failed("the request took too long"),
    }
}

pub(super) fn failed(cause: &'static str) -> Response {
    ApiError::from(Error::internal("internal error", anyhow::anyhow!(cause))).into_response()
}

/// Puts the host of HTTP/2, which comes in the request line, where HTTP/1 has it.
fn name_host(request: &mut Request) {
    if request.headers().contains_key(HOST) {
        return;
    }
    let authority = request.uri().authority();
    if let Some(host) = authority.and_then(|host| HeaderValue::from_str(host.as_str()).ok()) {
        request.headers_mut().insert(HOST, host);
    }
}

/// The caller's id if it is short and plain, else a new one.
fn request_id(headers: &HeaderMap, ids: &RequestIds) -> HeaderValue {
    let plain = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        !bytes.is_empty()
            && bytes.len() <= MAX_REQUEST_ID_BYTES
            && bytes
                .iter()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    match headers.get(REQUEST_ID).filter(plain) {
        Some(id) => id.clone(),
        None => ids.next(),
    }
}

impl RequestIds {
    fn new() -> Self {
        let (start, _) = Uuid::new_v4().as_u64_pair();
        Self {
            start,
            given: AtomicU64::new(0),
        }
    }

    fn next(&self) -> HeaderValue {
        let count = self.given.fetch_add(1, Ordering::Relaxed);
        let mut buffer = Uuid::encode_buffer();
        let id = Uuid::from_u64_pair(self.start, count);
        let text = id.as_simple().encode_lower(&mut buffer);
        HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("none"))
    }
}
