//! Workspace plugins: where their bytes come from, whether they may be had, how they get
//! into a workspace, and what is known about them.

pub(crate) mod routes;
mod source;

pub use self::source::{GitSource, LocalSource};

use std::sync::Arc;

use molecule_hooks::{Clock, Registry};

use crate::auth::Auth;
use crate::backend::SharedBackend;
use crate::config::Config;
use crate::events::Events;
use crate::redact::Redactor;
use crate::store::{Db, Leader};
use crate::supervisor::Supervisor;
use crate::workspaces::Workspaces;

/// Everything this room works with.
pub(crate) struct Services {
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Clock,
    pub(crate) db: Db,
    pub(crate) auth: Auth,
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
}

impl Plugins {
    pub(crate) fn new(services: Services) -> Self {
        Self {
            services: Arc::new(services),
        }
    }
}
