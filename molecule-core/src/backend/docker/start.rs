//! Starting a workspace: steps, and how each is taken back.

mod agent;
mod files;
mod guard;
mod volumes;

use std::sync::Arc;
use std::time::Duration;

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::CreateContainerOptionsBuilder;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::agent::Reached;
use self::volumes::Sessions;
use super::container::{CONFIG_PATH, Shape, Workspace};
use super::daemon::CallError;
use super::image;
use super::isolation::Isolation;
use super::objects::{self, Found};
use super::{Inner, names, network, plugins};
use crate::backend::environment::agent_env;
use crate::backend::scrub::Scrubber;
use crate::backend::{BackendError, ImageRequest, Instance, ObtainedImage, StartSpec, UndoStack};

/// What one step may take to be undone.
const UNDO_BOUND: Duration = Duration::from_secs(30);

/// How many ports an agent on the network of the host is started with, if it ends at
/// once each time.
const PORT_TRIES: u32 = 3;

/// Starts a workspace, or takes back everything that was done for it.
pub(super) async fn run(
    inner: Arc<Inner>,
    spec: StartSpec,
    cancel: CancellationToken,
) -> Result<Instance, BackendError> {
    let mut undo = UndoStack::default();
    let start = Start {
        scrub: Arc::new(Scrubber::of(&spec)),
        attempt: Uuid::new_v4(),
        inner,
        spec: Arc::new(spec),
        cancel,
    };
    let result = start.steps(&mut undo).await;
    if result.is_err() {
        undo.unwind(UNDO_BOUND).await;
    }
    result
}

struct Start {
    inner: Arc<Inner>,
    spec: Arc<StartSpec>,
    cancel: CancellationToken,
    scrub: Arc<Scrubber>,
    /// Written onto everything that is made here.
    attempt: Uuid,
}

impl Start {
    async fn steps(&self, undo: &mut UndoStack) -> Result<Instance, BackendError> {
        let config = &self.inner.config;
        let id = self.spec.workspace_id;
        let wanted = self.wanted();
        image::reference(config, &wanted)?;
        let isolation = self.isolation();
        let workspace = Workspace::of(&self.spec, isolation)?;
        let sessions = Sessions::of(&self.spec, isolation);
        let env = agent_env(&self.spec, CONFIG_PATH, Vec::new())?;
        let network = if isolation.is_on_host() {
            None
        } else {
            Some(self.ensure_network().await?)
        };
        // Before the old container goes: without an image it had better stay.
        let image = self.ensure_image(&wanted).await?;
        let mut volumes = self.ensure_volumes(undo, &workspace, sessions).await?;
        self.remove_stale().await?;
        if let Some(fresh) = self.reset_sessions(undo, sessions).await? {
            volumes.sessions = Some(fresh);
        }
        let shape = |port| Shape {
            spec: &self.spec,
            config,
            isolation,
            image: &image.reference,
            configs: &volumes.configs.name,
            sessions: volumes.sessions.as_ref().map(|volume| volume.name.as_str()),
            workspace: &workspace,
            env: &env,
            labels: names::labels(&self.inner.instance, id, self.attempt),
            network: network.as_deref(),
            port,
        };
        if isolation.is_sealed() && volumes.configs.new {
            let seed = self
                .create(undo, "create seed container", shape(None).seed())
                .await?;
            self.prepare(&seed).await?;
            self.write(objects::remove_and_wait(&self.inner.daemon, &seed))
                .await
                .map_err(|error| self.error("remove seed container", error))?;
        }
        let processors = self.processors().await?;
        let mut prepared = None;
        let mut port = None;
        let mut tries = 1;
        if isolation.is_on_host() {
            port = Some(self.pick_port(None).await?);
            tries = PORT_TRIES;
        }
        loop {
            let container = self
                .create(undo, "create container", shape(port).body(processors))
                .await?;
            // Everything is in place before the agent looks for it.
            self.bring_files(&container, &volumes, isolation.is_sealed())
                .await?;
            let leftovers = match prepared {
                Some(leftovers) => leftovers,
                None => self.bring_plugins(&container, volumes.configs.new).await?,
            };
            prepared = Some(leftovers);
            self.launch(&container).await?;
            tries -= 1;
            match self.find_url(&container).await? {
                Reached::At(url) => {
                    if leftovers {
                        plugins::repair_later(&self.inner, id, container.clone());
                    }
                    return Ok(Instance {
                        instance_id: container,
                        url,
                        image_digest: image.digest,
                    });
                }
                Reached::Exited(error) if tries == 0 => return Err(error),
                // Perhaps somebody on the daemon's machine has the port.
                Reached::Exited(_) => {
                    tracing::warn!(workspace.id = %id, port, "agent ended at once; trying another port");
                    self.write(objects::remove_and_wait(&self.inner.daemon, &container))
                        .await
                        .map_err(|error| self.error("remove old container", error))?;
                    port = Some(self.pick_port(port).await?);
                }
            }
        }
    }

    /// Brings the plugins that are missing. True when something is to be repaired once
    /// the container runs.
    async fn bring_plugins(&self, container: &str, new: bool) -> Result<bool, BackendError> {
        let seeding = plugins::Seeding {
            inner: &self.inner,
            container,
            progress: &self.spec.progress,
            new,
        };
        let bringing = async {
            if let Some(supply) = self.spec.plugins.supply() {
                seeding.run(supply).await;
            }
            !new && plugins::are_there(&self.inner.daemon, container).await
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(BackendError::Cancelled),
            leftovers = bringing => Ok(leftovers),
        }
    }

    fn wanted(&self) -> ImageRequest {
        ImageRequest {
            runtime: self.spec.runtime.clone(),
            pin: self.spec.image_pin.clone(),
        }
    }

    fn isolation(&self) -> Isolation {
        let isolation = Isolation::of(self.spec.tier, self.inner.config.privileged_tiers);
        if isolation.is_held_back() {
            tracing::warn!(
                workspace.id = %self.spec.workspace_id,
                tier = self.spec.tier,
                "privileged tiers are not switched on (backend.docker.privileged_tiers): the \
                 workspace is confined like one of tier 2, with the limits of its tier"
            );
        }
        isolation
    }

    async fn ensure_network(&self) -> Result<String, BackendError> {
        // Shared by all workspaces, so never undone.
        self.write(network::ensure(
            &self.inner.daemon,
            &self.inner.config.network,
        ))
        .await
        .map_err(|error| self.error("ensure network", error))
    }

    /// What was obtained for this start is not asked for a second time: by now the
    /// agent of before may have lost its credentials, and a registry or a repository
    /// that cannot be reached must not end the start.
    async fn ensure_image(&self, wanted: &ImageRequest) -> Result<ObtainedImage, BackendError> {
        if let Some(given) = &self.spec.image
            && let Some(image) = self.still_there(given).await?
        {
            return Ok(image);
        }
        image::obtain(&self.inner, wanted, &self.spec.progress, &self.cancel).await
    }

    async fn still_there(
        &self,
        given: &ObtainedImage,
    ) -> Result<Option<ObtainedImage>, BackendError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(BackendError::Cancelled),
            found = image::still_there(&self.inner, given) => found,
        }
    }

    /// Removes what was left under the names of this workspace. A removal that is
    /// already under way is waited for.
    async fn remove_stale(&self) -> Result<(), BackendError> {
        const OPERATION: &str = "remove old container";
        let daemon = &self.inner.daemon;
        let id = self.spec.workspace_id;
        let ours = names::container(id);
        let what = || format!("force-remove {}", names::short(id));
        let all = names::all_containers(id);
        let looks = all
            .each_ref()
            .map(|name| self.read(objects::find(daemon, name, &self.inner.instance)));
        let found = futures_util::future::join_all(looks).await;
        for (name, found) in all.iter().zip(found) {
            match found.map_err(|error| self.explained(OPERATION, &what(), error))? {
                Found::Ours(id, _) => self
                    .write(objects::remove_and_wait(daemon, &id))
                    .await
                    .map_err(|error| self.explained(OPERATION, &what(), error))?,
                Found::Foreign if *name == ours => {
                    return Err(refused(
                        OPERATION,
                        "a container of this name belongs to another server",
                    ));
                }
                Found::Foreign | Found::Nothing => {}
            }
        }
        Ok(())
    }

    async fn processors(&self) -> Result<i64, BackendError> {
        self.read(self.inner.daemon.processors())
            .await
            .map_err(|error| self.error("count processors", error))
    }

    async fn create(
        &self,
        undo: &mut UndoStack,
        operation: &'static str,
        (name, body): (String, ContainerCreateBody),
    ) -> Result<String, BackendError> {
        let image = body.image.clone().unwrap_or_default();
        let platform = image::platform(&self.inner.config, &self.wanted())?;
        let options = CreateContainerOptionsBuilder::default()
            .name(&name)
            .platform(platform.as_deref().unwrap_or_default())
            .build();
        let settled = self.undo_with(undo, operation, name, |inner, name, attempt, settled| {
            Box::pin(async move {
                objects::take_back_container(&inner.daemon, &name, attempt, settled).await
            })
        });
        let created = self
            .write_settling(
                &settled,
                self.inner
                    .daemon
                    .call(|client| client.create_container(Some(options), body)),
            )
            .await;
        match created {
            Ok(created) => Ok(created.id),
            Err(error) if error.is_image_missing() => Err(image::missing(
                &image,
                &self.spec.runtime,
                &error,
                &self.scrub,
            )),
            Err(error) => Err(self.explained(operation, "failed to create container", error)),
        }
    }

    fn error(&self, operation: &'static str, error: CallError) -> BackendError {
        error.into_backend(operation, &self.scrub)
    }

    fn explained(&self, operation: &'static str, what: &str, error: CallError) -> BackendError {
        error.explained(operation, what, &self.scrub)
    }
}

fn refused(operation: &'static str, reason: &str) -> BackendError {
    BackendError::Failed {
        operation,
        reason: reason.to_owned(),
    }
}
