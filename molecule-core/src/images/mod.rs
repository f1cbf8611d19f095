//! Images of runtimes as administrators see them: pins, refreshing, watching.
//!
//! The backend knows how to obtain an image; this room knows which content was
//! decided on, and whom a new image concerns.

pub(crate) mod routes;
mod store;

use std::sync::Arc;

use molecule_hooks::Clock;

use crate::backend::{ImageDigest, SharedBackend};
use crate::config::Config;
use crate::store::Db;

/// Everything this room works with.
pub(crate) struct Services {
    pub(crate) config: Arc<Config>,
    pub(crate) clock: Clock,
    pub(crate) db: Db,
    pub(crate) backend: SharedBackend,
}

/// The room's service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Images {
    services: Arc<Services>,
}

impl Images {
    pub(crate) fn new(services: Services) -> Self {
        Self {
            services: Arc::new(services),
        }
    }

    /// The content that an administrator decided on for a runtime. None when there is
    /// no pin, when the operator overrides pins, and when nobody can tell: a
    /// workspace that starts with a moving image is better than none.
    pub(crate) async fn pin_of(&self, runtime: &str) -> Option<ImageDigest> {
        let services = &self.services;
        let docker = &services.config.backend.docker;
        if docker
            .image_local_override
            .as_deref()
            .is_some_and(|text| !text.is_empty())
        {
            return None;
        }
        match store::pin(&services.db, runtime).await {
            Ok(text) => ImageDigest::parse(&text?),
            Err(error) => {
                tracing::warn!(runtime, %error, "pin could not be read; starting without");
                None
            }
        }
    }
}
