//! Images of runtimes as administrators see them: which there are, and which content
//! was decided on. The backend knows how to obtain one.

mod pins;
pub(crate) mod routes;
mod store;

use std::collections::BTreeSet;
use std::sync::Arc;

use molecule_hooks::Clock;

use crate::backend::{ImageDigest, ImageRequest, KNOWN_RUNTIMES, SharedBackend};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::store::Db;

/// As much of an unknown name is repeated.
const MAX_SHOWN_CHARS: usize = 64;

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

    /// Runtimes for which there is an image: by their name, or because the operator
    /// names one.
    pub(crate) fn known_runtimes(&self) -> BTreeSet<&str> {
        let configured = &self.services.config.backend.docker.images;
        let configured = configured.keys().map(String::as_str);
        KNOWN_RUNTIMES.iter().copied().chain(configured).collect()
    }

    /// # Errors
    /// 400 `unknown runtime: x` with `known_runtimes`.
    pub(crate) fn require_known(&self, runtime: &str) -> Result<()> {
        let known = self.known_runtimes();
        if known.contains(runtime) {
            return Ok(());
        }
        let shown: String = runtime.chars().take(MAX_SHOWN_CHARS).collect();
        let known: Vec<&str> = known.into_iter().collect();
        Err(Error::invalid(format!("unknown runtime: {shown}")).with("known_runtimes", known))
    }

    /// The reference with which the backend would ask for an image; none if it runs no
    /// images, or knows none for the runtime.
    pub(crate) fn reference(&self, runtime: &str, pin: Option<ImageDigest>) -> Option<String> {
        let runtime = runtime.to_owned();
        let images = self.services.backend.images()?;
        images.reference(&ImageRequest { runtime, pin }).ok()
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
