//! Messages to agents: `POST /workspaces/:id/a2a`.
//!
//! A message is handed to the agent behind a workspace and its answer handed back.
//! A message to a workspace that sleeps wakes it; one to an agent that turns out to
//! be gone has it restarted. There is no queue: who calls a busy agent is told to
//! come back.

mod deliver;
mod message;
pub(crate) mod routes;
mod status;

use std::time::Duration;

use moka::sync::Cache;
use uuid::Uuid;

use crate::backend::SharedBackend;
use crate::error::{Error, Result};
use crate::presence::Presence;
use crate::workspaces::{Status, Workspace, Workspaces};

pub(crate) use message::MAX_MESSAGE_BYTES;

/// Seconds after which a caller of a workspace that boots should try again.
const WAKE_RETRY_SECS: u64 = 15;
/// A workspace that was woken boots within this time or is not called waking any
/// more.
const WAKING_FOR: Duration = Duration::from_secs(600);

/// The room's service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct A2a {
    workspaces: Workspaces,
    presence: Presence,
    backend: SharedBackend,
    agents: reqwest::Client,
    waking: Cache<Uuid, ()>,
}

/// An agent's answer, as far as it is passed on.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl A2a {
    pub(crate) fn new(
        workspaces: Workspaces,
        presence: Presence,
        backend: SharedBackend,
        agents: reqwest::Client,
    ) -> Self {
        let waking = Cache::builder()
            .max_capacity(100_000)
            .time_to_live(WAKING_FOR)
            .build();
        Self {
            workspaces,
            presence,
            backend,
            agents,
            waking,
        }
    }

    /// Sends a message to a workspace. `caller` is the workspace that sends it;
    /// without one it is a person or an administrator.
    ///
    /// # Errors
    /// As documented for the route: 403 outside the hierarchy, 402, 404, 503 while
    /// it sleeps, boots or is busy, 502 when its agent cannot be reached.
    pub(crate) async fn send(
        &self,
        caller: Option<Uuid>,
        target: Uuid,
        body: &[u8],
        limit: Option<Duration>,
    ) -> Result<Answer> {
        if let Some(caller) = caller {
            let tree = self.workspaces.hierarchy().tree().await?;
            if !tree.can_communicate(caller, target) {
                return Err(Error::forbidden(
                    "access denied: workspaces cannot communicate per hierarchy rules",
                ));
            }
        }
        let workspace = self.workspaces.get(target).await?;
        if workspace
            .budget_limit
            .is_some_and(|limit| workspace.monthly_spend >= limit)
        {
            return Err(Error::payment_required("workspace budget limit exceeded"));
        }
        self.require_awake(&workspace).await?;
        let message = message::normalise(body)?;
        self.deliver(&workspace, message, limit).await
    }

    /// # Errors
    /// 503 for a workspace without an agent to talk to; a hibernated one is woken.
    async fn require_awake(&self, workspace: &Workspace) -> Result<()> {
        let id = workspace.id;
        match workspace.status() {
            Status::Removed => return Err(Error::not_found("workspace not found")),
            Status::Hibernated => {
                if self.workspaces.wake(id).await? {
                    tracing::info!(workspace.id = %id, "woken by a message");
                }
                self.waking.insert(id, ());
                return Err(waking());
            }
            Status::Provisioning if self.waking.contains_key(&id) => return Err(waking()),
            Status::Online | Status::Degraded if !workspace.url.is_empty() => {
                self.waking.invalidate(&id);
                return Ok(());
            }
            // Its agent may answer all the same.
            Status::Offline | Status::AwaitingAgent if !workspace.url.is_empty() => return Ok(()),
            _ => {}
        }
        Err(Error::not_now("workspace has no URL").with("status", workspace.status().as_str()))
    }
}

fn waking() -> Error {
    Error::not_now("workspace is waking from hibernation — retry in ~15 seconds")
        .with("waking", true)
        .with("retry_after", WAKE_RETRY_SECS)
        .retry_after(WAKE_RETRY_SECS)
}
