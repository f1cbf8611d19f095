//! Compute that is gone: what the backend says, and nothing it does not say.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use uuid::Uuid;

use super::store::{self, Hosted};
use super::{LOOK_AT_ONCE, PAGE, Sweeps, describe};
use crate::backend::{InstanceRef, Liveness};
use crate::workspaces::Absence;

/// One look may take this long.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether the backend is known to be in trouble: one incident is told once,
/// however many workspaces it hides. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Trouble(Arc<Mutex<bool>>);

impl Trouble {
    /// True when this is news.
    fn turns(&self, into: bool) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *known, into) != into
    }
}

/// What a look at one workspace said.
pub(super) enum Seen {
    There,
    Gone,
    Unknown(String),
}

impl Sweeps {
    /// One round: takes offline whose compute is stopped or missing. Works with a
    /// list that is at most this old; false when there is none.
    pub(super) async fn sweep_gone(&self, max_age: Duration, why: Absence) -> bool {
        // Two rounds at once would look at everything twice.
        let _turn = self.health_turn.lock().await;
        // One answer for the whole fleet; only who it does not show running is
        // looked at one by one.
        let listing = match self.compute_listing(max_age).await {
            Ok(listing) => listing,
            Err(error) => {
                if self.backend_trouble.turns(true) {
                    tracing::error!(%error, "the backend does not answer; nobody is called dead");
                }
                metrics::counter!("molecule_health_sweep_failures_total").increment(1);
                return false;
            }
        };
        let running = listing
            .managed
            .iter()
            .filter(|item| item.running == Some(true))
            .map(|item| item.workspace_id)
            .collect();
        match self.sweep_not_running(&running, why).await {
            Ok(unknown) if unknown.count > 0 => {
                metrics::counter!("molecule_health_unknown_total").increment(unknown.count);
                if self.backend_trouble.turns(true) {
                    tracing::error!(
                        workspaces = unknown.count,
                        error = unknown.example,
                        "the backend cannot say whether some workspaces run; they are left alone"
                    );
                }
            }
            Ok(_) if self.backend_trouble.turns(false) => {
                tracing::info!("the backend answers again");
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "hosted workspaces could not be listed");
                return false;
            }
        }
        true
    }

    async fn sweep_not_running(
        &self,
        running: &HashSet<Uuid>,
        why: Absence,
    ) -> sqlx::Result<Unknown> {
        let services = &self.services;
        let mut unknown = Unknown::default();
        let mut after = Uuid::nil();
        loop {
            let rows = store::hosted(&services.db, after, PAGE).await?;
            let Some(last) = rows.last() else {
                return Ok(unknown);
            };
            after = last.id;
            let is_last_page = rows.len() < PAGE as usize;
            let suspects = rows.into_iter().filter(|row| !running.contains(&row.id));
            let mut looks = futures_util::stream::iter(suspects)
                .map(|row| self.examine(row, why))
                .buffer_unordered(LOOK_AT_ONCE);
            while let Some(seen) = looks.next().await {
                if let Seen::Unknown(why) = seen {
                    unknown.count += 1;
                    unknown.example.get_or_insert(why);
                }
            }
            if is_last_page {
                return Ok(unknown);
            }
        }
    }

    /// Looks at one workspace and takes it offline if its compute is gone.
    pub(super) async fn examine(&self, row: Hosted, why: Absence) -> Seen {
        let seen = self.look(&row).await;
        if let Seen::Gone = seen {
            // It may have been restarted while the backend looked.
            match store::is_still_hosted(&self.services.db, &row).await {
                Ok(true) => self.take_offline(row.id, why).await,
                Ok(false) => {}
                Err(error) => tracing::warn!(workspace.id = %row.id, %error, "end not confirmed"),
            }
        }
        seen
    }

    async fn look(&self, row: &Hosted) -> Seen {
        let instance = InstanceRef {
            workspace_id: row.id,
            instance_id: row.instance_id.clone(),
        };
        let look = self.services.backend.liveness(&instance);
        match tokio::time::timeout(LOOK_TIMEOUT, look).await {
            Ok(Liveness::Running) => Seen::There,
            Ok(Liveness::Stopped | Liveness::Missing) => Seen::Gone,
            Ok(Liveness::Unknown(error)) => Seen::Unknown(describe(error)),
            Err(_) => Seen::Unknown("look for workspace timed out".to_owned()),
        }
    }
}

/// How many workspaces the backend could not say anything about.
#[derive(Default)]
struct Unknown {
    count: u64,
    example: Option<String>,
}
