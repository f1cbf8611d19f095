//! Workspaces as containers of a Docker daemon.
//!
//! Everything made here carries labels that say which server's database owns
//! it, so that several servers can share a daemon. Nothing that says it belongs
//! to another one is ever stopped, replaced or deleted.

mod archive;
mod build;
mod changes;
mod config_file;
mod console;
mod container;
mod daemon;
mod exec;
mod facts;
mod image;
mod isolation;
mod names;
mod network;
mod objects;
mod plugins;
mod start;
mod storage;
mod terminal;
mod transport;
mod upload;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bollard::models::{ContainerStateStatusEnum, ContainerSummary, ContainerSummaryStateEnum};
use bollard::query_parameters::{ListContainersOptionsBuilder, ListVolumesOptionsBuilder};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::daemon::{CallError, Daemon};
use self::isolation::Isolation;
use self::names::Labels;
use self::objects::Found;
use super::plugins::Deliveries;
use super::scrub::Scrubber;
use super::tasks::Tasks;
use super::{
    BackendError, BackendKind, Changes, Console, Fact, Images, Instance, InstanceRef, Liveness,
    ManagedInstance, PluginTarget, RestoredListener, StartSpec, Terminal, WorkspaceBackend,
    platform_env,
};
use crate::config::backend::DockerConfig;

/// What local builds get to end at shutdown.
const SHUTDOWN_BOUND: Duration = Duration::from_secs(20);

/// Containers whose plugins are repaired at once after they were started.
const REPAIRS_AT_ONCE: usize = 4;

/// Runs workspaces as containers.
pub struct DockerBackend {
    inner: Arc<Inner>,
}

struct Inner {
    config: DockerConfig,
    instance: String,
    daemon: Daemon,
    images: image::State,
    builds: build::Builds,
    deliveries: Deliveries,
    /// Room for repairs of plugins that nobody waits for.
    repairs: Semaphore,
    /// Hears of plugins that came back.
    restored: OnceLock<RestoredListener>,
    /// What runs in the background.
    tasks: Tasks,
}

impl std::fmt::Debug for DockerBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DockerBackend")
            .field("instance", &self.inner.instance)
            .finish_non_exhaustive()
    }
}

impl Drop for DockerBackend {
    fn drop(&mut self) {
        self.inner.tasks.close();
    }
}

impl DockerBackend {
    /// A backend for the configured daemon, which is not contacted yet: see
    /// [`check`](WorkspaceBackend::check). `instance` is a short id of this
    /// server's database and says which containers and volumes are its own.
    ///
    /// # Errors
    /// [`BackendError::Failed`] when the address or the instance id cannot be
    /// used.
    pub fn connect(config: DockerConfig, instance: String) -> Result<Self, BackendError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if instance.is_empty() || instance.len() > 64 || !instance.chars().all(plain) {
            return Err(BackendError::Failed {
                operation: "connect to docker",
                reason: "the instance id must be 1 to 64 letters, digits, '-', '_' or '.'"
                    .to_owned(),
            });
        }
        let daemon = Daemon::new(&config)?;
        let builds = build::Builds::new(&config)?;
        Ok(Self {
            inner: Arc::new(Inner {
                images: image::State::new(&config),
                config,
                instance,
                daemon,
                builds,
                deliveries: Deliveries::default(),
                repairs: Semaphore::new(REPAIRS_AT_ONCE),
                restored: OnceLock::new(),
                tasks: Tasks::default(),
            }),
        })
    }
}

#[async_trait]
impl WorkspaceBackend for DockerBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Docker
    }

    fn platform_host(&self) -> &'static str {
        "host.docker.internal"
    }

    async fn start(
        &self,
        spec: &StartSpec,
        cancel: &CancellationToken,
    ) -> Result<Instance, BackendError> {
        let (inner, spec) = (Arc::clone(&self.inner), spec.clone());
        let tasks = &self.inner.tasks;
        tasks
            .run(cancel, |token| start::run(inner, spec, token))
            .await
    }

    fn forced_env(&self, spec: &StartSpec) -> Vec<(String, Option<String>)> {
        let known = |(name, value)| (name, Some(value));
        let platform = platform_env(spec, container::CONFIG_PATH);
        let isolation = Isolation::of(spec.tier, self.inner.config.privileged_tiers);
        let port = (container::PORT_VARIABLE.to_owned(), None);
        platform
            .into_iter()
            .map(known)
            .chain(isolation.is_on_host().then_some(port))
            .collect()
    }

    async fn stop(&self, instance: &InstanceRef) -> Result<(), BackendError> {
        let id = instance.workspace_id;
        let failed = |error: CallError| {
            let what = format!("force-remove {}", names::short(id));
            error.explained("stop workspace", &what, &Scrubber::plain())
        };
        let Inner {
            daemon,
            instance: ours,
            ..
        } = &*self.inner;
        for name in names::all_containers(id) {
            if let Found::Ours(id, _) = objects::find(daemon, &name, ours).await.map_err(failed)? {
                objects::remove(daemon, &id).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    async fn liveness(&self, instance: &InstanceRef) -> Liveness {
        self.inner
            .liveness(instance.workspace_id)
            .await
            .unwrap_or_else(Liveness::Unknown)
    }

    async fn url(&self, instance: &InstanceRef) -> Result<Option<String>, BackendError> {
        self.inner
            .url(instance)
            .await
            .map_err(|error| error.into_backend("find agent port", &Scrubber::plain()))
    }

    async fn read_config(
        &self,
        workspace_id: Uuid,
        path: &str,
    ) -> Result<Option<Vec<u8>>, BackendError> {
        let failed = |error: CallError| error.into_backend("read config", &Scrubber::plain());
        let Inner {
            daemon, instance, ..
        } = &*self.inner;
        for name in names::containers(workspace_id) {
            let found = objects::find(daemon, &name, instance).await;
            if let Found::Ours(id, _) = found.map_err(failed)? {
                let read = config_file::read(daemon, &id, path).await;
                return Ok(match read.map_err(failed)? {
                    config_file::Found::File(content) => Some(content),
                    _ => None,
                });
            }
        }
        Ok(None)
    }

    fn internal_url(&self, workspace_id: Uuid, tier: u8) -> Option<String> {
        let isolation = Isolation::of(tier, self.inner.config.privileged_tiers);
        // An agent on the network of the host has no name on ours.
        (!isolation.is_on_host()).then(|| container::agent_url(workspace_id))
    }

    async fn remove_storage(&self, workspace_id: Uuid) -> Result<(), BackendError> {
        self.inner.remove_storage(workspace_id).await
    }

    async fn list_managed(&self) -> Result<Vec<ManagedInstance>, BackendError> {
        self.inner
            .list_managed()
            .await
            .map_err(|error| error.into_backend("list workspaces", &Scrubber::plain()))
    }

    async fn list_compute(&self) -> Result<Vec<ManagedInstance>, BackendError> {
        self.inner
            .list_compute()
            .await
            .map(|found| found.into_values().collect())
            .map_err(|error| error.into_backend("list workspaces", &Scrubber::plain()))
    }

    async fn check(&self) -> Result<String, BackendError> {
        let version = self
            .inner
            .daemon
            .call(bollard::Docker::version)
            .await
            .map_err(|error| error.into_backend("reach docker", &Scrubber::plain()))?;
        // Anything that speaks JSON could have answered.
        let (Some(engine), Some(api)) = (version.version, version.api_version) else {
            return Err(BackendError::Failed {
                operation: "reach docker",
                reason: "whatever answers there is not a Docker daemon".to_owned(),
            });
        };
        Ok(Scrubber::plain().clean(&format!("Docker {engine} (API {api})")))
    }

    fn images(&self) -> Option<&dyn Images> {
        Some(self)
    }

    fn changes(&self) -> Option<Changes> {
        let closing = self.inner.tasks.closing().child_token();
        Some(changes::watch(Arc::clone(&self.inner), closing))
    }

    fn console(&self) -> Option<&dyn Console> {
        Some(self)
    }

    fn terminal(&self) -> Option<&dyn Terminal> {
        Some(self)
    }

    fn plugins(&self) -> Option<&dyn PluginTarget> {
        Some(self)
    }

    async fn facts(&self) -> Vec<Fact> {
        self.inner.facts().await
    }

    async fn shutdown(&self) {
        self.inner.tasks.shutdown().await;
        // After the starts, which are what builds are for.
        self.inner.builds.shutdown(SHUTDOWN_BOUND).await;
    }
}

impl Inner {
    async fn liveness(&self, workspace: Uuid) -> Result<Liveness, BackendError> {
        const OPERATION: &str = "look for container";
        for name in names::containers(workspace) {
            let found = objects::find(&self.daemon, &name, &self.instance)
                .await
                .map_err(|error| error.into_backend(OPERATION, &Scrubber::plain()))?;
            match found {
                Found::Ours(_, container) => {
                    let state = container.state.unwrap_or_default();
                    return match (state.running, state.status) {
                        (Some(true), _) | (_, Some(ContainerStateStatusEnum::RUNNING)) => {
                            Ok(Liveness::Running)
                        }
                        (Some(false), _) => Ok(Liveness::Stopped),
                        (None, _) => Err(BackendError::Failed {
                            operation: OPERATION,
                            reason: "the daemon did not say whether it runs".to_owned(),
                        }),
                    };
                }
                // Not ours, so not for us to call dead.
                Found::Foreign if name == names::container(workspace) => {
                    return Err(BackendError::Failed {
                        operation: OPERATION,
                        reason: "a container of this name belongs to another server".to_owned(),
                    });
                }
                Found::Foreign | Found::Nothing => {}
            }
        }
        Ok(Liveness::Missing)
    }

    async fn url(&self, wanted: &InstanceRef) -> Result<Option<String>, CallError> {
        for name in names::containers(wanted.workspace_id) {
            match objects::find(&self.daemon, &name, &self.instance).await? {
                Found::Ours(id, container) => {
                    let meant = wanted.instance_id.as_ref().is_none_or(|known| *known == id);
                    return Ok(objects::agent_url(&container).filter(|_| meant));
                }
                Found::Foreign if name == names::container(wanted.workspace_id) => break,
                Found::Foreign | Found::Nothing => {}
            }
        }
        Ok(None)
    }

    async fn list_managed(&self) -> Result<Vec<ManagedInstance>, CallError> {
        let mut found = self.list_compute().await?;
        let filter = names::owned_by(&self.instance);
        let volumes = ListVolumesOptionsBuilder::default()
            .filters(&filter)
            .build();
        let volumes = self
            .daemon
            .call(|client| client.list_volumes(Some(volumes)))
            .await?;
        for volume in volumes.volumes.unwrap_or_default() {
            if let Some(id) = self.workspace_of(Some(&volume.labels)) {
                entry(&mut found, id).storage = true;
            }
        }
        Ok(found.into_values().collect())
    }

    /// Those with a container, without their volumes.
    async fn list_compute(&self) -> Result<BTreeMap<Uuid, ManagedInstance>, CallError> {
        let filter = names::owned_by(&self.instance);
        let containers = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&filter)
            .build();
        let containers = self
            .daemon
            .call(|client| client.list_containers(Some(containers)))
            .await?;
        let mut found: BTreeMap<Uuid, ManagedInstance> = BTreeMap::new();
        for container in containers {
            if let Some(workspace) = self.workspace_of(container.labels.as_ref()) {
                let entry = entry(&mut found, workspace);
                entry.compute = true;
                entry.unstarted |= container.state == Some(ContainerSummaryStateEnum::CREATED);
                // Next to the agent's there can be one that prepares a volume.
                if is_agent(&container, workspace) {
                    entry.running = container.state.map(is_running);
                    entry.instance_id = container.id;
                }
            }
        }
        Ok(found)
    }

    /// The workspace of an object, if the object is ours. Does not rely on the
    /// daemon's filter.
    fn workspace_of(&self, labels: Option<&Labels>) -> Option<Uuid> {
        let labels = labels?;
        if labels.get(names::INSTANCE) != Some(&self.instance) {
            return None;
        }
        labels.get(names::WORKSPACE)?.parse().ok()
    }
}

fn entry(found: &mut BTreeMap<Uuid, ManagedInstance>, workspace_id: Uuid) -> &mut ManagedInstance {
    found.entry(workspace_id).or_insert(ManagedInstance {
        workspace_id,
        compute: false,
        running: None,
        instance_id: None,
        unstarted: false,
        storage: false,
    })
}

/// As the daemon's `State.Running`, which holds between two restarts too.
fn is_running(state: ContainerSummaryStateEnum) -> bool {
    matches!(
        state,
        ContainerSummaryStateEnum::RUNNING | ContainerSummaryStateEnum::RESTARTING
    )
}

fn is_agent(container: &ContainerSummary, workspace: Uuid) -> bool {
    let agent = names::container(workspace);
    let mut names = container.names.iter().flatten();
    names.any(|name| name.trim_start_matches('/') == agent)
}
