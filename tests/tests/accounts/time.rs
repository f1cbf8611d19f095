//! A clock that tests move.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{TimeDelta, Utc};
use molecule_hooks::Clock;

/// The wall clock, some seconds ahead.
#[derive(Clone, Default)]
pub(crate) struct MovableClock(Arc<AtomicI64>);

impl MovableClock {
    pub(crate) fn clock(&self) -> Clock {
        let ahead = Arc::clone(&self.0);
        Clock::from_fn(move || Utc::now() + TimeDelta::seconds(ahead.load(Ordering::Relaxed)))
    }

    pub(crate) fn advance_secs(&self, by: i64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }
}
