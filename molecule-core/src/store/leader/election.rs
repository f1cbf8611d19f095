//! What a server does about the row it reads: one pure function.

use tokio::time::Instant;

use super::LEASE;

/// The row as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seat {
    /// Empty when it was given back.
    pub(super) holder: String,
    pub(super) renewals: i64,
}

/// What to try next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// Nobody ever led.
    Create,
    /// This server holds the row already.
    Renew,
    /// The holder is gone, if the row is still as it was read.
    Take(Seat),
    /// Somebody leads, or may.
    Wait,
}

/// Watches the holder.
#[derive(Debug, Default)]
pub(super) struct Rival {
    /// What the row said, and since when it says so.
    seen: Option<(Seat, Instant)>,
}

impl Rival {
    /// Looks at the row as it was read just before `now`.
    pub(super) fn next(&mut self, row: Option<Seat>, me: &str, now: Instant) -> Move {
        let Some(seat) = row else {
            return Move::Create;
        };
        if seat.holder == me {
            return Move::Renew;
        }
        if seat.holder.is_empty() {
            return Move::Take(seat);
        }
        match &self.seen {
            Some((known, since)) if *known == seat => {
                if now.saturating_duration_since(*since) >= LEASE {
                    return Move::Take(seat);
                }
            }
            _ => self.seen = Some((seat, now)),
        }
        Move::Wait
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::MARGIN;
    use super::*;

    fn seat(holder: &str, renewals: i64) -> Seat {
        Seat {
            holder: holder.to_owned(),
            renewals,
        }
    }

    #[test]
    fn the_row_decides_what_is_tried() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut rival = Rival::default();
        let mut next = |row, secs| rival.next(row, "me", at(secs));
        assert_eq!(next(None, 0), Move::Create);
        assert_eq!(next(Some(seat("me", 3)), 0), Move::Renew);
        assert_eq!(next(Some(seat("", 3)), 0), Move::Take(seat("", 3)));
        // One that counts up lives, however long it leads
        for round in 0..100 {
            assert_eq!(
                next(Some(seat("she", round)), round.unsigned_abs() * 11),
                Move::Wait
            );
        }
        // One that stands still is gone after a lease
        assert_eq!(next(Some(seat("she", 99)), 99 * 11 + 11), Move::Wait);
        assert_eq!(
            next(Some(seat("she", 99)), 99 * 11 + 12),
            Move::Take(seat("she", 99))
        );
        // A new holder gets a lease of its own
        assert_eq!(next(Some(seat("he", 100)), 99 * 11 + 13), Move::Wait);
    }

    /// What a server is in the middle of.
    #[derive(Default)]
    enum Doing {
        #[default]
        Nothing,
        /// Its question was answered; the answer is on its way.
        Reading(Option<Seat>),
        /// It decided, and asks for the row.
        Asking(Move, Instant),
    }

    proptest! {
        /// Servers of any slowness on a network of any slowness, which may stop at
        /// any point and go on whenever they like: their leads never overlap.
        #[test]
        fn there_are_never_two_leaders(
            steps in proptest::collection::vec(
                (0..3_usize, prop_oneof![8 => 0..700_u64, 1 => 0..9_000_u64]),
                1..300,
            ),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut row: Option<Seat> = None;
            let mut servers: [(Rival, Doing); 3] = Default::default();
            let mut leads: Vec<(usize, Instant, Instant)> = Vec::new();
            for (server, pause_ms) in steps {
                now += Duration::from_millis(pause_ms);
                let me = server.to_string();
                let (rival, doing) = &mut servers[server];
                *doing = match std::mem::take(doing) {
                    Doing::Nothing => Doing::Reading(row.clone()),
                    Doing::Reading(read) => Doing::Asking(rival.next(read, &me, now), now),
                    Doing::Asking(decided, asked) => {
                        let renewals = row.as_ref().map_or(0, |seat| seat.renewals) + 1;
                        let won = match decided {
                            Move::Wait => false,
                            Move::Create => row.is_none(),
                            Move::Renew => row.as_ref().is_some_and(|seat| seat.holder == me),
                            Move::Take(seat) => row.as_ref() == Some(&seat),
                        };
                        if won {
                            row = Some(seat(&me, renewals));
                            leads.push((server, now, asked + (LEASE - MARGIN)));
                        }
                        Doing::Nothing
                    }
                };
            }
            for (index, (one, _, until)) in leads.iter().enumerate() {
                for (other, from, _) in &leads[index + 1..] {
                    prop_assert!(
                        one == other || from >= until,
                        "{one} leads until {:?}, {other} from {:?}",
                        *until - start, *from - start
                    );
                }
            }
        }
    }
}
