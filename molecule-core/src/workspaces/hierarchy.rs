//! Who is whose parent, in memory: who may talk to whom is asked for every event
//! and every client, and must not cost a query.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::store;
use crate::events::{Reach, Visibility};
use crate::store::Db;

/// Age at which another server's change must have been noticed.
const SHARED_TTL: Duration = Duration::from_secs(5);
/// Longest chain of parents that is walked.
const MAX_DEPTH: usize = 32;

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

    /// The parents of a workspace, nearest first.
    pub(crate) fn ancestors(&self, id: Uuid) -> impl Iterator<Item = Uuid> {
        let mut at = id;
        std::iter::from_fn(move || {
            at = (*self.parents.get(&at)?)?;
            Some(at)
        })
        .take(MAX_DEPTH)
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
    ttl: Option<Duration>,
    current: Arc<RwLock<Option<Loaded>>>,
    changes: Arc<AtomicU64>,
}

struct Loaded {
    tree: Arc<Tree>,
    changes: u64,
    at: Instant,
}

impl Hierarchy {
    pub(crate) fn new(db: Db) -> Self {
        let ttl = match db {
            Db::Sqlite(_) => None,
            Db::Postgres(_) => Some(SHARED_TTL),
        };
        Self {
            db,
            ttl,
            current: Arc::default(),
            changes: Arc::default(),
        }
    }

    /// The tree as of the last change; one query after each.
    pub(crate) async fn tree(&self) -> sqlx::Result<Arc<Tree>> {
        let changes = self.changes.load(Ordering::Acquire);
        if let Some(loaded) = &*self.current.read().unwrap_or_else(PoisonError::into_inner)
            && loaded.changes == changes
            && self.ttl.is_none_or(|ttl| loaded.at.elapsed() < ttl)
        {
            return Ok(Arc::clone(&loaded.tree));
        }
        let at = Instant::now();
        let parents = store::parents(&self.db).await?;
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

    /// Call after every change of a parent, and after creating or removing.
    pub(crate) fn forget(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }
}

#[async_trait::async_trait]
impl Reach for Hierarchy {
    async fn snapshot(&self) -> sqlx::Result<Arc<dyn Visibility>> {
        Ok(self.tree().await?)
    }

    fn changed(&self) {
        self.forget();
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
