//! A server behind the server: remembers what it was sent and behaves as asked.

use std::convert::Infallible;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::{CONNECTION, CONTENT_TYPE, LOCATION, SET_COOKIE, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http_body_util::BodyExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Size of the answer to `…/huge`.
pub(crate) const HUGE: usize = 64 * 1024 * 1024;

/// The server. It ends with its handle.
pub(crate) struct Upstream {
    /// Base URL, no trailing slash.
    pub(crate) url: String,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    seen: Mutex<Vec<Seen>>,
    /// Chunks of `…/huge` that were asked for.
    chunks: AtomicUsize,
}

/// A request that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let state = Arc::new(State::default());
        let for_handler = Arc::clone(&state);
        let router = Router::new().fallback(move |request: Request| {
            let state = Arc::clone(&for_handler);
            async move { answer(&state, request).await }
        });
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Self { url, state, task }
    }

    /// Everything that arrived since the last call.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let mut seen = self
            .state
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut seen)
    }

    /// The one request that arrived since the last call.
    #[track_caller]
    pub(crate) fn last(&self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }

    /// How many chunks of a huge answer were made.
    pub(crate) fn chunks(&self) -> usize {
        self.state.chunks.load(SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(state: &Arc<State>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let how = parts
        .uri
        .path()
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    if how == "echo" {
        return Body::from_stream(body.into_data_stream()).into_response();
    }
    let body = body
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let seen = Seen {
        method: parts.method.to_string(),
        target: parts.uri.to_string(),
        headers: parts.headers,
        body,
    };
    state
        .seen
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(seen);
    match how.as_str() {
        "hang" => pending().await,
        "redirect" => (StatusCode::FOUND, [(LOCATION, "/elsewhere?x=1")]).into_response(),
        "teapot" => (StatusCode::IM_A_TEAPOT, "short and stout").into_response(),
        "huge" => huge(Arc::clone(state)),
        "cut" => broken(),
        "stall" => stalled("text/plain"),
        "events" => stalled("text/event-stream"),
        "drip" => dripping(),
        "page" => (
            [
                ("content-security-policy", "default-src 'none'"),
                ("x-frame-options", "SAMEORIGIN"),
            ],
            "page",
        )
            .into_response(),
        "special" => special(),
        _ => "hello from behind".into_response(),
    }
}

fn huge(state: Arc<State>) -> Response {
    let chunk = Bytes::from(vec![7; 64 * 1024]);
    let chunks = stream::unfold(0, move |made| {
        let (chunk, state) = (chunk.clone(), Arc::clone(&state));
        async move {
            (made < HUGE / chunk.len()).then(|| {
                state.chunks.fetch_add(1, SeqCst);
                (Ok::<_, Infallible>(chunk), made + 1)
            })
        }
    });
    Body::from_stream(chunks).into_response()
}

/// Half an answer, then an end that is none.
fn broken() -> Response {
    let half = stream::unfold(0, |step| async move {
        // Late enough for the first half to be on its way.
        tokio::time::sleep(Duration::from_millis(100 * step)).await;
        match step {
            0 => Some((Ok("half"), 1)),
            _ => Some((Err(std::io::Error::other("gone")), 2)),
        }
    });
    Body::from_stream(half).into_response()
}

fn stalled(kind: &'static str) -> Response {
    let begun = stream::unfold(true, |first| async move {
        match first {
            true => Some((Ok::<_, Infallible>("data: begun\n\n"), false)),
            false => pending().await,
        }
    });
    ([(CONTENT_TYPE, kind)], Body::from_stream(begun)).into_response()
}

/// Three seconds long, without ever being quiet for one.
fn dripping() -> Response {
    let drops = stream::unfold(0, |drop| async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        (drop < 6).then_some((Ok::<_, Infallible>("drop "), drop + 1))
    });
    Body::from_stream(drops).into_response()
}

/// Headers that concern nobody but us, or that only we may decide.
fn special() -> Response {
    let mut response = "special".into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (SET_COOKIE.as_str(), "a=1"),
        (SET_COOKIE.as_str(), "b=2"),
        (VARY.as_str(), "Accept-Language"),
        (CONNECTION.as_str(), "x-internal"),
        ("x-internal", "secret"),
        ("keep-alive", "timeout=5"),
        ("access-control-allow-origin", "*"),
        ("x-public", "yes"),
    ] {
        headers.append(
            name.parse::<axum::http::HeaderName>().expect("a name"),
            value.parse().expect("a value"),
        );
    }
    response
}
