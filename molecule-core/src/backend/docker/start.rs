//! Starting a workspace: steps, and how each is taken back.

mod guard;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{ContainerCreateBody, ContainerInspectResponse, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, StartContainerOptions, UploadToContainerOptionsBuilder,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::archive::{self, ArchiveError, Content};
use super::container::{CONFIG_PATH, Shape, Workspace, agent_url};
use super::daemon::CallError;
use super::image::{self, Platform};
use super::objects::{self, Found};
use super::{Inner, config_file, names, network};
use crate::backend::environment::agent_env;
use crate::backend::scrub::Scrubber;
use crate::backend::{BackendError, ImageRequest, Instance, ObtainedImage, StartSpec, UndoStack};

/// What one step may take to be undone.
const UNDO_BOUND: Duration = Duration::from_secs(30);
/// An agent that ends within this time of its start never ran.
const GRACE: Duration = Duration::from_millis(300);
/// How often, and how long apart, the daemon is asked for the port.
const PORT_TRIES: u32 = 3;
const PORT_PAUSE: Duration = Duration::from_millis(500);
/// How often, and how long apart, a container is started while two servers sort out
/// who made the network.
const NETWORK_TRIES: u32 = 20;
const NETWORK_PAUSE: Duration = Duration::from_millis(500);
/// Bringing the files may take this many times as long as a usual call.
const UPLOAD_FACTOR: u32 = 4;

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
        spec,
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
    spec: StartSpec,
    cancel: CancellationToken,
    scrub: Arc<Scrubber>,
    /// Written onto everything that is made here.
    attempt: Uuid,
}

impl Start {
    async fn steps(&self, undo: &mut UndoStack) -> Result<Instance, BackendError> {
        let wanted = ImageRequest {
            runtime: self.spec.runtime.clone(),
            pin: self.spec.image_pin.clone(),
        };
        image::reference(&self.inner.config, &wanted)?;
        let workspace = Workspace::of(&self.spec)?;
        let env = agent_env(&self.spec, CONFIG_PATH, Vec::new())?;
        let network = self.ensure_network().await?;
        // Before the old container goes: without an image it had better stay.
        let image = self.ensure_image(&wanted).await?;
        let id = self.spec.workspace_id;
        let new_configs = self
            .ensure_volume(undo, "create config volume", names::config_volume(id))
            .await?;
        let new_workspace = match workspace {
            Workspace::Volume => {
                let name = names::workspace_volume(id);
                self.ensure_volume(undo, "create workspace volume", name)
                    .await?
            }
            _ => false,
        };
        self.remove_stale().await?;
        let shape = || Shape {
            spec: &self.spec,
            config: &self.inner.config,
            image: &image.reference,
            network: &network,
            workspace: &workspace,
            env: &env,
            labels: names::labels(&self.inner.instance, id, self.attempt),
        };
        let sealed = workspace == Workspace::Nothing;
        if sealed && new_configs {
            let seed = self
                .create(undo, "create seed container", shape().seed())
                .await?;
            self.upload(
                &seed,
                "/",
                Content {
                    folders: &["configs"],
                    prefix: "",
                    spec: None,
                },
            )
            .await?;
            self.write(objects::remove_and_wait(&self.inner.daemon, &seed))
                .await
                .map_err(|error| self.error("remove seed container", error))?;
        }
        let processors = self.processors().await?;
        let container = self
            .create(undo, "create container", shape().body(processors))
            .await?;
        // Everything is in place before the agent looks for it.
        let spec = self.effective_spec(&container, new_configs).await?;
        self.upload_files(&container, &spec, sealed, new_workspace)
            .await?;
        self.start(&container).await?;
        let url = self.find_url(&container).await?;
        Ok(Instance {
            instance_id: container,
            url,
            image_digest: image.digest,
        })
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

    async fn ensure_image(&self, wanted: &ImageRequest) -> Result<ObtainedImage, BackendError> {
        image::obtain(&self.inner, wanted, &self.spec.progress, &self.cancel).await
    }

    /// Answers whether this start made the volume.
    async fn ensure_volume(
        &self,
        undo: &mut UndoStack,
        operation: &'static str,
        name: String,
    ) -> Result<bool, BackendError> {
        let settled = self.undo_with(
            undo,
            operation,
            name.clone(),
            |inner, name, attempt, settled| {
                Box::pin(async move {
                    objects::take_back_volume(&inner.daemon, &name, attempt, settled).await
                })
            },
        );
        let request = VolumeCreateRequest {
            name: Some(name),
            labels: Some(names::labels(
                &self.inner.instance,
                self.spec.workspace_id,
                self.attempt,
            )),
            ..VolumeCreateRequest::default()
        };
        // Answers with the old volume when there is one.
        let created = self
            .write_settling(
                &settled,
                self.inner
                    .daemon
                    .call(|client| client.create_volume(request)),
            )
            .await
            .map_err(|error| self.error(operation, error))?;
        if !names::is_our_volume(&created.labels, &self.inner.instance) {
            return Err(refused(
                operation,
                "a volume of this name belongs to another server",
            ));
        }
        Ok(names::made_by(Some(&created.labels), self.attempt))
    }

    async fn remove_stale(&self) -> Result<(), BackendError> {
        const OPERATION: &str = "remove old container";
        let daemon = &self.inner.daemon;
        let ours = names::container(self.spec.workspace_id);
        for name in names::all_containers(self.spec.workspace_id) {
            let found = self
                .read(objects::find(daemon, &name, &self.inner.instance))
                .await
                .map_err(|error| self.error(OPERATION, error))?;
            match found {
                Found::Ours(id, _) => self
                    .write(objects::remove_and_wait(daemon, &id))
                    .await
                    .map_err(|error| self.error(OPERATION, error))?,
                Found::Foreign if name == ours => {
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
        let platform = Platform::of(&self.inner.config).map(|platform| platform.to_string());
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
            Err(error) => Err(self.error(operation, error)),
        }
    }

    /// What is copied: for a workspace that keeps its files, a template only if they
    /// are gone.
    async fn effective_spec(
        &self,
        container: &str,
        new_configs: bool,
    ) -> Result<Cow<'_, StartSpec>, BackendError> {
        const OPERATION: &str = "look for config.yaml";
        let Some(existing) = &self.spec.existing_config else {
            return Ok(Cow::Borrowed(&self.spec));
        };
        if !new_configs {
            let daemon = &self.inner.daemon;
            let found = self
                .read(config_file::read(daemon, container, "config.yaml"))
                .await;
            match found {
                Ok(config_file::Found::Nothing) => {}
                // A daemon that cannot say leaves the files alone.
                Ok(_) | Err(CallError::Status(..) | CallError::Broken(_)) => {
                    return Ok(Cow::Borrowed(&self.spec));
                }
                Err(error) => return Err(self.error(OPERATION, error)),
            }
        }
        let fallback = existing.fallback.clone().ok_or(BackendError::NoConfig)?;
        Ok(Cow::Owned(StartSpec {
            template_dir: Some(fallback),
            ..self.spec.clone()
        }))
    }

    async fn upload_files(
        &self,
        container: &str,
        spec: &StartSpec,
        sealed: bool,
        new_workspace: bool,
    ) -> Result<(), BackendError> {
        let spec = Some(spec);
        if sealed {
            // Only what lies in a volume can be written.
            let content = Content {
                folders: &[],
                prefix: "",
                spec,
            };
            return self.upload(container, CONFIG_PATH, content).await;
        }
        // A folder cannot be handed over from inside, so this begins at the root.
        // A new volume belongs to root until somebody says otherwise.
        let folders = if new_workspace {
            &["configs", "workspace"][..]
        } else {
            &["configs"]
        };
        self.upload(
            container,
            "/",
            Content {
                folders,
                prefix: "configs/",
                spec,
            },
        )
        .await
    }

    async fn upload(
        &self,
        container: &str,
        path: &str,
        content: Content<'_>,
    ) -> Result<(), BackendError> {
        const OPERATION: &str = "write files";
        let daemon = &self.inner.daemon;
        let options = UploadToContainerOptionsBuilder::default()
            .path(path)
            .build();
        let (writer, stream) = archive::pipe();
        let body = bollard::body_try_stream(stream);
        let sent = daemon.call_within(daemon.timeout() * UPLOAD_FACTOR, |client| {
            client.upload_to_container(container, Some(options), body)
        });
        let both = async { Ok(tokio::join!(content.write(writer), sent)) };
        let (written, sent) = self
            .read(both)
            .await
            .map_err(|error| self.error(OPERATION, error))?;
        match (written, sent) {
            // Half an archive can look like a whole one to the daemon.
            (Err(ArchiveError::Template(error)), _) => Err(refused(OPERATION, &error.to_string())),
            (_, Err(error)) => Err(self.error(OPERATION, error)),
            (Err(error), Ok(())) => Err(refused(OPERATION, &error.to_string())),
            (Ok(()), Ok(())) => Ok(()),
        }
    }

    async fn start(&self, container: &str) -> Result<(), BackendError> {
        let mut tries = NETWORK_TRIES;
        loop {
            let options = None::<StartContainerOptions>;
            let started = self
                .write(
                    self.inner
                        .daemon
                        .call(|client| client.start_container(container, options)),
                )
                .await;
            match started {
                Err(error) if error.is_network_ambiguous() && tries > 1 => {
                    tries -= 1;
                    self.read(pause(NETWORK_PAUSE))
                        .await
                        .map_err(|error| self.error("start container", error))?;
                }
                started => return started.map_err(|error| self.error("start container", error)),
            }
        }
    }

    async fn find_url(&self, container: &str) -> Result<String, BackendError> {
        const OPERATION: &str = "find agent port";
        let failed = |error| self.error(OPERATION, error);
        self.read(pause(GRACE)).await.map_err(failed)?;
        for attempt in 1..=PORT_TRIES {
            let found = self
                .read(objects::inspect(&self.inner.daemon, container))
                .await
                .map_err(failed)?;
            if let Some(code) = exit_code(&found) {
                let reason = format!("the agent exited at once with code {code}");
                return Err(refused("start container", &reason));
            }
            if let Some(url) = objects::agent_url(&found) {
                return Ok(url);
            }
            if attempt < PORT_TRIES {
                self.read(pause(PORT_PAUSE)).await.map_err(failed)?;
            }
        }
        tracing::warn!(
            workspace.id = %self.spec.workspace_id,
            "the daemon published no port; the agent can be reached on the Docker network only"
        );
        Ok(agent_url(self.spec.workspace_id))
    }

    fn error(&self, operation: &'static str, error: CallError) -> BackendError {
        error.into_backend(operation, &self.scrub)
    }
}

async fn pause(time: Duration) -> Result<(), CallError> {
    sleep(time).await;
    Ok(())
}

fn refused(operation: &'static str, reason: &str) -> BackendError {
    BackendError::Failed {
        operation,
        reason: reason.to_owned(),
    }
}

/// The exit code of an agent that ended, also when the daemon already restarted
/// it.
fn exit_code(container: &ContainerInspectResponse) -> Option<i64> {
    let state = container.state.as_ref()?;
    let ended = state.running == Some(false)
        || state.restarting == Some(true)
        || container.restart_count.unwrap_or_default() > 0;
    ended.then(|| state.exit_code.unwrap_or_default())
}
