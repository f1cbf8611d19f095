//! Calls to the daemon: each with a deadline, its errors made safe to show.

use std::error::Error as _;
use std::future::Future;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use super::transport::{self, Endpoint};
use crate::backend::BackendError;
use crate::backend::scrub::Scrubber;
use crate::config::backend::DockerConfig;

/// The daemon, connected to on first use.
pub(super) struct Daemon {
    client: Docker,
    endpoint: Endpoint,
    negotiated: OnceCell<Docker>,
    processors: OnceCell<i64>,
    network: Mutex<()>,
    timeout: Duration,
}

impl Daemon {
    pub(super) fn new(config: &DockerConfig) -> Result<Self, BackendError> {
        Ok(Self {
            client: transport::client(config)?,
            endpoint: transport::endpoint(config)?,
            negotiated: OnceCell::new(),
            processors: OnceCell::new(),
            network: Mutex::new(()),
            timeout: Duration::from_secs(config.timeout_secs.max(1)),
        })
    }

    /// Where the daemon is, for connections of another kind than calls.
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What a usual call may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Held while the shared network is looked for and made.
    pub(super) async fn network_turn(&self) -> MutexGuard<'_, ()> {
        self.network.lock().await
    }

    /// The client, after it and the daemon agreed on a version of the protocol.
    pub(super) async fn client(&self) -> Result<&Docker, CallError> {
        let negotiate = || bounded(self.timeout, self.client.clone().negotiate_version());
        self.negotiated.get_or_try_init(negotiate).await
    }

    /// How many processors the daemon has; zero when it does not say.
    pub(super) async fn processors(&self) -> Result<i64, CallError> {
        let ask = || async {
            let client = self.client().await?;
            let info = bounded(self.timeout, client.info()).await?;
            Ok(info.ncpu.unwrap_or_default())
        };
        self.processors.get_or_try_init(ask).await.copied()
    }

    /// One usual call.
    pub(super) async fn call<'a, T, F>(
        &'a self,
        request: impl FnOnce(&'a Docker) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, Error>> + 'a,
    {
        self.call_within(self.timeout, request).await
    }

    /// One call that may take longer.
    pub(super) async fn call_within<'a, T, F>(
        &'a self,
        bound: Duration,
        request: impl FnOnce(&'a Docker) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, Error>> + 'a,
    {
        let client = self.client().await?;
        bounded(bound, request(client)).await
    }
}

async fn bounded<T>(
    bound: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(bound, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(CallError::from(error)),
        Err(_) => Err(CallError::Timeout),
    }
}

/// Why a call failed. The texts are the daemon's and not yet safe to show.
#[derive(Debug, Clone)]
pub(super) enum CallError {
    /// The daemon answered, and refused.
    Status(u16, String),
    /// No answer in time.
    Timeout,
    /// No answer, or one that makes no sense.
    Broken(String),
    /// The caller did not want to wait any longer.
    Cancelled,
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError {
                status_code,
                message,
            } => Self::Status(status_code, message),
            Error::RequestTimeoutError => Self::Timeout,
            other => {
                let mut text = other.to_string();
                let mut source = other.source();
                while let Some(cause) = source {
                    let cause_text = cause.to_string();
                    if !text.ends_with(&cause_text) {
                        text = format!("{text}: {cause_text}");
                    }
                    source = cause.source();
                }
                Self::Broken(text)
            }
        }
    }
}

impl CallError {
    /// True when the daemon says that the container does not exist. A bare 404
    /// is not enough: anything can answer 404, and networks and images can be
    /// missing too.
    pub(super) fn is_container_missing(&self) -> bool {
        self.says(404, &["no such container", "no container with name or id"])
            || self.says(500, &["no such container"])
    }

    /// True when the daemon says that the container has no such file.
    pub(super) fn is_file_missing(&self) -> bool {
        self.says(
            404,
            &["could not find the file", "no such file or directory"],
        ) || self.says(500, &["not a directory"])
    }

    /// True when the daemon says that the volume does not exist.
    pub(super) fn is_volume_missing(&self) -> bool {
        self.says(404, &["no such volume", "no volume with name"])
    }

    /// True when the daemon says that the image does not exist.
    pub(super) fn is_image_missing(&self) -> bool {
        self.says(404, &["no such image", "image not known"])
            || matches!(self, Self::Status(404, text) if {
                let text = text.to_lowercase();
                text.contains("not found") && text.contains("image")
            })
    }

    /// True when the daemon says that the network does not exist.
    pub(super) fn is_network_missing(&self) -> bool {
        matches!(self, Self::Status(404, text) if text.to_lowercase().contains("network"))
    }

    /// True when two networks have the name of the one that was meant: another
    /// server made one at the same time and has not taken it back yet.
    pub(super) fn is_network_ambiguous(&self) -> bool {
        matches!(self, Self::Status(400 | 409, text) if {
            let text = text.to_lowercase();
            text.contains("network") && text.contains("is ambiguous")
        })
    }

    /// True when somebody else is removing the container at this moment.
    pub(super) fn is_removal_in_progress(&self) -> bool {
        matches!(self, Self::Status(409 | 500, text) if {
            let text = text.to_lowercase();
            text.contains("removal of container") && text.contains("already in progress")
        })
    }

    /// True when the daemon ran out of space, which no other attempt will change.
    pub(super) fn is_disk_full(&self) -> bool {
        matches!(self, Self::Status(_, text) if {
            let text = text.to_lowercase();
            text.contains("no space left on device") || text.contains("disk quota exceeded")
        })
    }

    /// True for 409.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Status(409, _))
    }

    /// True when the daemon answered, so that it is no longer busy with the call.
    pub(super) fn is_answer(&self) -> bool {
        matches!(self, Self::Status(..))
    }

    fn says(&self, status: u16, texts: &[&str]) -> bool {
        matches!(self, Self::Status(given, text) if *given == status && {
            let text = text.to_lowercase();
            texts.iter().any(|wanted| text.contains(wanted))
        })
    }

    /// One safe line.
    pub(super) fn text(&self, scrubber: &Scrubber) -> String {
        match self {
            Self::Status(status, text) => format!("status {status}: {}", scrubber.clean(text)),
            Self::Timeout => "timed out".to_owned(),
            Self::Broken(text) => scrubber.clean(text),
            Self::Cancelled => "cancelled".to_owned(),
        }
    }

    /// As the error of `operation`.
    pub(super) fn into_backend(self, operation: &'static str, scrub: &Scrubber) -> BackendError {
        let text = self.text(scrub);
        self.into_backend_as(operation, text)
    }

    /// As the error of `operation`, after a text that says with what it happened.
    pub(super) fn explained(
        self,
        operation: &'static str,
        what: &str,
        scrub: &Scrubber,
    ) -> BackendError {
        let text = format!("{what}: {}", self.text(scrub));
        self.into_backend_as(operation, text)
    }

    fn into_backend_as(self, operation: &'static str, text: String) -> BackendError {
        match &self {
            Self::Timeout => BackendError::Timeout { operation },
            Self::Cancelled => BackendError::Cancelled,
            Self::Status(status, _) if *status < 500 || self.is_disk_full() => {
                BackendError::Failed {
                    operation,
                    reason: text,
                }
            }
            Self::Status(..) | Self::Broken(_) => BackendError::Unavailable {
                operation,
                source: anyhow::Error::msg(text),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, text: &str) -> CallError {
        CallError::Status(code, text.to_owned())
    }

    #[test]
    fn only_a_missing_container_counts_as_a_missing_container() {
        assert!(status(404, "No such container: ws-1").is_container_missing());
        assert!(!status(404, "page not found").is_container_missing());
        assert!(!status(404, "network x not found").is_container_missing());
        assert!(!status(404, "No such image: x").is_container_missing());
        assert!(!status(403, "no such container").is_container_missing());
    }

    #[test]
    fn a_removal_in_progress_is_recognised_by_both_halves_of_its_text() {
        let text = "removal of container ws-1 is already in progress";
        assert!(status(409, text).is_removal_in_progress());
        assert!(!status(409, "already in progress").is_removal_in_progress());
        assert!(!status(409, "removal of container failed").is_removal_in_progress());
    }

    #[test]
    fn a_missing_volume_network_or_image_is_no_missing_container() {
        for text in ["no such volume: x", "network x not found", "not found"] {
            assert!(!status(404, text).is_container_missing(), "{text}");
            assert!(!status(500, text).is_container_missing(), "{text}");
        }
        // What some daemons say with another status
        assert!(status(500, "No such container: x").is_container_missing());
        assert!(status(404, "get x: no such volume").is_volume_missing());
        assert!(!status(409, "no such volume").is_volume_missing());
    }

    #[test]
    fn a_full_disk_is_told_and_nothing_to_wait_for() {
        let full = "Error processing tar file: write /configs/x: no space left on device";
        let error = status(500, full).explained("write files", "what", &Scrubber::plain());
        assert!(!error.is_transient());
        let text = error.to_string();
        assert!(
            text.contains("what: status 500") && text.contains("no space left"),
            "{text}"
        );
        assert!(!status(500, "no space").is_disk_full());
    }

    #[test]
    fn answers_of_a_daemon_in_trouble_are_transient_and_refusals_are_not() {
        let scrub = Scrubber::plain();
        assert!(status(500, "x").into_backend("op", &scrub).is_transient());
        assert!(status(503, "x").into_backend("op", &scrub).is_transient());
        assert!(CallError::Timeout.into_backend("op", &scrub).is_transient());
        assert!(
            CallError::Broken("eof".to_owned())
                .into_backend("op", &scrub)
                .is_transient()
        );
        assert!(!status(400, "x").into_backend("op", &scrub).is_transient());
    }
}
