//! How often somebody may ask: fixed windows, bounded memory, monotonic time.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::response::{IntoResponse, IntoResponseParts, Response, ResponseParts};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::ApiError;
use crate::error::Error;

pub(super) const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
pub(super) const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
pub(super) const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Callers whose windows are known at a time, in all shards. Beyond it the oldest
/// window is forgotten, so that a flood of strangers makes the limit milder for
/// somebody instead of locking somebody out.
const CALLERS: usize = 65_536;
/// Locks, so that cores rarely wait for each other.
const SHARDS: usize = 16;
/// A shard keeps room for this many callers when it gets quiet again.
const ROOM: usize = 64;

/// A limit of requests per window and caller. The window of a caller begins with
/// its first request.
///
/// Time is the monotonic clock of the system: nobody is locked out or let in
/// because the wall clock jumps.
pub(crate) struct RateLimiter {
    limit: u64,
    window: Duration,
    capacity: usize,
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

/// The windows of some callers, oldest first. All last equally long, so the order
/// of their beginnings is the order of their ends.
#[derive(Default)]
struct Shard {
    windows: HashMap<u64, Window>,
    order: VecDeque<u64>,
}

struct Window {
    since: Instant,
    used: u64,
}

/// What one request found: for its answer and for the headers that tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quota {
    limit: u64,
    remaining: u64,
    reset_secs: u64,
    allowed: bool,
}

impl RateLimiter {
    /// Allows `limit` requests in every `window`.
    pub(crate) fn new(limit: u64, window: Duration) -> Self {
        Self::with_capacity(limit, window, CALLERS)
    }

    fn with_capacity(limit: u64, window: Duration, callers: usize) -> Self {
        Self {
            limit,
            window,
            capacity: callers.div_ceil(SHARDS),
            hasher: RandomState::new(),
            shards: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Counts a request that this caller made at `now`.
    pub(crate) fn take_at(&self, caller: &impl Hash, now: Instant) -> Quota {
        // Keyed with randomness of this process: nobody can aim at another's number.
        let key = self.hasher.hash_one(caller);
        let shard = &self.shards[key as usize % SHARDS];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        shard.forget_ended(now, self.window);
        let Window { since, used } = shard.window(key, now, self.capacity);
        let allowed = *used < self.limit;
        if allowed {
            *used += 1;
        }
        let left = self
            .window
            .saturating_sub(now.saturating_duration_since(*since));
        Quota {
            limit: self.limit,
            remaining: self.limit - *used,
            reset_secs: left.as_secs() + u64::from(left.subsec_nanos() > 0),
            allowed,
        }
    }

    #[cfg(test)]
    fn known(&self) -> (usize, usize) {
        let locked = self.shards.iter().map(|shard| shard.lock().unwrap());
        locked.fold((0, 0), |(windows, room), shard| {
            (windows + shard.windows.len(), room + shard.order.capacity())
        })
    }
}

impl Shard {
    /// Amortised, every window is forgotten once.
    fn forget_ended(&mut self, now: Instant, window: Duration) {
        while let Some(oldest) = self.order.front() {
            let lives = (self.windows.get(oldest))
                .is_some_and(|oldest| now.saturating_duration_since(oldest.since) < window);
            if lives {
                break;
            }
            self.forget_oldest();
        }
        if self.order.capacity() > ROOM * 4 && self.order.len() < self.order.capacity() / 8 {
            self.order.shrink_to(ROOM.max(self.order.len() * 2));
            self.windows.shrink_to(ROOM.max(self.windows.len() * 2));
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.order.pop_front() {
            self.windows.remove(&oldest);
        }
    }

    fn window(&mut self, key: u64, now: Instant, capacity: usize) -> &mut Window {
        if !self.windows.contains_key(&key) {
            if self.order.len() >= capacity {
                self.forget_oldest();
            }
            self.order.push_back(key);
        }
        let new = Window {
            since: now,
            used: 0,
        };
        self.windows.entry(key).or_insert(new)
    }
}

impl Quota {
    /// False when the request was one too many.
    pub(crate) fn is_allowed(&self) -> bool {
        self.allowed
    }

    /// The answer to a request that was one too many: 429 with `text`, and the
    /// headers.
    pub(crate) fn refusal(self, text: &str) -> Response {
        let wait = self.reset_secs.max(1);
        let error = Error::rate_limited(text, wait).with("retry_after", wait);
        (self, ApiError::from(error)).into_response()
    }

    pub(super) fn write_to(self, headers: &mut HeaderMap) {
        headers.insert(LIMIT, HeaderValue::from(self.limit));
        headers.insert(REMAINING, HeaderValue::from(self.remaining));
        headers.insert(RESET, HeaderValue::from(self.reset_secs));
    }
}

/// Beside an answer: `(quota, Json(…))`.
impl IntoResponseParts for Quota {
    type Error = std::convert::Infallible;

    fn into_response_parts(self, mut parts: ResponseParts) -> Result<ResponseParts, Self::Error> {
        self.write_to(parts.headers_mut());
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_window_begins_with_its_first_request_and_ends_at_once() {
        let (limiter, start) = (RateLimiter::new(2, MINUTE), Instant::now());
        let take = |after: Duration| limiter.take_at(&"a", start + after);
        let quota = |remaining, reset_secs, allowed| Quota {
            limit: 2,
            remaining,
            reset_secs,
            allowed,
        };
        assert_eq!(take(Duration::ZERO), quota(1, 60, true));
        assert_eq!(take(Duration::from_millis(1500)), quota(0, 59, true));
        assert_eq!(take(Duration::from_secs(50)), quota(0, 10, false));
        let almost = MINUTE - Duration::from_nanos(1);
        assert_eq!(take(almost), quota(0, 1, false));
        assert_eq!(take(MINUTE), quota(1, 60, true));
        // What was refused did not count.
        assert_eq!(take(MINUTE * 3 / 2), quota(0, 30, true));
    }

    #[test]
    fn callers_do_not_share() {
        let (limiter, now) = (RateLimiter::new(1, MINUTE), Instant::now());
        assert!(limiter.take_at(&"a", now).is_allowed());
        assert!(limiter.take_at(&"b", now).is_allowed());
        assert!(!limiter.take_at(&"a", now).is_allowed());
    }

    #[test]
    fn an_earlier_now_locks_nobody_out() {
        // Threads look at the clock before they wait for the lock.
        let (limiter, start) = (RateLimiter::new(1, MINUTE), Instant::now() + MINUTE * 10);
        assert!(limiter.take_at(&"a", start).is_allowed());
        let quota = limiter.take_at(&"a", start - MINUTE);
        assert_eq!((quota.is_allowed(), quota.reset_secs), (false, 60));
        assert!(limiter.take_at(&"a", start + MINUTE).is_allowed());
    }

    #[test]
    fn a_million_strangers_take_bounded_room_and_give_it_back() {
        let (limiter, now) = (RateLimiter::new(600, MINUTE), Instant::now());
        for stranger in 0..1_000_000_u32 {
            assert!(limiter.take_at(&stranger, now).is_allowed());
        }
        let (windows, room) = limiter.known();
        assert!(
            windows <= CALLERS && room <= CALLERS * 2,
            "{windows} {room}"
        );
        // When they left, others find the room empty.
        for other in 0..1000_u32 {
            limiter.take_at(&other, now + MINUTE);
        }
        let (windows, room) = limiter.known();
        assert!(
            windows == 1000 && room <= SHARDS * ROOM * 4,
            "{windows} {room}"
        );
    }

    #[test]
    fn the_window_that_makes_room_is_the_oldest() {
        let (limiter, now) = (RateLimiter::with_capacity(1, MINUTE, 1), Instant::now());
        for caller in 0..100_u32 {
            assert!(limiter.take_at(&caller, now).is_allowed());
            assert!(!limiter.take_at(&caller, now).is_allowed());
        }
    }

    #[test]
    fn a_refusal_says_when_to_come_back() {
        let limiter = RateLimiter::new(0, MINUTE);
        let response = limiter.take_at(&"a", Instant::now()).refusal("slow down");
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(response.status(), 429);
        assert_eq!(header("retry-after"), "60");
        assert_eq!(header("x-ratelimit-remaining"), "0");
    }

    proptest! {
        /// Whatever the order of requests, nobody gets more than the limit in any
        /// window, and everybody gets it who asks.
        #[test]
        fn it_agrees_with_a_model(
            steps in proptest::collection::vec((0..4_u8, 0..20_u64), 1..300),
            limit in 1..5_u64,
        ) {
            let limiter = RateLimiter::new(limit, MINUTE);
            let start = Instant::now();
            let mut model: HashMap<u8, (u64, u64)> = HashMap::new();
            let mut now = 0;
            for (caller, pause) in steps {
                now += pause;
                let (since, used) = model.entry(caller).or_insert((now, 0));
                if now - *since >= 60 {
                    (*since, *used) = (now, 0);
                }
                let expected = *used < limit;
                *used += u64::from(expected);
                let quota = limiter.take_at(&caller, start + Duration::from_secs(now));
                prop_assert_eq!(quota.is_allowed(), expected);
                prop_assert_eq!(quota.remaining, limit - *used);
                prop_assert_eq!(quota.reset_secs, 60 - (now - *since));
            }
        }
    }
}
