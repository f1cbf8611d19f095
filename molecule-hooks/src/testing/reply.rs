use std::time::Duration;

use serde_json::Value;

/// What a [`ScriptedUpstream`](super::ScriptedUpstream) does with one request.
///
/// ```
/// use std::time::Duration;
/// use molecule_hooks::testing::Reply;
/// use serde_json::json;
///
/// let created = Reply::json(201, json!({ "token": "t-1" }));
/// let limited = Reply::status(429).header("Retry-After", "30");
/// let slow = Reply::status(200).after(Duration::from_millis(50));
/// # let _ = (created, limited, slow);
/// ```
#[derive(Debug, Clone)]
pub struct Reply {
    pub(super) delay: Duration,
    pub(super) action: Action,
}

#[derive(Debug, Clone)]
pub(super) enum Action {
    Answer {
        status: u16,
        headers: Vec<(String, String)>,
        body: Body,
    },
    Hang,
    Reset,
    Garbage(Vec<u8>),
}

#[derive(Debug, Clone)]
pub(super) enum Body {
    Bytes(Vec<u8>),
    Streamed(u64),
    Dripped { bytes: Vec<u8>, every: Duration },
    Truncated(Vec<u8>),
}

impl Reply {
    /// An answer without a body.
    ///
    /// # Panics
    /// When `status` is not 200 to 599.
    pub fn status(status: u16) -> Self {
        Self::answer(status, Body::Bytes(Vec::new()))
    }

    /// An answer with a text body.
    ///
    /// # Panics
    /// As [`status`](Reply::status).
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        Self::answer(status, Body::Bytes(body.into().into_bytes()))
            .header("Content-Type", "text/plain; charset=utf-8")
    }

    /// An answer with a JSON body.
    ///
    /// # Panics
    /// As [`status`](Reply::status).
    pub fn json(status: u16, body: Value) -> Self {
        Self::answer(status, Body::Bytes(body.to_string().into_bytes()))
            .header("Content-Type", "application/json")
    }

    /// An answer of status 200 whose body is this many bytes, sent in chunks
    /// and never held in memory: for a client that should stop reading.
    pub fn streaming(bytes: u64) -> Self {
        Self::answer(200, Body::Streamed(bytes))
    }

    /// The same answer, its body sent one byte at a time with this pause before each:
    /// for a client whose timeout must cover the whole answer. Without effect on a reply
    /// that has no body of its own.
    pub fn dripping(self, every: Duration) -> Self {
        self.with_body(|bytes| Body::Dripped { bytes, every })
    }

    /// The same answer, which promises its whole length and breaks off in the middle of
    /// its body. Without effect on a reply that has no body of its own.
    pub fn truncated(self) -> Self {
        self.with_body(Body::Truncated)
    }

    /// No answer; the connection stays open until the client closes it.
    pub fn hang() -> Self {
        Self::from_action(Action::Hang)
    }

    /// The connection is reset.
    pub fn reset() -> Self {
        Self::from_action(Action::Reset)
    }

    /// These bytes instead of an HTTP answer, then the end of the connection.
    pub fn garbage(bytes: impl Into<Vec<u8>>) -> Self {
        Self::from_action(Action::Garbage(bytes.into()))
    }

    /// Adds a header to an answer; without effect on the other kinds of reply.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Action::Answer { headers, .. } = &mut self.action {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Waits this long first.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    fn with_body(mut self, change: impl FnOnce(Vec<u8>) -> Body) -> Self {
        if let Action::Answer { body, .. } = &mut self.action
            && let Body::Bytes(bytes) = body
        {
            *body = change(std::mem::take(bytes));
        }
        self
    }

    fn answer(status: u16, body: Body) -> Self {
        assert!(
            (200..600).contains(&status),
            "{status} is not a final HTTP status"
        );
        Self::from_action(Action::Answer {
            status,
            headers: Vec::new(),
            body,
        })
    }

    fn from_action(action: Action) -> Self {
        Self {
            delay: Duration::ZERO,
            action,
        }
    }
}
