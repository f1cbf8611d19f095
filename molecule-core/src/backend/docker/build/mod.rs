//! Local-build mode: images of runtimes are built on this machine, from their
//! repositories, and nothing else will do.
//!
//! An image is known by its tag, the short commit (and the platform where that is not
//! the daemon's own), and by labels that hold the whole commit, a fingerprint of the
//! place it came from, and the platform. All of them must fit.
//!
//! Only the git program runs here. It knows nothing of the server's environment and
//! nobody but this server can see its token. What the repository holds runs nowhere
//! but in the daemon's containers.

mod cache;
mod context;
mod error;
mod flight;
mod git;
mod images;
mod log;
mod lookup;
mod mask;
mod run;
mod source;
mod still;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use tokio::sync::{OnceCell, RwLock};
use tokio_util::sync::CancellationToken;

use self::cache::Sources;
use self::context::{Context, ContextError};
use self::error::BuildError;
use self::flight::Flights;
use self::git::Git;
use self::images::{Wanted, explained};
use self::lookup::Lookup;
use self::mask::Mask;
use self::run::Build;
use self::source::{Origin, Repository};
use self::still::telling;
use super::Inner;
use super::daemon::Daemon;
use crate::backend::{BackendError, KNOWN_RUNTIMES, ObtainedImage, Progress};
use crate::config::backend::{DockerConfig, LocalBuildConfig};

/// How often a build is begun anew because the branch moved while it was fetched.
const ATTEMPTS: u32 = 2;

/// Where the work tells how it gets on: a line, and how much is done.
type Tell<'a> = dyn Fn(&str, Option<u8>) + Send + Sync + 'a;

/// Makes sure that there is an image of a runtime, built from the newest commit.
/// Concurrent calls for one runtime share the work, which ends when nobody waits for
/// it any longer.
///
/// # Errors
/// [`BackendError`], whose text begins with `local-build mode: ensure image`. There is
/// nothing to fall back to.
pub(in crate::backend::docker) async fn ensure(
    inner: &Inner,
    runtime: &str,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<ObtainedImage, BackendError> {
    match inner.builds.ensure(runtime, progress, cancel).await {
        Ok(reference) => Ok(ObtainedImage {
            reference,
            digest: None,
            stale: false,
        }),
        Err(error) => {
            let runtime: String = runtime.chars().take(64).collect();
            Err(error.into_backend(&runtime))
        }
    }
}

/// The error of a runtime for which there is nothing to build.
pub(in crate::backend::docker) fn refusal(runtime: &str) -> BackendError {
    let runtime: String = runtime.chars().take(64).collect();
    unknown(&runtime).into_backend(&runtime)
}

fn unknown(runtime: &str) -> BuildError {
    let runtime: String = runtime.chars().take(64).collect();
    BuildError::Refused(format!(
        "local-build: refusing to build unknown runtime {runtime:?} (must be one of [{}])",
        KNOWN_RUNTIMES.join(", ")
    ))
}

/// The platform that images are built for, and that containers of them must be
/// created with; none means the daemon's own.
pub(in crate::backend::docker) fn platform(config: &DockerConfig) -> Option<&str> {
    let configured = config.image_platform.as_deref()?;
    let (system, architecture) = configured.trim().split_once('/')?;
    (!system.is_empty() && !architecture.is_empty()).then_some(configured.trim())
}

/// The version of the git program, or why there is none. For `doctor`.
pub(in crate::backend::docker) async fn git_version(inner: &Inner) -> Result<String, String> {
    let git = Git {
        search_path: &inner.config.local_build.search_path(),
        home: Path::new("/"),
        mask: &Mask::of([]),
    };
    git.version().await.map_err(|error| error.to_string())
}

/// The builds of one backend.
pub(super) struct Builds {
    builder: Arc<Builder>,
    flights: Arc<Flights>,
    bound: Duration,
}

impl Builds {
    /// Nothing is looked up or made yet.
    pub(super) fn new(config: &DockerConfig) -> Result<Self, BackendError> {
        let builder = Builder {
            daemon: Daemon::new(config)?,
            origin: Origin::of(&config.local_build),
            lookup: Lookup::new(),
            settings: config.local_build.clone(),
            platform: platform(config).map(str::to_owned),
            native: OnceCell::new(),
            building: RwLock::default(),
        };
        Ok(Self {
            builder: Arc::new(builder),
            flights: Flights::new(),
            bound: Duration::from_secs(config.pull_timeout_secs.max(1)),
        })
    }

    async fn ensure(
        &self,
        runtime: &str,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<String, BuildError> {
        let Some(known) = KNOWN_RUNTIMES.iter().find(|known| **known == runtime) else {
            return Err(unknown(runtime));
        };
        let builder = Arc::clone(&self.builder);
        self.flights
            .join(
                known,
                progress,
                cancel,
                self.bound,
                |flight, cancel| async move {
                    let tell = |line: &str, percent| flight.tell(line, percent);
                    builder.ensure(known, &tell, &cancel).await
                },
            )
            .await
    }

    /// Ends what is under way, within `bound`.
    pub(super) async fn shutdown(&self, bound: Duration) {
        self.flights.shutdown(bound).await;
    }
}

/// Builds one image.
struct Builder {
    daemon: Daemon,
    origin: Result<Origin, BuildError>,
    lookup: Lookup,
    settings: LocalBuildConfig,
    /// The configured platform.
    platform: Option<String>,
    /// The daemon's own.
    native: OnceCell<String>,
    /// Held for reading by builds. Removing an old image takes its layers along, and
    /// another build may be about to take one of those for its next step.
    building: RwLock<()>,
}

impl Builder {
    async fn ensure(
        &self,
        runtime: &'static str,
        tell: &Tell<'_>,
        cancel: &CancellationToken,
    ) -> Result<String, BuildError> {
        let origin = self.origin.as_ref().map_err(Clone::clone)?;
        let repository = origin.repository(runtime)?;
        let mask = origin.mask();
        let native = until(cancel, self.native(mask)).await?;
        tell("looking up the newest commit", None);
        let mut wanted = Wanted {
            runtime,
            commit: until(cancel, self.lookup.head(runtime, &repository)).await?,
            source: repository.fingerprint(),
            apart: false,
            platform: self.platform.clone().unwrap_or_else(|| native.to_owned()),
            foreign: self
                .platform
                .as_deref()
                .is_some_and(|wanted| wanted != native),
        };
        if let Some(reference) = until(cancel, self.present(&mut wanted, mask)).await? {
            return Ok(reference);
        }
        let opening = Sources::open(self.settings.source_dir(), runtime, cancel);
        let waiting = "waiting for another server that builds this runtime";
        let sources = telling(tell, waiting, opening).await?;
        let mut left = ATTEMPTS;
        loop {
            // Somebody else may have built it while we waited for our turn, or when the
            // branch moved.
            if let Some(reference) = until(cancel, self.present(&mut wanted, mask)).await? {
                return Ok(reference);
            }
            let folder = sources.fresh(&wanted.commit).await?;
            let made = self
                .make(&wanted, &repository, (&sources, &folder), (tell, cancel))
                .await;
            match made {
                Ok(Made::Image(id)) => {
                    sources.evict(self.settings.keep.max(1)).await;
                    // If another one is under way, whoever builds next does it.
                    if let Ok(_alone) = self.building.try_write() {
                        images::evict(&self.daemon, &wanted, &id, self.settings.keep).await;
                    }
                    return Ok(wanted.reference());
                }
                Ok(Made::Moved) => sources.remove(folder).await,
                Err(error) => {
                    sources.remove(folder).await;
                    return Err(error);
                }
            }
            left -= 1;
            if left == 0 {
                return Err(BuildError::Trouble(format!(
                    "local-build: the branch at {} moved each time it was cloned",
                    repository.shown
                )));
            }
            wanted.commit = until(cancel, self.lookup.head(runtime, &repository)).await?;
        }
    }

    /// The reference of an image that is there already.
    async fn present(
        &self,
        wanted: &mut Wanted,
        mask: &Mask,
    ) -> Result<Option<String>, BuildError> {
        if !images::look(&self.daemon, wanted, mask).await? {
            return Ok(None);
        }
        images::name_latest(&self.daemon, wanted, mask).await;
        Ok(Some(wanted.reference()))
    }

    /// Fetches the wanted commit into an empty folder and builds it.
    async fn make(
        &self,
        wanted: &Wanted,
        repository: &Repository,
        (sources, folder): (&Sources, &Path),
        (tell, cancel): (&Tell<'_>, &CancellationToken),
    ) -> Result<Made, BuildError> {
        let mask = self.origin.as_ref().map_err(Clone::clone)?.mask();
        let git = Git {
            search_path: &self.settings.search_path(),
            home: &sources.home(),
            mask,
        };
        // Whoever began this bounds it.
        let fetching = format!("fetching commit {}", wanted.commit.short());
        tell(&fetching, None);
        let clone = git.clone(repository, folder, Duration::MAX, cancel);
        let cloned = telling(tell, &fetching, clone).await?;
        if cloned != wanted.commit {
            tracing::info!(
                runtime = wanted.runtime,
                expected = wanted.commit.as_str(),
                found = cloned.as_str(),
                "the branch moved while it was cloned"
            );
            return Ok(Made::Moved);
        }
        let looking = self.context(wanted, repository, folder, cancel);
        let context = telling(tell, "looking through the source", looking).await?;
        let reference = wanted.reference();
        tracing::info!(
            runtime = wanted.runtime,
            commit = wanted.commit.as_str(),
            image = reference,
            "building image"
        );
        let turn = self.building.read();
        let _building = telling(tell, "waiting for old images to be removed", turn).await;
        let build = Build {
            daemon: &self.daemon,
            mask,
            wanted,
            tell,
        };
        build.run(&context, cancel).await?;
        let Some(id) = images::find(&self.daemon, wanted, mask).await? else {
            return Err(BuildError::Refused(format!(
                "local-build: docker build of {reference} ended without an image"
            )));
        };
        images::name_latest(&self.daemon, wanted, mask).await;
        tracing::info!(runtime = wanted.runtime, image = reference, "image built");
        Ok(Made::Image(id))
    }

    async fn context(
        &self,
        wanted: &Wanted,
        repository: &Repository,
        folder: &Path,
        cancel: &CancellationToken,
    ) -> Result<Context, BuildError> {
        let folder = folder.to_owned();
        // Also ends it when nobody waits for the answer any longer.
        let stop = cancel.child_token();
        let _guard = stop.clone().drop_guard();
        let looking = tokio::task::spawn_blocking(move || Context::of(folder, &stop));
        let looked = looking.await;
        let at = format!("{}@{}", repository.shown, wanted.commit.short());
        match looked {
            Ok(Ok(context)) => Ok(context),
            Ok(Err(ContextError::NoDockerfile)) => Err(BuildError::Refused(format!(
                "local-build: cloned tree at {at} has no Dockerfile (template repo malformed)"
            ))),
            Ok(Err(ContextError::Cancelled)) => Err(BuildError::Cancelled),
            Ok(Err(error)) => Err(BuildError::Refused(format!(
                "local-build: cloned tree at {at} cannot be built from: {error}"
            ))),
            Err(_) => Err(BuildError::Cancelled),
        }
    }

    /// The platform of the daemon itself, for example `linux/amd64`.
    async fn native(&self, mask: &Mask) -> Result<&str, BuildError> {
        let ask = || async {
            let version = self.daemon.call(Docker::version).await?;
            Ok(match (version.os, version.arch) {
                (Some(system), Some(architecture)) => format!("{system}/{architecture}"),
                _ => "native".to_owned(),
            })
        };
        let native = self.native.get_or_try_init(ask).await;
        native
            .map(String::as_str)
            .map_err(|error| explained("ask the daemon", &error, mask))
    }
}

/// What came of an attempt.
enum Made {
    /// An image, by its id.
    Image(String),
    /// The branch has another commit by now.
    Moved,
}

async fn until<T>(
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T, BuildError>>,
) -> Result<T, BuildError> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(BuildError::Cancelled),
        done = work => done,
    }
}
