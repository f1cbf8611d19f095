//! One change at a time per workspace: provisions, restarts, pauses, sleeps and
//! deletes of one workspace wait for each other on this server. Other servers are
//! kept apart by the row's lease and status.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use uuid::Uuid;

/// Above so many entries the unused ones are dropped.
const TIDY_ABOVE: usize = 256;

/// The right to change a workspace, until dropped.
pub(super) type Pass = OwnedMutexGuard<()>;

/// Hands out passes in the order they were asked for. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct SerialGate(Arc<Mutex<HashMap<Uuid, Arc<AsyncMutex<()>>>>>);

impl SerialGate {
    /// Waits for its turn.
    pub(super) async fn enter(&self, id: Uuid) -> Pass {
        self.door(id).lock_owned().await
    }

    /// Enters if nobody is inside or waits.
    pub(super) fn try_enter(&self, id: Uuid) -> Option<Pass> {
        self.door(id).try_lock_owned().ok()
    }

    fn door(&self, id: Uuid) -> Arc<AsyncMutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if locks.len() > TIDY_ABOVE {
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        Arc::clone(locks.entry(id).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_workspace_waits_and_another_does_not() {
        let gate = SerialGate::default();
        let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
        let pass = gate.enter(one).await;
        gate.enter(other).await;
        assert!(gate.try_enter(one).is_none());
        assert!(gate.try_enter(other).is_some());
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { drop(gate.enter(one).await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(pass);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn what_nobody_uses_is_dropped() {
        let gate = SerialGate::default();
        for _ in 0..2 * TIDY_ABOVE {
            gate.enter(Uuid::new_v4()).await;
        }
        assert!(gate.0.lock().unwrap().len() <= TIDY_ABOVE + 1);
    }
}
