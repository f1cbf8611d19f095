//! Why a provision failed, and what of it may be shown.

use std::time::Duration;

use chrono::{DateTime, Utc};
use molecule_hooks::ChainError;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::Services;
use super::super::model::Status;
use super::super::store::lease::{self, Again, Lease};
use super::outcome::Declined;
use crate::backend::{BackendError, BackendKind};
use crate::error::{Error, Kind};
use crate::events::EventType;
use crate::secrets::BundleError;
use crate::store::{Topic, Tx, timestamp};

/// Why a provision failed: what may be shown, a bounded word for metrics, and the
/// cause for the log.
pub(super) struct Failure {
    pub(super) text: String,
    pub(super) class: &'static str,
    pub(super) cause: String,
    pub(super) missing: Vec<String>,
    /// The same may work later without anybody changing anything.
    pub(super) passes: bool,
}

/// How a step ended, if not well.
pub(super) enum Step {
    Failed(Failure),
    Cancelled,
    /// Another server works on the workspace now: nothing here is ours to undo.
    Lost,
}

impl Failure {
    pub(super) fn new(text: &str, class: &'static str, cause: String) -> Self {
        Self {
            text: text.to_owned(),
            class,
            cause,
            missing: Vec::new(),
            passes: false,
        }
    }

    /// Says whether the same may work later without anybody changing anything.
    pub(super) fn passing(self, passes: bool) -> Self {
        Self { passes, ..self }
    }

    /// The store did not do its part.
    pub(super) fn store(step: &str, cause: &sqlx::Error) -> Self {
        Self::start(step, "store", cause).passing(true)
    }

    /// There is no image to start.
    pub(super) fn image(error: BackendError) -> Self {
        let class = error.class();
        let cause = format!("obtain_image: {:#}", anyhow::Error::from(error));
        Self::new(START_FAILED, class, cause)
    }

    pub(super) fn start(step: &str, class: &'static str, cause: &dyn std::fmt::Display) -> Self {
        Self::new(START_FAILED, class, format!("{step}: {cause}"))
    }

    pub(super) fn panicked() -> Self {
        Self::start("provision", "panic", &"panicked")
    }

    pub(super) fn no_template(id: Uuid) -> Self {
        let text = format!(
            "cannot start workspace {id}: no config.yaml source and config volume is empty — \
             delete the workspace or provide a template"
        );
        Self::new(&text, "no_config", "its template folder is gone".to_owned())
    }

    pub(super) fn deadline(limit: Duration) -> Self {
        let cause = format!("not started within {} s", limit.as_secs());
        Self::start("deadline", "timeout", &cause).passing(true)
    }

    pub(super) fn quiet(limit: Duration) -> Self {
        let cause = format!("no sign of progress for {} s", limit.as_secs());
        Self::start("deadline", "timeout", &cause).passing(true)
    }
}

impl From<Failure> for Step {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<BundleError> for Step {
    fn from(error: BundleError) -> Self {
        let (text, passes) = match error {
            BundleError::Store(_) => (START_FAILED.to_owned(), true),
            BundleError::Global(_) | BundleError::Workspace(_) => (error.to_string(), false),
        };
        let cause = format!("load_secrets: {:#}", anyhow::Error::from(error));
        let failure = Failure::new(&text, "secrets", cause);
        failure.passing(passes).into()
    }
}

impl From<ChainError> for Step {
    fn from(error: ChainError) -> Self {
        let cause = format!("provisionhook {:?}: {}", error.hook, error.cause.chain());
        let failure = Failure::new(HOOKS_FAILED, "hook", cause);
        failure.passing(error.cause.is_transient()).into()
    }
}

impl From<Error> for Step {
    fn from(error: Error) -> Self {
        let cause = error.internal_context();
        let failure = Failure::start("mint_credentials", "credentials", &cause);
        failure.passing(error.kind() == Kind::Unavailable).into()
    }
}

impl From<sqlx::Error> for Step {
    fn from(error: sqlx::Error) -> Self {
        Failure::store("store", &error).into()
    }
}

impl From<BackendError> for Step {
    fn from(error: BackendError) -> Self {
        if matches!(error, BackendError::Cancelled) {
            return Self::Cancelled;
        }
        let text = match error {
            BackendError::NotConfigured => NO_BACKEND,
            _ => START_FAILED,
        };
        let (class, passes) = (error.class(), error.is_transient());
        let cause = format!("start_backend: {:#}", anyhow::Error::from(error));
        Failure::new(text, class, cause).passing(passes).into()
    }
}

/// Documented text of most boots that failed.
const START_FAILED: &str = "workspace start failed";

/// Text of a restart without an image, whose old agent was left alone.
pub(super) const DECLINED: &str =
    "restart declined: the image could not be obtained; the running agent was kept";

/// Text of a restart that failed later than that, and left the old agent alone too.
pub(super) fn declined_because(text: &str) -> String {
    format!("restart declined: {text}; the running agent was kept")
}

/// Documented text of a boot that a hook ended.
pub(crate) const HOOKS_FAILED: &str = "plugin env mutator chain failed";

/// Documented text of a server without a backend.
pub(crate) const NO_BACKEND: &str = "no provisioning backend available — workspace requires either a \
     Docker daemon (self-hosted) or control-plane provisioner (SaaS)";

impl Services {
    /// Documented outcome of a failed provision: row and event. Does nothing when
    /// the lease is lost.
    pub(in super::super) async fn mark_failed(
        &self,
        lease: Lease,
        text: &str,
        missing: &[String],
        again: Again,
    ) -> Result<(), Error> {
        let mut payload = json!({ "error": text });
        if !missing.is_empty() {
            payload["missing"] = json!(missing);
        }
        let mut tx = self.db.begin().await?;
        let failed = lease::fail(&mut tx, lease, text, again, timestamp(&self.clock)).await?;
        self.announce_failed(tx, failed, lease.id, payload).await
    }

    /// Records why a workspace failed, if the caller's transaction made it fail, then
    /// commits and tells everybody.
    pub(in super::super) async fn announce_failed(
        &self,
        mut tx: Tx,
        failed: bool,
        id: Uuid,
        payload: Value,
    ) -> Result<(), Error> {
        if !failed {
            return Ok(());
        }
        let event = self
            .events
            .record(&mut tx, EventType::WorkspaceProvisionFailed, id, payload)
            .await?;
        tx.commit().await?;
        self.directory.forget(id);
        self.relay.send(Topic::WorkspaceChanged, id.to_string());
        self.events.publish(event);
        Ok(())
    }

    /// Outcome of a restart that was declined: the row is what it was, with an event
    /// that says so to those who were told of the restart. False when the lease is
    /// lost, or there was nothing to go back to.
    pub(super) async fn mark_declined(
        &self,
        lease: Lease,
        declined: &Declined,
        again: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let (text, url) = (&declined.text, &declined.url);
        let again = (again, declined.took_request);
        let now = timestamp(&self.clock);
        let mut tx = self.db.begin().await?;
        let declined = lease::decline(&mut tx, lease, url, text, again, now).await?;
        let Some(status) = declined else {
            return Ok(false);
        };
        let event = match Status::parse(&status) {
            Status::Online => EventType::WorkspaceOnline,
            Status::Degraded => EventType::WorkspaceDegraded,
            Status::Offline => EventType::WorkspaceOffline,
            Status::Failed => EventType::WorkspaceProvisionFailed,
            _ => EventType::WorkspaceUpdated,
        };
        let payload = json!({ "restart_declined": true, "error": text });
        let recorded = self.events.record(&mut tx, event, lease.id, payload);
        let event = recorded.await?;
        tx.commit().await?;
        self.directory.forget(lease.id);
        self.events.publish(event);
        Ok(true)
    }

    /// Compensation of `mint_credentials`; leaves the tokens of whoever took over.
    pub(super) async fn revoke(&self, lease: Lease) -> Result<(), String> {
        let revoking = async {
            let mut tx = self.db.begin().await?;
            // Held until the outcome is written: nobody is to start over meanwhile.
            let until = timestamp(&self.clock) + super::LEASE;
            if lease::hold(&mut tx, lease, until).await? {
                self.auth.revoke_all(&mut tx, lease.id).await?;
                tx.commit().await?;
            }
            Ok::<_, sqlx::Error>(())
        };
        let revoked = revoking.await.map_err(|error| error.to_string());
        self.auth.forget(lease.id);
        revoked
    }

    /// True when this server starts no compute.
    pub(in super::super) fn has_no_backend(&self) -> bool {
        self.backend.kind() == BackendKind::None
    }
}
