//! From an accepted row to a started agent, as named steps with undo.
//!
//! `obtain_image → (turn) → load_secrets → build_env → run_hooks → check_required_env →
//! render_config → mint_credentials → start_backend → record_instance`
//!
//! A failed step takes back what the earlier ones did and leaves the row `failed`
//! with a fixed text. Without an image, or for a reason that passes before the old agent
//! lost its credentials, a restart is *declined* instead while that agent may still run:
//! nothing of it was touched, and the row is what it was. What
//! failed for a reason that passes, and what was declined though somebody asked for it,
//! is tried again, later each time. A shutdown in the middle takes back too, but leaves the row
//! `provisioning` with its lease in the past: the next server starts over. The lease,
//! renewed while the work runs, tells a provision under way from one whose server
//! died; its epoch keeps a server that was overtaken from changing anything.

mod attempt;
mod failure;
mod outcome;
mod steps;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt;
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use attempt::{Attempt, Limits};
use failure::{Failure, Step};
pub(super) use failure::{HOOKS_FAILED, NO_BACKEND};
use outcome::{Declined, Outcome};
pub(super) use steps::missing_env;

use super::gate::{Pass, SerialGate};
use super::model::{Status, Workspace};
use super::setbacks::Setbacks;
use super::store::lease::{self, Lease};
use super::{Services, store};
use crate::backend::{InstanceRef, Liveness, PluginSupplies, UndoStack};
use crate::provlog::provlog;
use crate::store::timestamp;

/// A provision whose lease is older than this has no server any more.
const LEASE: TimeDelta = TimeDelta::seconds(30);
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// Looking after the agent of before may take this long.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// Each compensation may take this long.
const UNDO_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs provisions. Cheap to clone.
#[derive(Clone)]
pub(super) struct Provisioner {
    services: Arc<Services>,
    slots: Arc<Semaphore>,
    under_way: Arc<Mutex<HashMap<Uuid, UnderWay>>>,
    gate: SerialGate,
    setbacks: Setbacks,
    /// Who knows which plugins a workspace should have. Known later than this is made.
    plugins: Arc<OnceLock<Weak<dyn PluginSupplies>>>,
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

/// One provision that runs here.
#[derive(Clone)]
pub(super) struct UnderWay {
    cancel: CancellationToken,
    done: watch::Receiver<()>,
}

impl UnderWay {
    /// Cancels it and waits until it took itself back.
    pub(super) async fn cancel(mut self) {
        self.cancel.cancel();
        // Ends with an error when the sender is dropped, which is the signal.
        while self.done.changed().await.is_ok() {}
    }
}

/// What the parts of a running provision tell each other.
#[derive(Default)]
struct Signals {
    /// The lease is another server's.
    lost: AtomicBool,
    /// There was progress since the lease was renewed last.
    moved: Arc<AtomicBool>,
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
            setbacks: Setbacks::default(),
            plugins: Arc::default(),
        }
    }

    /// From now on every start is given the plugins that `supplies` knows of.
    pub(super) fn set_plugins(&self, supplies: Weak<dyn PluginSupplies>) {
        // Whoever was named first stays.
        let _ = self.plugins.set(supplies);
    }

    /// End of a lease taken now.
    pub(super) fn lease_until(&self) -> DateTime<Utc> {
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
        let claimed = lease::claim(&self.services.db, id, now, self.lease_until()).await?;
        Ok(claimed.map(|claimed| claimed.lease()))
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
        let claimed = match lease::claim(&services.db, id, now, self.lease_until()).await {
            // None: another server was faster, or it was removed.
            Ok(claimed) => claimed?,
            Err(error) => {
                tracing::warn!(workspace.id = %id, %error, "provision could not be taken over");
                return None;
            }
        };
        services.directory.forget(id);
        tracing::warn!(workspace.id = %id, "provision was interrupted; starting over");
        if claimed.old_agent_is_untouched {
            // It serves until there is something to put in its place.
            return Some(claimed.lease());
        }
        match services.backend.stop(&InstanceRef::of(id)).await {
            Ok(()) => Some(claimed.lease()),
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
        if let Some(under_way) = self.under_way(id) {
            under_way.cancel().await;
        }
    }

    /// The provision of a workspace that this server works on, if there is one.
    pub(super) fn under_way(&self, id: Uuid) -> Option<UnderWay> {
        self.lock().get(&id).cloned()
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
        let started = Instant::now();
        let signals = Signals::default();
        let work = async {
            match cancel.is_cancelled() {
                true => Outcome::Cancelled,
                false => self.provision(lease, &cancel, &signals).await,
            }
        };
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = self.keep_lease(lease, &cancel, &signals) => Outcome::Cancelled,
        };
        let took = started.elapsed();
        metrics::counter!("molecule_provisions_total", "outcome" => outcome.word()).increment(1);
        metrics::histogram!("molecule_provision_duration_seconds").record(took.as_secs_f64());
        self.conclude(lease, outcome, took).await;
    }

    /// Never ends: renews the lease for as long as it is polled, and cancels the
    /// provision when the lease is lost.
    async fn keep_lease(&self, lease: Lease, cancel: &CancellationToken, signals: &Signals) {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            let now = timestamp(&self.services.clock);
            let moved_at = (signals.moved.swap(false, Ordering::Relaxed)).then_some(now);
            let until = self.lease_until();
            match lease::renew(&self.services.db, lease, until, moved_at).await {
                Ok(true) => {}
                Ok(false) => {
                    signals.lost.store(true, Ordering::Relaxed);
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
        signals: &Signals,
    ) -> Outcome {
        let services = &self.services;
        let id = lease.id;
        let workspace = match store::find(&services.db, id).await {
            Ok(Some(workspace)) if is_bootable(workspace.status()) => workspace,
            Ok(_) => return Outcome::Cancelled,
            Err(error) => return Outcome::failed(Failure::store("load_workspace", &error)),
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
        let limits = self.limits(&workspace);
        let attempt = Attempt::new(limits, cancel, Arc::clone(&signals.moved));
        let mut undo = UndoStack::default();
        // Held until everything is taken back as well.
        let mut turn = None;
        let steps = self.steps(lease, &workspace, &attempt, &mut turn, &mut undo);
        let fenced = AssertUnwindSafe(steps).catch_unwind();
        let result = tokio::select! {
            result = fenced => result.unwrap_or_else(|_| Err(Failure::panicked().into())),
            () = attempt.watch() => Err(Step::Cancelled),
            () = attempt.tell(id, &services.events, &services.redactor) => Err(Step::Cancelled),
        };
        let step = match result {
            Ok(()) => return Outcome::Started,
            Err(step) => step,
        };
        if signals.lost.load(Ordering::Relaxed) || matches!(step, Step::Lost) {
            tracing::warn!(workspace.id = %id, "provision was overtaken; left to the other server");
            return Outcome::Cancelled;
        }
        let failure = match step {
            Step::Failed(failure) => Some(failure),
            Step::Cancelled if !cancel.is_cancelled() => attempt.failure(),
            Step::Cancelled | Step::Lost => None,
        };
        let failure = match failure {
            Some(failure) => match self.decline(failure, &workspace, &attempt).await {
                Ok(declined) => return Outcome::Declined(declined),
                Err(failure) => Some(failure),
            },
            None => None,
        };
        undo.unwind(UNDO_TIMEOUT).await;
        // Who was cancelled before anything was done to the old agent leaves it alone.
        if workspace.booted_at.is_some() && (failure.is_some() || attempt.took_credentials()) {
            // What ran before the restart has no valid token any more.
            services.stop_compute(id).await;
        }
        match failure {
            Some(failure) => Outcome::Failed {
                is_automatic: workspace.boot().automatic,
                took_request: !attempt.lacks_image(),
                failure,
            },
            None => Outcome::Cancelled,
        }
    }

    /// Declines a restart that failed, if the agent of before was left alone and
    /// perhaps runs: without an image always, and later if the trouble passes.
    async fn decline(
        &self,
        failure: Failure,
        workspace: &Workspace,
        attempt: &Attempt,
    ) -> Result<Declined, Failure> {
        let lacks_image = attempt.lacks_image();
        let leaves_alone = lacks_image || (failure.passes && !attempt.took_credentials());
        if !leaves_alone || !workspace.has_fallback {
            return Err(failure);
        }
        let Some(url) = self.old_agent(workspace).await else {
            return Err(failure);
        };
        let text = match lacks_image {
            true => failure::DECLINED.to_owned(),
            false => failure::declined_because(&failure.text),
        };
        Ok(Declined {
            failure,
            text,
            url,
            took_request: attempt.took_request(),
        })
    }

    /// How long this try may take.
    fn limits(&self, workspace: &Workspace) -> Limits {
        let services = &self.services;
        let config = &services.config.workspaces;
        let configured = config.provision_deadline_secs;
        let (whole, quiet) = match services.backend.images() {
            None => (configured, None),
            Some(_) => {
                let runtime = services.provision_timeout_secs(self.runtime_of(workspace), None);
                (configured.max(runtime), Some(config.provision_quiet_secs))
            }
        };
        Limits {
            whole: Duration::from_secs(whole),
            quiet: quiet.map(Duration::from_secs),
        }
    }

    /// Where the agent of before is reached, empty if that cannot be told. None when
    /// it does not run any more: only a backend that says so for sure counts.
    async fn old_agent(&self, workspace: &Workspace) -> Option<String> {
        let services = &self.services;
        let instance = InstanceRef {
            workspace_id: workspace.id,
            instance_id: workspace.instance_id.clone(),
        };
        let looking = services.backend.liveness(&instance);
        match tokio::time::timeout(LOOK_TIMEOUT, looking).await {
            Ok(Liveness::Stopped | Liveness::Missing) => return None,
            Ok(Liveness::Running | Liveness::Unknown(_)) | Err(_) => {}
        }
        let looking = services.backend.url(&instance);
        let url = tokio::time::timeout(LOOK_TIMEOUT, looking).await;
        Some(url.ok().and_then(Result::ok).flatten().unwrap_or_default())
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
