use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::clock::Clock;

/// A clock that stands still until a test moves it. Clones share the time.
///
/// ```
/// use std::time::Duration;
/// use molecule_hooks::testing::FakeClock;
///
/// let time = FakeClock::new();
/// let clock = time.clock();
/// let before = clock.now();
/// time.advance(Duration::from_secs(60));
/// assert_eq!((clock.now() - before).num_seconds(), 60);
/// ```
#[derive(Debug, Clone)]
pub struct FakeClock(Arc<Mutex<DateTime<Utc>>>);

impl FakeClock {
    /// A clock that shows the first second of 2026, UTC.
    pub fn new() -> Self {
        // The instant as seconds since 1970; in range, so never the default.
        Self::at(DateTime::from_timestamp(1_767_225_600, 0).unwrap_or_default())
    }

    /// A clock that shows `now`.
    pub fn at(now: DateTime<Utc>) -> Self {
        Self(Arc::new(Mutex::new(now)))
    }

    /// The clock to hand to the code under test. It follows this one.
    pub fn clock(&self) -> Clock {
        let time = self.clone();
        Clock::from_fn(move || time.now())
    }

    /// What the clock shows.
    pub fn now(&self) -> DateTime<Utc> {
        *self.lock()
    }

    /// Moves the clock forward. It stops at the last instant there is.
    pub fn advance(&self, by: Duration) {
        let mut now = self.lock();
        let moved = TimeDelta::from_std(by)
            .ok()
            .and_then(|by| now.checked_add_signed(by));
        *now = moved.unwrap_or(DateTime::<Utc>::MAX_UTC);
    }

    /// Sets the clock, forward or back.
    pub fn set(&self, now: DateTime<Utc>) {
        *self.lock() = now;
    }

    fn lock(&self) -> MutexGuard<'_, DateTime<Utc>> {
        // A time is valid whatever its writer did afterwards.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for FakeClock {
    fn default() -> Self {
        Self::new()
    }
}
