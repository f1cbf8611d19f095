//! Just enough HTTP/1.1 for both ends: one message per connection, bounded
//! heads and bodies, and one deadline over the whole exchange.

pub(crate) mod client;
pub(crate) mod deadline;
pub(crate) mod url;
pub(crate) mod wire;

use std::fmt;

/// The largest body read in either direction.
pub(crate) const MAX_BODY_BYTES: usize = 1 << 20;

/// Why a message could not be read or exchanged.
///
/// No variant carries text from the peer, so any of them may be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HttpError {
    /// The deadline passed.
    Timeout,
    /// The peer closed the connection before the message was complete.
    Closed,
    /// The head is larger than allowed.
    HeadTooLarge,
    /// The body is larger than allowed.
    BodyTooLarge,
    /// The bytes are not HTTP/1.x.
    Malformed(&'static str),
    /// A transfer coding other than `chunked`.
    UnsupportedCoding,
    /// The name did not resolve.
    Unresolved,
    /// The connection failed.
    Io(std::io::ErrorKind),
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("timed out"),
            Self::Closed => f.write_str("the connection was closed early"),
            Self::HeadTooLarge => f.write_str("the message head is too large"),
            Self::BodyTooLarge => f.write_str("the message body is too large"),
            Self::Malformed(what) => write!(f, "malformed {what}"),
            Self::UnsupportedCoding => f.write_str("unsupported transfer coding"),
            Self::Unresolved => f.write_str("the host name does not resolve"),
            Self::Io(kind) => write!(f, "{kind}"),
        }
    }
}

impl std::error::Error for HttpError {}

impl From<std::io::Error> for HttpError {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind;
        match error.kind() {
            // Which of the two a socket timeout gives depends on the system.
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::Timeout,
            ErrorKind::UnexpectedEof => Self::Closed,
            kind => Self::Io(kind),
        }
    }
}
