//! Handing a message over, and finding out what a failure means.

use std::time::Duration;

use super::{A2a, Answer, WAKE_RETRY_SECS, busy, busy_with, no_url, status};
use crate::backend::{InstanceRef, Liveness};
use crate::error::{Error, Result};
use crate::outbound::{CallError, Limits, Policy, read_body};
use crate::presence::Capability;
use crate::workspaces::{Absence, Status, Workspace};

/// Longest answer that is passed on.
const MAX_ANSWER_BYTES: usize = 10 * 1024 * 1024;
/// A call ends after this long, whatever its caller asks for.
const LONGEST_CALL: Duration = Duration::from_secs(30 * 60);
/// What a caller gets who asks for nothing.
const USUAL_CALL: Duration = Duration::from_secs(300);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The backend may take this long to say whether an agent runs.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

impl A2a {
    pub(super) async fn deliver(
        &self,
        workspace: &Workspace,
        message: Vec<u8>,
        limit: Option<Duration>,
    ) -> Result<Answer> {
        let overrides = self.presence.overrides(workspace.id);
        let limits = Limits {
            connect: CONNECT_TIMEOUT,
            total: (limit.or(overrides.idle_timeout()))
                .unwrap_or(USUAL_CALL)
                .min(LONGEST_CALL),
            max_body_bytes: MAX_ANSWER_BYTES,
        };
        let client = self.client(workspace, &limits).await?;
        let sent = client
            .post(&workspace.url)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(message)
            .timeout(limits.total)
            .send()
            .await;
        let response = match sent {
            Ok(response) => response,
            Err(error) => return Err(self.not_delivered(workspace, error).await?),
        };
        let code = response.status().as_u16();
        if matches!(code, 502..=504 | 521..=524) && self.is_gone(workspace).await {
            return Err(self.restarting(workspace).await?);
        }
        match read_body(response, &limits).await {
            Ok(body) => Ok(status::answer(code, body)),
            Err(error) => {
                let confirmed = (200..400).contains(&code);
                Err(Error::bad_gateway("failed to read agent response", error)
                    .with("delivery_confirmed", confirmed))
            }
        }
    }

    /// A client that reaches the workspace's agent and nothing else. The URL of an
    /// agent that this server did not start is its own word.
    async fn client(&self, workspace: &Workspace, limits: &Limits) -> Result<reqwest::Client> {
        let inspected = !workspace.external && workspace.instance_id.is_some();
        let policy = match inspected {
            true => Policy::Inspected,
            false => Policy::Claimed,
        };
        let vetted = self.workspaces.guard().vet(&workspace.url, policy);
        let vetted = vetted.await.map_err(|refusal| {
            let cause = anyhow::anyhow!("{refusal}");
            Error::bad_gateway("workspace URL is not publicly routable", cause)
        })?;
        match vetted.url().host() {
            // An address is pinned by itself, and connections to it can be kept.
            Some(url::Host::Ipv4(_) | url::Host::Ipv6(_)) => Ok(self.agents.clone()),
            _ => vetted.client(limits).map_err(|error: CallError| {
                Error::internal("failed to create proxy request", error)
            }),
        }
    }

    /// What a call that got no answer means.
    async fn not_delivered(&self, workspace: &Workspace, error: reqwest::Error) -> Result<Error> {
        if self.is_gone(workspace).await {
            return self.restarting(workspace).await;
        }
        let error = error.without_url();
        let is_refused = error.is_connect() && !error.is_timeout();
        if is_refused || is_garbage(&error) {
            return Ok(Error::bad_gateway("failed to reach workspace agent", error));
        }
        tracing::info!(workspace.id = %workspace.id, %error, "agent busy");
        let overrides = self.presence.overrides(workspace.id);
        Ok(match overrides.has(Capability::Session) {
            true => busy_with("workspace agent busy — adapter handles retry (native_session)")
                .with("native_session", true),
            false => busy(),
        })
    }

    /// True only when the backend knows that nothing runs.
    async fn is_gone(&self, workspace: &Workspace) -> bool {
        if workspace.external {
            return false;
        }
        let instance = InstanceRef {
            workspace_id: workspace.id,
            instance_id: workspace.instance_id.clone(),
        };
        let liveness = tokio::time::timeout(PROBE_TIMEOUT, self.backend.liveness(&instance)).await;
        matches!(liveness, Ok(Liveness::Stopped | Liveness::Missing))
    }

    async fn restarting(&self, workspace: &Workspace) -> Result<Error> {
        if !self
            .workspaces
            .went_offline(workspace.id, Absence::Gone)
            .await?
        {
            let now = self.workspaces.get(workspace.id).await?;
            let comes_back = matches!(
                now.status(),
                Status::Provisioning | Status::Offline | Status::Online | Status::Degraded
            );
            // Somebody stopped it on purpose.
            if !comes_back {
                return Ok(no_url(now.status()));
            }
        }
        Ok(
            Error::not_now("workspace agent unreachable — container restart triggered")
                .with("restarting", true)
                .with("retry_after", WAKE_RETRY_SECS)
                .retry_after(WAKE_RETRY_SECS),
        )
    }
}

/// True for an answer that is no HTTP: what sent it is not an agent at work.
fn is_garbage(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            return error.is_parse();
        }
        cause = error.source();
    }
    false
}
