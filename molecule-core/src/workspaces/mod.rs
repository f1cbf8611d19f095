//! Workspaces: creating, reading and deleting them, and booting their agents.

mod address;
mod agent_config;
mod boot;
mod budget;
mod changes;
mod connection;
mod create;
mod delete;
mod directory;
mod env_plan;
mod environment;
mod external;
mod gate;
mod hierarchy;
mod lifecycle;
mod loaded;
mod memories;
mod model;
mod operator;
mod payload;
mod printable;
mod provision;
mod recovery;
mod renewal;
mod restart;
mod restart_context;
mod restart_source;
pub(crate) mod routes;
mod rules;
mod setbacks;
mod status;
mod store;
mod template;
mod timeouts;
mod update;
mod view;
mod visit;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use molecule_hooks::{Clock, WorkspaceContext};
use uuid::Uuid;

pub(crate) use directory::Directory;
pub(crate) use env_plan::EnvPlans;
pub(crate) use gate::Turn;
pub(crate) use hierarchy::Hierarchy;
pub(crate) use loaded::LoadedPlugin;
pub(crate) use model::{Status, Workspace};
pub(crate) use recovery::Orphan;
pub(crate) use restart::Absence;
pub(crate) use restart_source::{RestartRequest, Restarting};
pub(crate) use status::{Trigger, Vitals, next as next_status};

use crate::auth::Auth;
use crate::backend::{InstanceRef, PluginSupplies, SharedBackend};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::hooks::HookRunner;
use crate::images::Images;
use crate::outbound::Guard;
use crate::redact::Redactor;
use crate::secrets::{Secrets, aad};
use crate::store::{Db, Leader, Relay};
use crate::supervisor::Supervisor;
use provision::Provisioner;
use restart::Restarts;

/// How often rows without a working server are looked for.
const RECOVERY_EVERY: Duration = Duration::from_secs(5);
/// How often started agents that never registered are looked for.
const TIMEOUT_SWEEP_EVERY: Duration = Duration::from_secs(30);
/// How often requested restarts are looked for that nobody poked about.
const RESTARTS_EVERY: Duration = Duration::from_secs(5);

/// Everything this room works with.
pub(crate) struct Services {
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Clock,
    pub(crate) db: Db,
    pub(crate) auth: Auth,
    pub(crate) secrets: Secrets,
    pub(crate) hooks: HookRunner,
    pub(crate) backend: SharedBackend,
    pub(crate) events: Events,
    pub(crate) directory: Directory,
    pub(crate) hierarchy: Hierarchy,
    pub(crate) images: Images,
    pub(crate) guard: Guard,
    pub(crate) relay: Relay,
    pub(crate) leader: Leader,
    pub(crate) redactor: Redactor,
    /// For calls to agents: no redirects.
    pub(crate) agents: reqwest::Client,
    pub(crate) supervisor: Supervisor,
    pub(crate) env_plans: EnvPlans,
    /// URL under which agents reach this server, no trailing slash.
    pub(crate) platform_url: String,
}

/// The room's service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Workspaces {
    services: Arc<Services>,
    provisioner: Provisioner,
    restarts: Restarts,
    declared: Arc<timeouts::Declared>,
}

impl Workspaces {
    pub(crate) fn new(services: Services) -> Self {
        let services = Arc::new(services);
        let provisioner = Provisioner::new(Arc::clone(&services));
        let restarts = Restarts::new(services.config.workspaces.restarts_per_minute);
        Self {
            services,
            provisioner,
            restarts,
            declared: Arc::default(),
        }
    }

    /// From now on every start is given the plugins that `supplies` knows of. Said before
    /// [`start`](Self::start): a boot that this server takes over needs them as well.
    pub(crate) fn set_plugins(&self, supplies: Weak<dyn PluginSupplies>) {
        self.provisioner.set_plugins(supplies);
    }

    /// Takes over what an earlier run left and starts the loops.
    pub(crate) async fn start(&self) -> sqlx::Result<()> {
        if let Db::Sqlite(_) = self.services.db {
            // Nobody else can be working on this file: no lease is alive.
            store::lease::expire_all(&self.services.db).await?;
        }
        self.teach_redactor().await?;
        let supervisor = &self.services.supervisor;
        let services = Arc::clone(&self.services);
        supervisor.run("workspace-changes", move || {
            let services = Arc::clone(&services);
            async move {
                changes::listen(&services.relay, &services.directory, &services.hierarchy).await;
            }
        });
        let this = self.clone();
        supervisor.every("provision-recovery", RECOVERY_EVERY, move || {
            let this = this.clone();
            async move { this.recover_abandoned().await }
        });
        let this = self.clone();
        supervisor.every("provision-timeout-sweep", TIMEOUT_SWEEP_EVERY, move || {
            let this = this.clone();
            async move { this.sweep_timed_out().await }
        });
        let this = self.clone();
        supervisor.every("hibernation-recovery", RECOVERY_EVERY, move || {
            let this = this.clone();
            async move { this.finish_hibernations().await }
        });
        let this = self.clone();
        supervisor.every("requested-restarts", RESTARTS_EVERY, move || {
            let this = this.clone();
            async move { this.poke_restarts() }
        });
        Ok(())
    }

    /// Teaches the redactor the inbound secrets of all workspaces.
    async fn teach_redactor(&self) -> sqlx::Result<()> {
        let services = &self.services;
        for row in store::inbound_secrets(&services.db).await? {
            self.teach_inbound(&row);
        }
        Ok(())
    }

    /// Teaches the redactor everything that is stored for one workspace, also what
    /// another server stored.
    async fn teach_redactor_of(&self, id: Uuid) -> sqlx::Result<()> {
        let services = &self.services;
        services.secrets.teach_redactor_of(id).await?;
        if let Some(row) = store::inbound_secret(&services.db, id).await? {
            self.teach_inbound(&row);
        }
        Ok(())
    }

    fn teach_inbound(&self, row: &store::InboundSecret) {
        let services = &self.services;
        let place = aad("workspaces", &row.id.to_string(), "inbound_secret");
        // One that does not decrypt cannot leak either.
        if let Ok(plain) = services.secrets.cipher().open(&row.sealed(), &place) {
            services.redactor.learn(&String::from_utf8_lossy(&plain));
        }
    }

    /// All workspaces that were not removed, oldest first.
    pub(crate) async fn list(&self) -> Result<Vec<Workspace>> {
        Ok(store::list(&self.services.db).await?)
    }

    /// The longest time that a template of each runtime gives an agent to register, in
    /// seconds; nothing for runtimes whose templates do not say.
    pub(crate) async fn declared_timeouts(&self) -> Arc<HashMap<String, i64>> {
        let root = self.services.config.workspaces.templates_dir.as_deref();
        self.declared.by_runtime(root).await
    }

    /// One workspace, removed or not.
    ///
    /// # Errors
    /// 404 `workspace not found`.
    pub(crate) async fn get(&self, id: Uuid) -> Result<Workspace> {
        store::find(&self.services.db, id)
            .await?
            .ok_or_else(|| Error::not_found("workspace not found"))
    }

    /// Whether the workspace called `id` exists, mostly from memory.
    ///
    /// # Errors
    /// 404 `workspace not found`, also for removed ones.
    pub(crate) async fn require(&self, id: &str) -> Result<()> {
        let status = match Uuid::parse_str(id) {
            Ok(id) => self.services.directory.status(id).await?,
            Err(_) => None,
        };
        match status {
            Some(_) => Ok(()),
            None => Err(Error::not_found("workspace not found")),
        }
    }

    /// Asks the backend, in the background, where the agent of a workspace is now:
    /// Docker gives a container another port whenever it restarts. Called when an
    /// agent registers, which is what it does first after a restart.
    pub(crate) fn refresh_url(&self, id: Uuid) {
        let this = self.clone();
        self.services
            .supervisor
            .spawn("refresh-url", async move { this.refresh_url_now(id).await });
    }

    /// As [`refresh_url`](Self::refresh_url), and waits for the answer.
    pub(crate) async fn refresh_url_now(&self, id: Uuid) {
        let services = &self.services;
        let stored = store::find(&services.db, id).await;
        let Ok(Some(Workspace {
            instance_id: Some(instance_id),
            ..
        })) = stored
        else {
            return;
        };
        let instance = InstanceRef {
            workspace_id: id,
            instance_id: Some(instance_id.clone()),
        };
        match services.backend.url(&instance).await {
            Ok(Some(url)) => match store::refresh_url(&services.db, id, &instance_id, &url).await {
                Ok(true) => tracing::info!(workspace.id = %id, "agent has another address now"),
                Ok(false) => {}
                Err(error) => tracing::warn!(workspace.id = %id, %error, "address not written"),
            },
            Ok(None) => {}
            Err(error) => {
                let error = services.describe(error);
                tracing::warn!(workspace.id = %id, error, "address could not be looked up");
            }
        }
    }

    /// What a token provider may know of the workspace called `id`.
    ///
    /// # Errors
    /// 404 `workspace not found`, also for removed ones.
    pub(crate) async fn hook_context(&self, id: &str) -> Result<WorkspaceContext> {
        let not_found = || Error::not_found("workspace not found");
        let id = Uuid::parse_str(id).map_err(|_| not_found())?;
        let workspace = self.get(id).await?;
        match workspace.status() {
            Status::Removed => Err(not_found()),
            _ => Ok(workspace.hook_context()),
        }
    }

    /// Who is whose parent.
    pub(crate) fn hierarchy(&self) -> &Hierarchy {
        &self.services.hierarchy
    }

    /// The in-memory facts of this room.
    pub(crate) fn directory(&self) -> &Directory {
        &self.services.directory
    }
}
