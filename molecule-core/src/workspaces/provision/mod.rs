//! From an accepted row to a started agent, as named steps with undo.
//!
//! `load_secrets → build_env → run_hooks → check_required_env → render_config →
//! mint_credentials → start_backend → record_instance`
//!
//! A failed step takes back what the earlier ones did and leaves the row `failed`
//! with a fixed text. A shutdown in the middle takes back too, but leaves the row
//! `provisioning` without a lease: the next server starts over. A lease on the
//! row, renewed while the work runs, tells a provision under way from one whose
//! server died.

mod failure;
mod steps;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use futures_util::FutureExt;
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(super) use failure::NO_BACKEND;
use failure::{Failure, Step};

use super::model::Status;
use super::{Services, store};
use crate::backend::{InstanceRef, UndoStack};
use crate::provlog::provlog;
use crate::store::timestamp;

/// A provision whose lease is older than this has no server any more.
const LEASE: TimeDelta = TimeDelta::seconds(30);
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// Writing the outcome gets its own time, however late it is.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// Each compensation may take this long.
const UNDO_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs provisions. Cheap to clone.
#[derive(Clone)]
pub(super) struct Provisioner {
    services: Arc<Services>,
    slots: Arc<Semaphore>,
    under_way: Arc<Mutex<HashMap<Uuid, UnderWay>>>,
}

struct UnderWay {
    cancel: CancellationToken,
    done: watch::Receiver<()>,
}

enum Outcome {
    Started,
    Failed(Failure),
    /// Cancelled by a delete or by shutdown, and taken back.
    Cancelled,
}

impl Provisioner {
    pub(super) fn new(services: Arc<Services>) -> Self {
        let slots = Arc::new(Semaphore::new(
            services.config.workspaces.provision_concurrency,
        ));
        Self {
            services,
            slots,
            under_way: Arc::default(),
        }
    }

    /// End of a lease taken now.
    pub(super) fn lease_until(&self) -> chrono::DateTime<chrono::Utc> {
        timestamp(&self.services.clock) + LEASE
    }

    /// Starts a provision in the background; one per workspace at a time.
    pub(super) fn spawn(&self, id: Uuid) {
        self.begin(id, false);
    }

    /// Starts over a provision whose server died, unless someone else does. A
    /// delete sees it from here on, also before the claim is decided.
    pub(super) fn take_over(&self, id: Uuid) {
        self.begin(id, true);
    }

    fn begin(&self, id: Uuid, abandoned: bool) {
        let cancel = self.services.supervisor.token().child_token();
        let (finished, done) = watch::channel(());
        {
            let mut under_way = self.lock();
            if under_way.contains_key(&id) {
                return;
            }
            under_way.insert(
                id,
                UnderWay {
                    cancel: cancel.clone(),
                    done,
                },
            );
        }
        let entry = Entry {
            provisioner: self.clone(),
            id,
            _finished: finished,
        };
        self.services.supervisor.spawn("provision", async move {
            let this = entry.provisioner.clone();
            if !abandoned || this.claim(id).await {
                this.run(id, cancel).await;
            }
            drop(entry);
        });
    }

    /// True when an abandoned provision is this server's now and nothing of it
    /// runs any more.
    async fn claim(&self, id: Uuid) -> bool {
        let services = &self.services;
        let now = timestamp(&services.clock);
        match store::claim_lease(&services.db, id, now, self.lease_until()).await {
            Ok(true) => {}
            // Another server was faster, or it was removed.
            Ok(false) => return false,
            Err(error) => {
                tracing::warn!(workspace.id = %id, %error, "provision could not be taken over");
                return false;
            }
        }
        tracing::warn!(workspace.id = %id, "provision was interrupted; starting over");
        match services.backend.stop(&InstanceRef::of(id)).await {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(workspace.id = %id, error = %services.describe(error), "leftover could not be stopped");
                false
            }
        }
    }

    /// Cancels a provision under way and waits until it took itself back.
    pub(super) async fn cancel(&self, id: Uuid) {
        let Some(mut done) = self.lock().get(&id).map(|entry| {
            entry.cancel.cancel();
            entry.done.clone()
        }) else {
            return;
        };
        // Ends with an error when the sender is dropped, which is the signal.
        while done.changed().await.is_ok() {}
    }

    /// True while this server works on the workspace.
    pub(super) fn is_under_way(&self, id: Uuid) -> bool {
        self.lock().contains_key(&id)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, UnderWay>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(&self, id: Uuid, cancel: CancellationToken) {
        let started = Instant::now();
        let work = async {
            let Ok(_slot) = self.slots.acquire().await else {
                return Outcome::Cancelled;
            };
            self.provision(id, &cancel).await
        };
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = self.keep_lease(id) => Outcome::Cancelled,
        };
        let word = match &outcome {
            Outcome::Started => "ok",
            Outcome::Failed(failure) => failure.class,
            Outcome::Cancelled => "cancelled",
        };
        metrics::counter!("molecule_provisions_total", "outcome" => word).increment(1);
        metrics::histogram!("molecule_provision_duration_seconds")
            .record(started.elapsed().as_secs_f64());
        match outcome {
            Outcome::Started => tracing::info!(
                workspace.id = %id,
                duration_ms = started.elapsed().as_millis() as u64,
                "workspace started"
            ),
            Outcome::Failed(failure) => self.fail(id, failure, started.elapsed()).await,
            Outcome::Cancelled => {
                let released = store::renew_lease(&self.services.db, id, None);
                let _ = tokio::time::timeout(OUTCOME_TIMEOUT, released).await;
                tracing::info!(workspace.id = %id, "provision cancelled and taken back");
            }
        }
    }

    /// Never ends: renews the lease for as long as it is polled.
    async fn keep_lease(&self, id: Uuid) {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            if let Err(error) =
                store::renew_lease(&self.services.db, id, Some(self.lease_until())).await
            {
                tracing::warn!(workspace.id = %id, %error, "provision lease could not be renewed");
            }
        }
    }

    async fn provision(&self, id: Uuid, cancel: &CancellationToken) -> Outcome {
        let services = &self.services;
        let workspace = match store::find(&services.db, id).await {
            Ok(Some(workspace)) if workspace.status() == Status::Provisioning => workspace,
            // Removed before it began.
            Ok(_) => return Outcome::Cancelled,
            Err(error) => {
                return Outcome::Failed(Failure::start("load_workspace", "store", &error));
            }
        };
        let template = self.template_of(&workspace).await;
        provlog(
            "provision.start",
            json!({
                "workspace_id": id,
                "name": workspace.name,
                "tier": workspace.tier,
                "runtime": workspace.runtime,
                "template": workspace.template.as_deref().unwrap_or_default(),
                "sync": false,
            }),
        );
        // The deadline cancels like a delete does, so that the backend undoes.
        let limit = Duration::from_secs(services.config.workspaces.provision_deadline_secs);
        let token = cancel.child_token();
        let deadline = {
            let token = token.clone();
            async move {
                tokio::time::sleep(limit).await;
                token.cancel();
                std::future::pending::<()>().await;
            }
        };
        let mut undo = UndoStack::default();
        let fenced =
            AssertUnwindSafe(self.steps(&workspace, template, &token, &mut undo)).catch_unwind();
        let result = tokio::select! {
            result = fenced => result.unwrap_or_else(|_| Err(Failure::panicked().into())),
            () = deadline => Err(Step::Cancelled),
        };
        match result {
            Ok(()) => Outcome::Started,
            Err(step) => {
                undo.unwind(UNDO_TIMEOUT).await;
                match step {
                    Step::Failed(failure) => Outcome::Failed(failure),
                    Step::Cancelled if cancel.is_cancelled() => Outcome::Cancelled,
                    Step::Cancelled => Outcome::Failed(Failure::deadline(limit)),
                }
            }
        }
    }

    async fn fail(&self, id: Uuid, failure: Failure, took: Duration) {
        let cause = self.services.redactor.redact(&failure.cause);
        tracing::error!(workspace.id = %id, reason = failure.class, cause, "provision failed");
        provlog(
            "provision.failed",
            json!({
                "workspace_id": id,
                "reason": failure.class,
                "duration_ms": took.as_millis() as u64,
            }),
        );
        let written = self
            .services
            .mark_failed(id, &failure.text, &failure.missing);
        match tokio::time::timeout(OUTCOME_TIMEOUT, written).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(workspace.id = %id, ?error, "outcome not written; recovery will retry")
            }
            Err(_) => {
                tracing::error!(workspace.id = %id, "outcome not written in time; recovery will retry")
            }
        }
    }
}

/// Takes itself off the list, also when the task panics.
struct Entry {
    provisioner: Provisioner,
    id: Uuid,
    _finished: watch::Sender<()>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.provisioner.lock().remove(&self.id);
    }
}
