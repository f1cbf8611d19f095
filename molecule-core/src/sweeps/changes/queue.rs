//! Which workspaces are to be looked at, and when.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::backend::Change;

/// Looks at one workspace are at least so far apart: one that crashes in a loop
/// tells of each end and each start.
const LOOKS_APART: Duration = Duration::from_secs(1);
/// With more workspaces than this to look at, a list of everything is cheaper.
const MOST: usize = 256;

/// Why a workspace is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hint {
    pub(super) id: Uuid,
    /// It started, among other things.
    pub(super) started: bool,
}

/// What is next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Now(Hint),
    At(Instant),
    Never,
}

/// What was heard and not looked into yet. Its size has a limit.
#[derive(Default)]
pub(super) struct Pending {
    waiting: HashMap<Uuid, Waiting>,
    /// Recent looks.
    looked: HashMap<Uuid, Instant>,
    /// Since when everything is to be looked at.
    all: Option<Instant>,
}

struct Waiting {
    at: Instant,
    started: bool,
    ended: bool,
}

impl Pending {
    pub(super) fn put(&mut self, change: &Change, now: Instant) {
        let (id, started) = match change {
            Change::Ended(id) => (*id, false),
            Change::Started(id) => (*id, true),
            Change::Missed => {
                self.all = Some(now);
                return;
            }
        };
        if let Some(waiting) = self.waiting.get_mut(&id) {
            waiting.started |= started;
            waiting.ended |= !started;
            return;
        }
        if self.waiting.len() >= MOST {
            // Who came back meanwhile tells its address itself when it registers.
            self.waiting.clear();
            self.all = Some(now);
            return;
        }
        let again = |looked: &Instant| *looked + LOOKS_APART;
        let at = self.looked.get(&id).map_or(now, again).max(now);
        let ended = !started;
        let waiting = Waiting { at, started, ended };
        self.waiting.insert(id, waiting);
    }

    /// Takes the workspace that waits longest, if its time has come.
    pub(super) fn next(&mut self, now: Instant) -> Due {
        let first = self.waiting.iter().min_by_key(|(_, waiting)| waiting.at);
        let Some((id, at)) = first.map(|(id, waiting)| (*id, waiting.at)) else {
            return Due::Never;
        };
        if at > now {
            return Due::At(at);
        }
        let (started, ended) = self
            .waiting
            .remove(&id)
            .map_or((false, false), |waiting| (waiting.started, waiting.ended));
        // A start alone does not hold up the end that may come right after it.
        if ended {
            self.remember(id, now);
        }
        Due::Now(Hint { id, started })
    }

    fn remember(&mut self, id: Uuid, now: Instant) {
        if self.looked.len() >= MOST {
            self.looked.retain(|_, at| *at + LOOKS_APART > now);
        }
        if self.looked.len() < MOST {
            self.looked.insert(id, now);
        }
    }

    pub(super) fn is_all_due(&self) -> bool {
        self.all.is_some()
    }

    /// Since when everything is to be looked at, if it is.
    pub(super) fn take_all(&mut self) -> Option<Instant> {
        self.all.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> Uuid {
        Uuid::from_u128(number as u128)
    }

    fn now_of(id: Uuid, started: bool) -> Due {
        Due::Now(Hint { id, started })
    }

    #[test]
    fn an_end_is_looked_into_at_once_and_a_crash_loop_once_a_second() {
        let (mut pending, start) = (Pending::default(), Instant::now());
        pending.put(&Change::Ended(id(1)), start);
        assert_eq!(pending.next(start), now_of(id(1), false));
        assert_eq!(pending.next(start), Due::Never);

        // When it keeps ending and starting
        for _ in 0..100 {
            pending.put(&Change::Started(id(1)), start);
            pending.put(&Change::Ended(id(1)), start);
        }

        // Then there is one more look, a second later, and others do not wait for it
        let later = start + LOOKS_APART;
        assert_eq!(pending.next(start), Due::At(later));
        pending.put(&Change::Ended(id(2)), start);
        assert_eq!(pending.next(start), now_of(id(2), false));
        assert_eq!(pending.next(later), now_of(id(1), true));
        assert_eq!(pending.next(later), Due::Never);

        // And after a rest it is looked at at once again
        let rested = later + LOOKS_APART;
        pending.put(&Change::Ended(id(1)), rested);
        assert_eq!(pending.next(rested), now_of(id(1), false));
    }

    #[test]
    fn an_end_right_after_a_start_is_looked_into_at_once() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.put(&Change::Started(id(1)), now);
        assert_eq!(pending.next(now), now_of(id(1), true));
        pending.put(&Change::Ended(id(1)), now);
        assert_eq!(pending.next(now), now_of(id(1), false));
    }

    #[test]
    fn a_storm_becomes_one_look_at_everything() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        for number in 0..10_000 {
            pending.put(&Change::Ended(id(number)), now);
            assert!(pending.waiting.len() <= MOST);
        }
        assert!(pending.is_all_due());
        assert_eq!(pending.take_all(), Some(now));
        assert_eq!(pending.take_all(), None);
    }

    #[test]
    fn nothing_that_is_remembered_grows_without_limit() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        for number in 0..10_000 {
            pending.put(&Change::Ended(id(number)), now);
            assert_eq!(pending.next(now), now_of(id(number), false));
            assert!(pending.looked.len() <= MOST);
        }
        assert!(!pending.is_all_due());
    }

    #[test]
    fn something_missed_is_looked_for_with_a_list_from_after_it() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        pending.put(&Change::Missed, now);
        let again = now + Duration::from_secs(3);
        pending.put(&Change::Missed, again);
        assert_eq!(pending.next(again), Due::Never);
        assert_eq!(pending.take_all(), Some(again));
    }
}
