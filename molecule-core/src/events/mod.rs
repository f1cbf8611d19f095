//! What happened, for people and machines: `structure_events` and the live bus.
//!
//! A recorded event is inserted in the transaction of the change it describes and
//! published after the commit, so that nobody hears of what did not happen.

pub(crate) mod routes;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::redact::Redactor;
use crate::store::{Tx, statement, timestamp, with_tx};

/// Events a slow subscriber may fall behind before it loses the oldest.
const BUS_CAPACITY: usize = 1024;

/// Declares the event types with their names on the wire.
macro_rules! event_types {
    ($($(#[$meta:meta])* $variant:ident = $name:literal,)*) => {
        /// Types of events. The names are wire facts; some belong to rooms that do
        /// not exist yet.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum EventType {
            $($(#[$meta])* $variant,)*
        }

        impl EventType {
            /// Every type there is.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name on the wire and in the table.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

event_types! {
    /// A workspace was accepted, or restarts; its compute is being started.
    WorkspaceProvisioning = "WORKSPACE_PROVISIONING",
    /// Its agent registered or came back.
    WorkspaceOnline = "WORKSPACE_ONLINE",
    /// An external workspace waits for its agent.
    WorkspaceAwaitingAgent = "WORKSPACE_AWAITING_AGENT",
    /// Its agent is gone.
    WorkspaceOffline = "WORKSPACE_OFFLINE",
    /// Its agent reports trouble.
    WorkspaceDegraded = "WORKSPACE_DEGRADED",
    /// Somebody paused it.
    WorkspacePaused = "WORKSPACE_PAUSED",
    /// It was idle and sleeps until somebody needs it.
    WorkspaceHibernated = "WORKSPACE_HIBERNATED",
    /// Its name, place or another field changed.
    WorkspaceUpdated = "WORKSPACE_UPDATED",
    /// It could not be started.
    WorkspaceProvisionFailed = "WORKSPACE_PROVISION_FAILED",
    /// It was deleted.
    WorkspaceRemoved = "WORKSPACE_REMOVED",
    /// A team grew out of it.
    WorkspaceExpanded = "WORKSPACE_EXPANDED",
    /// Its team was removed.
    WorkspaceCollapsed = "WORKSPACE_COLLAPSED",
    /// An external agent got new credentials.
    ExternalCredentialsRotated = "EXTERNAL_CREDENTIALS_ROTATED",
    /// Its agent describes itself anew.
    AgentCardUpdated = "AGENT_CARD_UPDATED",
    /// It got an agent.
    AgentAssigned = "AGENT_ASSIGNED",
    /// Its agent was replaced.
    AgentReplaced = "AGENT_REPLACED",
    /// Its agent was taken away.
    AgentRemoved = "AGENT_REMOVED",
    /// Its agent moved to another workspace.
    AgentMoved = "AGENT_MOVED",
    /// Its agent asks for an approval.
    ApprovalRequested = "APPROVAL_REQUESTED",
    /// An approval was passed on to it.
    ApprovalEscalated = "APPROVAL_ESCALATED",
    /// An approval was given.
    ApprovalApproved = "APPROVAL_APPROVED",
    /// An approval was refused.
    ApprovalDenied = "APPROVAL_DENIED",
    /// It delegated a task.
    DelegationSent = "DELEGATION_SENT",
    /// A delegated task goes on.
    DelegationStatus = "DELEGATION_STATUS",
    /// A delegated task is done.
    DelegationComplete = "DELEGATION_COMPLETE",
    /// A delegated task failed.
    DelegationFailed = "DELEGATION_FAILED",
    /// A schedule ran.
    CronExecuted = "CRON_EXECUTED",
    /// A schedule was skipped.
    CronSkipped = "CRON_SKIPPED",
    /// A message went through a channel.
    ChannelMessage = "CHANNEL_MESSAGE",
    /// The agent's current task changed. Not recorded.
    TaskUpdated = "TASK_UPDATED",
    /// The agent is alive. Not recorded.
    WorkspaceHeartbeat = "WORKSPACE_HEARTBEAT",
    /// Something was done. Not recorded.
    ActivityLogged = "ACTIVITY_LOGGED",
    /// The agent says something to people. Not recorded.
    AgentMessage = "AGENT_MESSAGE",
    /// An answer to a call from the canvas. Not recorded.
    A2aResponse = "A2A_RESPONSE",
}

impl EventType {
    /// The type with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }
}

impl Serialize for EventType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
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
