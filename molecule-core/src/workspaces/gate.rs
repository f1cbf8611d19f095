//! One change at a time per workspace: provisions, restarts, pauses, sleeps and
//! deletes of one workspace wait for each other on this server. Other servers are
//! kept apart by the row's lease and status.
//!
//! *Visitors* use a running workspace without changing its row, as who delivers a
//! plugin does. Nothing else happens to the workspace meanwhile, but they are asked to
//! leave when somebody waits who changes it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Above so many entries the unused ones are dropped.
const TIDY_ABOVE: usize = 256;
/// A visitor may stay so long while a change waits that can.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// The same for one that cannot: what is visited is about to end.
const HASTE: Duration = Duration::from_millis(50);

/// The right to change a workspace, until dropped.
pub(super) type Pass = OwnedMutexGuard<()>;

type Door = Arc<AsyncMutex<()>>;

/// Hands out passes in the order they were asked for. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct SerialGate(Arc<Inner>);

#[derive(Default)]
struct Inner {
    doors: Mutex<HashMap<Uuid, Door>>,
    /// Who is inside as a visitor; fires when they should leave.
    visitors: Mutex<HashMap<Uuid, CancellationToken>>,
}

/// The right to use a workspace while nothing else happens to it, until dropped.
pub(crate) struct Turn {
    id: Uuid,
    gate: SerialGate,
    _pass: Pass,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.gate.visitors().remove(&self.id);
    }
}

impl SerialGate {
    /// Waits for its turn. A visitor who takes long is asked to leave.
    pub(super) async fn enter(&self, id: Uuid) -> Pass {
        self.enter_after(id, PATIENCE).await
    }

    /// The same for who ends the compute: visitors are asked to leave at once.
    pub(super) async fn enter_to_end(&self, id: Uuid) -> Pass {
        self.interrupt(id);
        self.enter_after(id, HASTE).await
    }

    async fn enter_after(&self, id: Uuid, patience: Duration) -> Pass {
        let entering = self.door(id).lock_owned();
        tokio::pin!(entering);
        loop {
            match tokio::time::timeout(patience, &mut entering).await {
                Ok(pass) => return pass,
                // Another visitor may have been ahead.
                Err(_) => self.interrupt(id),
            }
        }
    }

    /// Waits for its turn as a visitor, who leaves soon after `leave` fires.
    pub(super) async fn visit(&self, id: Uuid, leave: &CancellationToken) -> Turn {
        let pass = self.door(id).lock_owned().await;
        self.visitors().insert(id, leave.clone());
        Turn {
            id,
            gate: self.clone(),
            _pass: pass,
        }
    }

    /// Enters if nobody is inside or waits.
    pub(super) fn try_enter(&self, id: Uuid) -> Option<Pass> {
        self.door(id).try_lock_owned().ok()
    }

    fn interrupt(&self, id: Uuid) {
        if let Some(leave) = self.visitors().get(&id) {
            leave.cancel();
        }
    }

    fn visitors(&self) -> MutexGuard<'_, HashMap<Uuid, CancellationToken>> {
        let visitors = self.0.visitors.lock();
        visitors.unwrap_or_else(PoisonError::into_inner)
    }

    fn door(&self, id: Uuid) -> Door {
        let mut doors = self.0.doors.lock().unwrap_or_else(PoisonError::into_inner);
        if doors.len() > TIDY_ABOVE {
            doors.retain(|_, door| Arc::strong_count(door) > 1);
        }
        Arc::clone(doors.entry(id).or_default())
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
        assert!(gate.0.doors.lock().unwrap().len() <= TIDY_ABOVE + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn visitors_are_asked_to_leave_at_once_or_after_a_while() {
        let gate = SerialGate::default();
        let id = Uuid::new_v4();
        for to_end in [true, false] {
            let leave = CancellationToken::new();
            let turn = gate.visit(id, &leave).await;
            let began = tokio::time::Instant::now();
            let entering = tokio::spawn({
                let gate = gate.clone();
                async move {
                    match to_end {
                        true => gate.enter_to_end(id).await,
                        false => gate.enter(id).await,
                    }
                }
            });
            leave.cancelled().await;
            assert_eq!(began.elapsed() >= PATIENCE, !to_end);
            assert!(!entering.is_finished(), "only the visitor ends the visit");
            drop(turn);
            drop(entering.await.unwrap());
        }
        assert!(gate.visitors().is_empty());
        assert!(gate.try_enter(id).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn every_visitor_ahead_is_asked_to_leave() {
        let gate = SerialGate::default();
        let id = Uuid::new_v4();
        let visitors: Vec<_> = (0..3)
            .map(|_| {
                let gate = gate.clone();
                tokio::spawn(async move {
                    let leave = CancellationToken::new();
                    let _turn = gate.visit(id, &leave).await;
                    leave.cancelled().await;
                })
            })
            .collect();
        tokio::task::yield_now().await;
        drop(gate.enter_to_end(id).await);
        for visitor in visitors {
            visitor.await.unwrap();
        }
    }
}
