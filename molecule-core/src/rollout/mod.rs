//! Bringing a newer image to the workspaces that use an older one: by request and by
//! watching the registry.

pub(crate) mod routes;

use std::sync::Arc;

use crate::backend::SharedBackend;
use crate::config::Config;
use crate::store::Leader;
use crate::supervisor::Supervisor;
use crate::workspaces::Workspaces;

/// Everything this room works with.
pub(crate) struct Services {
    pub(crate) config: Arc<Config>,
    pub(crate) backend: SharedBackend,
    pub(crate) leader: Leader,
    pub(crate) supervisor: Supervisor,
    pub(crate) workspaces: Workspaces,
}

/// The room's service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Rollout {
    services: Arc<Services>,
}

impl Rollout {
    pub(crate) fn new(services: Services) -> Self {
        Self {
            services: Arc::new(services),
        }
    }

    /// Starts the watcher, if the operator wants it and there is something to watch.
    pub(crate) fn start(&self) {
        let _ = &self.services;
    }
}
