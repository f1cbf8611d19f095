//! Workspace plugins: where their bytes come from, whether they may be had, how they get
//! into a workspace, and what is known about them.

mod allowlist;
mod deliver;
pub(crate) mod diagnosis;
mod download;
mod drift;
mod follow;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod ground;
mod install;
mod installed;
mod locks;
mod manifest;
mod pins;
mod receipts;
mod registry;
mod restart;
mod room;
pub(crate) mod routes;
mod signature;
mod source;
mod staging;
mod store;
mod supply;
mod track;
mod uninstall;
mod updates;

pub use self::source::{GitSource, LocalSource};

use std::sync::Arc;

use molecule_hooks::{Clock, Registry};

use crate::backend::SharedBackend;
use crate::config::Config;
use crate::events::Events;
use crate::redact::Redactor;
use crate::store::{Db, Leader};
use crate::supervisor::Supervisor;
use crate::workspaces::Workspaces;
use locks::Doors;
pub(crate) use signature::TrustedKey;
use source::Sources;

/// Everything this room works with.
pub(crate) struct Services {
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Clock,
    pub(crate) db: Db,
    pub(crate) backend: SharedBackend,
    pub(crate) events: Events,
    pub(crate) leader: Leader,
    pub(crate) redactor: Redactor,
    /// Sources that hook crates brought.
    pub(crate) registry: Registry,
    pub(crate) supervisor: Supervisor,
    pub(crate) workspaces: Workspaces,
}

/// The room's service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Plugins {
    services: Arc<Services>,
    /// Keeps changes of one plugin of one workspace apart.
    doors: Doors,
    /// Room for the trees of installs.
    room: Arc<room::Room>,
    sources: Sources,
    staging: Arc<staging::Staging>,
    listing: Arc<registry::Listing>,
    downloads: Arc<download::Downloads>,
    drift: Arc<drift::Drift>,
}

impl Plugins {
    pub(crate) fn new(services: Services) -> Self {
        let limits = &services.config.plugins;
        tracing::info!(
            body_bytes = limits.install_body_max_bytes,
            install_timeout_secs = limits.install_timeout_secs,
            tree_bytes = limits.max_dir_bytes,
            tree_entries = limits.max_entries,
            allow_unpinned = limits.allow_unpinned,
            require_immutable_ref = limits.require_immutable_ref,
            "limits of plugins"
        );
        let staging = Arc::new(staging::Staging::new(&services.config));
        let sweeping = Arc::clone(&staging);
        services
            .supervisor
            .spawn("plugin-staging-sweep", async move {
                // It says itself what it could not do.
                let _ = tokio::task::spawn_blocking(move || sweeping.sweep()).await;
            });
        Self {
            sources: Sources::new(&services.config, &services.registry),
            services: Arc::new(services),
            doors: Doors::default(),
            room: Arc::new(install::room()),
            staging,
            listing: Arc::default(),
            downloads: Arc::default(),
            drift: Arc::default(),
        }
    }

    /// Takes over what an earlier run left.
    pub(crate) async fn start(&self) -> sqlx::Result<()> {
        self.restart_what_is_restored();
        if let Db::Sqlite(_) = self.services.db {
            // Nobody else can be working on this file: no operation is alive.
            store::locks::forget_all(&self.services.db).await?;
            store::queue::release_all(&self.services.db).await?;
        }
        Ok(())
    }
}
