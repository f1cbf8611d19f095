//! Agents that fell silent: the age of the last heartbeat in the database is the
//! truth, as far as this server could have heard one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::StreamExt;
use tokio::time::Instant;
use uuid::Uuid;

use super::store::{self, Heard};
use super::{ACT_AT_ONCE, PAGE, Sweeps};
use crate::store::timestamp;
use crate::workspaces::Absence;

/// A wall clock that gains this much on the monotonic one between two rounds was
/// set, or the machine slept. A heartbeat this far in the future was stamped
/// before a clock was set back.
const JUMP: TimeDelta = TimeDelta::seconds(10);

/// For how long this server could have heard from agents, without a gap: silence
/// is told only about time in which somebody listened. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Attention(Arc<Mutex<Listening>>);

#[derive(Default)]
struct Listening {
    last_round: Option<(DateTime<Utc>, Instant)>,
    /// Time spent listening since the start of the process; never falls.
    total: TimeDelta,
    /// The part of it since the last gap.
    unbroken: TimeDelta,
    /// Heartbeats from the future, and the total when each was first seen. They
    /// have no age, so how long they stay the last ones must do.
    ahead: HashMap<Uuid, (DateTime<Utc>, TimeDelta)>,
}

impl Listening {
    /// A round in which the database answered. True when there was no gap before
    /// it.
    fn round(&mut self, now: DateTime<Utc>, at: Instant) -> bool {
        let Some((was, since)) = self.last_round.replace((now, at)) else {
            return true;
        };
        let passed = now - was;
        let waited = TimeDelta::from_std(at - since).unwrap_or(TimeDelta::MAX);
        if passed.checked_sub(&waited).is_none_or(|gain| gain > JUMP) {
            self.unbroken = TimeDelta::zero();
            return false;
        }
        // A clock that was set back takes nothing away.
        let passed = passed.max(TimeDelta::zero());
        self.total += passed;
        self.unbroken += passed;
        true
    }

    /// Heartbeats could not be stored.
    fn interrupt(&mut self) {
        self.last_round = None;
        self.unbroken = TimeDelta::zero();
    }

    /// Those of `rows` that were silent for `limit`, or none at all when nobody
    /// listened for that long.
    fn stale(&mut self, mut rows: Vec<Heard>, now: DateTime<Utc>, limit: TimeDelta) -> Vec<Heard> {
        let listened = self.unbroken >= limit;
        rows.retain(|row| row.heard_at <= now || self.is_stale_ahead(row, limit));
        match listened {
            true => rows,
            false => Vec::new(),
        }
    }

    /// True when a heartbeat from the future stays the last one for `limit`.
    fn is_stale_ahead(&mut self, row: &Heard, limit: TimeDelta) -> bool {
        let total = self.total;
        let known = self.ahead.entry(row.id).or_insert((row.heard_at, total));
        if known.0 != row.heard_at {
            *known = (row.heard_at, total);
        }
        total - known.1 >= limit
    }
}

impl Attention {
    fn lock(&self) -> MutexGuard<'_, Listening> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sweeps {
    /// One round: takes offline who was silent for longer than allowed.
    pub(super) async fn sweep_silent(&self) {
        let services = &self.services;
        let answered = services.db.ping().await;
        if answered.is_err() || services.presence.is_stuck() {
            return self.attention.lock().interrupt();
        }
        let now = timestamp(&services.clock);
        if !self.attention.lock().round(now, Instant::now()) {
            tracing::warn!("the clock jumped or this machine slept: silence counts from now on");
        }
        if !services.leader.is_leader() {
            return;
        }
        let config = &services.config.workspaces;
        let mut ahead = Vec::new();
        for (external, secs) in [
            (false, config.liveness_timeout_secs),
            (true, config.remote_stale_after_secs),
        ] {
            let limit = TimeDelta::seconds(i64::try_from(secs).unwrap_or(i64::from(u32::MAX)));
            if let Err(error) = self.sweep_silent_of(external, now, limit, &mut ahead).await {
                tracing::warn!(%error, "silent workspaces could not be listed");
                return self.attention.lock().interrupt();
            }
        }
        (self.attention.lock().ahead).retain(|id, _| ahead.contains(id));
    }

    async fn sweep_silent_of(
        &self,
        external: bool,
        now: DateTime<Utc>,
        limit: TimeDelta,
        ahead: &mut Vec<Uuid>,
    ) -> sqlx::Result<()> {
        let services = &self.services;
        let (before, future) = (now - limit, now + JUMP);
        let mut after = Uuid::nil();
        loop {
            let rows = store::silent(&services.db, external, before, future, after, PAGE).await?;
            let Some(last) = rows.last() else {
                return Ok(());
            };
            after = last.id;
            let is_last_page = rows.len() < PAGE as usize;
            ahead.extend(
                rows.iter()
                    .filter(|row| row.heard_at > now)
                    .map(|row| row.id),
            );
            let stale = self.attention.lock().stale(rows, now, limit);
            futures_util::stream::iter(stale)
                .for_each_concurrent(ACT_AT_ONCE, |row| self.end_silence(row))
                .await;
            if is_last_page {
                return Ok(());
            }
        }
    }

    /// Looks again, because a heartbeat may have come in, and acts.
    async fn end_silence(&self, row: Heard) {
        let services = &self.services;
        if services.presence.may_hold_heartbeat_of(row.id) {
            return;
        }
        match store::is_still_silent(&services.db, &row).await {
            Ok(true) => self.take_offline(row.id, Absence::Silent).await,
            Ok(false) => {}
            Err(error) => tracing::warn!(workspace.id = %row.id, %error, "silence not confirmed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ROUND: TimeDelta = TimeDelta::seconds(15);

    /// Both clocks of a machine, and what it made of them.
    struct Machine {
        listening: Listening,
        wall: DateTime<Utc>,
        monotonic: Instant,
    }

    impl Machine {
        fn new() -> Self {
            let mut machine = Self {
                listening: Listening::default(),
                wall: DateTime::from_timestamp(1_767_225_600, 0).unwrap(),
                monotonic: Instant::now(),
            };
            machine.round(0, 0);
            machine
        }

        fn round(&mut self, wall_secs: i64, monotonic_secs: u64) -> bool {
            self.wall += TimeDelta::seconds(wall_secs);
            self.monotonic += Duration::from_secs(monotonic_secs);
            self.listening.round(self.wall, self.monotonic)
        }

        fn unbroken(&self) -> i64 {
            self.listening.unbroken.num_seconds()
        }
    }

    #[test]
    fn listening_adds_up_until_a_gap() {
        let mut machine = Machine::new();
        assert_eq!(machine.unbroken(), 0, "a start is a gap");
        for _ in 0..4 {
            assert!(machine.round(15, 15));
        }
        assert_eq!(machine.unbroken(), 60);
        // A slow round is no gap: the server ran.
        assert!(machine.round(40, 40));
        assert_eq!(machine.unbroken(), 100);
        // Sleep: the monotonic clock stood still.
        assert!(!machine.round(300, 15));
        assert_eq!(machine.unbroken(), 0);
        // The clock was set forward by an hour.
        assert!(machine.round(15, 15));
        assert!(!machine.round(3615, 15));
        assert_eq!(machine.unbroken(), 0);
        // Set back: nothing is lost and nothing is gained.
        assert!(machine.round(15, 15));
        assert!(machine.round(-3585, 15));
        assert_eq!(machine.unbroken(), 15);
        // The database was away.
        machine.listening.interrupt();
        assert!(machine.round(200, 200), "nobody listened, nobody jumped");
        assert_eq!(machine.unbroken(), 0);
        assert_eq!(machine.listening.total.num_seconds(), 130);
    }

    #[test]
    fn a_heartbeat_from_the_future_ages_by_standing_still() {
        let mut machine = Machine::new();
        let mut row = Heard {
            id: Uuid::new_v4(),
            heard_at: machine.wall + TimeDelta::hours(1),
        };
        let limit = ROUND * 3;
        let stale = |machine: &mut Machine, row: &Heard| {
            machine.round(15, 15);
            machine.listening.is_stale_ahead(row, limit)
        };
        for _ in 0..3 {
            assert!(!stale(&mut machine, &row));
        }
        // The agent lives after all
        row.heard_at += ROUND;
        for _ in 0..3 {
            assert!(!stale(&mut machine, &row));
        }
        assert!(stale(&mut machine, &row));
    }
}
