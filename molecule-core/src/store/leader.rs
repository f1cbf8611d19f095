//! Which server runs the loops that must run once.

use molecule_hooks::Clock;

use super::Db;
use crate::supervisor::Supervisor;

/// Knows whether this server leads. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Leader;

impl Leader {
    pub(crate) fn new(_db: &Db, _clock: &Clock) -> Self {
        Self
    }

    /// Starts to seek the lead and to keep it.
    pub(crate) fn start(&self, _supervisor: &Supervisor) {}

    /// True while this server leads. From memory: ask at each round of a loop.
    pub(crate) fn is_leader(&self) -> bool {
        true
    }
}
