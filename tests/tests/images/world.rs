//! A daemon, a registry, and a backend that takes its images from there.

use std::sync::{Arc, Mutex};

use molecule_core::backend::{
    BackendError, ImageDigest, ImageRequest, Images, ObtainedImage, Progress, Step,
    WorkspaceBackend,
};
use molecule_core::config::backend::DockerConfig;
use tokio_util::sync::CancellationToken;

use crate::backend_support::docker::DockerFixture;
use crate::backend_support::fixture::Fixture;
use crate::support::registry::Registry;

pub(crate) fn never() -> CancellationToken {
    CancellationToken::new()
}

/// Asks for the image of the runtime of the tests.
pub(crate) fn request() -> ImageRequest {
    ImageRequest {
        runtime: "langgraph".to_owned(),
        pin: None,
    }
}

pub(crate) fn digest(text: &str) -> Option<ImageDigest> {
    Some(ImageDigest::parse(text).expect("a digest"))
}

pub(crate) fn images(backend: &Arc<dyn WorkspaceBackend>) -> &dyn Images {
    backend.images().expect("a backend with images")
}

pub(crate) async fn obtain(
    backend: &Arc<dyn WorkspaceBackend>,
) -> Result<ObtainedImage, BackendError> {
    let none = Progress::none();
    images(backend).obtain(&request(), &none, &never()).await
}

/// What was told.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Vec<Step>>>);

impl Told {
    pub(crate) fn progress(&self) -> Progress {
        let told = Arc::clone(&self.0);
        Progress::to(move |step| told.lock().unwrap().push(step))
    }

    pub(crate) fn steps(&self) -> Vec<Step> {
        self.0.lock().unwrap().clone()
    }
}

/// Order matters: what uses images goes before the registry that takes them away.
pub(crate) struct World {
    pub(crate) fixture: DockerFixture,
    pub(crate) registry: Registry,
}

impl World {
    /// None when tests with Docker are switched off.
    pub(crate) async fn new() -> Option<Self> {
        let fixture = DockerFixture::new().await?;
        Some(Self {
            fixture,
            registry: Registry::start().await,
        })
    }

    /// None when tests with Docker are switched off.
    pub(crate) async fn with_password(user: &str) -> Option<Self> {
        let fixture = DockerFixture::new().await?;
        Some(Self {
            fixture,
            registry: Registry::with_password(user).await,
        })
    }

    /// A backend whose runtime of the tests has the image `reference`.
    pub(crate) fn backend(&self, reference: &str) -> Arc<dyn WorkspaceBackend> {
        self.backend_with(reference, |_| {})
    }

    /// The same with other changes of its configuration.
    pub(crate) fn backend_with(
        &self,
        reference: &str,
        change: impl FnOnce(&mut DockerConfig),
    ) -> Arc<dyn WorkspaceBackend> {
        self.fixture.backend_with(&self.fixture.instance, |config| {
            config
                .images
                .insert("langgraph".to_owned(), reference.to_owned());
            change(config);
        })
    }
}
