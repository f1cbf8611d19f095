//! Agents coming and staying: register and heartbeat.

mod heartbeat;
mod register;
pub(crate) mod routes;
mod store;
mod transition;
mod url_guard;

use std::time::Duration;

use molecule_hooks::Clock;
use uuid::Uuid;

pub(crate) use heartbeat::Heartbeat;
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

/// The room's service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Presence {
    db: Db,
    clock: Clock,
    auth: Auth,
    events: Events,
    workspaces: Workspaces,
    redactor: Redactor,
    pending: heartbeat::Pending,
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
            pending: heartbeat::Pending::default(),
        }
    }

    /// Starts writing heartbeats in the background.
    pub(crate) fn start(&self, supervisor: &Supervisor) {
        let this = self.clone();
        supervisor.every("heartbeat-flush", FLUSH_EVERY, move || {
            let this = this.clone();
            async move { this.flush().await }
        });
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
