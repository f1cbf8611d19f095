//! From a container with everything in it to an agent that runs.

use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::{ListContainersOptionsBuilder, StartContainerOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::super::container::agent_url;
use super::super::daemon::CallError;
use super::super::{isolation, names, objects};
use super::{Start, refused};
use crate::backend::BackendError;

/// An agent that ends within this time of its start never ran. One that answers
/// earlier is believed earlier.
const GRACE: Duration = Duration::from_millis(300);
/// How long the daemon may take to publish the port.
const PORT_PATIENCE: Duration = Duration::from_millis(1300);
/// How long an agent that keeps exiting is watched to learn its exit code.
const CODE_PATIENCE: Duration = Duration::from_secs(3);
/// Time between the first two looks; doubled from look to look.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// What an agent that listens may take to answer; longer than that is not waited.
const ANSWER_BOUND: Duration = Duration::from_millis(100);
/// How often, and how long apart, a container is started while two servers sort out
/// who made the network.
const NETWORK_TRIES: u32 = 20;
const NETWORK_PAUSE: Duration = Duration::from_millis(500);
/// Where ports for agents on the network of the host are picked: below those that
/// systems give to outgoing connections, so that an agent that restarts finds its
/// port free.
const HOST_PORTS: std::ops::Range<u16> = 20_000..32_000;
/// How many of them are tried.
const HOST_PORT_TRIES: u16 = 200;

impl Start {
    /// A port for an agent on the network of the host, which no other agent has, and
    /// not `failed`. Whether it is free is seen on this machine, which need not be the
    /// daemon's.
    pub(super) async fn pick_port(&self, failed: Option<u16>) -> Result<u16, BackendError> {
        const OPERATION: &str = "pick a port";
        let with_port = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&names::with_port())
            .build();
        let daemon = &self.inner.daemon;
        let others = self
            .read(daemon.call(|client| client.list_containers(Some(with_port))))
            .await
            .map_err(|error| self.error(OPERATION, error))?;
        // Those that do not run at the moment will want theirs again.
        let taken: Vec<u16> = others
            .iter()
            .filter_map(|container| isolation::port_of(container.labels.as_ref()))
            .chain(failed)
            .collect();
        let count = HOST_PORTS.end - HOST_PORTS.start;
        let first = Uuid::new_v4().as_u128() % u128::from(count);
        let first = u16::try_from(first).unwrap_or_default();
        for nth in 0..HOST_PORT_TRIES {
            let port = HOST_PORTS.start + (first + nth * 59) % count;
            if !taken.contains(&port) && TcpListener::bind(("0.0.0.0", port)).await.is_ok() {
                return Ok(port);
            }
        }
        Err(refused(
            OPERATION,
            "no port of this machine is free for an agent on its network",
        ))
    }

    /// Starts the container.
    pub(super) async fn launch(&self, container: &str) -> Result<(), BackendError> {
        const OPERATION: &str = "start container";
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
                    self.pause(OPERATION, NETWORK_PAUSE).await?;
                }
                Err(error) => {
                    return Err(self.explained(OPERATION, "failed to start container", error));
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Waits until the agent seems to live and says where it is reached, or that it
    /// ended.
    pub(super) async fn find_url(&self, container: &str) -> Result<Reached, BackendError> {
        const OPERATION: &str = "find agent port";
        let began = Instant::now();
        let mut wait = FIRST_PAUSE;
        loop {
            let found = self
                .read(objects::inspect(&self.inner.daemon, container))
                .await
                .map_err(|error| self.error(OPERATION, error))?;
            let elapsed = began.elapsed();
            match Life::of(&found) {
                Life::Ended(how) => return self.exited(container, &how).await,
                Life::Again if elapsed > CODE_PATIENCE => {
                    return self.exited(container, "").await;
                }
                Life::Again => {}
                Life::Runs => match objects::agent_url(&found) {
                    Some(url) if elapsed >= GRACE || self.answers(&url).await? => {
                        return Ok(Reached::At(url));
                    }
                    Some(_) => {}
                    None if elapsed >= PORT_PATIENCE => break,
                    None => {}
                },
            }
            self.pause(OPERATION, wait).await?;
            wait = (wait * 2).min(LONGEST_PAUSE);
        }
        tracing::warn!(
            workspace.id = %self.spec.workspace_id,
            "the daemon published no port; the agent can be reached on the Docker network only"
        );
        Ok(Reached::At(agent_url(self.spec.workspace_id)))
    }

    /// True when somebody behind `url` says anything at all. That a connection can be
    /// made says nothing: the daemon accepts it before it looks for the agent.
    async fn answers(&self, url: &str) -> Result<bool, BackendError> {
        let Some(address) = url.strip_prefix("http://") else {
            return Ok(false);
        };
        let asking = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(b"HEAD / HTTP/1.0\r\n\r\n").await?;
            stream.read(&mut [0; 1]).await
        };
        let answered = async { Ok(timeout(ANSWER_BOUND, asking).await) };
        let answered = self
            .read(answered)
            .await
            .map_err(|error| self.error("find agent port", error))?;
        Ok(matches!(answered, Ok(Ok(1))))
    }

    /// What becomes of an agent that ended, with its last words: they go with the
    /// container.
    async fn exited(&self, container: &str, how: &str) -> Result<Reached, BackendError> {
        let mut reason = format!("failed to start container: the agent exited at once{how}");
        // Without them the exit itself is all there is to tell.
        let said = self
            .read(objects::last_words(&self.inner.daemon, container))
            .await
            .unwrap_or_default();
        if !said.is_empty() {
            reason = format!("{reason}: {}", self.scrub.clean(&said));
        }
        if self.cancel.is_cancelled() {
            return Err(BackendError::Cancelled);
        }
        Ok(Reached::Exited(refused("start container", &reason)))
    }

    async fn pause(&self, operation: &'static str, time: Duration) -> Result<(), BackendError> {
        let slept = async {
            sleep(time).await;
            Ok::<_, CallError>(())
        };
        self.read(slept)
            .await
            .map_err(|error| self.error(operation, error))
    }
}

/// What came of waiting for an agent.
pub(super) enum Reached {
    At(String),
    /// It ended at once; the error that says so.
    Exited(BackendError),
}

/// What has become of an agent that was started.
#[derive(Debug, PartialEq, Eq)]
enum Life {
    /// It runs for the first time.
    Runs,
    /// It ended and was started again by the daemon, which then no longer says how it
    /// ended.
    Again,
    /// It ended, and how.
    Ended(String),
}

impl Life {
    fn of(container: &ContainerInspectResponse) -> Self {
        let Some(state) = &container.state else {
            return Self::Runs;
        };
        if state.running == Some(false) || state.restarting == Some(true) {
            let code = state.exit_code.unwrap_or_default();
            let starved = match state.oom_killed {
                Some(true) => ", killed because it needs more memory than it may have",
                _ => "",
            };
            return Self::Ended(format!(" with code {code}{starved}"));
        }
        if container.restart_count.unwrap_or_default() > 0 {
            Self::Again
        } else {
            Self::Runs
        }
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ContainerState;

    use super::*;

    #[test]
    fn an_agent_that_was_started_again_is_one_that_ended() {
        let of = |running, restarting, code, restarts| {
            Life::of(&ContainerInspectResponse {
                state: Some(ContainerState {
                    running: Some(running),
                    restarting: Some(restarting),
                    exit_code: Some(code),
                    oom_killed: Some(code == 137),
                    ..ContainerState::default()
                }),
                restart_count: Some(restarts),
                ..ContainerInspectResponse::default()
            })
        };
        assert_eq!(of(true, false, 0, 0), Life::Runs);
        assert_eq!(of(true, false, 0, 2), Life::Again);
        assert_eq!(of(true, true, 7, 1), Life::Ended(" with code 7".to_owned()));
        assert_eq!(
            of(false, false, 7, 0),
            Life::Ended(" with code 7".to_owned())
        );
        let Life::Ended(how) = of(false, false, 137, 0) else {
            panic!("it ended");
        };
        assert!(how.contains("137") && how.contains("memory"), "{how}");
    }
}
