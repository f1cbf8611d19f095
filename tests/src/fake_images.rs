//! Images of the fake backend: a registry that says what it is told to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use molecule_core::backend::{
    BackendError, ImageDigest, ImageRequest, ImageUser, Images, KNOWN_RUNTIMES, ObtainedImage,
    Phase, Progress, StartSpec,
};
use tokio_util::sync::CancellationToken;

use crate::FakeBackend;

/// What asking for images is like from now on.
#[derive(Debug, Clone, Default)]
pub enum Registry {
    /// As it should be.
    #[default]
    Serves,
    /// It refuses, for this reason.
    Refuses(String),
    /// It cannot be reached.
    Away,
    /// It never says anything; who waits may cancel.
    Silent,
    /// It serves after so many steps of progress with this detail, so far apart.
    Slow(usize, Duration, String),
    /// It panics with this text.
    Panics(String),
}

/// The images. Switched off at first: then the backend runs none.
#[derive(Default)]
pub struct FakeImages {
    on: AtomicBool,
    builds: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    registry: Registry,
    /// What the registry has, by runtime, instead of the same for all.
    latest: BTreeMap<String, ImageDigest>,
    /// What was pulled last, by runtime.
    here: BTreeMap<String, ImageDigest>,
    /// Runtimes that cannot be pulled.
    broken: BTreeSet<String>,
    obtained: Vec<ImageRequest>,
    refreshed: Vec<String>,
    asked: Vec<String>,
    users_fail: bool,
    /// Boots find no registry, whatever it is to others.
    boots_fail: bool,
    /// Runtimes whose images are in one repository.
    shared: BTreeSet<String>,
    stale: Vec<String>,
}

/// A digest of 64 times the same digit.
pub fn digest(digit: char) -> ImageDigest {
    let text = format!("sha256:{}", digit.to_string().repeat(64));
    ImageDigest::parse(&text).expect("a digest")
}

impl FakeImages {
    /// From now on workspaces run images; before a server starts.
    pub fn switch_on(&self) {
        self.on.store(true, Ordering::Relaxed);
    }

    /// From now on images that the operator does not name are built on this machine.
    pub fn build_locally(&self) {
        self.builds.store(true, Ordering::Relaxed);
    }

    /// Sets what asking is like.
    pub fn set_registry(&self, registry: Registry) {
        self.state(|state| state.registry = registry);
    }

    /// The registry has another content for a runtime.
    pub fn publish(&self, runtime: &str, digest: ImageDigest) {
        self.state(|state| state.latest.insert(runtime.to_owned(), digest));
    }

    /// The image of a runtime cannot be pulled any more, or can again.
    pub fn set_broken(&self, runtime: &str, broken: bool) {
        self.state(|state| match broken {
            true => state.broken.insert(runtime.to_owned()),
            false => state.broken.remove(runtime),
        });
    }

    /// The users of an image cannot be listed any more, or can again.
    pub fn set_users_fail(&self, fail: bool) {
        self.state(|state| state.users_fail = fail);
    }

    /// Boots cannot reach the registry any more, or can again. Others still do.
    pub fn set_boots_fail(&self, fail: bool) {
        self.state(|state| state.boots_fail = fail);
    }

    /// From now on the images of these runtimes are in one repository.
    pub fn share_repository(&self, runtimes: &[&str]) {
        let runtimes = runtimes.iter().map(|&runtime| runtime.to_owned());
        self.state(|state| state.shared = runtimes.collect());
    }

    /// The next look after failed pulls finds these runtimes renewed.
    pub fn set_stale(&self, runtimes: &[&str]) {
        let runtimes = runtimes.iter().map(|&runtime| runtime.to_owned());
        self.state(|state| state.stale = runtimes.collect());
    }

    /// Runtimes that are still to be renewed.
    pub fn stale(&self) -> Vec<String> {
        self.state(|state| state.stale.clone())
    }

    /// What boots asked for so far.
    pub fn obtained(&self) -> Vec<ImageRequest> {
        self.state(|state| state.obtained.clone())
    }

    /// Runtimes whose image was pulled anew so far.
    pub fn refreshed(&self) -> Vec<String> {
        self.state(|state| state.refreshed.clone())
    }

    /// How often the registry was asked for its latest image of a runtime.
    pub fn asked(&self, runtime: &str) -> usize {
        self.state(|state| state.asked.iter().filter(|asked| *asked == runtime).count())
    }

    pub(crate) fn are_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// What a workspace that starts like this runs.
    pub(crate) fn digest_of(&self, spec: &StartSpec) -> Option<ImageDigest> {
        let pulled = || self.state(|state| state.here.get(&spec.runtime).cloned());
        spec.image_pin.clone().or_else(pulled)
    }

    fn state<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Pulls, if the registry lets it.
    async fn pull(
        &self,
        runtime: &str,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<ImageDigest, BackendError> {
        const OPERATION: &str = "pull image";
        let refused = |reason: String| BackendError::Failed {
            operation: OPERATION,
            reason,
        };
        let (registry, broken) = self.state(|state| {
            let broken = state.broken.contains(runtime);
            (state.registry.clone(), broken)
        });
        match registry {
            Registry::Serves => {}
            Registry::Refuses(reason) => return Err(refused(reason)),
            Registry::Away => {
                return Err(BackendError::Timeout {
                    operation: OPERATION,
                });
            }
            Registry::Silent => {
                cancel.cancelled().await;
                return Err(BackendError::Cancelled);
            }
            Registry::Slow(steps, pause, detail) => {
                for step in 0..steps {
                    let percent = u8::try_from(step * 100 / steps).ok();
                    progress.tell(Phase::Pull, detail.clone(), percent);
                    tokio::select! {
                        () = cancel.cancelled() => return Err(BackendError::Cancelled),
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
            Registry::Panics(text) => panic!("{text}"),
        }
        if broken {
            return Err(refused("secret-registry-detail".to_owned()));
        }
        Ok(self.state(|state| {
            let latest = state.latest.get(runtime).cloned();
            let latest = latest.unwrap_or_else(|| digest('0'));
            state.here.insert(runtime.to_owned(), latest.clone());
            latest
        }))
    }
}

#[async_trait]
impl Images for FakeBackend {
    fn builds_locally(&self) -> bool {
        self.images.builds.load(Ordering::Relaxed)
    }

    fn reference(&self, request: &ImageRequest) -> Result<String, BackendError> {
        let runtime = &request.runtime;
        if !KNOWN_RUNTIMES.contains(&runtime.as_str()) {
            return Err(BackendError::Failed {
                operation: "choose image",
                reason: format!("no image for {runtime}"),
            });
        }
        let base = format!("registry.test/workspace-template-{runtime}");
        Ok(match &request.pin {
            Some(pin) => format!("{base}@{pin}"),
            None => format!("{base}:latest"),
        })
    }

    async fn obtain(
        &self,
        request: &ImageRequest,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<ObtainedImage, BackendError> {
        (self.images).state(|state| state.obtained.push(request.clone()));
        let reference = self.reference(request)?;
        if self.images.state(|state| state.boots_fail) {
            return Err(BackendError::Timeout {
                operation: "pull image",
            });
        }
        let pulled = self.images.pull(&request.runtime, progress, cancel).await?;
        Ok(ObtainedImage {
            reference,
            digest: Some(request.pin.clone().unwrap_or(pulled)),
            stale: false,
        })
    }

    async fn refresh(
        &self,
        runtime: &str,
        cancel: &CancellationToken,
    ) -> Result<ObtainedImage, BackendError> {
        (self.images).state(|state| state.refreshed.push(runtime.to_owned()));
        let request = ImageRequest {
            runtime: runtime.to_owned(),
            pin: None,
        };
        let reference = self.reference(&request)?;
        let progress = Progress::none();
        let pulled = self.images.pull(runtime, &progress, cancel).await?;
        Ok(ObtainedImage {
            reference,
            digest: Some(pulled),
            stale: false,
        })
    }

    async fn latest(&self, runtime: &str) -> Result<ImageDigest, BackendError> {
        self.images.state(|state| {
            state.asked.push(runtime.to_owned());
            if !matches!(state.registry, Registry::Serves | Registry::Slow(..)) {
                return Err(BackendError::Timeout {
                    operation: "ask registry",
                });
            }
            Ok((state.latest.get(runtime).cloned()).unwrap_or_else(|| digest('0')))
        })
    }

    async fn users_of(&self, runtime: &str) -> Result<Vec<ImageUser>, BackendError> {
        if self.images.state(|state| state.users_fail) {
            return Err(BackendError::Failed {
                operation: "list",
                reason: "secret-daemon-detail".to_owned(),
            });
        }
        let shared = self.images.state(|state| state.shared.clone());
        let is_same =
            |other: &str| other == runtime || (shared.contains(other) && shared.contains(runtime));
        let users = self.running().into_iter();
        let users = users.filter(|spec| is_same(&spec.runtime));
        Ok(users
            .map(|spec| ImageUser {
                workspace_id: spec.workspace_id,
                reference: format!("registry.test/workspace-template-{runtime}:latest"),
            })
            .collect())
    }

    async fn retry_stale(&self, _: &CancellationToken) -> Vec<String> {
        self.images.state(|state| std::mem::take(&mut state.stale))
    }
}
