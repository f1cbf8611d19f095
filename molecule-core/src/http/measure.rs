//! What is measured and logged of every request, when its response ends.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use http::{Method, StatusCode};
use hyper::body::{Frame, SizeHint};
use metrics::{Counter, Gauge, Histogram};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tracing::Span;

use super::error::InternalContext;
use super::middleware::Shell;

/// Method, route and status, as the metrics call them.
type Labels = (&'static str, &'static str, &'static str);

/// The series of the requests so far.
#[derive(Default)]
pub(super) struct Measures(RwLock<HashMap<Labels, Series>>);

/// What is measured under one set of labels. Finding a series in the recorder
/// allocates; using it does not.
struct Series {
    requests: Counter,
    seconds: Gauge,
    durations: Histogram,
}

impl Measures {
    fn record(&self, labels: Labels, took: Duration) {
        let series = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = series.get(&labels) {
            return series.record(took);
        }
        drop(series);
        let new = Series::new(labels);
        new.record(took);
        let mut series = self.0.write().unwrap_or_else(PoisonError::into_inner);
        series.insert(labels, new);
    }
}

impl Series {
    fn new((method, path, status): Labels) -> Self {
        let labels = [("method", method), ("path", path), ("status", status)];
        Self {
            requests: metrics::counter!("molecule_http_requests_total", &labels),
            // This crate's counters are integers; `telemetry` shows the sum as the
            // counter that it is.
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

/// A request from its arrival to the end of its response.
pub(super) struct Exchange {
    pub(super) shell: Shell,
    pub(super) span: Span,
    pub(super) method: &'static str,
    /// Template of the route.
    pub(super) path: &'static str,
    pub(super) started: Instant,
}

impl Exchange {
    /// Measures and logs the exchange, which is over.
    pub(super) fn end(&self, status: StatusCode, failure: Option<InternalContext>) {
        let Self { method, path, .. } = *self;
        let took = self.started.elapsed();
        (self.shell.measures()).record((method, path, status_label(status)), took);
        self.span.in_scope(|| {
            let duration_ms = took.as_secs_f64() * 1000.0;
            let status = status.as_u16();
            match failure {
                Some(InternalContext(cause)) => {
                    let cause = self.shell.redactor().redact(&cause);
                    tracing::error!(method, path, status, duration_ms, cause, "request failed");
                }
                None => tracing::info!(method, path, status, duration_ms, "request"),
            }
        });
    }
}

/// The body of a response whose length nobody knows yet. The exchange ends with
/// it; `closing` ends a stream of events, which would end at no time by itself.
pub(super) struct Streaming {
    body: Body,
    exchange: Exchange,
    status: StatusCode,
    closing: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Streaming {
    pub(super) fn wrap(
        body: Body,
        exchange: Exchange,
        status: StatusCode,
        closing: Option<CancellationToken>,
    ) -> Body {
        let closing = closing.map(|token| Box::pin(token.cancelled_owned()));
        Body::new(Self {
            body,
            exchange,
            status,
            closing,
        })
    }
}

impl HttpBody for Streaming {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let over = (self.closing.as_mut())
            .is_some_and(|closing| closing.as_mut().poll(context).is_ready());
        if over {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.exchange.end(self.status, None);
    }
}

/// Methods are chosen by strangers; metrics know a few.
pub(super) fn method_label(method: &Method) -> &'static str {
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

/// What we answer ourselves, and what upstreams commonly do.
fn status_label(status: StatusCode) -> &'static str {
    match status.as_u16() {
        // An upgraded connection; the reference's counter calls it so.
        101 | 200 => "200",
        201 => "201",
        202 => "202",
        204 => "204",
        206 => "206",
        301 => "301",
        302 => "302",
        303 => "303",
        304 => "304",
        307 => "307",
        308 => "308",
        400 => "400",
        401 => "401",
        402 => "402",
        403 => "403",
        404 => "404",
        405 => "405",
        406 => "406",
        408 => "408",
        409 => "409",
        410 => "410",
        412 => "412",
        413 => "413",
        415 => "415",
        422 => "422",
        423 => "423",
        424 => "424",
        429 => "429",
        500 => "500",
        501 => "501",
        502 => "502",
        503 => "503",
        504 => "504",
        _ => "other",
    }
}
