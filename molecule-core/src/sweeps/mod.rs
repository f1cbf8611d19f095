//! The loops that look at all workspaces: who is silent, whose compute is gone,
//! who sleeps best, which compute, which tokens and which history nobody needs.
//!
//! They run on the server that leads. They decide from positive lists of
//! statuses, act through guarded changes of the rooms that own the rows, and do
//! nothing where they cannot tell.

mod changes;
pub(crate) mod diagnosis;
mod health;
mod hibernation;
mod inventory;
mod liveness;
mod orphans;
mod retention;
mod store;
mod tokens;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use molecule_hooks::Clock;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::auth::Auth;
use crate::backend::{BackendError, BackendKind, SharedBackend};
use crate::config::Config;
use crate::presence::Presence;
use crate::store::{Db, Leader};
use crate::supervisor::Supervisor;
use crate::workspaces::{Absence, Workspaces};
use inventory::shared_within;

/// Rows read at once; a round goes through all of them page by page.
const PAGE: i64 = 500;
/// Workspaces that are acted on at once.
const ACT_AT_ONCE: usize = 8;
/// Looks at single workspaces at once.
const LOOK_AT_ONCE: usize = 16;

/// How often the loops of a server look. The defaults suit every deployment;
/// tests cannot wait for them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Cadence {
    /// For agents that fell silent.
    pub liveness: Duration,
    /// For compute that is gone, on a backend that does not tell by itself.
    pub health: Duration,
    /// The same on a backend that tells: for what it did not tell.
    pub told_health: Duration,
    /// For workspaces that idle.
    pub hibernation: Duration,
    /// For tokens of workspaces without compute, and for spent tickets.
    pub tokens: Duration,
    /// For newer images, where the operator wants them watched, and for pulls that
    /// failed.
    pub images: Duration,
    /// For compute and storage that belong to no living workspace.
    pub orphans: Duration,
    /// For newer revisions of tracked plugins; none means as configured.
    pub plugin_drift: Option<Duration>,
}

impl Default for Cadence {
    fn default() -> Self {
        Self {
            liveness: Duration::from_secs(15),
            health: Duration::from_secs(15),
            told_health: Duration::from_secs(60),
            hibernation: Duration::from_secs(120),
            tokens: Duration::from_secs(60),
            images: Duration::from_secs(300),
            orphans: Duration::from_secs(60),
            plugin_drift: None,
        }
    }
}

/// Everything this room works with.
pub(crate) struct Services {
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Clock,
    pub(crate) db: Db,
    pub(crate) auth: Auth,
    pub(crate) backend: SharedBackend,
    pub(crate) leader: Leader,
    pub(crate) presence: Presence,
    pub(crate) workspaces: Workspaces,
    pub(crate) supervisor: Supervisor,
}

/// The room's service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sweeps {
    services: Arc<Services>,
    attention: liveness::Attention,
    backend_trouble: health::Trouble,
    /// Held by the one round of the health sweep.
    health_turn: Arc<Mutex<()>>,
    inventory: inventory::Inventory,
    strays: orphans::Strays,
    late: orphans::Late,
}

impl Sweeps {
    pub(crate) fn new(services: Services) -> Self {
        Self {
            services: Arc::new(services),
            attention: liveness::Attention::default(),
            backend_trouble: health::Trouble::default(),
            health_turn: Arc::default(),
            inventory: inventory::Inventory::default(),
            strays: orphans::Strays::default(),
            late: orphans::Late::default(),
        }
    }

    /// Starts the loops.
    pub(crate) fn start(&self, cadence: &Cadence) {
        let services = &self.services;
        // On every server: each knows for itself how long it could have heard.
        let this = self.clone();
        let supervisor = &services.supervisor;
        supervisor.every("liveness-monitor", cadence.liveness, move || {
            let this = this.clone();
            async move { this.sweep_silent().await }
        });
        if services.backend.kind() != BackendKind::None {
            self.start_with_backend(cadence);
        }
        self.lead(
            "hibernation-monitor",
            cadence.hibernation,
            |this| async move {
                this.sweep_idle().await;
            },
        );
        self.lead("ticket-sweep", cadence.tokens, |this| async move {
            this.sweep_tickets().await;
        });
        let hours = u64::from(services.config.retention.interval_hours);
        let between = Duration::from_secs(hours * 3600);
        self.lead("retention", between, |this| async move {
            this.sweep_history().await;
        });
    }

    /// The loops that compare the rows with what the backend holds.
    fn start_with_backend(&self, cadence: &Cadence) {
        let services = &self.services;
        let mut health = cadence.health;
        // Asking costs nothing as long as nobody reads the answer.
        if services.backend.changes().is_some() {
            health = cadence.told_health;
            let this = self.clone();
            let follow = move || {
                let this = this.clone();
                async move { this.follow_changes().await }
            };
            (services.leader).run(&services.supervisor, "backend-changes", follow);
        }
        self.lead("health-sweep", health, move |this| async move {
            // The next round comes anyway.
            let _ = this.sweep_gone(shared_within(health), Absence::Gone).await;
        });
        let tokens = cadence.tokens;
        self.lead("token-sweep", tokens, move |this| async move {
            this.sweep_tokens(tokens).await;
        });
        let orphans = cadence.orphans;
        self.lead("orphan-sweeper", orphans, move |this| async move {
            this.sweep_orphans(orphans).await;
        });
    }

    /// Runs a loop while this server leads.
    fn lead<F, Fut>(&self, name: &'static str, period: Duration, work: F)
    where
        F: Fn(Self) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (this, services) = (self.clone(), &self.services);
        let work = move || work(this.clone());
        (services.leader).every(&services.supervisor, name, period, work);
    }

    /// The compute of a workspace is gone or its agent is silent.
    async fn take_offline(&self, id: Uuid, why: Absence) {
        match self.services.workspaces.went_offline(id, why).await {
            // False: it was paused, removed or restarted in between.
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(workspace.id = %id, ?error, "workspace not marked offline; will retry");
            }
        }
    }
}

/// For the log, causes included.
fn describe(error: BackendError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}
