//! The one transport-neutral error of the server.
//!
//! Rooms return it; `http::error` alone turns it into a status code. What a
//! client may read and what only the log may hold live in two fields, and the
//! second has no way into a response.

use std::fmt;

use serde_json::{Map, Value};

/// An operation could not be done.
pub(crate) struct Error {
    kind: Kind,
    message: String,
    extra: Map<String, Value>,
    cause: Option<anyhow::Error>,
    retry_after_secs: Option<u64>,
}

/// What went wrong, as far as a client can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The request itself is wrong.
    Invalid,
    /// No or bad credentials.
    Unauthorized,
    /// A budget is spent.
    PaymentRequired,
    /// Known, and still not allowed.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// It existed and was removed.
    Gone,
    /// The state of the thing does not allow it.
    Conflict,
    /// The request body is too large.
    TooLarge,
    /// What the request asks for is too large.
    Oversized,
    /// Well-formed, and what it asks for may not be.
    Unprocessable,
    /// Too many requests.
    RateLimited,
    /// The datastore does not answer, or something else will work a little later.
    Unavailable,
    /// This deployment cannot do it.
    NotImplemented,
    /// Something behind us failed.
    BadGateway,
    /// Something behind us did not answer in time.
    GatewayTimeout,
    /// Our fault, or an upstream's.
    Internal,
}

/// Seconds after which a client should try again when the datastore is away.
const DATASTORE_RETRY_SECS: u64 = 5;

/// Result of a room.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            extra: Map::new(),
            cause: None,
            retry_after_secs: None,
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub(crate) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(Kind::Unauthorized, message)
    }

    pub(crate) fn payment_required(message: impl Into<String>) -> Self {
        Self::new(Kind::PaymentRequired, message)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Kind::Forbidden, message)
    }

    /// Too many requests; try again after so many seconds.
    pub(crate) fn rate_limited(message: impl Into<String>, retry_after_secs: u64) -> Self {
        Self::new(Kind::RateLimited, message).retry_after(retry_after_secs)
    }

    /// There are as many as there may be; waiting does not help.
    pub(crate) fn too_many(message: impl Into<String>) -> Self {
        Self::new(Kind::RateLimited, message)
    }

    /// Does not work now and will later, without anything being broken.
    pub(crate) fn not_now(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    /// This deployment cannot do it.
    pub(crate) fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(Kind::NotImplemented, message)
    }

    /// Something behind us failed; the cause goes to the log.
    pub(crate) fn bad_gateway(message: impl Into<String>, cause: impl Into<anyhow::Error>) -> Self {
        Self::new(Kind::BadGateway, message).because(cause)
    }

    /// Something behind us did not answer in time; the cause goes to the log.
    pub(crate) fn gateway_timeout(
        message: impl Into<String>,
        cause: impl Into<anyhow::Error>,
    ) -> Self {
        Self::new(Kind::GatewayTimeout, message).because(cause)
    }

    /// Well-formed, and what it asks for may not be.
    pub(crate) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unprocessable, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    pub(crate) fn gone(message: impl Into<String>) -> Self {
        Self::new(Kind::Gone, message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }

    pub(crate) fn too_large() -> Self {
        Self::new(Kind::TooLarge, "request body too large")
    }

    /// What the request asks for is too large; the request itself is not.
    pub(crate) fn oversized(message: impl Into<String>) -> Self {
        Self::new(Kind::Oversized, message)
    }

    /// The datastore does not answer: clients key on `code` and retry.
    pub(crate) fn unavailable(cause: impl Into<anyhow::Error>) -> Self {
        Self::new(
            Kind::Unavailable,
            "platform datastore unavailable — retry shortly",
        )
        .with("code", "platform_unavailable")
        .retry_after(DATASTORE_RETRY_SECS)
        .because(cause)
    }

    /// A documented text for the client; the cause goes to the log.
    pub(crate) fn internal(message: impl Into<String>, cause: impl Into<anyhow::Error>) -> Self {
        Self::new(Kind::Internal, message).because(cause)
    }

    /// Adds a documented field beside `error`.
    pub(crate) fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(field.to_owned(), value.into());
        self
    }

    /// Replaces the client's text, keeps kind and cause. A datastore that does
    /// not answer keeps its own text: clients depend on it.
    pub(crate) fn says(mut self, message: &str) -> Self {
        if self.kind == Kind::Internal {
            message.clone_into(&mut self.message);
        }
        self
    }

    /// Tells the same trouble in other words, without what was told beside it.
    pub(crate) fn restated(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self.extra.clear();
        self
    }

    /// Sets the `Retry-After` header of the answer.
    pub(crate) fn retry_after(mut self, secs: u64) -> Self {
        self.retry_after_secs = Some(secs);
        self
    }

    fn because(mut self, cause: impl Into<anyhow::Error>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn extra(&self) -> &Map<String, Value> {
        &self.extra
    }

    pub(crate) fn retry_after_secs(&self) -> Option<u64> {
        self.retry_after_secs
    }

    /// What made it fail, when it was of this type.
    pub(crate) fn cause<E: std::error::Error + Send + Sync + 'static>(&self) -> Option<&E> {
        self.cause.as_ref()?.downcast_ref()
    }

    /// For the log: the message and the whole chain of causes.
    pub(crate) fn internal_context(&self) -> String {
        match &self.cause {
            Some(cause) => format!("{}: {cause:#}", self.message),
            None => self.message.clone(),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({})", self.kind, self.internal_context())
    }
}
