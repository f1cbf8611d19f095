//! What happens around every request: an id, a span, a deadline, a panic fence,
//! metrics, one log line, security headers.

use std::collections::HashMap;
use std::mem;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use metrics::{Counter, Gauge, Histogram};
use tracing::Instrument;
use uuid::Uuid;

use super::ApiError;
use super::error::InternalContext;
use crate::error::Error;
use crate::redact::Redactor;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A caller's own id is kept up to this length.
const MAX_REQUEST_ID_BYTES: usize = 64;

const SECURITY_HEADERS: [(HeaderName, HeaderValue); 6] = [
    (
        http::header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (
        http::header::X_FRAME_OPTIONS,
        HeaderValue::from_static("DENY"),
    ),
    (
        http::header::STRICT_TRANSPORT_SECURITY,
        HeaderValue::from_static("max-age=31536000; includeSubDomains"),
    ),
    (
        http::header::REFERRER_POLICY,
        HeaderValue::from_static("strict-origin-when-cross-origin"),
    ),
    (
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static("camera=(), microphone=(), geolocation=()"),
    ),
    (
        http::header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'self'"),
    ),
];

/// What the shell needs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shell(Arc<Inner>);

struct Inner {
    redactor: Redactor,
    timeout: Duration,
    /// On every response, unless its handler knows better.
    security_headers: HeaderMap,
    /// `/workspaces/{id}` as the metrics call it: `/workspaces/:id`.
    labels: HashMap<String, &'static str>,
    series: RwLock<HashMap<Labels, Series>>,
    ids: RequestIds,
}

/// Method, route and status, as the metrics call them.
type Labels = (&'static str, &'static str, &'static str);

/// What is measured under one set of labels. Finding a series in the recorder
/// allocates; using it does not.
struct Series {
    requests: Counter,
    seconds: Gauge,
    durations: Histogram,
}

/// Names for requests: a random start and a count. They are not secret, and asking
/// the system for randomness every time costs more than a request should.
struct RequestIds {
    start: u64,
    given: AtomicU64,
}

impl Shell {
    /// A shell for routes with these templates.
    pub(crate) fn new(
        redactor: Redactor,
        timeout: Duration,
        templates: impl IntoIterator<Item = String>,
    ) -> Self {
        let labels = templates
            .into_iter()
            .map(|template| {
                let label = template.replace('{', ":").replace('}', "");
                // One per route and process: labels must be static for the metrics
                // to be cheap.
                (template, &*String::leak(label))
            })
            .collect();
        Self(Arc::new(Inner {
            redactor,
            timeout,
            security_headers: HeaderMap::from_iter(SECURITY_HEADERS),
            labels,
            series: RwLock::default(),
            ids: RequestIds::new(),
        }))
    }

    fn record(&self, labels: Labels, took: Duration) {
        let series = self.0.series.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = series.get(&labels) {
            return series.record(took);
        }
        drop(series);
        let new = Series::new(labels);
        new.record(took);
        let mut series = (self.0.series.write()).unwrap_or_else(PoisonError::into_inner);
        series.insert(labels, new);
    }
}

pub(super) async fn shell(State(shell): State<Shell>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers(), &shell.0.ids);
    let method = method_label(request.method());
    let path = request
        .extensions()
        .get::<MatchedPath>()
        .and_then(|path| shell.0.labels.get(path.as_str()).copied())
        .unwrap_or("unmatched");
    let span = tracing::info_span!("request", request.id = id.to_str().unwrap_or_default());
    let mut response = run(&shell, request, next).instrument(span.clone()).await;
    let took = started.elapsed();
    let status = response.status();
    shell.record((method, path, status_label(status.as_u16())), took);
    span.in_scope(|| {
        let duration_ms = took.as_secs_f64() * 1000.0;
        let status = status.as_u16();
        match response.extensions_mut().remove::<InternalContext>() {
            Some(InternalContext(cause)) => {
                let cause = shell.0.redactor.redact(&cause);
                tracing::error!(method, path, status, duration_ms, cause, "request failed");
            }
            None => tracing::info!(method, path, status, duration_ms, "request"),
        }
    });
    // A copy with the handler's headers in it is cheaper than looking for each.
    let mut headers = shell.0.security_headers.clone();
    headers.extend(mem::take(response.headers_mut()));
    headers.insert(REQUEST_ID, id);
    *response.headers_mut() = headers;
    response
}

async fn run(shell: &Shell, request: Request, next: Next) -> Response {
    let fenced = AssertUnwindSafe(next.run(request)).catch_unwind();
    let failed = |cause: &'static str| {
        ApiError::from(Error::internal("internal error", anyhow::anyhow!(cause))).into_response()
    };
    match tokio::time::timeout(shell.0.timeout, fenced).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => failed("the handler panicked"),
        Err(_) => failed("the request took too long"),
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

/// Methods are chosen by strangers; metrics know a few.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

impl Series {
    fn new((method, path, status): Labels) -> Self {
        let labels = [("method", method), ("path", path), ("status", status)];
        Self {
            requests: metrics::counter!("molecule_http_requests_total", &labels),
            // The documented series is a plain sum; this crate's counters are integers.
            seconds: metrics::gauge!("molecule_http_request_duration_seconds_total", &labels),
            durations: metrics::histogram!("molecule_http_request_duration_seconds", &labels),
        }
    }

    fn record(&self, took: Duration) {
        self.requests.increment(1);
        self.seconds.increment(took.as_secs_f64());
        self.durations.record(took.as_secs_f64());
    }
}

fn status_label(status: u16) -> &'static str {
    match status {
        200 => "200",
        201 => "201",
        204 => "204",
        400 => "400",
        401 => "401",
        403 => "403",
        404 => "404",
        409 => "409",
        410 => "410",
        413 => "413",
        429 => "429",
        500 => "500",
        503 => "503",
        _ => "other",
    }
}
