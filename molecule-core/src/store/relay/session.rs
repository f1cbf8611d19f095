//! One listening connection, from its start to its loss.

use std::time::{Duration, Instant};

use sqlx::PgPool;
use sqlx::postgres::{PgListener, PgPoolOptions};

use super::CHANNEL;
use super::inbox::{Heard, Inbox};

/// A server says that it is there this often, and hears itself say so.
const HELLO_EVERY: Duration = Duration::from_secs(15);
/// A connection over which not even our own words come back is dead, even if
/// nobody said so. Also what a pooling proxy that cannot `LISTEN` looks like.
const SILENCE: Duration = Duration::from_secs(50);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Session {
    listener: PgListener,
    inbox: Inbox,
    heard_at: Instant,
    hello_at: Option<Instant>,
}

/// The connection is gone.
pub(super) struct Lost;

impl Session {
    /// Connects and listens. The connection is not one of the pool's, so that a
    /// busy pool cannot hold it up, nor it the pool.
    pub(super) async fn connect(pool: &PgPool, origin: &str) -> sqlx::Result<Self> {
        let options = (*pool.connect_options()).clone();
        let own = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .acquire_timeout(CONNECT_TIMEOUT)
            .connect_lazy_with(options.application_name("molecule-relay"));
        let mut listener = PgListener::connect_with(&own).await?;
        // A lost connection is our business: it means that words were missed.
        listener.eager_reconnect(false);
        listener.ignore_pool_close_event(true);
        let listening = listener.listen(CHANNEL);
        tokio::time::timeout(CONNECT_TIMEOUT, listening)
            .await
            .map_err(|_| sqlx::Error::PoolTimedOut)??;
        Ok(Self {
            listener,
            inbox: Inbox::new(origin),
            heard_at: Instant::now(),
            hello_at: None,
        })
    }

    /// True when it is time to say that we are there.
    pub(super) fn wants_hello(&mut self) -> bool {
        let wants = self.hello_at.is_none_or(|at| at.elapsed() >= HELLO_EVERY);
        if wants {
            self.hello_at = Some(Instant::now());
        }
        wants
    }

    /// What comes within `patience`; possibly nothing.
    pub(super) async fn hear(&mut self, patience: Duration) -> Result<Heard, Lost> {
        // Waiting may be cut short: a half-read message stays in its buffer.
        let waiting = tokio::time::timeout(patience.min(HELLO_EVERY), self.listener.try_recv());
        match waiting.await {
            Ok(Ok(Some(notification))) => {
                self.heard_at = Instant::now();
                let mut heard = self.inbox.take(notification.payload(), self.heard_at);
                heard.any = true;
                Ok(heard)
            }
            Ok(Ok(None) | Err(_)) => Err(Lost),
            Err(_) if self.heard_at.elapsed() > SILENCE => Err(Lost),
            Err(_) => Ok(Heard::default()),
        }
    }

    /// Servers that are there besides us.
    pub(super) fn peers(&mut self) -> usize {
        self.inbox.peers(Instant::now())
    }
}
