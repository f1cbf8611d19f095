//! From an accepted row to a started agent, as named steps with undo.
//!
//! `load_secrets → build_env → run_hooks → check_required_env → render_config →
//! mint_credentials → start_backend → record_instance`
//!
//! A failed step takes back what the earlier ones did and leaves the row `failed`
//! with a fixed text. A shutdown in the middle takes back too, but leaves the row
//! `provisioning` with its lease in the past: the next server starts over. The lease,
//! renewed while the work runs, tells a provision under way from one whose server
//! died; its epoch keeps a server that was overtaken from changing anything.

mod failure;
mod steps;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use futures_util::FutureExt;
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use failure::{Failure, Step};
pub(super) use failure::{HOOKS_FAILED, NO_BACKEND};
pub(super) use steps::missing_env;

use super::gate::{Pass, SerialGate};
use super::model::Status;
use super::store::lease::{self, Lease};
use super::store::lifecycle;
use super::{Services, store};
use crate::backend::{InstanceRef, Liveness, UndoStack};
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
    gate: SerialGate,
}

/// Which provision of a workspace it is.
enum Entrance {
    /// The first, with the lease that came with the row.
    First,
    /// One whose server died.
    Abandoned,
    /// One of a workspace that existed; its turn has come.
    Again(Lease, Pass),
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
            gate: SerialGate::default(),
        }
    }

    /// End of a lease taken now.
    pub(super) fn lease_until(&self) -> chrono::DateTime<chrono::Utc> {
        timestamp(&self.services.clock) + LEASE
    }

    /// Keeps changes of one workspace apart.
    pub(super) fn gate(&self) -> &SerialGate {
        &self.gate
    }

    /// Starts the first provision of a workspace in the background.
    pub(super) fn spawn(&self, id: Uuid) {
        self.begin(id, Entrance::First);
    }

    /// Starts a provision of a workspace that exists, for the holder of its pass.
    pub(super) fn spawn_with(&self, lease: Lease, pass: Pass) {
        self.begin(lease.id, Entrance::Again(lease, pass));
    }

    /// The lease of a provision that this server will not start.
    pub(super) async fn claim_to_fail(&self, id: Uuid) -> sqlx::Result<Option<Lease>> {
        let now = timestamp(&self.services.clock);
        lease::claim(&self.services.db, id, now, self.lease_until()).await
    }

    /// Starts over a provision whose server died, unless someone else does. A
    /// delete sees it from here on, also before the claim is decided.
    pub(super) fn take_over(&self, id: Uuid) {
        self.begin(id, Entrance::Abandoned);
    }

    fn begin(&self, id: Uuid, entrance: Entrance) {
        let cancel = self.services.supervisor.token().child_token();
        let (finished, done) = watch::channel(());
        {
            let mut under_way = self.lock();
            if under_way.contains_key(&id) && !matches!(entrance, Entrance::Again(..)) {
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
            let (lease, pass) = match entrance {
                Entrance::First => (Some(Lease::first(id)), this.gate.enter(id).await),
                Entrance::Abandoned => {
                    let pass = this.gate.enter(id).await;
                    (this.claim(id).await, pass)
                }
                Entrance::Again(lease, pass) => (Some(lease), pass),
            };
            if let Some(lease) = lease {
                this.run(lease, cancel).await;
            }
            // Off the list before the next one enters.
            drop(entry);
            drop(pass);
        });
    }

    /// The lease of an abandoned provision, once nothing of it runs any more. None
    /// when there is nothing left to do here.
    async fn claim(&self, id: Uuid) -> Option<Lease> {
        let services = &self.services;
        let now = timestamp(&services.clock);
        if self.adopt(id).await {
            return None;
        }
        let lease = match lease::claim(&services.db, id, now, self.lease_until()).await {
            // None: another server was faster, or it was removed.
            Ok(lease) => lease?,
            Err(error) => {
                tracing::warn!(workspace.id = %id, %error, "provision could not be taken over");
                return None;
            }
        };
        services.directory.forget(id);
        tracing::warn!(workspace.id = %id, "provision was interrupted; starting over");
        match services.backend.stop(&InstanceRef::of(id)).await {
            Ok(()) => Some(lease),
            Err(error) => {
                tracing::error!(workspace.id = %id, error = %services.describe(error), "leftover could not be stopped");
                None
            }
        }
    }

    /// True when there is nothing to start over: its agent came online and still
    /// runs, and only the record was missing; or nobody can tell, and the next round
    /// looks again. An agent that ran before the provision began is not the one.
    async fn adopt(&self, id: Uuid) -> bool {
        let services = &self.services;
        let row = match store::find(&services.db, id).await {
            Ok(Some(row)) if matches!(row.status(), Status::Online | Status::Degraded) => row,
            Ok(_) => return false,
            Err(_) => return true,
        };
        let found = InstanceRef::of(id);
        match services.backend.liveness(&found).await {
            Liveness::Running => {}
            Liveness::Stopped | Liveness::Missing => return false,
            Liveness::Unknown(_) => return true,
        }
        let (Ok(url), Ok(managed)) = (
            services.backend.url(&found).await,
            services.backend.list_managed().await,
        ) else {
            return true;
        };
        let mine = managed.into_iter().find(|item| item.workspace_id == id);
        let (Some(url), Some(instance_id)) = (url, mine.and_then(|item| item.instance_id)) else {
            return false;
        };
        if row.instance_id.as_ref() == Some(&instance_id) {
            return false;
        }
        let now = timestamp(&services.clock);
        let adopted = lease::adopt(&services.db, id, &instance_id, &url, now).await;
        if matches!(adopted, Ok(true)) {
            tracing::info!(workspace.id = %id, "running agent adopted");
        }
        // An error leaves it to the next round.
        !matches!(adopted, Ok(false))
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

    async fn run(&self, lease: Lease, cancel: CancellationToken) {
        let id = lease.id;
        let started = Instant::now();
        let lost = AtomicBool::new(false);
        let work = async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Outcome::Cancelled,
                _slot = self.slots.acquire() => self.provision(lease, &cancel, &lost).await,
            }
        };
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = self.keep_lease(lease, &cancel, &lost) => Outcome::Cancelled,
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
            Outcome::Failed(failure) => self.fail(lease, failure, started.elapsed()).await,
            Outcome::Cancelled => {
                let now = timestamp(&self.services.clock);
                let released = lease::release(&self.services.db, lease, now);
                let _ = tokio::time::timeout(OUTCOME_TIMEOUT, released).await;
                self.services.directory.forget(id);
                tracing::info!(workspace.id = %id, "provision cancelled and taken back");
            }
        }
    }

    /// Never ends: renews the lease for as long as it is polled, and cancels the
    /// provision when the lease is lost.
    async fn keep_lease(&self, lease: Lease, cancel: &CancellationToken, lost: &AtomicBool) {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            match lease::renew(&self.services.db, lease, self.lease_until()).await {
                Ok(true) => {}
                Ok(false) => {
                    lost.store(true, Ordering::Relaxed);
                    cancel.cancel();
                    std::future::pending::<()>().await;
                }
                Err(error) => {
                    tracing::warn!(workspace.id = %lease.id, %error, "provision lease could not be renewed");
                }
            }
        }
    }

    async fn provision(
        &self,
        lease: Lease,
        cancel: &CancellationToken,
        lost: &AtomicBool,
    ) -> Outcome {
        let services = &self.services;
        let id = lease.id;
        // Whatever is changed from here on requests another restart.
        match lifecycle::take_request(&services.db, lease).await {
            Ok(true) => {}
            // Overtaken, or removed before it began.
            Ok(false) => return Outcome::Cancelled,
            Err(error) => {
                return Outcome::Failed(Failure::start("load_workspace", "store", &error));
            }
        }
        let workspace = match store::find(&services.db, id).await {
            Ok(Some(workspace)) if is_bootable(workspace.status()) => workspace,
            Ok(_) => return Outcome::Cancelled,
            Err(error) => {
                return Outcome::Failed(Failure::start("load_workspace", "store", &error));
            }
        };
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
        let steps = self.steps(lease, &workspace, &token, &mut undo);
        let fenced = AssertUnwindSafe(steps).catch_unwind();
        let result = tokio::select! {
            result = fenced => result.unwrap_or_else(|_| Err(Failure::panicked().into())),
            () = deadline => Err(Step::Cancelled),
        };
        let step = match result {
            Ok(()) => return Outcome::Started,
            Err(step) => step,
        };
        if lost.load(Ordering::Relaxed) || matches!(step, Step::Lost) {
            tracing::warn!(workspace.id = %id, "provision was overtaken; left to the other server");
            return Outcome::Cancelled;
        }
        undo.unwind(UNDO_TIMEOUT).await;
        if workspace.booted_at.is_some() {
            // What ran before the restart has no valid token any more.
            services.stop_compute(id).await;
        }
        match step {
            Step::Failed(failure) => Outcome::Failed(failure),
            Step::Cancelled if !cancel.is_cancelled() && token.is_cancelled() => {
                Outcome::Failed(Failure::deadline(limit))
            }
            Step::Cancelled | Step::Lost => Outcome::Cancelled,
        }
    }

    async fn fail(&self, lease: Lease, failure: Failure, took: Duration) {
        let id = lease.id;
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
            .mark_failed(lease, &failure.text, &failure.missing);
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

/// An agent that ran before may have reported in the meantime.
fn is_bootable(status: Status) -> bool {
    matches!(
        status,
        Status::Provisioning | Status::Online | Status::Degraded
    )
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
