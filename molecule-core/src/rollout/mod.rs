//! Bringing a newer image to the workspaces that use an older one: by request and by
//! watching the registry.
//!
//! Whoever concerns a new image is restarted as after a changed secret: by a request in
//! its row, within the budget of restarts, declined if the image cannot be had after
//! all. Images that are built on this machine are left alone: their next boot looks for
//! the newest commit anyway.

mod pull;
mod refresh;
pub(crate) mod routes;
mod turn;
mod watch;

use std::sync::Arc;

use crate::backend::{Images as BackendImages, SharedBackend};
use crate::config::Config;
use crate::images::Images;
use crate::store::Leader;
use crate::supervisor::Supervisor;
use crate::workspaces::Workspaces;

/// Everything this room works with.
pub(crate) struct Services {
    pub(crate) config: Arc<Config>,
    pub(crate) backend: SharedBackend,
    pub(crate) leader: Leader,
    pub(crate) supervisor: Supervisor,
    pub(crate) images: Images,
    pub(crate) workspaces: Workspaces,
}

/// The room's service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Rollout {
    services: Arc<Services>,
    turn: Arc<turn::Turn>,
    watched: watch::Watched,
}

impl Rollout {
    pub(crate) fn new(services: Services) -> Self {
        Self {
            services: Arc::new(services),
            turn: Arc::default(),
            watched: watch::Watched::default(),
        }
    }

    /// True for a runtime whose image comes from a registry.
    fn is_pulled(&self, images: &dyn BackendImages, runtime: &str) -> bool {
        let named = &self.services.config.backend.docker.images;
        !images.builds_locally() || named.contains_key(runtime)
    }
}
