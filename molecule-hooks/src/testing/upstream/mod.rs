mod body;
mod fault;
mod serve;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::reply::Reply;
pub use fault::Fault;

/// A [`ScriptedUpstream`] keeps this much of a request body; it reads the rest
/// and forgets it.
pub const MAX_RECORDED_BODY_BYTES: usize = 1024 * 1024;

/// An HTTP/1.1 service on a free port of 127.0.0.1 that answers as it was told
/// and remembers what it was asked.
///
/// Replies are used in the order they were queued, one per request; without one
/// left the default reply is sent, which is a 404 until
/// [`default_reply`](ScriptedUpstream::default_reply) changes it or
/// [`answer_with`](ScriptedUpstream::answer_with) puts code in its place. A
/// [`Fault`] breaks all of them until it is [mended](ScriptedUpstream::mend).
/// Dropping it closes the port and every connection.
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
    usual: Usual,
    fault: Option<Fault>,
    requests: Vec<RecordedRequest>,
}

/// What answers when nothing is queued.
#[derive(Clone)]
enum Usual {
    Reply(Reply),
    Code(Arc<dyn Fn(&RecordedRequest) -> Reply + Send + Sync>),
}

impl Usual {
    fn reply(&self, request: &RecordedRequest) -> Reply {
        match self {
            Self::Reply(reply) => reply.clone(),
            Self::Code(code) => code(request),
        }
    }
}

impl fmt::Debug for Usual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reply(reply) => reply.fmt(f),
            Self::Code(_) => f.write_str("code"),
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

    /// What a careless service would quote: every header that carries a credential.
    fn credentials(&self) -> String {
        let secret = |name: &str| {
            name.contains("authorization") || name.contains("token") || name.contains("key")
        };
        let headers = self.headers.iter().filter(|(name, _)| secret(name));
        let values: Vec<&str> = headers.map(|(_, value)| value.as_str()).collect();
        values.join(" ")
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
                usual: Usual::Reply(Reply::text(404, "no reply was scripted")),
                fault: None,
                requests: Vec::new(),
            }),
            count: watch::channel(0).0,
        });
        let accept = tokio::spawn(serve::accept(listener, Arc::clone(&script))).abort_handle();
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
        self.script.lock().usual = Usual::Reply(reply);
        self
    }

    /// Lets code answer every request that finds the queue empty: what a stand-in for a
    /// real service is built on. The code runs on the upstream's connection and must not
    /// block; when it panics, the connection ends.
    pub fn answer_with(
        &self,
        code: impl Fn(&RecordedRequest) -> Reply + Send + Sync + 'static,
    ) -> &Self {
        self.script.lock().usual = Usual::Code(Arc::new(code));
        self
    }

    /// Breaks every answer from now on, until [`mend`](ScriptedUpstream::mend) or another
    /// fault. Requests are still recorded, except by a [dead](Fault::Dead) upstream, which
    /// resets new connections before it reads any. Queued replies stay queued while the
    /// fault needs none.
    pub fn break_down(&self, fault: Fault) -> &Self {
        self.script.lock().fault = Some(fault);
        self
    }

    /// Ends what [`break_down`](ScriptedUpstream::break_down) began. Answers under way
    /// stay broken.
    pub fn mend(&self) -> &Self {
        self.script.lock().fault = None;
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

    fn is_dead(&self) -> bool {
        self.lock().fault == Some(Fault::Dead)
    }

    fn next(&self, request: RecordedRequest) -> Reply {
        let (fault, usual) = {
            let mut state = self.lock();
            state.requests.push(request.clone());
            self.count.send_replace(state.requests.len());
            (state.fault, state.usual.clone())
        };
        // Outside the lock: the code may look at this upstream.
        let answer = || match self.lock().queue.pop_front() {
            Some(reply) => reply,
            None => usual.reply(&request),
        };
        match fault {
            Some(fault) => fault.reply(&request.credentials(), answer),
            None => answer(),
        }
    }
}
