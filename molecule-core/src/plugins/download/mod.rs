//! Plugins for workspaces that fetch them themselves.

mod archive;
mod range;
mod sending;

use std::sync::Arc;
use std::time::Duration;

use molecule_hooks::PluginName;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(super) use self::archive::Archive;
use self::archive::PackError;
pub(super) use self::range::{Part, lists, part};
use super::Plugins;
use super::pins::Pins;
use super::room::{Held, Room};
use super::source::SourceRef;
use super::staging::{INSTALL_FAILED, StageRequest, Staged, fetch_timed_out};
use super::store::target;
use super::store::tracking::{self, Delivered, Follows};
use super::track::{Track, UpdateMode};
use crate::error::{Error, Result};
use crate::store::timestamp;

/// Archives that are on the disk of this server at once, until they are sent.
const SPOOLED_AT_ONCE: usize = 32;
/// Those of them that are of one workspace.
const OF_ONE_WORKSPACE: usize = 4;
/// Archives that are packed at once: each of them takes a processor.
const PACKED_AT_ONCE: usize = 2;
/// How long a download waits for room: those before it may be sent slowly.
const WAIT_FOR_ROOM: Duration = Duration::from_secs(60);
/// Who found no room tries again after this time.
const RETRY_SECS: u64 = 10;
const FAILED: &str = "plugin download failed";

/// Keeps downloads within bounds.
pub(super) struct Downloads {
    room: Room,
    packing: Semaphore,
}

impl Default for Downloads {
    fn default() -> Self {
        Self {
            room: Room::new(SPOOLED_AT_ONCE, OF_ONE_WORKSPACE),
            packing: Semaphore::new(PACKED_AT_ONCE),
        }
    }
}

/// A plugin that is ready to be sent.
#[derive(Debug)]
pub(super) struct Download {
    pub(super) staged: Staged,
    pub(super) archive: Archive,
    /// Given back when the archive was sent.
    pub(super) room: Held,
}

impl Plugins {
    /// Fetches, checks and packs a plugin for a workspace; from `local://<name>` unless
    /// another source is named. It must come under the name that was asked for.
    ///
    /// # Errors
    /// Rows 4 to 14 of the contract's table of answers; 403 when the organisation may not
    /// have the plugin; 400 for another name; 503 while too many are sent; 500 `failed to
    /// pack plugin`, `failed to finalize tar`, `failed to finalize gzip` and `plugin
    /// download failed`.
    pub(super) async fn download(
        &self,
        workspace: Uuid,
        name: &PluginName,
        source: Option<&str>,
    ) -> Result<Download> {
        let deadline = Instant::now() + self.services.config.plugins.install_timeout();
        self.gate(workspace, name).await?;
        let local = format!("local://{name}");
        let source = SourceRef::parse(source.unwrap_or(&local))
            .map_err(|_| Error::invalid("invalid plugin source"))?;
        let room = self.downloads.room.enter(workspace);
        let Ok(room) = tokio::time::timeout(WAIT_FOR_ROOM, room).await else {
            let error = Error::not_now("too many plugins are downloaded at once");
            return Err(error.retry_after(RETRY_SECS));
        };
        let request = StageRequest {
            source: &source,
            pins: Pins::default(),
            expected_name: Some(name.as_str()),
        };
        let staging = self.stage_for(workspace, request);
        let staged = tokio::time::timeout_at(deadline, staging).await;
        let staged = staged.unwrap_or_else(|_| Err(fetch_timed_out(&source)));
        let staged = staged.map_err(|error| match error.message() {
            INSTALL_FAILED => error.says(FAILED),
            _ => error,
        })?;
        let packed = tokio::time::timeout_at(deadline, self.pack(&staged)).await;
        let archive = packed.unwrap_or_else(|_| Err(fetch_timed_out(&source)))?;
        Ok(Download {
            staged,
            archive,
            room,
        })
    }

    async fn pack(&self, staged: &Staged) -> Result<Archive> {
        let named = |error: Error| error.with("plugin", staged.name.as_str());
        // Nobody closes it.
        let _turn = self.downloads.packing.acquire().await.ok();
        let file = self.staging.file().await;
        let file = file.map_err(|error| named(Error::internal("failed to pack plugin", error)))?;
        let tree = Arc::clone(&staged.tree);
        let given_up = CancellationToken::new();
        let _guard = given_up.clone().drop_guard();
        let packing = tokio::task::spawn_blocking(move || {
            archive::pack(&tree, file, || !given_up.is_cancelled())
        });
        match packing.await {
            Ok(Ok(archive)) => Ok(archive),
            Ok(Err(error)) => Err(named(match error {
                PackError::Pack(_) => Error::internal("failed to pack plugin", error),
                PackError::Tar(_) => Error::internal("failed to finalize tar", error),
                PackError::Gzip(_) => Error::internal("failed to finalize gzip", error),
            })),
            Err(error) => Err(named(Error::internal("failed to pack plugin", error))),
        }
    }

    /// Writes down what an external workspace fetched, so that what it follows is
    /// looked at; without `track` it goes on following what it did. Others get their
    /// plugins by installs, which a look at an archive does not change.
    pub(super) async fn record_pull(&self, workspace: Uuid, staged: &Staged, track: Option<Track>) {
        if let Err(error) = self.try_record_pull(workspace, staged, track).await {
            tracing::warn!(
                workspace.id = %workspace, plugin.name = %staged.name, %error,
                "a download could not be written down"
            );
        }
    }

    async fn try_record_pull(
        &self,
        workspace: Uuid,
        staged: &Staged,
        track: Option<Track>,
    ) -> sqlx::Result<()> {
        let db = &self.services.db;
        let row = target::target(db, workspace).await?;
        if !row.is_some_and(|row| row.external) {
            return Ok(());
        }
        let before = tracking::find(db, workspace, staged.name.as_str()).await?;
        let (tracked_ref, update_mode) = match (&track, &before) {
            (None, Some(before)) => (before.tracked_ref.clone(), before.update_mode.clone()),
            (track, before) => {
                let mode = before.as_ref().map(|before| before.update_mode.clone());
                let track = track.clone().unwrap_or_default();
                let mode = mode.unwrap_or_else(|| UpdateMode::default().as_str().to_owned());
                (track.to_string(), mode)
            }
        };
        let now = timestamp(&self.services.clock);
        let mut tx = db.begin().await?;
        let delivered = Delivered {
            workspace,
            plugin: staged.name.as_str(),
            source: &staged.source.to_string(),
            follows: Follows::This {
                tracked_ref: &tracked_ref,
                update_mode: &update_mode,
            },
            sha: staged.revision.as_deref(),
            tree_sha256: &staged.tree.digest().to_string(),
            signature: None,
            // Whether it was unpacked, only the agent knows.
            instance_id: None,
            now,
            delivered_at: Some(now),
        };
        tracking::record(&mut tx, &delivered).await?;
        tx.commit().await
    }
}
