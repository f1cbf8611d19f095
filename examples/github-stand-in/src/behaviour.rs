use std::time::Duration;

/// How the stand-in answers a request for an installation token.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Behaviour {
    /// As GitHub does: the App JWT is checked, then 201 with a new token.
    Ok {
        /// How long each token lives.
        ttl: Duration,
    },
    /// This answer, whatever the request says.
    Status {
        /// Status code.
        code: u16,
        /// Body, sent as `application/json`.
        body: String,
        /// More headers.
        headers: Vec<(String, String)>,
    },
    /// 201 with something that is not JSON.
    Garbage,
    /// 201 whose body breaks off in the middle.
    Truncated,
    /// 201 with a body of one gigabyte, streamed.
    Huge,
    /// Never answers.
    Hang,
    /// 201 with a token that is the empty string.
    EmptyToken,
    /// 201 without a token.
    NoToken,
    /// 201 with a token and no expiry.
    NoExpiry,
    /// 201 with a token that expired a minute ago.
    Expired,
}

impl Behaviour {
    /// [`Behaviour::Ok`] with tokens that live this long.
    pub fn ok(ttl: Duration) -> Self {
        Self::Ok { ttl }
    }

    /// [`Behaviour::Status`] with GitHub's error shape: `{"message": …}`.
    pub fn refuse(code: u16, message: &str) -> Self {
        Self::Status {
            code,
            body: serde_json::json!({ "message": message }).to_string(),
            headers: Vec::new(),
        }
    }

    /// Adds a header; only [`Behaviour::Status`] takes one.
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        if let Self::Status { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.into()));
        }
        self
    }
}

impl Default for Behaviour {
    /// As GitHub: tokens that live for an hour.
    fn default() -> Self {
        Self::ok(Duration::from_secs(3600))
    }
}
