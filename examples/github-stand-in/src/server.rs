use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures_util::{StreamExt, stream};
use jsonwebtoken::DecodingKey;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::behaviour::Behaviour;
use crate::jwt::{self, Claims};

/// One piece of [`Behaviour::Huge`], and how many of them make a gigabyte.
const CHUNK: &[u8] = &[b' '; 64 * 1024];
const CHUNKS: usize = 16 * 1024;

type Now = dyn Fn() -> DateTime<Utc> + Send + Sync;

/// What a stand-in is started with.
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// Address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The clock that claims and expiries are judged by.
    pub now: Arc<Now>,
    /// How it answers at first.
    pub behaviour: Behaviour,
}

impl Default for Options {
    /// A free port of the loopback interface, the wall clock, tokens for an hour.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            now: Arc::new(Utc::now),
            behaviour: Behaviour::default(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("listen", &self.listen)
            .field("behaviour", &self.behaviour)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// Judges times by `now` instead of the wall clock.
    pub fn with_clock(mut self, now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        self.now = Arc::new(now);
        self
    }
}

/// Why a stand-in did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The key is not an RSA public key in PEM.
    #[error("the public key is not an RSA public key in PEM")]
    Key(#[source] jsonwebtoken::errors::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
}

/// A request as it arrived.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RecordedRequest {
    /// The installation id in the path.
    pub installation_id: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// How long its body was.
    pub body_bytes: usize,
}

/// A running stand-in. Dropping it stops it.
pub struct GithubStandIn {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

struct Shared {
    key: DecodingKey,
    now: Arc<Now>,
    stopped: watch::Receiver<bool>,
    calls: AtomicU64,
    streamed: Arc<AtomicU64>,
    state: Mutex<Recorded>,
}

struct Recorded {
    behaviour: Behaviour,
    claims: Option<Claims>,
    request: Option<RecordedRequest>,
}

impl GithubStandIn {
    /// Starts one on a free port of the loopback interface. It checks App JWTs
    /// with this RSA public key (PEM).
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(public_key_pem: &str) -> Result<Self, StartError> {
        Self::start_with(public_key_pem, Options::default()).await
    }

    /// Starts one with these options.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_with(public_key_pem: &str, options: Options) -> Result<Self, StartError> {
        let key = DecodingKey::from_rsa_pem(public_key_pem.as_bytes()).map_err(StartError::Key)?;
        let failed = |error| StartError::Listen(options.listen, error);
        let listener = TcpListener::bind(options.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared {
            key,
            now: options.now,
            stopped: stopped.clone(),
            calls: AtomicU64::new(0),
            streamed: Arc::default(),
            state: Mutex::new(Recorded {
                behaviour: options.behaviour,
                claims: None,
                request: None,
            }),
        });
        let app = Router::new()
            .route("/app/installations/{id}/access_tokens", post(access_tokens))
            .with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            let serve = axum::serve(listener, app).with_graceful_shutdown(wait_for(stopped));
            // An accept loop that ends is the end of the stand-in either way.
            let _ = serve.await;
        });
        Ok(Self {
            address,
            shared,
            stop,
            task,
        })
    }

    /// Where it listens, for example `http://127.0.0.1:40111`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many times a token was asked for.
    pub fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::SeqCst)
    }

    /// Changes how it answers from now on.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.shared.lock().behaviour = behaviour;
    }

    /// The claims of the last JWT that was accepted.
    pub fn last_claims(&self) -> Option<Claims> {
        self.shared.lock().claims.clone()
    }

    /// The last request for a token.
    pub fn last_request(&self) -> Option<RecordedRequest> {
        self.shared.lock().request.clone()
    }

    /// How many bytes of [`Behaviour::Huge`] bodies were taken from us so far.
    pub fn streamed_bytes(&self) -> u64 {
        self.shared.streamed.load(Ordering::SeqCst)
    }

    /// Serves until the process ends.
    pub async fn run(mut self) {
        // The task only ends when it is aborted, which nobody else can do.
        let _ = (&mut self.task).await;
    }
}

impl Drop for GithubStandIn {
    fn drop(&mut self) {
        // Ends hanging answers and tells open connections to close.
        self.stop.send_replace(true);
        self.task.abort();
    }
}

impl fmt::Debug for GithubStandIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GithubStandIn")
            .field("address", &self.address)
            .field("calls", &self.calls())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn token(&self, call: u64) -> String {
        let mut random = [0_u8; 14];
        // Uniqueness comes from the counter; randomness only makes it look real.
        let _ = aws_lc_rs::rand::fill(&mut random);
        let random: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("ghs_{call:08}{random}")
    }

    fn expires_in(&self, ttl: TimeDelta) -> Value {
        let at = (self.now)() + ttl;
        json!(at.to_rfc3339_opts(SecondsFormat::Secs, true))
    }
}

async fn wait_for(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop as well.
    let _ = stopped.wait_for(|stop| *stop).await;
}

async fn access_tokens(
    State(shared): State<Arc<Shared>>,
    Path(installation_id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let call = shared.calls.fetch_add(1, Ordering::SeqCst) + 1;
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "));
    let claims = bearer
        .ok_or("A JSON web token could not be decoded")
        .and_then(|jwt| jwt::verify(jwt, &shared.key, (shared.now)()));
    let behaviour = {
        let mut state = shared.lock();
        if let Ok(claims) = &claims {
            state.claims = Some(claims.clone());
        }
        state.request = Some(RecordedRequest {
            installation_id,
            headers: headers.clone(),
            body_bytes: body.len(),
        });
        state.behaviour.clone()
    };
    let token = shared.token(call);
    let hour = TimeDelta::hours(1);
    match behaviour {
        Behaviour::Ok { ttl } => match claims {
            Ok(_) => {
                let ttl = TimeDelta::from_std(ttl).unwrap_or(hour);
                created(json!({"token": token, "expires_at": shared.expires_in(ttl)}))
            }
            Err(message) => refused(message),
        },
        Behaviour::Status {
            code,
            body,
            headers,
        } => scripted(code, body, &headers),
        Behaviour::Garbage => (StatusCode::CREATED, "<html>not today</html>").into_response(),
        Behaviour::Truncated => {
            let half = Bytes::from(format!(r#"{{"token":"{token}","#));
            let cut = async {
                // Lets the first half leave before the connection breaks.
                tokio::task::yield_now().await;
                Err(std::io::Error::other("cut"))
            };
            let body = stream::iter([Ok(half)]).chain(stream::once(cut));
            (StatusCode::CREATED, Body::from_stream(body)).into_response()
        }
        Behaviour::Huge => (StatusCode::CREATED, huge(&shared)).into_response(),
        Behaviour::Hang => {
            wait_for(shared.stopped.clone()).await;
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
        Behaviour::EmptyToken => {
            created(json!({"token": "", "expires_at": shared.expires_in(hour)}))
        }
        Behaviour::NoToken => created(json!({"expires_at": shared.expires_in(hour)})),
        Behaviour::NoExpiry => created(json!({ "token": token })),
        Behaviour::Expired => created(json!({
            "token": token,
            "expires_at": shared.expires_in(TimeDelta::minutes(-1)),
        })),
    }
}

fn created(body: Value) -> Response {
    (StatusCode::CREATED, axum::Json(body)).into_response()
}

fn refused(message: &str) -> Response {
    let body = json!({"message": message, "documentation_url": "https://docs.github.com/rest"});
    (StatusCode::UNAUTHORIZED, axum::Json(body)).into_response()
}

fn scripted(code: u16, body: String, headers: &[(String, String)]) -> Response {
    let mut response = Response::builder()
        .status(code)
        .header(header::CONTENT_TYPE, "application/json");
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(Body::from(body)).unwrap_or_else(|_| {
        let text = "the scripted status or header is not valid HTTP";
        (StatusCode::NOT_IMPLEMENTED, text).into_response()
    })
}

fn huge(shared: &Shared) -> Body {
    let streamed = Arc::clone(&shared.streamed);
    let chunks = stream::repeat_with(move || {
        streamed.fetch_add(CHUNK.len() as u64, Ordering::SeqCst);
        Ok::<_, Infallible>(Bytes::from_static(CHUNK))
    });
    Body::from_stream(chunks.take(CHUNKS))
}
