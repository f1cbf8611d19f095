//! What a restarted agent is told: when, how long its last session is ago, and
//! which variables it has now. Names only, never values.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::model::{Status, Workspace};
use super::{Services, store};
use crate::outbound::Policy;
use crate::store::timestamp;

const POLL_EVERY: Duration = Duration::from_millis(500);
/// The agent may take this long to take the message in.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// What was known before the restart.
pub(super) struct Before {
    id: Uuid,
    runtime: String,
    restart_at: DateTime<Utc>,
    last_heartbeat_at: Option<DateTime<Utc>>,
    keys: BTreeSet<String>,
}

impl Before {
    pub(super) async fn of(services: &Services, row: &Workspace) -> Self {
        let bundle = services.secrets.bundle(row.id).await.unwrap_or_default();
        Self {
            id: row.id,
            runtime: row.runtime.clone(),
            restart_at: timestamp(&services.clock),
            last_heartbeat_at: row.last_heartbeat_at,
            keys: bundle
                .global
                .into_keys()
                .chain(bundle.workspace.into_keys())
                .collect(),
        }
    }

    /// The documented lines (§2.5).
    fn text(&self) -> String {
        let at = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
        let ended = match self.last_heartbeat_at {
            Some(time) => format!("{} ({} ago)", at(time), ago(self.restart_at - time)),
            None => "(no prior session on record)".to_owned(),
        };
        let keys: Vec<&str> = self.keys.iter().map(String::as_str).collect();
        let keys = match keys.is_empty() {
            true => "(none)".to_owned(),
            false => keys.join(", "),
        };
        format!(
            "=== WORKSPACE RESTART CONTEXT ===\nRestart at: {}\nPrevious session ended: {ended}\n\
             Env vars now available: {keys}\n=== END RESTART CONTEXT ===",
            at(self.restart_at)
        )
    }

    fn call(&self) -> Value {
        json!({
            "jsonrpc": "2.0",
            "id": Uuid::new_v4(),
            "method": "message/send",
            "params": {
                "message": {
                    "role": "user",
                    "messageId": Uuid::new_v4(),
                    "parts": [{ "kind": "text", "text": self.text() }],
                    "metadata": {
                        "source": "platform",
                        "kind": "restart_context",
                        "layer": 1,
                        "restart_context": true,
                    },
                },
            },
        })
    }
}

/// Waits until the agent is back, as long as it may take to register, then tells
/// it. Best effort.
pub(super) async fn tell(services: Arc<Services>, before: Before) {
    let id = before.id;
    let cancel = services.supervisor.token();
    let patience = Duration::from_secs(services.provision_timeout_secs(&before.runtime, None));
    let telling = async {
        let row = loop {
            tokio::time::sleep(POLL_EVERY).await;
            match services.directory.status(id).await {
                Ok(Some(Status::Online)) => match store::find(&services.db, id).await {
                    // That is the old agent.
                    Ok(Some(row)) if row.starting => {}
                    Ok(Some(row)) => break row,
                    Ok(None) | Err(_) => return,
                },
                Ok(Some(Status::Provisioning | Status::Degraded)) | Err(_) => {}
                Ok(_) => return,
            }
        };
        // Only where this server put the agent itself, and the restart was not declined.
        let vetted = services.guard.vet(&row.url, Policy::Inspected).await;
        if row.instance_id.is_none() || !row.started || vetted.is_err() {
            return;
        }
        let sent = services
            .agents
            .post(&row.url)
            .header("x-workspace-id", "system:restart-context")
            .json(&before.call())
            .timeout(SEND_TIMEOUT)
            .send()
            .await;
        match sent {
            Ok(reply) => {
                tracing::info!(workspace.id = %id, status = reply.status().as_u16(), "restart context sent");
            }
            // Its URL is not for the log.
            Err(error) => {
                tracing::warn!(workspace.id = %id, error = %error.without_url(), "restart context not delivered");
            }
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        _ = tokio::time::timeout(patience, telling) => {}
    }
}

/// `2h14m`, `3m5s` or `38s`.
fn ago(time: TimeDelta) -> String {
    let secs = time.num_seconds().max(0);
    match (secs / 3600, secs / 60 % 60, secs % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, _) => format!("{h}h{m}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_the_contract() {
        let restart_at = "2026-05-01T10:00:00Z".parse().unwrap();
        let mut before = Before {
            id: Uuid::nil(),
            runtime: String::new(),
            restart_at,
            last_heartbeat_at: Some("2026-05-01T07:46:00Z".parse().unwrap()),
            keys: ["B".to_owned(), "A".to_owned()].into(),
        };
        assert_eq!(
            before.text(),
            "=== WORKSPACE RESTART CONTEXT ===\nRestart at: 2026-05-01T10:00:00Z\n\
             Previous session ended: 2026-05-01T07:46:00Z (2h14m ago)\n\
             Env vars now available: A, B\n=== END RESTART CONTEXT ==="
        );
        before.last_heartbeat_at = None;
        before.keys.clear();
        let text = before.text();
        assert!(
            text.contains("(no prior session on record)") && text.contains("(none)"),
            "{text}"
        );
        assert_eq!(ago(TimeDelta::seconds(185)), "3m5s");
        assert_eq!(ago(TimeDelta::seconds(38)), "38s");
        assert_eq!(ago(TimeDelta::seconds(-5)), "0s");
    }
}
