use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};

use crate::clock::Clock;
use crate::config::BuildContext;

/// The clock of the contract, which the kit can put forward.
pub(super) struct Time {
    clock: Clock,
    ahead: Arc<Mutex<TimeDelta>>,
}

impl Time {
    pub(super) fn new(base: &Clock) -> Self {
        let ahead = Arc::new(Mutex::new(TimeDelta::zero()));
        let (base, by) = (base.clone(), Arc::clone(&ahead));
        let clock = Clock::from_fn(move || {
            let by = *by.lock().unwrap_or_else(PoisonError::into_inner);
            let now = base.now();
            now.checked_add_signed(by).unwrap_or(now)
        });
        Self { clock, ahead }
    }

    /// What a hook is built with.
    pub(super) fn context(&self) -> BuildContext {
        BuildContext {
            clock: self.clock.clone(),
        }
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Lets time pass until a second after `then`.
    pub(super) fn pass(&self, then: DateTime<Utc>) {
        let missing = then - self.now() + TimeDelta::seconds(1);
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        *ahead += missing.max(TimeDelta::zero());
    }
}
