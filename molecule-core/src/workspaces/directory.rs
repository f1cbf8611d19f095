//! Hot facts of workspaces, in memory: what a heartbeat must know of its row.
//!
//! Entries are dropped by the same code that changes the row. With PostgreSQL
//! another server may change it too, so entries also age there; every decision
//! taken on them is a guarded UPDATE, which a stale fact cannot mislead.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::model::Status;
use super::store;
use crate::store::Db;

/// Age at which another server's change must have been noticed.
const SHARED_TTL: Duration = Duration::from_secs(5);

/// Status by workspace. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Directory {
    db: Db,
    ttl: Option<Duration>,
    entries: Arc<RwLock<HashMap<Uuid, (Status, Instant)>>>,
    /// Counts changes, so that a read that began before one does not fill the
    /// directory after it.
    changes: Arc<AtomicU64>,
}

impl Directory {
    pub(crate) fn new(db: Db) -> Self {
        let ttl = match db {
            Db::Sqlite(_) => None,
            Db::Postgres(_) => Some(SHARED_TTL),
        };
        Self {
            db,
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
        let read_at = Instant::now();
        let changes = self.changes.load(Ordering::Acquire);
        let status = store::status(&self.db, id)
            .await?
            .map(|name| Status::parse(&name));
        match status {
            None | Some(Status::Removed) => {
                self.forget(id);
                Ok(None)
            }
            Some(status) => {
                let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
                if self.changes.load(Ordering::Acquire) == changes {
                    entries.insert(id, (status, read_at));
                }
                Ok(Some(status))
            }
        }
    }

    /// Call after every change of a row's status.
    pub(crate) fn forget(&self, id: Uuid) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        self.changes.fetch_add(1, Ordering::AcqRel);
        entries.remove(&id);
    }
}
