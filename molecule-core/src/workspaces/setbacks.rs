//! How long boots wait that failed for a reason which passes: an image or a backend
//! that could not be had.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use uuid::Uuid;

/// The first wait; each further one is twice as long.
const FIRST_SECS: i64 = 60;
/// The longest. The runner of restarts believes in no request that is further ahead.
const LONGEST_SECS: i64 = 600;
/// Setbacks further apart have nothing to do with each other. Longer than the longest
/// wait and the longest boot together.
const MEMORY: Duration = Duration::from_secs(2 * 60 * 60);

/// Setbacks in a row, per workspace. In memory: after a restart of the server the
/// first wait is short again. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Setbacks(Arc<Mutex<HashMap<Uuid, (u32, Instant)>>>);

impl Setbacks {
    /// Counts one more; answers with how long to wait.
    pub(super) fn add(&self, id: Uuid) -> TimeDelta {
        let mut known = self.lock();
        known.retain(|_, (_, at)| at.elapsed() < MEMORY);
        let (count, at) = known.entry(id).or_insert((0, Instant::now()));
        *at = Instant::now();
        let secs = (FIRST_SECS << (*count).min(8)).min(LONGEST_SECS);
        *count += 1;
        TimeDelta::seconds(secs)
    }

    /// It worked.
    pub(super) fn forget(&self, id: Uuid) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, (u32, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_is_twice_as_long_until_it_works() {
        let setbacks = Setbacks::default();
        let id = Uuid::new_v4();
        let waits: Vec<i64> = (0..7).map(|_| setbacks.add(id).num_seconds()).collect();
        assert_eq!(waits, [60, 120, 240, 480, 600, 600, 600]);
        assert_eq!(setbacks.add(Uuid::new_v4()).num_seconds(), 60);
        setbacks.forget(id);
        assert_eq!(setbacks.add(id).num_seconds(), 60);
    }
}
