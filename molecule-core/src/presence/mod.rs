//! Agents coming, staying and finding each other.

mod card;
mod discovery;
mod heartbeat;
mod live;
mod plugins;
mod register;
pub(crate) mod routes;
mod routes_discovery;
mod store;

use std::time::Duration;

use molecule_hooks::Clock;
use uuid::Uuid;

pub(crate) use card::CardUpdate;
pub(crate) use discovery::{AccessQuestion, Discovered, PeerView};
pub(crate) use heartbeat::Heartbeat;
pub(crate) use live::{Capability, Overrides};
pub(crate) use register::Register;

use crate::auth::{Auth, Gate};
use crate::error::{Error, Result};
use crate::events::Events;
use crate::redact::Redactor;
use crate::store::Db;
use crate::supervisor::Supervisor;
use crate::workspaces::{Status, Workspaces};

/// Heartbeats are written together, this often.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// How often memory of workspaces that are gone is given back.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// The room's service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Presence {
    db: Db,
    clock: Clock,
    auth: Auth,
    events: Events,
    workspaces: Workspaces,
    redactor: Redactor,
    live: live::Live,
}

impl Presence {
    pub(crate) fn new(
        db: Db,
        clock: Clock,
        auth: Auth,
        events: Events,
        workspaces: Workspaces,
        redactor: Redactor,
    ) -> Self {
        Self {
            db,
            clock,
            auth,
            events,
            workspaces,
            redactor,
            live: live::Live::default(),
        }
    }

    /// Starts writing heartbeats in the background.
    pub(crate) fn start(&self, supervisor: &Supervisor) {
        let this = self.clone();
        supervisor.every("heartbeat-flush", FLUSH_EVERY, move || {
            let this = this.clone();
            async move {
                // What is left has its turn a second later.
                let _more = this.flush().await;
            }
        });
        let this = self.clone();
        supervisor.every("presence-memory", PRUNE_EVERY, move || {
            let this = this.clone();
            async move { this.prune().await }
        });
    }

    /// What the latest heartbeat of a workspace said of its runtime; nothing when
    /// there was none since this server started.
    pub(crate) fn overrides(&self, id: Uuid) -> Overrides {
        self.live.overrides(id)
    }

    /// Forgets workspaces that are gone and never reported again.
    async fn prune(&self) {
        match self.workspaces.hierarchy().tree().await {
            Ok(tree) => self.live.retain(|id| tree.contains(id)),
            Err(error) => tracing::debug!(%error, "memory of agents not pruned; next time"),
        }
    }

    /// Lets a caller through who may speak for a workspace that exists.
    async fn admit(&self, id: Uuid, bearer: Option<&str>) -> Result<(Status, Gate)> {
        let status = self
            .workspaces
            .directory()
            .status(id)
            .await
            // Part of deciding who may speak: never a 404 or a 500 then.
            .map_err(Error::unavailable)?
            .ok_or_else(|| Error::not_found("workspace not found"))?;
        let gate = self.auth.gate(id, bearer).await?;
        Ok((status, gate))
    }
}
