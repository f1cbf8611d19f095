//! Letting an installed plugin follow something else.

use molecule_hooks::PluginName;
use uuid::Uuid;

use super::Plugins;
use super::store::{drift, queue};
use super::track::{Track, UpdateMode};
use crate::error::{Error, Result};

/// What is to be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Following {
    track: Option<Track>,
    update_mode: Option<UpdateMode>,
}

impl Following {
    /// Reads the fields of a request; what is absent stays as it is.
    ///
    /// # Errors
    /// 400 with the text of the field that is wrong.
    pub(super) fn parse(track: Option<&str>, update_mode: Option<&str>) -> Result<Self> {
        Ok(Self {
            track: track.map(Track::parse).transpose()?,
            update_mode: update_mode.map(UpdateMode::parse).transpose()?,
        })
    }
}

/// What a plugin follows now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Followed {
    pub(super) plugin: String,
    pub(super) source: String,
    pub(super) track: Track,
    pub(super) update_mode: UpdateMode,
    pub(super) installed_sha: Option<String>,
}

impl Plugins {
    /// Changes what a plugin of a workspace follows. What waited because of what it
    /// followed before waits no more.
    ///
    /// # Errors
    /// 400 `invalid plugin name`; 404 `plugin is not tracked`.
    pub(super) async fn follow(
        &self,
        workspace: &str,
        plugin: &str,
        following: Following,
    ) -> Result<Followed> {
        let name =
            PluginName::parse(plugin).ok_or_else(|| Error::invalid("invalid plugin name"))?;
        let untracked = || Error::not_found("plugin is not tracked").with("plugin", name.as_str());
        let workspace = Uuid::parse_str(workspace).map_err(|_| untracked())?;
        let (db, now) = (&self.services.db, self.now());
        let row = drift::desired_one(db, workspace, name.as_str()).await?;
        let row = row.ok_or_else(untracked)?;
        let stored = Track::parse(&row.tracked_ref).unwrap_or_default();
        let mode = UpdateMode::parse(&row.update_mode).unwrap_or_default();
        let track = following.track.unwrap_or_else(|| stored.clone());
        let update_mode = following.update_mode.unwrap_or(mode);
        let mut tx = db.begin().await?;
        let is_there = if track == stored {
            let mode = update_mode.as_str();
            drift::set_mode(&mut tx, workspace, name.as_str(), mode, now).await?
        } else {
            queue::withdraw(&mut tx, workspace, name.as_str(), now).await?;
            let both = (track.to_string(), update_mode.as_str());
            let both = (both.0.as_str(), both.1);
            drift::set_track(&mut tx, workspace, name.as_str(), both, now).await?
        };
        if !is_there {
            return Err(untracked());
        }
        tx.commit().await?;
        Ok(Followed {
            plugin: name.as_str().to_owned(),
            source: row.source_raw,
            track,
            update_mode,
            installed_sha: row.installed_sha,
        })
    }
}
