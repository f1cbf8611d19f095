//! Word between the servers of one PostgreSQL database; nothing to do on SQLite,
//! which has one server.

use tokio::sync::broadcast;

use super::Db;
use crate::supervisor::Supervisor;

/// Notices that a slow subscriber may fall behind.
const CAPACITY: usize = 4096;

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

/// What another server said.
#[derive(Debug, Clone)]
pub(crate) enum Notice {
    /// Its words.
    Message(String),
    /// The connection was lost meanwhile: anything may have been missed, caches
    /// must be dropped.
    Gap,
}

/// Sends to and hears from the other servers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Relay {
    events: broadcast::Sender<Notice>,
    tokens: broadcast::Sender<Notice>,
    workspaces: broadcast::Sender<Notice>,
}

impl Relay {
    pub(crate) fn new(_db: &Db) -> Self {
        Self {
            events: broadcast::Sender::new(CAPACITY),
            tokens: broadcast::Sender::new(CAPACITY),
            workspaces: broadcast::Sender::new(CAPACITY),
        }
    }

    /// Starts listening and sending.
    pub(crate) fn start(&self, _supervisor: &Supervisor) {}

    /// Tells the other servers, soon. Never blocks and never fails: what cannot be
    /// sent reaches them as a [`Notice::Gap`].
    pub(crate) fn send(&self, _topic: Topic, _payload: String) {}

    /// What other servers say about a topic from now on; never one's own words.
    pub(crate) fn subscribe(&self, topic: Topic) -> broadcast::Receiver<Notice> {
        match topic {
            Topic::Event => self.events.subscribe(),
            Topic::TokensRevoked => self.tokens.subscribe(),
            Topic::WorkspaceChanged => self.workspaces.subscribe(),
        }
    }
}
