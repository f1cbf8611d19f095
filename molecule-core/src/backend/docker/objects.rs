//! Finding and removing containers and volumes, with an eye on whose they are.

use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{
    InspectContainerOptions, LogsOptionsBuilder, RemoveContainerOptionsBuilder, RemoveVolumeOptions,
};
use futures_util::StreamExt;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::container::AGENT_PORT;
use super::daemon::{CallError, Daemon};
use super::isolation;
use super::names::{self, Labels};

/// A container as found under one of a workspace's names.
pub(super) enum Found {
    /// There is none.
    Nothing,
    /// One of ours; its id, and what the daemon says about it.
    Ours(String, Box<ContainerInspectResponse>),
    /// One that is not ours to touch.
    Foreign,
}

/// Looks up a container by name or id.
pub(super) async fn inspect(
    daemon: &Daemon,
    name: &str,
) -> Result<ContainerInspectResponse, CallError> {
    daemon
        .call(|client| client.inspect_container(name, None::<InspectContainerOptions>))
        .await
}

/// Looks up a container and decides whose it is.
pub(super) async fn find(daemon: &Daemon, name: &str, instance: &str) -> Result<Found, CallError> {
    let container = match inspect(daemon, name).await {
        Ok(container) => container,
        Err(error) if error.is_container_missing() => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    let labels = container
        .config
        .as_ref()
        .and_then(|config| config.labels.as_ref());
    if !names::is_our_container(labels, instance) {
        return Ok(Found::Foreign);
    }
    // Removing by id cannot hit a container that took the name meanwhile.
    let id = container
        .id
        .clone()
        .ok_or_else(|| CallError::Broken("no id".to_owned()))?;
    Ok(Found::Ours(id, Box::new(container)))
}

/// Where this server reaches the agent in a container; `None` when it does not
/// run or its port is not published. The daemon publishes another port each time
/// the container starts; one on the network of the host keeps the one it was given.
pub(super) fn agent_url(container: &ContainerInspectResponse) -> Option<String> {
    let state = container.state.as_ref()?;
    if state.running != Some(true) || state.restarting == Some(true) {
        return None;
    }
    if let Some(port) = host_port(container) {
        return Some(format!("http://127.0.0.1:{port}"));
    }
    let ports = container.network_settings.as_ref()?.ports.as_ref()?;
    let port = ports
        .get(AGENT_PORT)?
        .iter()
        .flatten()
        .find_map(|binding| binding.host_port.as_ref()?.parse::<u16>().ok())?;
    (port != 0).then(|| format!("http://127.0.0.1:{port}"))
}

/// The port of an agent on the network of the host; `None` for any other.
pub(super) fn host_port(container: &ContainerInspectResponse) -> Option<u16> {
    let on_host = container.host_config.as_ref()?.network_mode.as_deref() == Some("host");
    let labels = container.config.as_ref()?.labels.as_ref();
    on_host.then(|| isolation::port_of(labels)).flatten()
}

/// The last lines a container printed, 4 KiB at most. Not yet safe to show.
pub(super) async fn last_words(daemon: &Daemon, id: &str) -> Result<String, CallError> {
    const MAX_BYTES: usize = 4096;
    let options = LogsOptionsBuilder::default()
        .stdout(true)
        .stderr(true)
        .tail("5")
        .build();
    daemon
        .call(|client| async move {
            let mut said = Vec::new();
            let mut lines = client.logs(id, Some(options));
            while said.len() < MAX_BYTES
                && let Some(line) = lines.next().await
            {
                said.extend_from_slice(&line?.into_bytes());
            }
            said.truncate(MAX_BYTES);
            Ok(String::from_utf8_lossy(&said).trim().to_owned())
        })
        .await
}

/// Removes a container, running or not, with its anonymous volumes. Stopping it
/// first would let the restart policy revive it in between.
pub(super) async fn remove(daemon: &Daemon, id: &str) -> Result<(), CallError> {
    let options = RemoveContainerOptionsBuilder::default()
        .force(true)
        .v(true)
        .build();
    match daemon
        .call(|client| client.remove_container(id, Some(options)))
        .await
    {
        Err(error) if error.is_container_missing() || error.is_removal_in_progress() => Ok(()),
        other => other,
    }
}

/// Removes a container and waits until its name is free.
pub(super) async fn remove_and_wait(daemon: &Daemon, id: &str) -> Result<(), CallError> {
    const PAUSE: Duration = Duration::from_millis(100);
    remove(daemon, id).await?;
    let deadline = Instant::now() + daemon.timeout();
    loop {
        match inspect(daemon, id).await {
            Err(error) if error.is_container_missing() => return Ok(()),
            Err(error) => return Err(error),
            Ok(_) if Instant::now() > deadline => return Err(CallError::Timeout),
            Ok(_) => sleep(PAUSE).await,
        }
    }
}

/// What came of removing a volume.
pub(super) enum Removed {
    Yes,
    InUse(CallError),
}

/// The labels of a volume; `None` when there is none.
pub(super) async fn find_volume(daemon: &Daemon, name: &str) -> Result<Option<Labels>, CallError> {
    match daemon.call(|client| client.inspect_volume(name)).await {
        Ok(volume) => Ok(Some(volume.labels)),
        Err(error) if error.is_volume_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a volume of a workspace unless it is somebody else's; none is fine.
pub(super) async fn remove_volume(
    daemon: &Daemon,
    name: &str,
    instance: &str,
    workspace: Uuid,
) -> Result<Removed, CallError> {
    match find_volume(daemon, name).await? {
        Some(labels) if names::is_our_volume(&labels, instance, workspace) => {}
        _ => return Ok(Removed::Yes),
    }
    match daemon
        .call(|client| client.remove_volume(name, None::<RemoveVolumeOptions>))
        .await
    {
        Ok(()) => Ok(Removed::Yes),
        Err(error) if error.is_volume_missing() => Ok(Removed::Yes),
        Err(error) if error.is_conflict() => Ok(Removed::InUse(error)),
        Err(error) => Err(error),
    }
}

/// Takes back the container that the start `attempt` made under `name`.
///
/// Not `settled` means that the daemon never answered the request to make it and
/// may still be about to: then its absence is believed only after a while.
pub(super) async fn take_back_container(
    daemon: &Daemon,
    name: &str,
    attempt: Uuid,
    settled: bool,
) -> Result<(), CallError> {
    persist(settled, || async {
        let container = match inspect(daemon, name).await {
            Ok(container) => container,
            Err(error) if error.is_container_missing() => return Ok(Progress::NotThere),
            Err(error) => return Err(error),
        };
        let labels = container
            .config
            .as_ref()
            .and_then(|config| config.labels.as_ref());
        if names::made_by(labels, attempt) {
            remove_and_wait(daemon, container.id.as_deref().unwrap_or(name)).await?;
        }
        Ok(Progress::Done)
    })
    .await
}

/// Takes back the volume that the start `attempt` made; see
/// [`take_back_container`].
pub(super) async fn take_back_volume(
    daemon: &Daemon,
    name: &str,
    attempt: Uuid,
    settled: bool,
) -> Result<(), CallError> {
    persist(settled, || async {
        let volume = match daemon.call(|client| client.inspect_volume(name)).await {
            Ok(volume) => volume,
            Err(error) if error.is_volume_missing() => return Ok(Progress::NotThere),
            Err(error) => return Err(error),
        };
        if names::made_by(Some(&volume.labels), attempt) {
            let options = None::<RemoveVolumeOptions>;
            daemon
                .call(|client| client.remove_volume(name, options))
                .await?;
        }
        Ok(Progress::Done)
    })
    .await
}

enum Progress {
    Done,
    NotThere,
}

async fn persist<F>(settled: bool, attempt: impl Fn() -> F) -> Result<(), CallError>
where
    F: Future<Output = Result<Progress, CallError>>,
{
    const ATTEMPTS: u32 = 8;
    const PAUSE: Duration = Duration::from_millis(500);
    let mut last = Ok(());
    for _ in 0..ATTEMPTS {
        match attempt().await {
            Ok(Progress::Done) => return Ok(()),
            Ok(Progress::NotThere) if settled => return Ok(()),
            Ok(Progress::NotThere) => last = Ok(()),
            Err(error) => last = Err(error),
        }
        sleep(PAUSE).await;
    }
    last
}
