//! What operators set and look at, and what a control plane reports.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Workspaces;
use super::model::Status;
use super::printable::printable;
use super::store::operator;
use crate::backend::{InstanceRef, MAX_CONSOLE_BYTES};
use crate::error::{Error, Result};
use crate::store::timestamp;

/// What is kept of a report, and of each part of it in the event.
const MAX_REPORT_BYTES: usize = 8192;
/// Stands before a log whose beginning was left out.
const TRUNCATED: &str = "...(truncated)...\n";
/// Minutes that a workspace may be told to stay idle: a year.
const MAX_IDLE_MINUTES: i64 = 525_600;
/// A console that takes longer has failed.
const CONSOLE_TIMEOUT: Duration = Duration::from_secs(15);

/// How a machine failed to boot, as the control plane saw it.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct BootstrapFailure {
    /// What went wrong.
    error: Option<String>,
    /// The end of the machine's log.
    log_tail: Option<String>,
}

impl Workspaces {
    /// Fails a workspace that still boots. True when it did: one that came online,
    /// failed already or does not exist is left alone.
    ///
    /// # Errors
    /// 500 `db update failed`.
    pub(crate) async fn bootstrap_failed(
        &self,
        id: Uuid,
        report: BootstrapFailure,
    ) -> Result<bool> {
        let services = &self.services;
        let error = match self.printable(report.error.unwrap_or_default()) {
            error if error.is_empty() => "bootstrap failed — see log_tail".to_owned(),
            error => error,
        };
        let log = self.printable(report.log_tail.unwrap_or_default());
        let log_tail = match log.len() <= MAX_REPORT_BYTES {
            true => log,
            false => {
                let start = log.ceil_char_boundary(log.len() - MAX_REPORT_BYTES);
                format!("{TRUNCATED}{}", &log[start..])
            }
        };
        let stored = match log_tail.is_empty() {
            true => error.clone(),
            false => format!("{error}\n\n{log_tail}"),
        };
        let payload = json!({
            "error": head(&error),
            "log_tail": log_tail,
            "source": "bootstrap_watcher",
        });
        let failed = |error: Error| error.says("db update failed");
        let mut tx = services.db.begin().await.map_err(|e| failed(e.into()))?;
        let now = timestamp(&services.clock);
        let changed = operator::fail_bootstrap(&mut tx, id, head(&stored), now)
            .await
            .map_err(|e| failed(e.into()))?;
        let announced = services.announce_failed(tx, changed, id, payload).await;
        announced.map_err(failed)?;
        Ok(changed)
    }

    /// Masked, and without the character that PostgreSQL cannot store. Whole, before
    /// anything is cut off: half a secret has no shape to know it by.
    fn printable(&self, text: String) -> String {
        self.services.redactor.redact(&text).replace('\0', "")
    }

    /// Sets after how many idle minutes a workspace goes to sleep; `null` never.
    ///
    /// # Errors
    /// 400 with the rule; 404 `workspace not found`.
    pub(crate) async fn set_hibernation(
        &self,
        id: Uuid,
        body: &Map<String, Value>,
    ) -> Result<Option<i64>> {
        let services = &self.services;
        let minutes = match body.get("idle_minutes") {
            None => return Err(Error::invalid("idle_minutes field is required")),
            Some(Value::Null) => None,
            Some(value) => Some(
                value
                    .as_i64()
                    .ok_or_else(|| Error::invalid("idle_minutes must be an integer or null"))?,
            ),
        };
        if minutes.is_some_and(|minutes| !(1..=MAX_IDLE_MINUTES).contains(&minutes)) {
            let text = format!("idle_minutes must be between 1 and {MAX_IDLE_MINUTES}");
            return Err(Error::invalid(text));
        }
        let now = timestamp(&services.clock);
        let found = operator::set_hibernation(&services.db, id, minutes, now)
            .await
            .map_err(|error| Error::from(error).says("update failed"))?;
        match found {
            true => Ok(minutes),
            false => Err(Error::not_found("workspace not found")),
        }
    }

    /// What the machine of a workspace printed last, masked.
    ///
    /// # Errors
    /// 404 `workspace not found`; 501 when the backend has no console; 502 when it
    /// could not be read; 503 when the secrets to mask are not known.
    pub(crate) async fn console(&self, id: Uuid) -> Result<String> {
        let services = &self.services;
        let workspace = self.get(id).await?;
        if workspace.status() == Status::Removed {
            return Err(Error::not_found("workspace not found"));
        }
        // An external agent runs on no machine of ours.
        let console = services.backend.console().filter(|_| !workspace.external);
        let Some(console) = console else {
            return Err(Error::not_implemented(
                "console output unavailable on this deployment (no control plane)",
            ));
        };
        let instance = InstanceRef {
            workspace_id: id,
            instance_id: workspace.instance_id,
        };
        let bad_gateway = |cause: String| {
            Error::bad_gateway(
                "control plane returned an error fetching console output",
                anyhow::anyhow!(cause),
            )
        };
        match tokio::time::timeout(CONSOLE_TIMEOUT, console.read(&instance)).await {
            Ok(Ok(output)) => {
                // After it was read, so that whatever is in it is stored by now.
                self.teach_redactor_of(id).await?;
                // Escapes first: one in the middle of a secret would hide it.
                let masked = services.redactor.redact(&printable(last_lines(&output)));
                Ok(last_lines(&masked).to_owned())
            }
            Ok(Err(error)) => Err(bad_gateway(services.describe(error))),
            Err(_) => Err(bad_gateway("timed out".to_owned())),
        }
    }
}

/// The beginning of a report.
fn head(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_REPORT_BYTES)]
}

/// The last whole lines that fit. A line without its beginning is left out: the
/// redactor would not know a secret that was cut in two.
fn last_lines(output: &str) -> &str {
    if output.len() <= MAX_CONSOLE_BYTES {
        return output;
    }
    let start = output.ceil_char_boundary(output.len() - MAX_CONSOLE_BYTES);
    let rest = &output[start..];
    rest.find('\n').map_or("", |end| &rest[end + 1..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_console_begins_with_a_whole_line() {
        let line = "é".repeat(50);
        let long = format!("{line}\n").repeat(MAX_CONSOLE_BYTES / 50);
        let shown = last_lines(&long);
        assert!(shown.len() <= MAX_CONSOLE_BYTES && shown.len() > MAX_CONSOLE_BYTES - 102);
        assert!(shown.lines().all(|shown| shown == line));
        assert_eq!(last_lines("short"), "short");
        assert_eq!(last_lines(&"x".repeat(MAX_CONSOLE_BYTES + 1)), "");
    }

    proptest! {
        #[test]
        fn the_head_is_the_beginning_and_fits(text in "\\PC{0,20}", times in 1_usize..1000) {
            let text = text.repeat(times);
            prop_assert!(text.starts_with(head(&text)) && head(&text).len() <= MAX_REPORT_BYTES);
        }
    }
}
