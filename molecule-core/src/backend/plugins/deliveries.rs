//! Which changes of plugins are under way, and the names that tell them apart.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};
use uuid::Uuid;

/// What is older and belongs to nobody is deleted.
const MAX_AGE: TimeDelta = TimeDelta::minutes(15);
/// Seconds, without anything that a shell or a file system reads otherwise.
const STAMP: &str = "%Y%m%dT%H%M%SZ";
const STAMP_BYTES: usize = "20260131T235959Z".len();

/// The changes that this server makes to the plugins of its workspaces.
#[derive(Debug, Default)]
pub(in crate::backend) struct Deliveries(Mutex<HashMap<Uuid, Weak<Workspace>>>);

#[derive(Debug, Default)]
struct Workspace {
    turn: Arc<Turn<()>>,
    /// `<stamp>-<8 hex>` of each.
    under_way: Mutex<BTreeSet<String>>,
}

impl Deliveries {
    /// A change that begins now.
    pub(in crate::backend) fn begin(&self, workspace: Uuid) -> UnderWay {
        let workspace = self.of(workspace);
        let mark = Uuid::new_v4().as_fields().0;
        let suffix = format!(".{}-{mark:08x}", stamp(Utc::now()));
        let mut under_way = lock(&workspace.under_way);
        under_way.insert(suffix[1..].to_owned());
        drop(under_way);
        UnderWay { workspace, suffix }
    }

    fn of(&self, id: Uuid) -> Arc<Workspace> {
        let mut all = lock(&self.0);
        if let Some(found) = all.get(&id).and_then(Weak::upgrade) {
            return found;
        }
        all.retain(|_, workspace| workspace.strong_count() > 0);
        let new = Arc::default();
        all.insert(id, Arc::downgrade(&new));
        new
    }
}

/// A change that is under way. Dropping it ends it.
#[derive(Debug)]
pub(in crate::backend) struct UnderWay {
    workspace: Arc<Workspace>,
    suffix: String,
}

impl UnderWay {
    /// `.<stamp>-<8 hex>`: added to the name of whatever this change makes.
    pub(in crate::backend) fn suffix(&self) -> &str {
        &self.suffix
    }

    /// Waits until no other change swaps anything in this workspace. Files may be
    /// brought side by side; what is done with them takes turns, because the way
    /// without an exchange in one step needs it.
    pub(in crate::backend) async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.workspace.turn).lock_owned().await
    }

    /// The stamp before which nothing belongs to anybody: a quarter of an hour ago, or
    /// when the oldest change began that is still under way.
    pub(in crate::backend) fn cutoff(&self) -> String {
        let old = stamp(Utc::now() - MAX_AGE);
        match lock(&self.workspace.under_way).first() {
            Some(oldest) if oldest[..STAMP_BYTES] < old[..] => oldest[..STAMP_BYTES].to_owned(),
            _ => old,
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        lock(&self.workspace.under_way).remove(&self.suffix[1..]);
    }
}

fn stamp(time: DateTime<Utc>) -> String {
    time.format(STAMP).to_string()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_second_differ_and_carry_their_age() {
        let deliveries = Deliveries::default();
        let (one, other) = (deliveries.begin(Uuid::nil()), deliveries.begin(Uuid::nil()));
        assert_ne!(one.suffix(), other.suffix());
        let age = &one.suffix()[1..=STAMP_BYTES];
        let age = chrono::NaiveDateTime::parse_from_str(age, STAMP).unwrap();
        assert!((Utc::now() - age.and_utc()).num_seconds().abs() < 60);
        assert_eq!(one.suffix().len(), ".20260131T235959Z-0123abcd".len());
    }

    #[test]
    fn nothing_that_is_under_way_is_old() {
        // Given a change that began long ago and one that begins now
        let deliveries = Deliveries::default();
        let now = deliveries.begin(Uuid::nil());
        let quarter = now.cutoff();
        assert!(quarter.as_str() < &now.suffix()[1..]);
        let long_ago = "20200101T000000Z-0123abcd";
        lock(&now.workspace.under_way).insert(long_ago.to_owned());
        assert_eq!(now.cutoff(), long_ago[..STAMP_BYTES]);

        // In another workspace that counts for nothing, nor once it ended
        let elsewhere = deliveries.begin(Uuid::max());
        assert!(elsewhere.cutoff().as_str() >= quarter.as_str());
        lock(&now.workspace.under_way).remove(long_ago);
        assert!(now.cutoff().as_str() >= quarter.as_str());
    }

    #[tokio::test]
    async fn changes_of_one_workspace_take_turns() {
        let deliveries = Deliveries::default();
        let (one, other) = (deliveries.begin(Uuid::nil()), deliveries.begin(Uuid::nil()));
        let elsewhere = deliveries.begin(Uuid::max());
        let turn = one.turn().await;
        elsewhere.turn().await;
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(20), other.turn());
        assert!(waiting.await.is_err());
        drop(turn);
        other.turn().await;
        // What nobody refers to any more is forgotten
        drop((one, other, elsewhere));
        deliveries.begin(Uuid::from_u128(7));
        assert_eq!(lock(&deliveries.0).len(), 1);
    }
}
