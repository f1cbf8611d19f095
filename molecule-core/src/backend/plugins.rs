//! Plugins in workspaces: what a backend can do with their trees.

mod deliveries;
mod owned;
mod report;
mod seeding;
pub(super) mod transaction;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use molecule_hooks::PluginName;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(super) use self::deliveries::{Deliveries, UnderWay};
pub(super) use self::owned::{Ledger, doomed_skills};
pub(super) use self::report::{MARKER_BYTES, Told, marker_bytes};
pub(super) use self::seeding::{deadline, with_signs};
use super::{BackendError, InstanceRef, Progress};
use crate::tree::Tree;

/// Folder of the plugins below the config directory.
pub const PLUGINS_FOLDER: &str = "plugins";
/// Where trees are put together before they are swapped in, below [`PLUGINS_FOLDER`].
pub const STAGING_FOLDER: &str = ".staging";
/// Where trees wait that were swapped out, below [`PLUGINS_FOLDER`].
pub const PREVIOUS_FOLDER: &str = ".previous";
/// File that says that a tree is whole, below its folder.
pub const MARKER_FILE: &str = ".complete";

/// Brings plugins into the config directory of a running workspace, and out of it.
///
/// Every method that changes something is one transaction: whoever reads meanwhile sees
/// the old tree or the new one, whole; whatever fails leaves the old one in place. The
/// caller keeps changes of one plugin of one workspace apart.
#[async_trait]
pub trait PluginTarget: Send + Sync {
    /// Puts a tree in the place of the plugin: stage, verify, own, marker, exchange,
    /// sync, collect. Repairs what an earlier delivery left first.
    ///
    /// # Errors
    /// [`DeliveryError`].
    async fn deliver(
        &self,
        instance: &InstanceRef,
        delivery: &PluginDelivery,
        cancel: &CancellationToken,
    ) -> Result<(), DeliveryError>;

    /// Removes the plugin, and what it owns outside of its folder: its blocks of the
    /// memory file, and those of `skills` below `skills/` of the config directory that
    /// are not somebody else's. Succeeds when there is nothing.
    ///
    /// # Errors
    /// [`DeliveryError`] when the folder of the plugin may still be there; what else
    /// could not be removed is logged.
    async fn remove(
        &self,
        instance: &InstanceRef,
        removal: &PluginRemoval,
    ) -> Result<(), DeliveryError>;

    /// The plugins that are there, by name; hidden folders and names that no plugin can
    /// have are left out.
    ///
    /// # Errors
    /// [`DeliveryError::NotRunning`] among others.
    async fn list(&self, instance: &InstanceRef) -> Result<Vec<InstalledPlugin>, DeliveryError>;

    /// SHA-256 of every regular file of the plugin but its marker, by path; `None` when
    /// it is not there.
    ///
    /// # Errors
    /// [`DeliveryError`].
    async fn files(
        &self,
        instance: &InstanceRef,
        plugin: &PluginName,
    ) -> Result<Option<Vec<InstalledFile>>, DeliveryError>;

    /// Puts right what a crash left: plugins that are only among the previous ones come
    /// back, leftovers older than a quarter of an hour go. Answers with the names of
    /// those that came back.
    ///
    /// # Errors
    /// [`DeliveryError`].
    async fn repair(&self, instance: &InstanceRef) -> Result<Vec<PluginName>, DeliveryError>;

    /// From now on `listener` is told whenever plugins come back in a workspace whose
    /// agent runs already, and nobody asked for a repair. The first one stays.
    fn on_restored(&self, _listener: RestoredListener) {}
}

/// Told the workspace. Must not block.
pub type RestoredListener = Box<dyn Fn(Uuid) + Send + Sync>;

/// A tree for a workspace.
#[derive(Debug, Clone)]
pub struct PluginDelivery {
    /// Whose folder it is.
    pub name: PluginName,
    /// What goes into it. Its own `.complete`, if it brings one, does not.
    pub tree: Arc<Tree>,
    /// Content of the marker.
    pub marker: Vec<u8>,
}

/// What a plugin owns.
#[derive(Debug, Clone)]
pub struct PluginRemoval {
    /// Whose folder it is.
    pub name: PluginName,
    /// Skills that its manifest names, every one a plain name.
    pub skills: Vec<PluginName>,
}

/// A plugin as it lies in a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledPlugin {
    /// Name of its folder.
    pub name: PluginName,
    /// The first 64 KiB of its `plugin.yaml`, if it can be read.
    pub manifest: Option<Vec<u8>>,
    /// Its marker (4 KiB at most), if it has one that is a regular file.
    pub marker: Option<Vec<u8>>,
}

/// One file of a plugin in a workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledFile {
    /// Path below the plugin, with `/`.
    pub path: String,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
}

/// Why a workspace did not get, lose or tell its plugin. Texts are for the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// There is no running compute to deliver to.
    #[error("the workspace does not run")]
    NotRunning,
    /// A step of the transaction failed; the tree of before is in place.
    #[error("{step}: {reason}")]
    Step {
        /// Its name: `roots` (the hidden folders), `stage` (bringing the files), `run`
        /// (nothing in the image can do the rest), `verify`, `sync`, `snapshot`,
        /// `exchange`, `remove`, `list` or `read`.
        step: &'static str,
        /// What went wrong.
        reason: String,
    },
    /// The exchange failed half-way and could not be taken back: there is no plugin at
    /// its place now, and the old one is among the previous ones.
    #[error("exchange: {reason}; putting the old tree back: {rollback}")]
    Absent {
        /// What went wrong first.
        reason: String,
        /// What went wrong then.
        rollback: String,
    },
    /// The backend did not do what it was asked.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// The plugins that a workspace is to have when its agent starts. Asked by a backend
/// that starts it.
#[async_trait]
pub trait PluginSupply: Send + Sync {
    /// What it should have, by name.
    fn wanted(&self) -> &[WantedPlugin];

    /// The tree of one of them, fetched and checked. Takes as long as fetching takes;
    /// dropping the future cancels it.
    ///
    /// # Errors
    /// A text for the log.
    async fn delivery(&self, plugin: &PluginName) -> Result<PluginDelivery, String>;

    /// What looking for all of them and bringing what is missing may take, if a backend
    /// would take longer by itself. Asked when that begins.
    fn patience(&self) -> Option<Duration> {
        None
    }

    /// Told once for each wanted plugin.
    fn done(&self, plugin: &PluginName, result: SupplyResult);

    /// Told once by whoever asked for the start, when it is over: the instance that has
    /// them now, or none when it failed.
    async fn ended(&self, _instance_id: Option<&str>) {}
}

/// A plugin that a workspace should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedPlugin {
    /// Its name.
    pub name: PluginName,
    /// Digest of the tree that it should be, as its marker says it; any will do
    /// without one.
    pub tree_sha256: Option<String>,
}

impl WantedPlugin {
    /// True when what has this marker is what is wanted.
    pub fn is_met_by(&self, marker: &[u8]) -> bool {
        let Some(wanted) = &self.tree_sha256 else {
            return true;
        };
        let marker: Option<serde_json::Value> = serde_json::from_slice(marker).ok();
        let said = marker.as_ref().and_then(|marker| marker.get("tree_sha256"));
        said.and_then(serde_json::Value::as_str) == Some(wanted)
    }
}

/// What became of a plugin when its workspace started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SupplyResult {
    /// It was there, as it should be.
    Present,
    /// It was delivered again.
    Delivered,
    /// It was not there and could not be delivered: why, for the log.
    Failed(String),
}

/// A supply that can be part of a [`StartSpec`](super::StartSpec).
#[derive(Clone, Default)]
pub struct Plugins(Option<Arc<dyn PluginSupply>>);

impl Plugins {
    /// None.
    pub fn none() -> Self {
        Self::default()
    }

    /// Those of `supply`.
    pub fn of(supply: Arc<dyn PluginSupply>) -> Self {
        Self(Some(supply))
    }

    /// Whoever supplies them.
    pub fn supply(&self) -> Option<&Arc<dyn PluginSupply>> {
        self.0.as_ref()
    }
}

impl fmt::Debug for Plugins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wanted = self.0.iter().flat_map(|supply| supply.wanted());
        f.debug_list()
            .entries(wanted.map(|plugin| plugin.name.as_str()))
            .finish()
    }
}

/// Whoever knows which plugins a workspace should have.
#[async_trait]
pub trait PluginSupplies: Send + Sync {
    /// The plugins of a workspace that is about to start and has so much time `left` for
    /// that. Fetching them is told to `progress`.
    async fn of(&self, workspace: Uuid, left: Duration, progress: Progress) -> Plugins;
}
