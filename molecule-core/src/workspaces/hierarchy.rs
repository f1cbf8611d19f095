//! Who is whose parent, in memory: who may talk to whom is asked for every event
//! and every client, and must not cost a query.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{changes, store};
use crate::events::{Reach, Visibility};
use crate::store::{Db, Relay};

/// Age at which the tree is read again, for the day when a notice of another
/// server is lost.
const SHARED_TTL: Duration = Duration::from_secs(60);
/// Longest chain of parents that is walked: the parent and 32 steps more.
const MAX_DEPTH: usize = 33;

/// Every workspace that was not removed, with its parent.
pub(crate) struct Tree {
    parents: HashMap<Uuid, Option<Uuid>>,
}

impl Tree {
    /// The communication rule of the contract (§3.8): the same workspace, siblings
    /// (roots are siblings), or one above the other. Unknown and removed
    /// workspaces talk to nobody but, by name, themselves.
    pub(crate) fn can_communicate(&self, caller: Uuid, target: Uuid) -> bool {
        if caller == target {
            return true;
        }
        let (Some(above_caller), Some(above_target)) =
            (self.parents.get(&caller), self.parents.get(&target))
        else {
            return false;
        };
        above_caller == above_target
            || self.is_above(caller, target)
            || self.is_above(target, caller)
    }

    /// True when `upper` is an ancestor of `lower`. Ends on a cycle.
    pub(crate) fn is_above(&self, upper: Uuid, lower: Uuid) -> bool {
        self.ancestors(lower).any(|id| id == upper)
    }

    /// The parents of a workspace, nearest first. On a cycle they repeat until the
    /// longest chain is walked.
    pub(crate) fn ancestors(&self, id: Uuid) -> impl Iterator<Item = Uuid> {
        let mut at = id;
        std::iter::from_fn(move || {
            at = (*self.parents.get(&at)?)?;
            Some(at)
        })
        .take(MAX_DEPTH)
    }

    /// The workspace at the top of the hierarchy that a workspace is in, itself if it
    /// is on top. None when it is unknown, or its parents lead nowhere.
    pub(crate) fn root(&self, id: Uuid) -> Option<Uuid> {
        let mut at = id;
        // Longer than this is a circle.
        for _ in 0..self.parents.len() {
            match self.parents.get(&at)? {
                Some(parent) => at = *parent,
                None => return Some(at),
            }
        }
        None
    }

    /// True when there is such a workspace.
    pub(crate) fn contains(&self, id: Uuid) -> bool {
        self.parents.contains_key(&id)
    }
}

/// The tree, reloaded after a change. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Hierarchy {
    db: Db,
    relay: Relay,
    ttl: Option<Duration>,
    current: Arc<RwLock<Option<Loaded>>>,
    changes: Arc<AtomicU64>,
    /// One reads, the others wait for what it read.
    turn: Arc<Semaphore>,
}

struct Loaded {
    tree: Arc<Tree>,
    changes: u64,
    at: Instant,
}

impl Hierarchy {
    pub(crate) fn new(db: Db, relay: Relay) -> Self {
        let ttl = match db {
            Db::Sqlite(_) => None,
            Db::Postgres(_) => Some(SHARED_TTL),
        };
        Self {
            db,
            relay,
            ttl,
            current: Arc::default(),
            changes: Arc::default(),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// The tree as of the last change; one query after each, however many ask.
    pub(crate) async fn tree(&self) -> sqlx::Result<Arc<Tree>> {
        match self.loaded() {
            Some(tree) => Ok(tree),
            // Boxed, so that callers whose answer is here do not pay for the memory
            // of a query.
            None => Box::pin(self.load()).await,
        }
    }

    /// The tree in memory, if nothing changed since it was read.
    fn loaded(&self) -> Option<Arc<Tree>> {
        let changes = self.changes.load(Ordering::Acquire);
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let loaded = current.as_ref().filter(|loaded| {
            loaded.changes == changes && self.ttl.is_none_or(|ttl| loaded.at.elapsed() < ttl)
        });
        loaded.map(|loaded| Arc::clone(&loaded.tree))
    }

    async fn load(&self) -> sqlx::Result<Arc<Tree>> {
        // Never closed; without a permit everybody would read, no worse.
        let _turn = self.turn.acquire().await.ok();
        if let Some(tree) = self.loaded() {
            return Ok(tree);
        }
        let changes = self.changes.load(Ordering::Acquire);
        let at = Instant::now();
        let parents = store::parents(&self.db).await?;
        metrics::counter!("molecule_hierarchy_loads_total").increment(1);
        let tree = Arc::new(Tree {
            parents: parents
                .into_iter()
                .map(|row| (row.id, row.parent_id))
                .collect(),
        });
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Some(Loaded {
            tree: Arc::clone(&tree),
            changes,
            at,
        });
        Ok(tree)
    }

    /// Call after every change of a parent, and after creating or removing. Other
    /// servers forget too.
    pub(crate) fn forget(&self) {
        self.forget_here();
        changes::tree_changed(&self.relay);
    }

    /// Forgets the tree here.
    pub(super) fn forget_here(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }
}

#[async_trait::async_trait]
impl Reach for Hierarchy {
    async fn snapshot(&self) -> sqlx::Result<Arc<dyn Visibility>> {
        Ok(self.tree().await?)
    }

    fn changed(&self) {
        // Another server said so: no need to say it again.
        self.forget_here();
    }
}

impl Visibility for Tree {
    fn knows(&self, workspace: Uuid) -> bool {
        self.contains(workspace)
    }

    fn may_communicate(&self, client: Uuid, subject: Uuid) -> bool {
        self.can_communicate(client, subject)
    }
}
#[cfg(test)]
#[path = "hierarchy_tests.rs"]
mod tests;
