//! Pulling images anew and restarting who uses an older one.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use super::{Rollout, pull};
use crate::backend::{BackendError, ImageDigest, Images, ObtainedImage};
use crate::error::{Error, Result};

/// All pulls of one refresh together.
const PULL_LIMIT: Duration = Duration::from_secs(300);
/// Pulls and all that follows them: less than the route may take, so that what was done
/// can still be told.
const WHOLE_LIMIT: Duration = Duration::from_secs(390);
/// Finding the users of one image.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// What a refresh did.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Refreshed {
    /// Runtimes whose image was pulled.
    pub(super) pulled: Vec<String>,
    /// Runtimes whose image could not be pulled.
    pub(super) failed: Vec<String>,
    /// Containers of workspaces that restart with the new image.
    pub(super) recreated: Vec<String>,
}

impl Rollout {
    /// Pulls the image of one runtime, or of all that are known, and requests restarts
    /// of their users if told to. Users that are known to run the same content are left
    /// alone. What is built on this machine is neither pulled nor failed.
    ///
    /// # Errors
    /// 400 for an unknown runtime; 409 while a refresh runs on this server that another
    /// administrator asked for; 500 `container list: …` with what was done as
    /// `partial_result`; 501 without images.
    pub(super) async fn refresh(&self, runtime: Option<&str>, recreate: bool) -> Result<Refreshed> {
        let services = &self.services;
        let images = services.backend.images().ok_or_else(|| {
            Error::not_implemented(
                "image refresh unavailable on this deployment (no Docker backend)",
            )
        })?;
        let runtimes: Vec<String> = match runtime {
            Some(runtime) => {
                services.images.require_known(runtime)?;
                vec![runtime.to_owned()]
            }
            None => {
                let known = services.images.known_runtimes().into_iter();
                known.map(str::to_owned).collect()
            }
        };
        let turn = self.turn.of_administrator().await;
        let _turn = turn.ok_or_else(|| Error::conflict("an image refresh is already running"))?;
        self.refresh_in_turn(images, runtimes, recreate).await
    }

    /// [`refresh`](Self::refresh) by whoever has the turn. Dropped half way, the
    /// restarts that were requested stay requested.
    ///
    /// # Errors
    /// 500 as above.
    pub(super) async fn refresh_in_turn(
        &self,
        images: &dyn Images,
        runtimes: Vec<String>,
        recreate: bool,
    ) -> Result<Refreshed> {
        let services = &self.services;
        let pulled = runtimes
            .into_iter()
            .filter(|runtime| self.is_pulled(images, runtime));
        let pulled = pulled.collect();
        let mut done = Refreshed::default();
        let refreshed = self.roll_out(images, pulled, recreate, &mut done).await;
        if !done.recreated.is_empty() {
            services.workspaces.poke_restarts();
        }
        tracing::info!(
            pulled = ?done.pulled,
            failed = ?done.failed,
            restarts = done.recreated.len(),
            "images refreshed"
        );
        match refreshed {
            Ok(()) => Ok(done),
            Err(error) => {
                let partial = serde_json::to_value(&done).unwrap_or_default();
                Err(error.with("partial_result", partial))
            }
        }
    }

    async fn roll_out(
        &self,
        images: &dyn Images,
        runtimes: Vec<String>,
        recreate: bool,
        done: &mut Refreshed,
    ) -> Result<()> {
        let deadline = Instant::now() + WHOLE_LIMIT;
        let stop = self.services.supervisor.token();
        let pulls = pull::all(images, runtimes, PULL_LIMIT, &stop).await;
        for (runtime, error) in pulls.failed {
            tracing::warn!(runtime, error = %anyhow::Error::from(error), "image could not be pulled");
            done.failed.push(runtime);
        }
        done.pulled.extend(pulls.pulled.keys().cloned());
        if !recreate {
            return Ok(());
        }
        let restarting = self.restart_all(images, pulls.pulled, done);
        let restarted = timeout_at(deadline, restarting).await;
        restarted.unwrap_or_else(|_| Err(not_listed(late())))
    }

    async fn restart_all(
        &self,
        images: &dyn Images,
        pulled: BTreeMap<String, ObtainedImage>,
        done: &mut Refreshed,
    ) -> Result<()> {
        for (runtime, image) in pulled {
            // What a boot would take: a pin wins over what was pulled.
            let pin = self.services.images.pin_of(&runtime).await;
            let wanted = pin.or(image.digest);
            let restarting = self.restart_users(images, &runtime, wanted.as_ref(), done);
            restarting.await?;
        }
        Ok(())
    }

    async fn restart_users(
        &self,
        images: &dyn Images,
        runtime: &str,
        wanted: Option<&ImageDigest>,
        done: &mut Refreshed,
    ) -> Result<()> {
        let listing = tokio::time::timeout(LIST_TIMEOUT, images.users_of(runtime)).await;
        let workspaces = &self.services.workspaces;
        for user in listing
            .unwrap_or_else(|_| Err(late()))
            .map_err(not_listed)?
        {
            let id = user.workspace_id;
            if workspaces.request_renewal(id, runtime, wanted).await? {
                done.recreated.push(format!("ws-{id}"));
            }
        }
        Ok(())
    }
}

fn late() -> BackendError {
    BackendError::Timeout {
        operation: "list users of image",
    }
}

/// The client learns the kind of trouble, the log what the backend said.
fn not_listed(error: BackendError) -> Error {
    let kind = match &error {
        BackendError::Unavailable { .. } => "the backend is unavailable",
        BackendError::Timeout { .. } => "the backend did not answer in time",
        _ => "the backend refused",
    };
    Error::internal(format!("container list: {kind}"), error)
}
