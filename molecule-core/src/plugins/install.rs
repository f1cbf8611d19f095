//! `POST /workspaces/:id/plugins`: fetch, check, deliver, write down.

use tokio::time::Instant;
use uuid::Uuid;

use super::Plugins;
use super::deliver::{DeliverOptions, Delivered, Record};
use super::ground::{OPERATIONS, outcome_of, step};
use super::pins::{self, Pins};
use super::room::Room;
use super::source::SourceRef;
use super::staging::{StageRequest, Staged, fetch_timed_out};
use super::store::target;
use super::track::{Track, UpdateMode};
use crate::error::{Error, Result};

/// Installs at once: the tree of each of them needs room on the disk of this server.
const AT_ONCE: usize = 32;
/// Those of them that are for one workspace.
const OF_ONE_WORKSPACE: usize = 4;
/// Who found no room tries again after this time.
const RETRY_SECS: u64 = 10;

/// Room for the trees of installs.
pub(super) fn room() -> Room {
    Room::new(AT_ONCE, OF_ONE_WORKSPACE)
}

/// What somebody wants installed.
pub(super) struct Install {
    pub(super) source: SourceRef,
    pub(super) pins: Pins,
    pub(super) track: Track,
    pub(super) update_mode: UpdateMode,
    pub(super) options: DeliverOptions,
}

/// What was installed.
pub(super) struct Installed {
    pub(super) staged: Staged,
    pub(super) delivered: Delivered,
}

impl Plugins {
    /// Refuses workspaces that fetch their plugins themselves. One that nobody knows is
    /// no such workspace.
    ///
    /// # Errors
    /// 422 with these texts.
    pub(super) async fn refuse_external(
        &self,
        workspace: Uuid,
        error: &'static str,
        hint: &'static str,
    ) -> Result<()> {
        let row = match target::target(&self.services.db, workspace).await {
            Ok(row) => row,
            Err(error) => {
                tracing::warn!(workspace.id = %workspace, %error, "runtime could not be looked up; taken for a hosted one");
                return Ok(());
            }
        };
        match row.is_some_and(|row| row.external) {
            true => Err(Error::unprocessable(error).with("hint", hint)),
            false => Ok(()),
        }
    }

    /// Installs a plugin.
    ///
    /// # Errors
    /// Rows 5 to 20 of the contract's table of answers; 409 `plugin operation already
    /// in progress`.
    pub(super) async fn install(&self, workspace: Uuid, install: Install) -> Result<Installed> {
        let deadline = Instant::now() + self.services.config.plugins.install_timeout();
        let source = install.source.to_string();
        let installed = self.install_by(deadline, workspace, install).await;
        let outcome = match &installed {
            Ok(_) => "installed",
            Err(error) => {
                tracing::info!(
                    workspace.id = %workspace, source, error = error.internal_context(),
                    "plugin not installed"
                );
                outcome_of(error)
            }
        };
        metrics::counter!(OPERATIONS, "operation" => "install", "outcome" => outcome).increment(1);
        installed
    }

    async fn install_by(
        &self,
        deadline: Instant,
        workspace: Uuid,
        install: Install,
    ) -> Result<Installed> {
        let Install {
            source,
            pins,
            track,
            update_mode,
            options,
        } = install;
        // Until the tree is delivered.
        let room = tokio::time::timeout_at(deadline, self.room.enter(workspace)).await;
        let Ok(_room) = room else {
            let error = Error::not_now("too many plugins are installed at once");
            return Err(error.retry_after(RETRY_SECS));
        };
        let signature = pins::given(pins.signature.as_deref()).map(str::to_owned);
        let staged = self.stage_by(deadline, workspace, &source, pins).await?;
        let record = Record {
            source: staged.source.clone(),
            track,
            update_mode,
            revision: staged.revision.clone(),
            signature,
            updates: None,
        };
        let delivering = self.deliver_by(deadline, workspace, &staged, record, options);
        let delivered = delivering.await?;
        Ok(Installed { staged, delivered })
    }

    async fn stage_by(
        &self,
        deadline: Instant,
        workspace: Uuid,
        source: &SourceRef,
        pins: Pins,
    ) -> Result<Staged> {
        let began = Instant::now();
        let request = StageRequest {
            source,
            pins,
            expected_name: None,
        };
        let staging = self.stage_for(workspace, request);
        let staged = tokio::time::timeout_at(deadline, staging).await;
        step("stage", began);
        staged.unwrap_or_else(|_| Err(fetch_timed_out(source)))
    }
}
