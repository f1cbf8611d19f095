use std::time::Duration;

use chrono::{DateTime, Utc};
use molecule_hooks::HookError;
use molecule_hooks_http::reqwest::StatusCode;
use molecule_hooks_http::{Answer, one_line};
use serde::Deserialize;

/// GitHub's advice for a rate limit that names no time.
const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(60);

#[derive(Deserialize, Default)]
struct Refusal {
    message: String,
}

/// The error for an answer other than 2xx.
pub(crate) fn error(answer: &Answer, now: DateTime<Utc>) -> HookError {
    let message = one_line(&answer.json_or_default::<Refusal>().message);
    let status = answer.status();
    let shown = match message.as_str() {
        "" => StatusCode::from_u16(status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or("no message"),
        message => message,
    };
    let text = format!("access_tokens returned {status}: {shown}");
    let wait = match status {
        403 | 429 => {
            let named = answer
                .retry_after(now)
                .or_else(|| rate_limit_reset(answer, now));
            let limited = status == 429 || message.to_ascii_lowercase().contains("rate limit");
            named.or(limited.then_some(RATE_LIMIT_PAUSE))
        }
        _ => answer.retry_after(now),
    };
    let transient = match status {
        408 | 500.. => true,
        // Without a time to come back this is a missing permission or a
        // suspended installation.
        403 | 429 => wait.is_some(),
        _ => false,
    };
    match (transient, wait) {
        (true, Some(wait)) => HookError::transient(text).with_retry_after(wait),
        (true, None) => HookError::transient(text),
        (false, _) => HookError::permanent(text),
    }
}

/// `x-ratelimit-reset`, a Unix time. GitHub sends it with every answer, so it
/// counts only when nothing remains.
fn rate_limit_reset(answer: &Answer, now: DateTime<Utc>) -> Option<Duration> {
    let remaining = answer.header("x-ratelimit-remaining");
    if remaining.is_some_and(|remaining| remaining.trim() != "0") {
        return None;
    }
    let reset: i64 = answer.header("x-ratelimit-reset")?.trim().parse().ok()?;
    let at = DateTime::from_timestamp(reset, 0)?;
    Some((at - now).to_std().unwrap_or_default())
}
