//! Where a reader of an event stream is, and what it missed.
//!
//! Ids are ordered by time, but events become visible in the order of their
//! commits: a slow transaction, or a server whose clock is behind, may show an
//! event after the reader saw a later one. A cursor is therefore the id of the
//! newest event that was sent, and a fingerprint of all that were sent among those
//! of the last seconds before it. If the database has the same ones, the reader
//! goes on after the newest. If it has more, the reader gets these seconds again:
//! rather twice than never, and every event has an id to tell.

use std::collections::VecDeque;
use std::time::Duration;

use uuid::Uuid;

/// How much later than a later one an event may become visible.
pub(super) const WINDOW: Duration = Duration::from_secs(15);
/// Ids that a stream remembers, to send nothing twice.
const REMEMBERED: usize = 1024;

/// The least id of a time: it is in the first 48 bits of an id.
fn floor(millis: u64) -> Uuid {
    Uuid::from_u128(u128::from(millis) << 80)
}

fn millis(id: Uuid) -> u64 {
    u64::try_from(id.as_u128() >> 80).unwrap_or_default()
}

/// The least id of this moment, or of a time before it.
pub(super) fn floor_of_now(ago: Duration) -> Uuid {
    let now = chrono::Utc::now().timestamp_millis();
    let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
    floor(u64::try_from(now).unwrap_or_default().saturating_sub(ago))
}

/// The id before whose window nothing becomes visible any more.
pub(super) fn window_before(id: Uuid) -> Uuid {
    floor(millis(id).saturating_sub(WINDOW.as_millis() as u64))
}

/// Where a reader is. On the wire `<event>.<fingerprint>`, with `.<newest>` where
/// the event is not the newest. The id of an event alone is read too, and means
/// "strictly after this one".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The newest event that was sent.
    pub(super) newest: Uuid,
    pub(super) fingerprint: Option<u64>,
}

impl Cursor {
    /// None for what is not one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let event = Uuid::parse_str(parts.next()?).ok()?;
        let fingerprint = match parts.next() {
            Some(hex) if hex.len() == 16 => Some(u64::from_str_radix(hex, 16).ok()?),
            Some(_) => return None,
            None => None,
        };
        let newest = match parts.next() {
            Some(id) => Uuid::parse_str(id).ok()?,
            None => event,
        };
        parts.next().is_none().then_some(Self {
            newest,
            fingerprint,
        })
    }

    /// As the wire has it, with the event that brought the reader here.
    pub(super) fn with_event(self, event: Uuid) -> String {
        let fingerprint = self.fingerprint.unwrap_or_default();
        match event == self.newest {
            true => format!("{event}.{fingerprint:016x}"),
            false => format!("{event}.{fingerprint:016x}.{}", self.newest),
        }
    }
}

/// What a stream sent lately.
#[derive(Debug, Default)]
pub(super) struct Sent {
    ids: VecDeque<Uuid>,
    newest: Uuid,
}

impl Sent {
    /// The reader has these, in any order, and nothing after `newest`.
    pub(super) fn starting_at(newest: Uuid, ids: impl IntoIterator<Item = Uuid>) -> Self {
        let mut sent = Self {
            ids: VecDeque::new(),
            newest,
        };
        for id in ids {
            sent.insert(id);
        }
        sent
    }

    /// Notes an event; false when it was sent already.
    pub(super) fn insert(&mut self, id: Uuid) -> bool {
        if self.ids.contains(&id) {
            return false;
        }
        if self.ids.len() == REMEMBERED {
            self.ids.pop_front();
        }
        self.ids.push_back(id);
        self.newest = self.newest.max(id);
        true
    }

    /// Where the reader is now.
    pub(super) fn cursor(&self) -> Cursor {
        Cursor {
            newest: self.newest,
            fingerprint: Some(fingerprint(self.newest, self.ids.iter().copied())),
        }
    }
}

/// The same for the same set of ids within the window before `newest`, whatever
/// their order.
pub(super) fn fingerprint(newest: Uuid, ids: impl Iterator<Item = Uuid>) -> u64 {
    let start = window_before(newest);
    ids.filter(|id| *id > start && *id <= newest)
        .fold(0, |all, id| {
            // Folded once, as the random half of an id alone would do as well.
            let (high, low) = id.as_u64_pair();
            all ^ low ^ high.rotate_left(17)
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(millis: u64, random: u64) -> Uuid {
        Uuid::from_u128((u128::from(millis) << 80) | u128::from(random) | (7 << 76))
    }

    #[test]
    fn an_id_knows_its_time() {
        let before = floor_of_now(Duration::from_millis(5));
        let made = Uuid::now_v7();
        assert!(before < made && made < floor(millis(made) + 1));
        assert!(window_before(made) < floor_of_now(WINDOW / 2));
    }

    #[test]
    fn a_cursor_changes_with_every_event_of_its_window_and_with_no_older_one() {
        let newest = id(100_000, 1);
        let near = id(100_000 - 1, 2);
        let old = id(100_000 - WINDOW.as_millis() as u64 - 1, 3);
        let cursor = Sent::starting_at(newest, [newest]).cursor();
        assert_eq!(Sent::starting_at(newest, [old, newest]).cursor(), cursor);
        let late = Sent::starting_at(newest, [newest, near]).cursor();
        assert_eq!(late.newest, newest);
        assert_ne!(late.fingerprint, cursor.fingerprint);
        assert_eq!(Sent::starting_at(newest, [near, newest]).cursor(), late);
    }

    #[test]
    fn nothing_is_sent_twice() {
        let mut sent = Sent::default();
        assert!(sent.insert(id(5, 5)));
        assert!(!sent.insert(id(5, 5)));
        for random in 0..2 * REMEMBERED as u64 {
            assert!(sent.insert(id(6, random)));
        }
        assert_eq!(sent.ids.len(), REMEMBERED);
    }

    proptest! {
        #[test]
        fn a_cursor_is_read_as_it_was_written(newest: u128, event: u128, fingerprint: u64) {
            let newest = Uuid::from_u128(newest);
            let cursor = Cursor { newest, fingerprint: Some(fingerprint) };
            for event in [newest, Uuid::from_u128(event)] {
                let text = cursor.with_event(event);
                prop_assert_eq!(Cursor::parse(&text), Some(cursor));
                prop_assert!(text.starts_with(&event.to_string()));
            }
            let alone = Cursor { newest, fingerprint: None };
            prop_assert_eq!(Cursor::parse(&newest.to_string()), Some(alone));
        }

        #[test]
        fn other_text_is_no_cursor(text in "\\PC{0,60}") {
            let event = text.split('.').next().unwrap_or_default();
            prop_assert!(Cursor::parse(&text).is_none() || Uuid::parse_str(event).is_ok());
        }
    }
}
