//! Room for what costs this server something, shared out between workspaces.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use uuid::Uuid;

/// So many at once, and of one workspace fewer, so that nobody takes all of it.
pub(super) struct Room {
    all: Arc<Semaphore>,
    of_one: usize,
    /// Of the workspaces that are inside or want to be.
    shares: Mutex<HashMap<Uuid, Arc<Semaphore>>>,
}

/// A place in it. Given back when dropped.
#[derive(Debug)]
pub(super) struct Held {
    _share: Option<OwnedSemaphorePermit>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Room {
    pub(super) fn new(all: usize, of_one: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            of_one,
            shares: Mutex::default(),
        }
    }

    /// Waits for a place: first behind the others of the same workspace, then behind
    /// everybody.
    pub(super) async fn enter(&self, workspace: Uuid) -> Held {
        // Nobody closes them.
        let share = self.share(workspace).acquire_owned().await.ok();
        let place = Arc::clone(&self.all).acquire_owned().await.ok();
        Held {
            _share: share,
            _place: place,
        }
    }

    fn share(&self, workspace: Uuid) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(&workspace) {
            return Arc::clone(share);
        }
        // Whoever is inside or waits holds one too.
        shares.retain(|_, share| Arc::strong_count(share) > 1);
        let share = Arc::new(Semaphore::new(self.of_one));
        shares.insert(workspace, Arc::clone(&share));
        share
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn one_workspace_does_not_take_all_of_it() {
        let room = Room::new(3, 2);
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let enter = |workspace| room.enter(workspace).now_or_never();
        let held = [enter(one), enter(one)].map(|held| held.expect("a place"));
        assert!(enter(one).is_none());
        let theirs = enter(other).expect("a place");
        assert!(enter(other).is_none(), "all is taken");
        drop(held);
        let _more = [enter(one), enter(other)].map(|held| held.expect("a place"));
        drop(theirs);
    }

    #[test]
    fn who_waits_in_vain_and_who_left_leave_nothing_behind() {
        let room = Room::new(1, 1);
        let held = room.enter(Uuid::from_u128(0)).now_or_never();
        for number in 1..100 {
            assert!(room.enter(Uuid::from_u128(number)).now_or_never().is_none());
        }
        assert!(room.shares.lock().unwrap().len() <= 2);
        drop(held);
        assert!(room.enter(Uuid::from_u128(1)).now_or_never().is_some());
    }
}
