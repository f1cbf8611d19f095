//! Pulling images anew and restarting who uses an older one.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::{Rollout, pull};
use crate::backend::{BackendError, ImageDigest, Images};
use crate::error::{Error, Result};

/// All pulls of one refresh together.
const PULL_LIMIT: Duration = Duration::from_secs(300);
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
    /// 400 for an unknown runtime; 409 while another refresh runs on this server; 500
    /// `container list: …` with what was done as `partial_result`; 501 without images.
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
        let _turn = self
            .turn
            .try_lock()
            .map_err(|_| Error::conflict("an image refresh is already running"))?;
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
        let services = &self.services;
        let stop = services.supervisor.token();
        let pulls = pull::all(images, runtimes, PULL_LIMIT, &stop).await;
        for (runtime, error) in pulls.failed {
            tracing::warn!(runtime, error = %anyhow::Error::from(error), "image could not be pulled");
            done.failed.push(runtime);
        }
        done.pulled.extend(pulls.pulled.keys().cloned());
        if !recreate {
            return Ok(());
        }
        for (runtime, image) in pulls.pulled {
            // What a boot would take: a pin wins over what was pulled.
            let pin = services.images.pin_of(&runtime).await;
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
        let late = Err(BackendError::Timeout {
            operation: "list users of image",
        });
        for user in listing.unwrap_or(late).map_err(not_listed)? {
            let id = user.workspace_id;
            if self.services.workspaces.request_renewal(id, wanted).await? {
                done.recreated.push(format!("ws-{id}"));
            }
        }
        Ok(())
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
