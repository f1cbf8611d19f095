//! What happened, for people and machines: `structure_events` and the live bus.
//!
//! A recorded event is inserted in the transaction of the change it describes and
//! published after the commit, so that nobody hears of what did not happen.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::redact::Redactor;
use crate::store::{Tx, statement, timestamp, with_tx};

/// Events a slow subscriber may fall behind before it loses the oldest.
const BUS_CAPACITY: usize = 1024;

/// Types of events of this version. The names are wire facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum EventType {
    /// A workspace was accepted and its compute is being started.
    WorkspaceProvisioning,
    /// Its agent registered or came back.
    WorkspaceOnline,
    /// An external workspace waits for its agent.
    WorkspaceAwaitingAgent,
    /// Its agent reports trouble.
    WorkspaceDegraded,
    /// It could not be started.
    WorkspaceProvisionFailed,
    /// It was deleted.
    WorkspaceRemoved,
    /// The agent's current task changed. Not recorded.
    TaskUpdated,
    /// The agent is alive. Not recorded.
    WorkspaceHeartbeat,
}

impl EventType {
    /// The name on the wire and in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WorkspaceProvisioning => "WORKSPACE_PROVISIONING",
            Self::WorkspaceOnline => "WORKSPACE_ONLINE",
            Self::WorkspaceAwaitingAgent => "WORKSPACE_AWAITING_AGENT",
            Self::WorkspaceDegraded => "WORKSPACE_DEGRADED",
            Self::WorkspaceProvisionFailed => "WORKSPACE_PROVISION_FAILED",
            Self::WorkspaceRemoved => "WORKSPACE_REMOVED",
            Self::TaskUpdated => "TASK_UPDATED",
            Self::WorkspaceHeartbeat => "WORKSPACE_HEARTBEAT",
        }
    }
}

/// One event, as subscribers and the wire see it.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Event {
    /// What happened.
    pub event: EventType,
    /// To which workspace.
    pub workspace_id: Uuid,
    /// When, UTC.
    #[serde(serialize_with = "rfc3339")]
    pub timestamp: DateTime<Utc>,
    /// Fields that depend on the type.
    pub payload: Value,
}

fn rfc3339<S: serde::Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
}

/// Records and publishes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Events {
    bus: broadcast::Sender<Event>,
    redactor: Redactor,
    clock: molecule_hooks::Clock,
}

statement!(
    INSERT,
    "INSERT INTO structure_events (id, event_type, workspace_id, payload, created_at) VALUES ($1, $2, $3, $4, $5)"
);

impl Events {
    pub(crate) fn new(redactor: Redactor, clock: molecule_hooks::Clock) -> Self {
        Self {
            bus: broadcast::Sender::new(BUS_CAPACITY),
            redactor,
            clock,
        }
    }

    /// Inserts an event in the caller's transaction. Publish the result after
    /// the commit.
    pub(crate) async fn record(
        &self,
        tx: &mut Tx,
        event: EventType,
        workspace_id: Uuid,
        payload: Value,
    ) -> sqlx::Result<Event> {
        let event = self.event(event, workspace_id, payload);
        with_tx!(tx, |conn| sqlx::query(INSERT)
            .bind(Uuid::now_v7())
            .bind(event.event.as_str())
            .bind(event.workspace_id)
            .bind(sqlx::types::Json(&event.payload))
            .bind(event.timestamp)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(event)
    }

    /// Sends a recorded event to subscribers.
    pub(crate) fn publish(&self, event: Event) {
        tracing::debug!(
            event = event.event.as_str(),
            workspace.id = %event.workspace_id,
            "event"
        );
        // No subscriber is fine.
        let _ = self.bus.send(event);
    }

    /// Sends an event that is not kept.
    pub(crate) fn broadcast(
        &self,
        event: EventType,
        workspace_id: Uuid,
        payload: impl FnOnce() -> Value,
    ) {
        if self.bus.receiver_count() > 0 {
            let _ = self.bus.send(self.event(event, workspace_id, payload()));
        }
    }

    /// Everything from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.bus.subscribe()
    }

    fn event(&self, event: EventType, workspace_id: Uuid, mut payload: Value) -> Event {
        self.redactor.redact_json(&mut payload);
        Event {
            event,
            workspace_id,
            timestamp: timestamp(&self.clock),
            payload,
        }
    }
}
