//! Which server runs the loops that must run once.
//!
//! One row of `leases` names the holder, who counts `renewals` up every few
//! seconds. Another server takes over after it watched the count stand still for
//! as long as a lease lasts, by its own monotonic clock. No time of day is ever
//! compared, so a clock that is wrong or jumps on one server makes neither two
//! leaders nor none. A server that was frozen in the middle of its lease can
//! believe in it for the rest of it when it wakes up: what the loops do is guarded
//! by the rows they change, and the lease only keeps them from working twice.
//!
//! A SQLite database has one server, which always leads.

mod election;

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use self::election::{Move, Rival, Seat};
use super::{Db, from_row, statement, with_db};
use crate::supervisor::Supervisor;

/// Name of the row.
const NAME: &str = "loops";
/// How often the holder renews and the others look.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// How long a count may stand still before another server takes over.
const LEASE: Duration = Duration::from_secs(12);
/// The holder stops this much before others may take over.
const MARGIN: Duration = Duration::from_secs(2);
/// One attempt to renew may take this long.
const ATTEMPT: Duration = Duration::from_secs(3);
/// After a failed attempt.
const RETRY: Duration = Duration::from_secs(1);

/// Knows whether this server leads. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Leader(Arc<Inner>);

struct Inner {
    db: Db,
    /// Names this server in the row, for people too.
    me: String,
    /// Until when this server leads for sure.
    until: Mutex<Option<Instant>>,
    /// The same as a yes or no that can be waited for.
    leads: watch::Sender<bool>,
}

impl Leader {
    pub(crate) fn new(db: &Db) -> Self {
        let alone = matches!(db, Db::Sqlite(_));
        Self(Arc::new(Inner {
            db: db.clone(),
            me: name_of_this_server(),
            until: Mutex::default(),
            leads: watch::Sender::new(alone),
        }))
    }

    /// Starts to seek the lead and to keep it; gives it back at shutdown.
    pub(crate) fn start(&self, supervisor: &Supervisor) {
        if self.is_alone() {
            return;
        }
        let this = self.clone();
        supervisor.run("leader", move || {
            let this = this.clone();
            async move { this.seek().await }
        });
        let (this, stopping) = (self.clone(), supervisor.token());
        supervisor.spawn("leader-release", async move {
            stopping.cancelled().await;
            this.give_up();
            // Without it the others only have to wait.
            let _ = tokio::time::timeout(ATTEMPT, release(&this.0.db, &this.0.me)).await;
        });
    }

    /// True while this server leads. From memory: ask at each round of a loop.
    pub(crate) fn is_leader(&self) -> bool {
        self.is_alone() || self.left().is_some()
    }

    /// Calls `work` every `period` while this server leads, first as soon as it
    /// does. A round under way is cancelled when the lead is lost.
    pub(crate) fn every<F, Fut>(
        &self,
        supervisor: &Supervisor,
        name: &'static str,
        period: Duration,
        work: F,
    ) where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send,
    {
        supervisor.every_while(name, period, self.0.leads.subscribe(), work);
    }

    /// Runs `work` while this server leads; it is cancelled when the lead is lost.
    pub(crate) fn run<F, Fut>(&self, supervisor: &Supervisor, name: &'static str, work: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send,
    {
        supervisor.run_while(name, self.0.leads.subscribe(), work);
    }

    fn is_alone(&self) -> bool {
        matches!(self.0.db, Db::Sqlite(_))
    }

    /// How much of the lead is left.
    fn left(&self) -> Option<Duration> {
        let until = *self.0.until.lock().unwrap_or_else(PoisonError::into_inner);
        let left = until?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    async fn seek(&self) {
        let mut rival = Rival::default();
        let mut is_failing = false;
        loop {
            let bound = self.left().map_or(ATTEMPT, |left| left.min(ATTEMPT));
            let attempt = tokio::time::timeout(bound, self.round(&mut rival)).await;
            let failed = !matches!(attempt, Ok(Ok(())));
            // An outage is said once, by whoever leads: the others have no use for it.
            if failed && !is_failing && self.is_leader() {
                tracing::warn!("the lead over the loops could not be renewed; will retry");
            }
            is_failing = failed;
            self.publish();
            let pause = if failed { RETRY } else { RENEW_EVERY };
            tokio::time::sleep(self.left().map_or(pause, |left| left.min(pause))).await;
            self.publish();
        }
    }

    async fn round(&self, rival: &mut Rival) -> sqlx::Result<()> {
        let (db, me) = (&self.0.db, &self.0.me);
        if self.is_leader() {
            let asked = Instant::now();
            if renew(db, me).await? {
                self.lead_from(asked);
                return Ok(());
            }
            // Somebody else holds the row: it took longer than a lease.
            self.give_up();
        }
        let row = read(db).await?;
        // The lead counts from before the question: whoever watches the row sees
        // the answer later than that.
        let asked = Instant::now();
        let won = match rival.next(row, me, asked) {
            Move::Create => create(db, me).await?,
            Move::Renew => renew(db, me).await?,
            Move::Take(seat) => take(db, &seat, me).await?,
            Move::Wait => false,
        };
        if won {
            self.lead_from(asked);
        }
        Ok(())
    }

    fn lead_from(&self, asked: Instant) {
        *self.0.until.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(asked + (LEASE - MARGIN));
    }

    fn give_up(&self) {
        *self.0.until.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.publish();
    }

    /// Tells the loops.
    fn publish(&self) {
        let leads = self.is_leader();
        let changed = self
            .0
            .leads
            .send_if_modified(|told| std::mem::replace(told, leads) != leads);
        match (changed, leads) {
            (true, true) => tracing::info!("this server leads: it runs the loops"),
            (true, false) => tracing::info!("this server does not lead any more"),
            _ => {}
        }
    }
}

/// Tells which machine and process, and is never used again.
fn name_of_this_server() -> String {
    let machine = rustix::system::uname();
    let machine = machine.nodename().to_string_lossy().into_owned();
    let unique = Uuid::new_v4().as_simple().to_string();
    format!("{machine}/{}/{}", std::process::id(), &unique[..8])
}

/// The row, as `doctor` explains it.
pub(crate) struct Held {
    /// Empty when it was given back.
    pub(crate) holder: String,
    /// By the database's clock.
    pub(crate) renewed_at: DateTime<Utc>,
}
from_row!(Held { holder, renewed_at });
from_row!(Seat { holder, renewals });

statement!(
    HELD,
    "SELECT holder, renewed_at FROM leases WHERE name = $1"
);

/// Who leads, if anybody ever did.
pub(crate) async fn held(db: &Db) -> sqlx::Result<Option<Held>> {
    with_db!(db, |pool| sqlx::query_as(HELD)
        .bind(NAME)
        .fetch_optional(pool)
        .await)
}

statement!(READ, "SELECT holder, renewals FROM leases WHERE name = $1");

async fn read(db: &Db) -> sqlx::Result<Option<Seat>> {
    with_db!(db, |pool| sqlx::query_as(READ)
        .bind(NAME)
        .fetch_optional(pool)
        .await)
}

statement!(
    CREATE,
    "INSERT INTO leases (name, holder, renewals, renewed_at) VALUES ($1, $2, 1, CURRENT_TIMESTAMP)
     ON CONFLICT (name) DO NOTHING"
);

async fn create(db: &Db, me: &str) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(CREATE)
        .bind(NAME)
        .bind(me)
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    RENEW,
    "UPDATE leases SET renewals = renewals + 1, renewed_at = CURRENT_TIMESTAMP
     WHERE name = $1 AND holder = $2"
);

async fn renew(db: &Db, me: &str) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(RENEW)
        .bind(NAME)
        .bind(me)
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    TAKE,
    "UPDATE leases SET holder = $4, renewals = renewals + 1, renewed_at = CURRENT_TIMESTAMP
     WHERE name = $1 AND holder = $2 AND renewals = $3"
);

/// For one winner, and only if the holder is as dead as it looked.
async fn take(db: &Db, seat: &Seat, me: &str) -> sqlx::Result<bool> {
    with_db!(db, |pool| sqlx::query(TAKE)
        .bind(NAME)
        .bind(&seat.holder)
        .bind(seat.renewals)
        .bind(me)
        .execute(pool)
        .await
        .map(|done| done.rows_affected() == 1))
}

statement!(
    RELEASE,
    "UPDATE leases SET holder = '', renewals = renewals + 1, renewed_at = CURRENT_TIMESTAMP
     WHERE name = $1 AND holder = $2"
);

async fn release(db: &Db, me: &str) -> sqlx::Result<()> {
    with_db!(db, |pool| sqlx::query(RELEASE)
        .bind(NAME)
        .bind(me)
        .execute(pool)
        .await
        .map(drop))
}
