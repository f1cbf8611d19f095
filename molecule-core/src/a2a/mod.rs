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

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::{Semaphore, oneshot};
use uuid::Uuid;

use crate::backend::SharedBackend;
use crate::error::{Error, Result};
use crate::presence::Presence;
use crate::supervisor::Supervisor;
use crate::workspaces::{Status, Workspace, Workspaces};

pub(crate) use message::MAX_MESSAGE_BYTES;

/// Seconds after which a caller of a workspace that boots should try again.
const WAKE_RETRY_SECS: u64 = 15;
/// The same for a caller of a busy agent.
const BUSY_RETRY_SECS: u64 = 30;
/// A workspace that was woken boots within this time or is not called waking any
/// more.
const WAKING_FOR: Duration = Duration::from_secs(600);
/// Calls to agents at once. They go on when their callers leave, so that the
/// connections do not bound them.
const MAX_CALLS: usize = 4096;

/// The room's service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct A2a {
    workspaces: Workspaces,
    presence: Presence,
    backend: SharedBackend,
    agents: reqwest::Client,
    supervisor: Supervisor,
    calls: Arc<Semaphore>,
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
        supervisor: Supervisor,
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
            supervisor,
            calls: Arc::new(Semaphore::new(MAX_CALLS)),
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
        let workspace = self.workspaces.get(target).await;
        let mut workspace = workspace.map_err(|error| error.says("lookup failed"))?;
        if workspace
            .budget_limit
            .is_some_and(|limit| workspace.monthly_spend >= limit)
        {
            return Err(Error::payment_required("workspace budget limit exceeded"));
        }
        match workspace.kept_url.is_empty() {
            true => self.require_awake(&workspace).await?,
            // A boot is under way that still waits for its image: the agent of before
            // works on.
            false => workspace.url = std::mem::take(&mut workspace.kept_url),
        }
        let message = message::normalise(body)?;
        self.call(workspace, message, limit).await
    }

    /// Delivers in a task of its own: an agent that works on a message is not
    /// interrupted because its caller left.
    async fn call(
        &self,
        workspace: Workspace,
        message: Vec<u8>,
        limit: Option<Duration>,
    ) -> Result<Answer> {
        let turn = Arc::clone(&self.calls).try_acquire_owned();
        let turn = turn.map_err(|_| {
            tracing::warn!(MAX_CALLS, "too many calls to agents at once");
            Error::not_now("too many messages under way — retry after a short backoff")
                .with("retry_after", BUSY_RETRY_SECS)
                .retry_after(BUSY_RETRY_SECS)
        })?;
        let (send, answered) = oneshot::channel();
        let (this, stopping) = (self.clone(), self.supervisor.token());
        self.supervisor.spawn("a2a-call", async move {
            let _turn = turn;
            let answer = tokio::select! {
                () = stopping.cancelled() => Err(busy()),
                answer = this.deliver(&workspace, message, limit) => answer,
            };
            // Nobody listens when the caller left.
            let _ = send.send(answer);
        });
        answered
            .await
            .unwrap_or_else(|error| Err(Error::internal("internal error", error)))
    }

    /// # Errors
    /// 503 for a workspace without an agent to talk to; a hibernated one is woken.
    async fn require_awake(&self, workspace: &Workspace) -> Result<()> {
        let id = workspace.id;
        match workspace.status() {
            Status::Hibernated => {
                // Before the row says so: others are told the same at once.
                self.waking.insert(id, ());
                if self.workspaces.wake(id).await? {
                    tracing::info!(workspace.id = %id, "woken by a message");
                }
                return Err(waking());
            }
            Status::Provisioning if self.waking.contains_key(&id) => return Err(waking()),
            // Its agent was faster than its start: where it is, is not known yet.
            Status::Online | Status::Degraded if workspace.starting => {
                return Err(match self.waking.contains_key(&id) {
                    true => waking(),
                    false => no_url(Status::Provisioning),
                });
            }
            Status::Online | Status::Degraded if !workspace.url.is_empty() => {
                self.waking.invalidate(&id);
                return Ok(());
            }
            // Its agent may answer all the same.
            Status::Offline | Status::AwaitingAgent if !workspace.url.is_empty() => return Ok(()),
            _ => {}
        }
        Err(no_url(workspace.status()))
    }
}

/// There is nobody to talk to, and nobody is about to come.
fn no_url(status: Status) -> Error {
    Error::not_now("workspace has no URL").with("status", status.as_str())
}

/// The message may have been delivered; its answer is not to be had now.
fn busy() -> Error {
    busy_with("workspace agent busy — retry after a short backoff")
}

fn busy_with(text: &str) -> Error {
    Error::not_now(text)
        .with("busy", true)
        .with("retry_after", BUSY_RETRY_SECS)
        .retry_after(BUSY_RETRY_SECS)
}

fn waking() -> Error {
    Error::not_now("workspace is waking from hibernation — retry in ~15 seconds")
        .with("waking", true)
        .with("retry_after", WAKE_RETRY_SECS)
        .retry_after(WAKE_RETRY_SECS)
}
