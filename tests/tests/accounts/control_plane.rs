//! A stand-in for the control plane, which says who has a session.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode, header};
use molecule_tests::http::hold_port;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

/// The cookie of a member.
pub(crate) const GOOD: &str = "session=good";

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// `session=good` is a member's cookie, any other is not.
    Honest,
    /// Says nothing for longer than anybody waits.
    Silent,
    /// Takes a little while, then is honest.
    Slow,
    /// Fails.
    Fails,
    /// Says 200 and something that is no membership.
    Garbage,
    /// Says yes, in a body that does not end.
    Huge,
    /// Sends the caller somewhere else, where the answer would be yes.
    Redirects,
}

#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) uri: String,
    pub(crate) cookie: String,
    pub(crate) user_agent: String,
}

impl Seen {
    fn new(request: &Request) -> Self {
        let text = |name| {
            let value = request.headers().get(name);
            let value = value.and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        Self {
            uri: request.uri().to_string(),
            cookie: text(header::COOKIE),
            user_agent: text(header::USER_AGENT),
        }
    }
}

pub(crate) struct ControlPlane {
    pub(crate) url: String,
    shared: Arc<Shared>,
    running: JoinHandle<()>,
}

struct Shared {
    mood: Mutex<Mood>,
    seen: Mutex<Vec<Seen>>,
}

impl ControlPlane {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let shared = Arc::new(Shared {
            mood: Mutex::new(Mood::Honest),
            seen: Mutex::default(),
        });
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        let running = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("serving");
        });
        Self {
            url,
            shared,
            running,
        }
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        *self.shared.mood.lock().expect("a mood") = mood;
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("requests").clone()
    }

    /// Ends it; when this returns, nobody listens any more, nor does anybody else as
    /// long as what is returned lives.
    pub(crate) async fn stop(mut self) -> TcpSocket {
        self.running.abort();
        // It was cancelled, which is what was wanted.
        let _ = (&mut self.running).await;
        let address = self.url.trim_start_matches("http://");
        hold_port(address.parse().expect("an address"))
    }

    /// Makes a server ask this control plane.
    pub(crate) fn configure(&self, config: &mut molecule_core::Config) {
        config.control_plane.org_slug = Some("acme".to_owned());
        config.control_plane.upstream_url = Some(self.url.clone());
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let seen = Seen::new(&request);
    shared.seen.lock().expect("requests").push(seen.clone());
    let mood = *shared.mood.lock().expect("a mood");
    let moved = seen.uri == "/elsewhere";
    let yes = r#"{"member":true,"user_id":"user-1"}"#;
    let is_good = seen.cookie.split("; ").any(|pair| pair == GOOD);
    let honest = match is_good || moved {
        true => reply(StatusCode::OK, yes),
        false => reply(StatusCode::OK, r#"{"member":false,"user_id":""}"#),
    };
    match mood {
        Mood::Honest => honest,
        Mood::Silent => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            honest
        }
        Mood::Slow => {
            tokio::time::sleep(Duration::from_millis(300)).await;
            honest
        }
        Mood::Fails => reply(StatusCode::INTERNAL_SERVER_ERROR, yes),
        Mood::Garbage => reply(StatusCode::OK, "<html>member: true</html>"),
        Mood::Huge => {
            let start = futures_util::stream::iter([yes.as_bytes().to_vec()]);
            let spaces = futures_util::stream::repeat_with(|| vec![b' '; 16 * 1024]);
            let endless = futures_util::StreamExt::map(
                futures_util::StreamExt::chain(start, spaces),
                Ok::<_, std::convert::Infallible>,
            );
            Response::new(Body::from_stream(endless))
        }
        Mood::Redirects if moved => honest,
        Mood::Redirects => {
            let mut response = reply(StatusCode::FOUND, yes);
            let there = header::HeaderValue::from_static("/elsewhere");
            response.headers_mut().insert(header::LOCATION, there);
            response
        }
    }
}

fn reply(status: StatusCode, body: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    // Or a connection that is kept would answer after the end.
    let close = header::HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}
