//! What an event is.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

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
    /// Somebody opened a terminal in it.
    WorkspaceTerminalOpened = "WORKSPACE_TERMINAL_OPENED",
    /// A terminal in it ended.
    WorkspaceTerminalClosed = "WORKSPACE_TERMINAL_CLOSED",
    /// A plugin was delivered into it.
    WorkspacePluginInstalled = "WORKSPACE_PLUGIN_INSTALLED",
    /// A plugin was removed from it.
    WorkspacePluginUninstalled = "WORKSPACE_PLUGIN_UNINSTALLED",
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
    /// What its start is busy with. Not recorded.
    WorkspaceProvisionProgress = "WORKSPACE_PROVISION_PROGRESS",
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

    /// True for what may change who is whose parent.
    pub(super) fn moves_workspaces(self) -> bool {
        matches!(
            self,
            Self::WorkspaceProvisioning
                | Self::WorkspaceAwaitingAgent
                | Self::WorkspaceUpdated
                | Self::WorkspaceRemoved
                | Self::WorkspaceExpanded
                | Self::WorkspaceCollapsed
        )
    }

    /// True for what agents say all the time and nobody needs later.
    pub(super) fn is_frequent(self) -> bool {
        matches!(
            self,
            Self::TaskUpdated
                | Self::WorkspaceHeartbeat
                | Self::ActivityLogged
                | Self::WorkspaceProvisionProgress
        )
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
    /// Its row in `structure_events`; none for an event that is not recorded.
    #[serde(skip)]
    pub id: Option<Uuid>,
}

/// Writes a time as the wire does.
pub(super) fn rfc3339<S: serde::Serializer>(
    time: &DateTime<Utc>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
}
