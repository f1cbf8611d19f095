use std::time::Duration;

use super::super::reply::{Action, Body, Reply};

/// A way in which a whole upstream is broken, whatever it is asked:
/// [`ScriptedUpstream::break_down`](super::ScriptedUpstream::break_down).
///
/// ```
/// use molecule_hooks::testing::{Fault, Reply, ScriptedUpstream};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> std::io::Result<()> {
/// let upstream = ScriptedUpstream::start().await?;
/// upstream.default_reply(Reply::text(200, "t-1"));
/// for fault in Fault::all() {
///     upstream.break_down(fault);
///     // … the hook must neither hang, panic nor quote what it got.
/// }
/// upstream.mend();
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The usual answer, but this much later.
    Slow(Duration),
    /// No answer at all; the connection stays open.
    Silent,
    /// Connections are reset: new ones at once, open ones at their next request.
    Dead,
    /// The usual answer, one byte at a time with this pause in between.
    Drips(Duration),
    /// The usual answer, cut off in the middle of its body.
    Truncated,
    /// Status and headers of the usual answer, with a body that does not end.
    Oversized,
    /// Status 200 with a web page, as a captive portal or a wrong URL answers.
    Wrong,
    /// Bytes that are not HTTP.
    Garbled,
    /// 429 with a `Retry-After` of this many whole seconds.
    RateLimited(Duration),
    /// This status with a text that quotes the request's credentials, as careless services
    /// do. 200 to 599.
    Fails(u16),
}

impl Fault {
    /// One of each kind, with waits long enough to try every patience: a minute before a
    /// slow answer, a second between two drops.
    pub fn all() -> Vec<Self> {
        vec![
            Self::Slow(Duration::from_secs(60)),
            Self::Silent,
            Self::Dead,
            Self::Drips(Duration::from_secs(1)),
            Self::Truncated,
            Self::Oversized,
            Self::Wrong,
            Self::Garbled,
            Self::RateLimited(Duration::from_secs(30)),
            Self::Fails(500),
            Self::Fails(503),
            Self::Fails(401),
        ]
    }

    /// What is sent instead of the answer that `usual` would give.
    pub(super) fn reply(self, credentials: &str, usual: impl FnOnce() -> Reply) -> Reply {
        match self {
            Self::Slow(delay) => {
                let reply = usual();
                let later = reply.delay + delay;
                reply.after(later)
            }
            Self::Silent => Reply::hang(),
            Self::Dead => Reply::reset(),
            Self::Drips(every) => usual().dripping(every),
            Self::Truncated => usual().truncated(),
            Self::Oversized => {
                let mut reply = usual();
                if let Action::Answer { body, .. } = &mut reply.action {
                    *body = Body::Streamed(u64::MAX);
                }
                reply
            }
            Self::Wrong => Reply::text(200, "<!doctype html><title>Sign in to the network</title>"),
            Self::Garbled => Reply::garbage(*b"\x16\x03\x01\x02\x00 this is not HTTP\r\n\r\n"),
            Self::RateLimited(wait) => {
                let secs = wait.as_secs().to_string();
                Reply::text(429, "slow down").header("Retry-After", &secs)
            }
            Self::Fails(status) => Reply::text(status, format!("cannot serve {credentials:?}")),
        }
    }
}
