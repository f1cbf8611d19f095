//! Word between the servers of one PostgreSQL database; nothing to do on SQLite,
//! which has one server.
//!
//! Notices wait in a bounded queue, which one task sends with `NOTIFY`, many at
//! once. A connection of its own listens. A notice of any length arrives: a batch
//! is one text, cut into payloads of the length that PostgreSQL takes, and all of
//! them are sent in one transaction, so that they arrive together and in order.
//! Batches are numbered. A listener that misses a number, or its connection, tells
//! its subscribers with a [`Notice::Gap`].

mod inbox;
mod outbox;
mod session;
mod wire;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio::sync::broadcast;
use uuid::Uuid;

use super::Db;
use crate::supervisor::Supervisor;
use outbox::Outbox;
use session::Session;
use wire::Item;

/// Notices that a slow subscriber may fall behind.
const CAPACITY: usize = 4096;
/// The PostgreSQL channel.
const CHANNEL: &str = "molecule";
/// A round of the sending or listening loop lasts this long; the loops report
/// themselves as alive after each.
const ROUND: Duration = Duration::from_secs(10);
/// Between two rounds, and so between two attempts to connect.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest time one batch may take before it is tried again.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// What still waits at shutdown is sent within this time, once at once and once
/// after tasks that end had theirs.
const FAREWELL: Duration = Duration::from_millis(500);

/// What another server drops may have waited there for this long.
const PEER_BACKLOG: Duration = Duration::from_secs(60);

/// Not a declared statement: only PostgreSQL knows it.
const NOTIFY: &str = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload";

/// What a notice is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    /// An event for subscribers.
    Event,
    /// Tokens of a workspace or an organisation were revoked; the payload says whose.
    TokensRevoked,
    /// A workspace's row changed in a way that snapshots must notice; the payload
    /// is its id.
    WorkspaceChanged,
}

impl Topic {
    /// Every topic there is.
    const ALL: [Self; 3] = [Self::Event, Self::TokensRevoked, Self::WorkspaceChanged];
}

/// What another server said.
#[derive(Debug, Clone)]
pub(crate) enum Notice {
    /// Its words.
    Message(String),
    /// The connection was lost meanwhile: anything may have been missed, caches
    /// must be dropped. Also said once when the first connection stands.
    Gap,
}

/// Sends to and hears from the other servers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Relay(Arc<Inner>);

struct Inner {
    /// None on SQLite.
    pool: Option<PgPool>,
    /// Who we are, so that nobody hears himself.
    origin: String,
    outbox: Outbox,
    /// The listening connection between two rounds.
    session: Mutex<Option<Session>>,
    peers: AtomicUsize,
    hearing: Mutex<Hearing>,
    events: broadcast::Sender<Notice>,
    tokens: broadcast::Sender<Notice>,
    workspaces: broadcast::Sender<Notice>,
}

/// When anything was heard, our own words among it.
struct Hearing {
    last: Instant,
    /// Since when words may be missing, until somebody asks.
    gap_since: Option<Instant>,
}

impl Relay {
    pub(crate) fn new(db: &Db) -> Self {
        let pool = match db {
            Db::Sqlite(_) => None,
            Db::Postgres(pool) => Some(pool.clone()),
        };
        Self(Arc::new(Inner {
            pool,
            origin: Uuid::new_v4().simple().to_string(),
            outbox: Outbox::default(),
            session: Mutex::default(),
            peers: AtomicUsize::new(0),
            hearing: Mutex::new(Hearing {
                last: Instant::now(),
                gap_since: None,
            }),
            events: broadcast::Sender::new(CAPACITY),
            tokens: broadcast::Sender::new(CAPACITY),
            workspaces: broadcast::Sender::new(CAPACITY),
        }))
    }

    /// Starts listening and sending.
    pub(crate) fn start(&self, supervisor: &Supervisor) {
        if !self.is_shared() {
            return;
        }
        let this = self.clone();
        supervisor.every("relay-listener", PAUSE, move || {
            let this = this.clone();
            async move { this.listen().await }
        });
        let this = self.clone();
        supervisor.every("relay-sender", PAUSE, move || {
            let this = this.clone();
            async move { this.send_queued().await }
        });
        let (this, stopped) = (self.clone(), supervisor.token());
        supervisor.spawn("relay-farewell", async move {
            stopped.cancelled().await;
            this.0.outbox.put(Item::Bye, true);
            this.send_rest().await;
            tokio::time::sleep(FAREWELL / 2).await;
            this.send_rest().await;
        });
    }

    /// True when other servers may use the same database.
    pub(crate) fn is_shared(&self) -> bool {
        self.0.pool.is_some()
    }

    /// True while another server is there. What is only of interest to those who
    /// watch right now need not be sent otherwise.
    pub(crate) fn has_peers(&self) -> bool {
        self.0.peers.load(Ordering::Relaxed) > 0
    }

    /// Tells the other servers, soon. Never blocks and never fails: what cannot be
    /// sent reaches them as a [`Notice::Gap`].
    pub(crate) fn send(&self, topic: Topic, payload: String) {
        if self.is_shared() {
            self.0.outbox.put(Item::Message(topic, payload), true);
        }
    }

    /// As [`send`](Self::send), but half a second later is soon enough and nobody
    /// needs it while [`has_peers`](Self::has_peers) is false: for what comes often
    /// and matters little, which must not cost a transaction each.
    pub(crate) fn send_lazily(&self, topic: Topic, payload: String) {
        if self.has_peers() {
            self.0.outbox.put(Item::Message(topic, payload), false);
        }
    }

    /// What other servers say about a topic from now on; never one's own words.
    pub(crate) fn subscribe(&self, topic: Topic) -> broadcast::Receiver<Notice> {
        self.topic(topic).subscribe()
    }

    /// Since when words may be missing, as of the last [`Notice::Gap`]s; asking
    /// clears it.
    pub(crate) fn take_gap(&self) -> Option<Instant> {
        self.hearing().gap_since.take()
    }

    fn topic(&self, topic: Topic) -> &broadcast::Sender<Notice> {
        match topic {
            Topic::Event => &self.0.events,
            Topic::TokensRevoked => &self.0.tokens,
            Topic::WorkspaceChanged => &self.0.workspaces,
        }
    }

    /// Sends for one round.
    async fn send_queued(&self) {
        let ends = Instant::now() + ROUND;
        while let Some(left) = ends.checked_duration_since(Instant::now()) {
            let Some(batch) = self.0.outbox.next(&self.0.origin, left).await else {
                return;
            };
            if !self.deliver(&batch).await {
                return;
            }
        }
    }

    /// Sends what is there, as far as it can be done quickly.
    async fn send_rest(&self) {
        let rest = async {
            while let Some(batch) = self.0.outbox.rest(&self.0.origin) {
                if !self.deliver(&batch).await {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(FAREWELL, rest).await;
    }

    /// Sends one batch; false when it has to be tried again. A batch whose fate is
    /// unknown keeps its number, by which listeners know a repetition.
    async fn deliver(&self, batch: &outbox::Batch) -> bool {
        let Some(pool) = &self.0.pool else {
            return false;
        };
        let sending = sqlx::query(NOTIFY)
            .bind(CHANNEL)
            .bind(&batch.payloads)
            .execute(pool);
        let error = match tokio::time::timeout(SEND_TIMEOUT, sending).await {
            Ok(Ok(_)) => {
                self.0.outbox.sent(batch.number);
                return true;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(error, "other servers cannot be told; trying again");
        false
    }

    /// Listens for one round, over the connection of the last one if it lives.
    async fn listen(&self) {
        let kept = self.session().take();
        let mut session = match kept {
            Some(session) => session,
            None => match self.connect().await {
                Some(session) => session,
                None => return,
            },
        };
        let ends = Instant::now() + ROUND;
        while let Some(left) = ends.checked_duration_since(Instant::now()) {
            if session.wants_hello() {
                self.0.outbox.put(Item::Hello, true);
            }
            let Ok(heard) = session.hear(left).await else {
                tracing::warn!("lost the connection that listens to other servers");
                metrics::counter!("molecule_relay_connections_lost_total").increment(1);
                return;
            };
            if heard.greet {
                self.0.outbox.put(Item::Hello, true);
            }
            if heard.lost {
                self.gap_everywhere();
            }
            if heard.any {
                self.hearing().last = Instant::now();
            }
            heard.items.into_iter().for_each(|item| self.hand_on(item));
            self.count_peers(session.peers());
        }
        *self.session() = Some(session);
    }

    async fn connect(&self) -> Option<Session> {
        let pool = self.0.pool.as_ref()?;
        match Session::connect(pool, &self.0.origin).await {
            Ok(session) => {
                tracing::debug!("listening to other servers");
                // Nobody listened until now.
                self.gap_everywhere();
                Some(session)
            }
            Err(error) => {
                tracing::warn!(%error, "cannot listen to other servers; trying again");
                None
            }
        }
    }

    fn hand_on(&self, item: Item) {
        // Nobody has to be interested.
        let _ = match item {
            Item::Message(topic, payload) => self.topic(topic).send(Notice::Message(payload)),
            Item::Gap(topic) => {
                // What the others dropped may have waited with them.
                self.note_gap(PEER_BACKLOG);
                self.topic(topic).send(Notice::Gap)
            }
            Item::Hello | Item::Bye => Ok(0),
        };
    }

    fn gap_everywhere(&self) {
        self.note_gap(Duration::ZERO);
        for topic in Topic::ALL {
            // Nobody has to be interested.
            let _ = self.topic(topic).send(Notice::Gap);
        }
    }

    fn note_gap(&self, ago: Duration) {
        let mut hearing = self.hearing();
        let since = hearing.last.checked_sub(ago).unwrap_or(hearing.last);
        let since = hearing.gap_since.map_or(since, |gap| gap.min(since));
        hearing.gap_since = Some(since);
    }

    fn count_peers(&self, count: usize) {
        if self.0.peers.swap(count, Ordering::Relaxed) != count {
            metrics::gauge!("molecule_relay_peers").set(count as f64);
            tracing::info!(count, "other servers on this database");
        }
    }

    fn hearing(&self) -> std::sync::MutexGuard<'_, Hearing> {
        self.0
            .hearing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self) -> std::sync::MutexGuard<'_, Option<Session>> {
        self.0
            .session
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
