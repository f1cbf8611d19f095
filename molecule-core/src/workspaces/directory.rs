//! Hot facts of workspaces, in memory: what a heartbeat must know of its row.
//!
//! Entries are dropped by the same code that changes the row, on every server:
//! [`Directory::forget`] tells the others. With PostgreSQL entries also age, for
//! the day when a notice is lost; writing an agent's report renews its entry, so
//! that a steady heartbeat costs no query. Every decision taken on an entry is a
//! guarded UPDATE, which a stale fact cannot mislead.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::model::Status;
use super::{changes, store};
use crate::store::{Db, Relay};

/// Age at which an entry is read again. Agents report every 30 seconds.
const SHARED_TTL: Duration = Duration::from_secs(60);

/// Status by workspace. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Directory {
    db: Db,
    relay: Relay,
    ttl: Option<Duration>,
    entries: Arc<RwLock<HashMap<Uuid, (Status, Instant)>>>,
    /// Counts changes, so that a read that began before one does not fill the
    /// directory after it.
    changes: Arc<AtomicU64>,
}

/// A moment before a read; see [`Directory::confirm`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Before {
    changes: u64,
    at: Instant,
}

impl Directory {
    pub(crate) fn new(db: Db, relay: Relay) -> Self {
        let ttl = match db {
            Db::Sqlite(_) => None,
            Db::Postgres(_) => Some(SHARED_TTL),
        };
        Self {
            db,
            relay,
            ttl,
            entries: Arc::default(),
            changes: Arc::default(),
        }
    }

    /// The status of a workspace; none when there is no row or it was removed.
    pub(crate) async fn status(&self, id: Uuid) -> sqlx::Result<Option<Status>> {
        let cached = self
            .entries
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .copied();
        if let Some((status, read_at)) = cached
            && self.ttl.is_none_or(|ttl| read_at.elapsed() < ttl)
        {
            return Ok(Some(status));
        }
        // Boxed, so that callers whose answer is here do not pay for the memory of a
        // query.
        Box::pin(self.read(id)).await
    }

    async fn read(&self, id: Uuid) -> sqlx::Result<Option<Status>> {
        let before = self.before();
        let status = store::status(&self.db, id)
            .await?
            .map(|name| Status::parse(&name));
        match status {
            None | Some(Status::Removed) => {
                self.forget_here(id);
                Ok(None)
            }
            Some(status) => {
                self.confirm(before, [(id, status)]);
                Ok(Some(status))
            }
        }
    }

    /// Call before reading what [`confirm`](Self::confirm) is told.
    pub(crate) fn before(&self) -> Before {
        Before {
            changes: self.changes.load(Ordering::Acquire),
            at: Instant::now(),
        }
    }

    /// Takes in statuses that somebody read anyway, unless one changed since.
    pub(crate) fn confirm(&self, before: Before, read: impl IntoIterator<Item = (Uuid, Status)>) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if self.changes.load(Ordering::Acquire) != before.changes {
            return;
        }
        for (id, status) in read {
            match status {
                Status::Removed => drop(entries.remove(&id)),
                status => drop(entries.insert(id, (status, before.at))),
            }
        }
    }

    /// Call after every change of a row's status. Other servers forget too.
    pub(crate) fn forget(&self, id: Uuid) {
        self.forget_here(id);
        changes::status_changed(&self.relay, id);
    }

    /// Forgets a workspace here.
    pub(super) fn forget_here(&self, id: Uuid) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        self.changes.fetch_add(1, Ordering::AcqRel);
        entries.remove(&id);
    }

    /// Forgets everything here: there is no knowing what changed.
    pub(super) fn forget_all_here(&self) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        self.changes.fetch_add(1, Ordering::AcqRel);
        entries.clear();
    }
}

/// Memory of one entry, for the test that adds the snapshots up.
#[cfg(test)]
pub(super) const BYTES_PER_ENTRY: usize = size_of::<(Uuid, (Status, Instant))>();
