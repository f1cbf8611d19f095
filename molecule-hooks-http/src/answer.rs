use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use molecule_hooks::{Clock, HookError, redact_token_shapes};
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// What is waited after a 429 that names no time.
const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_LINE_CHARS: usize = 200;

/// What an upstream answered. `Debug` shows the status only, and the body is wiped
/// from memory on drop: it may hold a token.
pub struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Zeroizing<Vec<u8>>,
}

impl Answer {
    pub(crate) fn new(status: u16, headers: HeaderMap, body: Zeroizing<Vec<u8>>) -> Self {
        Self {
            status,
            headers,
            body,
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// True for 200 to 299.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// A permanent error that names the step and the place, nothing of the body.
    pub fn json<T: DeserializeOwned>(&self, step: &str) -> Result<T, HookError> {
        // The parser's own message may quote the body.
        serde_json::from_slice(&self.body).map_err(|error| {
            HookError::permanent(format!(
                "{step}: the answer is not the expected JSON (line {}, column {})",
                error.line(),
                error.column()
            ))
        })
    }

    /// The same for the body of a refusal, which may be anything.
    pub fn json_or_default<T: DeserializeOwned + Default>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The error for an answer that is no success: `step` failed with this status,
    /// because of `message`. 408, 425, 429 and 5xx are transient, and carry
    /// `Retry-After` when it is there; everything else is permanent.
    ///
    /// `message` may be what the upstream says about it: it is masked, made one
    /// line and cut. Give the empty string for the usual name of the status.
    pub fn refusal(&self, step: &str, message: &str) -> HookError {
        match self.status {
            408 | 425 | 429 | 500.. => self.transient_refusal(step, message),
            _ => HookError::permanent(self.describe(step, message)),
        }
    }

    /// The same for an answer that is known to pass whatever its status says, for
    /// example by the upstream's own code for "later". Carries `Retry-After` too.
    pub fn transient_refusal(&self, step: &str, message: &str) -> HookError {
        let error = HookError::transient(self.describe(step, message));
        let limited = (self.status == 429).then_some(RATE_LIMIT_PAUSE);
        // Dates in headers are the wall clock's, whatever clock a hook was given.
        match self.retry_after(Clock::system().now()).or(limited) {
            Some(wait) => error.with_retry_after(wait),
            None => error,
        }
    }

    fn describe(&self, step: &str, message: &str) -> String {
        let shown = match one_line(message) {
            empty if empty.is_empty() => StatusCode::from_u16(self.status)
                .ok()
                .and_then(|status| status.canonical_reason())
                .unwrap_or("no message")
                .to_owned(),
            message => message,
        };
        format!("{step}: status {}: {shown}", self.status)
    }

    /// `Retry-After` as seconds or as an HTTP date.
    pub fn retry_after(&self, now: DateTime<Utc>) -> Option<Duration> {
        let text = self.header("retry-after")?.trim();
        match text.parse() {
            Ok(secs) => Some(Duration::from_secs(secs)),
            Err(_) => {
                let at = DateTime::parse_from_rfc2822(text).ok()?.to_utc();
                Some((at - now).to_std().unwrap_or_default())
            }
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// A text of an upstream as it may stand in an error: masked, on one line, at most
/// 200 characters.
pub fn one_line(text: &str) -> String {
    // Masked before it is cut, so that a credential stays whole enough to be
    // recognised.
    let masked = redact_token_shapes(text);
    let line: String = masked
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST_LINE_CHARS)
        .collect();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}
