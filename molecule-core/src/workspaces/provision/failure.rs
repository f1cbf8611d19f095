//! Why a provision failed, and what of it may be shown.

use std::time::Duration;

use molecule_hooks::ChainError;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::Services;
use super::super::store::lease::{self, Lease};
use crate::backend::{BackendError, BackendKind};
use crate::error::Error;
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
        }
    }

    pub(super) fn start(step: &str, class: &'static str, cause: &dyn std::fmt::Display) -> Self {
        Self::new("workspace start failed", class, format!("{step}: {cause}"))
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
        Self::start("deadline", "timeout", &cause)
    }
}

impl From<Failure> for Step {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<BundleError> for Step {
    fn from(error: BundleError) -> Self {
        let text = match error {
            BundleError::Store(_) => "workspace start failed".to_owned(),
            BundleError::Global(_) | BundleError::Workspace(_) => error.to_string(),
        };
        let cause = format!("load_secrets: {:#}", anyhow::Error::from(error));
        Failure::new(&text, "secrets", cause).into()
    }
}

impl From<ChainError> for Step {
    fn from(error: ChainError) -> Self {
        let cause = format!("provisionhook {:?}: {}", error.hook, error.cause.chain());
        Failure::new(HOOKS_FAILED, "hook", cause).into()
    }
}

impl From<Error> for Step {
    fn from(error: Error) -> Self {
        Failure::start("mint_credentials", "credentials", &error.internal_context()).into()
    }
}

impl From<sqlx::Error> for Step {
    fn from(error: sqlx::Error) -> Self {
        Failure::start("store", "store", &error).into()
    }
}

impl From<BackendError> for Step {
    fn from(error: BackendError) -> Self {
        if matches!(error, BackendError::Cancelled) {
            return Self::Cancelled;
        }
        let text = match error {
            BackendError::NotConfigured => NO_BACKEND,
            _ => "workspace start failed",
        };
        let class = error.class();
        Failure::new(
            text,
            class,
            format!("start_backend: {:#}", anyhow::Error::from(error)),
        )
        .into()
    }
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
    ) -> Result<(), Error> {
        let mut payload = json!({ "error": text });
        if !missing.is_empty() {
            payload["missing"] = json!(missing);
        }
        let mut tx = self.db.begin().await?;
        let failed = lease::fail(&mut tx, lease, text, timestamp(&self.clock)).await?;
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
