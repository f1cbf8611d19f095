use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::reply::{Action, Body, Reply};

/// A [`ScriptedUpstream`] keeps this much of a request body; it reads the rest
/// and forgets it.
pub const MAX_RECORDED_BODY_BYTES: usize = 1024 * 1024;

/// An HTTP/1.1 service on a free port of 127.0.0.1 that answers as it was told
/// and remembers what it was asked.
///
/// Replies are used in the order they were queued, one per request; without one
/// left the default reply is sent, which is a 404 until
/// [`default_reply`](ScriptedUpstream::default_reply) or
/// [`respond_with`](ScriptedUpstream::respond_with) changes it. Dropping it
/// closes the port and every connection.
///
/// ```
/// use molecule_hooks::testing::{Reply, ScriptedUpstream};
/// use serde_json::json;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// let upstream = ScriptedUpstream::start().await?;
/// upstream.reply(Reply::status(503)).reply(Reply::json(201, json!({ "token": "t-1" })));
/// // … point the hook at upstream.url(), let it work, then:
/// assert!(upstream.requests().is_empty());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct ScriptedUpstream {
    address: SocketAddr,
    script: Arc<Script>,
    accept: AbortHandle,
}

#[derive(Debug)]
struct Script {
    state: Mutex<State>,
    count: watch::Sender<usize>,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Reply>,
    default: DefaultReply,
    requests: Vec<RecordedRequest>,
}

type Respond = dyn Fn(&RecordedRequest) -> Reply + Send + Sync;

#[derive(Clone)]
enum DefaultReply {
    Same(Reply),
    Made(Arc<Respond>),
}

impl fmt::Debug for DefaultReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same(reply) => reply.fmt(f),
            Self::Made(_) => f.write_str("made for each request"),
        }
    }
}

/// One request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordedRequest {
    /// The method, upper case.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Headers in the order they came, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, at most [`MAX_RECORDED_BODY_BYTES`] of it.
    pub body: Vec<u8>,
    /// True when the body was longer than what was kept.
    pub body_truncated: bool,
}

impl RecordedRequest {
    /// The first header of this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text, with replacement characters where it is none.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, if it is.
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

impl ScriptedUpstream {
    /// Starts to listen. The server lives on the current tokio runtime.
    ///
    /// # Errors
    /// The error of the operating system when no port can be had.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let script = Arc::new(Script {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                default: DefaultReply::Same(Reply::text(404, "no reply was scripted")),
                requests: Vec::new(),
            }),
            count: watch::channel(0).0,
        });
        let accept = tokio::spawn(accept(listener, Arc::clone(&script))).abort_handle();
        Ok(Self {
            address,
            script,
            accept,
        })
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Queues a reply for one request.
    pub fn reply(&self, reply: Reply) -> &Self {
        self.script.lock().queue.push_back(reply);
        self
    }

    /// Sets the reply for every request that finds the queue empty.
    pub fn default_reply(&self, reply: Reply) -> &Self {
        self.script.lock().default = DefaultReply::Same(reply);
        self
    }

    /// Makes the reply for every request that finds the queue empty from that
    /// request: for an upstream that remembers. Takes the place of the
    /// [default reply](ScriptedUpstream::default_reply).
    pub fn respond_with(
        &self,
        respond: impl Fn(&RecordedRequest) -> Reply + Send + Sync + 'static,
    ) -> &Self {
        self.script.lock().default = DefaultReply::Made(Arc::new(respond));
        self
    }

    /// Every request so far whose body has arrived, in order.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.script.lock().requests.clone()
    }

    /// How many requests have arrived.
    pub fn request_count(&self) -> usize {
        *self.script.count.borrow()
    }

    /// Waits until that many requests have arrived. False when they did not
    /// within the time given.
    pub async fn wait_for_requests(&self, count: usize, within: Duration) -> bool {
        let mut seen = self.script.count.subscribe();
        let reached = seen.wait_for(|seen| *seen >= count);
        matches!(tokio::time::timeout(within, reached).await, Ok(Ok(_)))
    }
}

impl Drop for ScriptedUpstream {
    fn drop(&mut self) {
        // Ends the connections too: they belong to the task.
        self.accept.abort();
    }
}

impl Script {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Queue and list are valid after every statement that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, request: RecordedRequest) -> Reply {
        let mut state = self.lock();
        state.requests.push(request.clone());
        self.count.send_replace(state.requests.len());
        let respond = match (state.queue.pop_front(), &state.default) {
            (Some(reply), _) => return reply,
            (None, DefaultReply::Same(reply)) => return reply.clone(),
            (None, DefaultReply::Made(respond)) => Arc::clone(respond),
        };
        // Not under the lock: it may ask this upstream something.
        drop(state);
        respond(&request)
    }
}

async fn accept(listener: TcpListener, script: Arc<Script>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve(stream, Arc::clone(&script)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// An end of the connection that HTTP cannot express.
enum Ending {
    Reset,
    Garbage(Vec<u8>),
}

async fn serve(stream: TcpStream, script: Arc<Script>) {
    let ending = Arc::new(Mutex::new(None));
    let scripted = Arc::clone(&ending);
    let service = service_fn(move |request: Request<Incoming>| {
        let (script, scripted) = (Arc::clone(&script), Arc::clone(&scripted));
        Box::pin(async move {
            let reply = script.next(record(request).await);
            tokio::time::sleep(reply.delay).await;
            let ending = match reply.action {
                Action::Answer {
                    status,
                    headers,
                    body,
                } => return Ok(answer(status, &headers, body)),
                Action::Hang => std::future::pending().await,
                Action::Reset => Ending::Reset,
                Action::Garbage(bytes) => Ending::Garbage(bytes),
            };
            *scripted.lock().unwrap_or_else(PoisonError::into_inner) = Some(ending);
            Err(io::Error::other("scripted end of the connection"))
        })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    let _ = poll_fn(|context| connection.poll_without_shutdown(context)).await;
    let mut stream = connection.into_parts().io.into_inner();
    let ending = ending.lock().unwrap_or_else(PoisonError::into_inner).take();
    // The client may be gone already, so none of this can fail meaningfully.
    match ending {
        // Without linger the close becomes a reset.
        Some(Ending::Reset) => drop(stream.set_zero_linger()),
        Some(Ending::Garbage(bytes)) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        None => drop(stream.shutdown().await),
    }
}

async fn record(request: Request<Incoming>) -> RecordedRequest {
    let (head, mut incoming) = request.into_parts();
    let mut body = Vec::new();
    let mut body_truncated = false;
    while let Some(Ok(frame)) = incoming.frame().await {
        let Some(data) = frame.data_ref() else {
            continue;
        };
        let room = MAX_RECORDED_BODY_BYTES - body.len();
        body_truncated |= data.len() > room;
        body.extend_from_slice(&data[..data.len().min(room)]);
    }
    RecordedRequest {
        method: head.method.to_string(),
        path: head.uri.to_string(),
        headers: head
            .headers
            .iter()
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                (name.to_string(), value)
            })
            .collect(),
        body,
        body_truncated,
    }
}

fn answer(
    status: u16,
    headers: &[(String, String)],
    body: Body,
) -> Response<BoxBody<Bytes, Infallible>> {
    let body = match body {
        Body::Bytes(bytes) => Full::new(Bytes::from(bytes)).boxed(),
        Body::Streamed(left) => Chunks { left }.boxed(),
    };
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    // Only a header that HTTP does not know can be wrong here; say so to the
    // test that scripted it.
    response.body(body).unwrap_or_else(|error| {
        let text = format!("the scripted reply is not valid HTTP: {error}");
        let mut response = Response::new(Full::new(Bytes::from(text)).boxed());
        *response.status_mut() = hyper::StatusCode::NOT_IMPLEMENTED;
        response
    })
}

/// A body of `left` bytes, made as it is sent.
struct Chunks {
    left: u64,
}

static CHUNK: [u8; 16 * 1024] = [b'x'; 16 * 1024];

impl hyper::body::Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let size = self.left.min(CHUNK.len() as u64);
        self.left -= size;
        let frame =
            (size > 0).then(|| Ok(Frame::data(Bytes::from_static(&CHUNK[..size as usize]))));
        std::task::Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        // Unknown on purpose: without a length the client must count.
        SizeHint::default()
    }
}
