//! One operation at a time per plugin of a workspace.
//!
//! On one server they wait for each other in the order they came. Servers that share a
//! database are kept apart by a row with an end, renewed while its holder works: what a
//! dead server left is taken over.
//!
//! Whoever needs the workspace's turn as well takes it last. Who holds that turn, as a
//! boot, a pause or a delete does, never waits for a plugin: so nobody waits in a circle.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::FutureExt;
use molecule_hooks::PluginName;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Plugins;
use super::ground::not_running;
use super::store::locks::{self as sql, Term};
use crate::error::{Error, Result};
use crate::store::timestamp;

/// An operation whose end is older than this has no server any more.
const LEASE: TimeDelta = TimeDelta::seconds(30);
const RENEW_EVERY: Duration = Duration::from_secs(8);
/// Another server's operation is looked at again after this time, then later.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Work that was told to end is waited for so long.
const GRACE: Duration = Duration::from_secs(10);
/// Above so many entries the unused ones are dropped.
const TIDY_ABOVE: usize = 256;

/// Which plugin, in which workspace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) workspace: Uuid,
    pub(super) plugin: PluginName,
}

type Door = Arc<AsyncMutex<()>>;

/// Where operations of this server wait for each other. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Doors(Arc<Mutex<HashMap<Place, Door>>>);

/// The right to be the one operation of this server, until dropped.
pub(super) struct Inside {
    place: Place,
    deadline: Instant,
    _door: OwnedMutexGuard<()>,
}

impl Doors {
    fn door(&self, place: &Place) -> Door {
        let mut doors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if doors.len() > TIDY_ABOVE {
            doors.retain(|_, door| Arc::strong_count(door) > 1);
        }
        Arc::clone(doors.entry(place.clone()).or_default())
    }
}

impl Plugins {
    /// Waits until no other operation of this server works on the plugin, until
    /// `deadline` at most.
    ///
    /// # Errors
    /// 409 `plugin operation already in progress`.
    pub(super) async fn enter(&self, place: Place, deadline: Instant) -> Result<Inside> {
        let entering = self.doors.door(&place).lock_owned();
        match tokio::time::timeout_at(deadline, entering).await {
            Ok(door) => Ok(Inside {
                place,
                deadline,
                _door: door,
            }),
            Err(_) => Err(in_progress(&place)),
        }
    }

    /// Does `work` while no other server works on the plugin either. Its token fires
    /// when it should end: the deadline passed, the server ends, or another server took
    /// over. What does not end then is dropped.
    ///
    /// # Errors
    /// Those of `work`; 409 `plugin operation already in progress`; 503.
    pub(super) async fn exclusively<T, F>(
        &self,
        inside: &Inside,
        work: impl FnOnce(CancellationToken) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let holder = Uuid::new_v4();
        self.take(inside, holder).await?;
        let cancel = self.services.supervisor.token().child_token();
        // A panic must not leave the plugin held.
        let fenced = AssertUnwindSafe(work(cancel.clone())).catch_unwind();
        let done = tokio::select! {
            done = fenced => done.unwrap_or_else(|_| Err(panicked(&inside.place))),
            () = self.keep(&inside.place, holder, &cancel) => Err(stuck()),
            () = overdue(inside.deadline, &cancel) => Err(stuck()),
        };
        let Place { workspace, plugin } = &inside.place;
        let released = sql::release(&self.services.db, *workspace, plugin.as_str(), holder).await;
        if let Err(error) = released {
            tracing::warn!(
                workspace.id = %workspace, plugin.name = %plugin, %error,
                "plugin operation could not be released; it ends by itself"
            );
        }
        done
    }

    async fn take(&self, inside: &Inside, holder: Uuid) -> Result<()> {
        let Place { workspace, plugin } = &inside.place;
        let mut pause = FIRST_PAUSE;
        loop {
            let now = timestamp(&self.services.clock);
            let term = Term {
                holder,
                now,
                until: now + LEASE,
                furthest: now + LEASE * 2,
            };
            match sql::take(&self.services.db, *workspace, plugin.as_str(), term).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // There is no such workspace, or no more.
                Err(sqlx::Error::Database(error)) if error.is_foreign_key_violation() => {
                    return Err(not_running());
                }
                Err(error) => return Err(error.into()),
            }
            if Instant::now() + pause > inside.deadline {
                return Err(in_progress(&inside.place));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Renews the operation for as long as it is polled; ends some time after it was
    /// lost.
    async fn keep(&self, place: &Place, holder: Uuid, cancel: &CancellationToken) {
        let Place { workspace, plugin } = place;
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            let until = timestamp(&self.services.clock) + LEASE;
            let db = &self.services.db;
            match sql::renew(db, *workspace, plugin.as_str(), holder, until).await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!(
                        workspace.id = %workspace, plugin.name = %plugin,
                        "plugin operation was taken over by another server"
                    );
                    cancel.cancel();
                    return tokio::time::sleep(GRACE).await;
                }
                Err(error) => tracing::warn!(
                    workspace.id = %workspace, plugin.name = %plugin, %error,
                    "plugin operation could not be renewed"
                ),
            }
        }
    }
}

impl Inside {
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// Tells work to end when its time is over; ends itself some time after that.
async fn overdue(deadline: Instant, cancel: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep_until(deadline) => cancel.cancel(),
        () = cancel.cancelled() => {}
    }
    tokio::time::sleep(GRACE).await;
}

fn in_progress(place: &Place) -> Error {
    Error::conflict("plugin operation already in progress").with("plugin", place.plugin.as_str())
}

fn panicked(place: &Place) -> Error {
    tracing::error!(
        workspace.id = %place.workspace, plugin.name = %place.plugin,
        "operation on a plugin panicked"
    );
    Error::internal("plugin deliver failed", anyhow::anyhow!("it panicked"))
}

fn stuck() -> Error {
    Error::internal(
        "plugin deliver failed",
        anyhow::anyhow!("the operation did not end when it was told to"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(plugin: &str) -> Place {
        Place {
            workspace: Uuid::from_u128(1),
            plugin: PluginName::parse(plugin).unwrap(),
        }
    }

    #[tokio::test]
    async fn one_plugin_waits_and_another_does_not() {
        let doors = Doors::default();
        let held = doors.door(&place("one")).lock_owned().await;
        assert!(doors.door(&place("one")).try_lock_owned().is_err());
        assert!(doors.door(&place("two")).try_lock_owned().is_ok());
        drop(held);
        assert!(doors.door(&place("one")).try_lock_owned().is_ok());
    }

    #[test]
    fn doors_that_nobody_uses_are_dropped() {
        let doors = Doors::default();
        for number in 0..2 * TIDY_ABOVE {
            doors.door(&place(&format!("plugin-{number}")));
        }
        assert!(doors.0.lock().unwrap().len() <= TIDY_ABOVE + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_ends_late_is_told_and_then_given_up() {
        let cancel = CancellationToken::new();
        let began = Instant::now();
        overdue(began + Duration::from_secs(5), &cancel).await;
        assert!(cancel.is_cancelled());
        assert_eq!(began.elapsed(), Duration::from_secs(5) + GRACE);
    }
}
