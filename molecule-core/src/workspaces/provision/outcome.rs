//! How a provision ended, and what is written about it.

use std::time::Duration;

use serde_json::json;

use super::super::store::lease::{self, Again, Lease};
use super::Provisioner;
use super::failure::Failure;
use crate::provlog::provlog;
use crate::store::timestamp;

/// Writing the outcome gets its own time, however late it is.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// How a provision ended.
pub(super) enum Outcome {
    Started,
    Failed {
        failure: Failure,
        /// Nobody waits for it.
        is_automatic: bool,
        /// A request that is still there came after the boot read what it needs.
        took_request: bool,
    },
    /// The agent of before was left alone.
    Declined(Declined),
    /// Cancelled by a delete or by shutdown, and taken back.
    Cancelled,
}

/// A boot that was given up for the agent of before.
pub(super) struct Declined {
    pub(super) failure: Failure,
    /// What may be shown.
    pub(super) text: String,
    /// Where the agent of before is reached.
    pub(super) url: String,
    /// It had taken the request that it was to answer.
    pub(super) took_request: bool,
}

impl Outcome {
    /// Failed before anything was read.
    pub(super) fn failed(failure: Failure) -> Self {
        Self::Failed {
            failure,
            is_automatic: false,
            took_request: false,
        }
    }

    /// A bounded word for metrics.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Started => "ok",
            Self::Failed { failure, .. } => failure.class,
            Self::Declined(_) => "declined",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Provisioner {
    /// Writes how it ended. What cannot be written is found by recovery.
    pub(super) async fn conclude(&self, lease: Lease, outcome: Outcome, took: Duration) {
        let id = lease.id;
        let duration_ms = took.as_millis() as u64;
        match outcome {
            Outcome::Started => {
                self.setbacks.forget(id);
                tracing::info!(workspace.id = %id, duration_ms, "workspace started");
            }
            Outcome::Failed {
                failure,
                is_automatic,
                took_request,
            } => {
                let again = self.again(lease, &failure, is_automatic, took_request);
                self.fail(lease, failure, again, duration_ms).await;
            }
            Outcome::Declined(declined) => {
                let class = declined.failure.class;
                let cause = self.services.redactor.redact(&declined.failure.cause);
                tracing::error!(workspace.id = %id, reason = class, cause, "restart declined");
                record("provision.declined", lease, class, duration_ms);
                let again = timestamp(&self.services.clock) + self.setbacks.add(id);
                let written = self.services.mark_declined(lease, &declined, again);
                log_unwritten(lease, tokio::time::timeout(OUTCOME_TIMEOUT, written).await);
            }
            Outcome::Cancelled => {
                let now = timestamp(&self.services.clock);
                let released = lease::release(&self.services.db, lease, now);
                let _ = tokio::time::timeout(OUTCOME_TIMEOUT, released).await;
                self.services.directory.forget(id);
                tracing::info!(workspace.id = %id, "provision cancelled and taken back");
            }
        }
    }

    async fn fail(&self, lease: Lease, failure: Failure, again: Again, duration_ms: u64) {
        let id = lease.id;
        let cause = self.services.redactor.redact(&failure.cause);
        tracing::error!(workspace.id = %id, reason = failure.class, cause, "provision failed");
        record("provision.failed", lease, failure.class, duration_ms);
        let written = self
            .services
            .mark_failed(lease, &failure.text, &failure.missing, again);
        log_unwritten(lease, tokio::time::timeout(OUTCOME_TIMEOUT, written).await);
    }

    /// When it is tried again: a request that was not taken stays one, and what nobody
    /// waits for is repeated if it may work then.
    fn again(
        &self,
        lease: Lease,
        failure: &Failure,
        is_automatic: bool,
        took_request: bool,
    ) -> Again {
        let repeats = is_automatic && failure.passes;
        if took_request && !repeats {
            return Again::default();
        }
        let at = timestamp(&self.services.clock) + self.setbacks.add(lease.id);
        Again {
            pending: (!took_request).then_some(at),
            unasked: repeats.then_some(at),
        }
    }
}

fn record(name: &'static str, lease: Lease, reason: &str, duration_ms: u64) {
    provlog(
        name,
        json!({ "workspace_id": lease.id, "reason": reason, "duration_ms": duration_ms }),
    );
}

fn log_unwritten<T>(
    lease: Lease,
    written: Result<crate::error::Result<T>, tokio::time::error::Elapsed>,
) {
    match written {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::error!(workspace.id = %lease.id, ?error, "outcome not written; recovery will retry");
        }
        Err(_) => {
            tracing::error!(workspace.id = %lease.id, "outcome not written in time; recovery will retry");
        }
    }
}
