//! How many org tokens one caller may mint: so many per fixed window, counted
//! from the first.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};

/// Mints per window.
pub(super) const LIMIT: u64 = 10;
const WINDOW: TimeDelta = TimeDelta::hours(1);
/// Callers remembered at most; one more takes the place of the one that came first,
/// so that nobody can fill all places and lock the administrator out.
const CALLERS: usize = 10_000;

/// Counts per caller. Callers are validated before they are counted.
#[derive(Default)]
pub(super) struct MintLimit(Mutex<HashMap<String, Window>>);

struct Window {
    began: DateTime<Utc>,
    used: u64,
}

/// Where a caller stands, for the `X-RateLimit-*` headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) allowed: bool,
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    /// Seconds until the window ends.
    pub(crate) reset_secs: u64,
}

impl MintLimit {
    /// Counts one attempt.
    pub(super) fn count(&self, caller: &str, now: DateTime<Utc>) -> Standing {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Rare enough to look at all of them each time. A clock that jumped back
        // must neither free a caller nor hold one longer.
        windows.retain(|_, window| {
            window.began = window.began.min(now);
            now - window.began < WINDOW
        });
        let standing = |allowed, remaining, began: DateTime<Utc>| Standing {
            allowed,
            limit: LIMIT,
            remaining,
            reset_secs: u64::try_from((began + WINDOW - now).num_seconds()).unwrap_or_default(),
        };
        match windows.get_mut(caller) {
            Some(window) if window.used >= LIMIT => standing(false, 0, window.began),
            Some(window) => {
                window.used += 1;
                standing(true, LIMIT - window.used, window.began)
            }
            None => {
                if windows.len() >= CALLERS
                    && let Some(first) = windows.iter().min_by_key(|(_, window)| window.began)
                {
                    let first = first.0.clone();
                    windows.remove(&first);
                }
                let window = Window {
                    began: now,
                    used: 1,
                };
                windows.insert(caller.to_owned(), window);
                standing(true, LIMIT - 1, now)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_of_one_caller_pass_in_an_hour_whatever_the_clock_does() {
        let limit = MintLimit::default();
        let start = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        for n in 0..10 {
            let standing = limit.count("a", start + TimeDelta::minutes(n));
            assert_eq!((standing.allowed, standing.remaining), (true, 9 - n as u64));
            assert_eq!(standing.reset_secs, 3600 - 60 * n as u64);
        }
        assert!(!limit.count("a", start + TimeDelta::minutes(59)).allowed);
        assert!(limit.count("b", start).allowed, "others have their own");
        let back = limit.count("a", start - TimeDelta::days(1));
        assert_eq!((back.allowed, back.reset_secs), (false, 3600));
        let later = start - TimeDelta::days(1) + TimeDelta::hours(1);
        assert!(limit.count("a", later).allowed);
    }

    #[test]
    fn callers_without_end_take_no_memory_without_end() {
        let limit = MintLimit::default();
        let start = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        {
            let mut windows = limit.0.lock().unwrap();
            for n in 0..CALLERS {
                let window = Window {
                    began: start + TimeDelta::milliseconds(n as i64),
                    used: LIMIT,
                };
                windows.insert(n.to_string(), window);
            }
        }
        let later = start + TimeDelta::minutes(1);
        assert!(limit.count("one more", later).allowed);
        assert_eq!(limit.0.lock().unwrap().len(), CALLERS);
        assert!(!limit.count("7", later).allowed, "still known");
        assert!(limit.count("0", later).allowed, "the first made room");
    }
}
