use std::time::Duration;

use chrono::{DateTime, Utc};
use molecule_hooks::{HookError, redact_token_shapes};
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde::Deserialize;

/// GitHub's advice for a rate limit that names no time.
const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_MESSAGE_CHARS: usize = 200;

#[derive(Deserialize)]
struct Refusal {
    message: String,
}

/// The error for an answer other than 2xx.
pub(crate) fn error(
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    now: DateTime<Utc>,
) -> HookError {
    let message = message(body);
    let shown = match message.as_str() {
        "" => status.canonical_reason().unwrap_or("no message"),
        message => message,
    };
    let text = format!("access_tokens returned {}: {shown}", status.as_u16());
    let wait = match status {
        StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => {
            let named = retry_after(headers, now).or_else(|| rate_limit_reset(headers, now));
            let limited = status == StatusCode::TOO_MANY_REQUESTS
                || message.to_ascii_lowercase().contains("rate limit");
            named.or(limited.then_some(RATE_LIMIT_PAUSE))
        }
        _ => retry_after(headers, now),
    };
    let transient = match status {
        StatusCode::REQUEST_TIMEOUT => true,
        // Without a time to come back this is a missing permission or a
        // suspended installation.
        StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => wait.is_some(),
        status => status.is_server_error(),
    };
    match (transient, wait) {
        (true, Some(wait)) => HookError::transient(text).with_retry_after(wait),
        (true, None) => HookError::transient(text),
        (false, _) => HookError::permanent(text),
    }
}

/// GitHub's own explanation, masked, on one line and cut; empty without one.
fn message(body: &[u8]) -> String {
    let Ok(refusal) = serde_json::from_slice::<Refusal>(body) else {
        return String::new();
    };
    let masked = redact_token_shapes(&refusal.message);
    let line: String = masked
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST_MESSAGE_CHARS)
        .collect();
    line.trim().to_owned()
}

/// `Retry-After` as seconds or as an HTTP date.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(secs) => Some(Duration::from_secs(secs)),
        Err(_) => {
            let at = DateTime::parse_from_rfc2822(text).ok()?.to_utc();
            Some((at - now).to_std().unwrap_or_default())
        }
    }
}

/// `x-ratelimit-reset`, a Unix time. GitHub sends it with every answer, so it
/// counts only when nothing remains.
fn rate_limit_reset(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if text("x-ratelimit-remaining").is_some_and(|remaining| remaining.trim() != "0") {
        return None;
    }
    let reset: i64 = text("x-ratelimit-reset")?.trim().parse().ok()?;
    let at = DateTime::from_timestamp(reset, 0)?;
    Some((at - now).to_std().unwrap_or_default())
}
