//! What is installed in a workspace, and what could be.

use std::time::Duration;

use molecule_hooks::PluginName;
use uuid::Uuid;

use super::Plugins;
use super::manifest::{Manifest, PluginRecord};
use super::receipts::{Agent, DeliveredTree, Evidence, Marker, Receipt, Wanted};
use super::store::target::{self, Target};
use super::store::tracking::{self, Tracked};
use crate::backend::{DeliveryError, InstalledPlugin, InstanceRef};
use crate::error::{Error, Result};
use crate::workspaces::LoadedPlugin;

/// Looking into a workspace may take this long.
const LIST_TIMEOUT: Duration = Duration::from_secs(20);

/// A plugin of a workspace.
pub(super) struct InstalledRow {
    pub(super) record: PluginRecord,
    /// It lies in the workspace; false for one that only should.
    pub(super) installed: bool,
    /// Its marker says that it is whole.
    pub(super) complete: bool,
    pub(super) tracked: Option<Tracked>,
    pub(super) receipt: Receipt,
}

/// Which plugins of a workspace work with a runtime.
pub(super) struct Compatibility {
    pub(super) compatible: Vec<PluginRecord>,
    pub(super) incompatible: Vec<PluginRecord>,
}

/// What looking into a workspace came to.
enum Look {
    /// Nothing runs, or nobody can tell.
    NotRunning,
    Failed,
    There(Vec<InstalledPlugin>),
}

impl Plugins {
    /// What is installed, by name; nothing when nothing runs or nobody could look. With
    /// `wanted` also what should be there and is not.
    pub(super) async fn installed(&self, workspace: Uuid, wanted: bool) -> Vec<InstalledRow> {
        let row = self.target_of(workspace).await;
        let look = match &row {
            Some(row) => self.look_into(workspace, row).await,
            None => Look::NotRunning,
        };
        let was_looked_at = matches!(look, Look::There(_));
        let found = match look {
            Look::There(found) => found,
            Look::NotRunning | Look::Failed => Vec::new(),
        };
        if found.is_empty() && !wanted {
            return Vec::new();
        }
        let tracked = tracking::of_workspace(&self.services.db, workspace).await;
        let mut tracked = tracked.unwrap_or_else(|error| {
            tracing::warn!(workspace.id = %workspace, %error, "tracked plugins could not be read");
            Vec::new()
        });
        let loaded = row.as_ref().and_then(|row| row.loaded_plugins.as_deref());
        let loaded = loaded.and_then(LoadedPlugin::stored);
        let known = Known {
            row: row.as_ref(),
            loaded: loaded.as_deref(),
        };
        let mut rows = Vec::with_capacity(found.len());
        for plugin in found {
            let at = (tracked.iter()).position(|row| row.plugin_name == plugin.name.as_str());
            rows.push(known.found(plugin, at.map(|at| tracked.swap_remove(at))));
        }
        if wanted {
            let evidence = match was_looked_at {
                true => Evidence::Absent,
                false => Evidence::None,
            };
            let missing = tracked.into_iter();
            rows.extend(missing.filter_map(|tracked| known.missing(tracked, evidence.clone())));
        }
        rows.sort_by(|one, other| one.record.name.cmp(&other.record.name));
        rows
    }

    /// The plugins of this machine that work with the workspace's runtime; all of them
    /// while that is not known.
    pub(super) async fn available_to(&self, workspace: Uuid) -> Vec<PluginRecord> {
        let row = self.target_of(workspace).await;
        self.available(row.as_ref().and_then(Target::runtime)).await
    }

    /// Which installed plugins work with a runtime.
    ///
    /// # Errors
    /// 500 `failed to list installed plugins`.
    pub(super) async fn compatibility(
        &self,
        workspace: Uuid,
        runtime: &str,
    ) -> Result<Compatibility> {
        let look = match self.target_of(workspace).await {
            Some(row) => self.look_into(workspace, &row).await,
            None => Look::NotRunning,
        };
        let found = match look {
            Look::NotRunning => Vec::new(),
            Look::There(found) => found,
            Look::Failed => {
                let cause = anyhow::anyhow!("see the log");
                return Err(Error::internal("failed to list installed plugins", cause));
            }
        };
        let mut plugins: Vec<(PluginName, Manifest)> = found
            .into_iter()
            .map(|plugin| (plugin.name.clone(), manifest_of(&plugin)))
            .collect();
        plugins.sort_by(|one, other| one.0.cmp(&other.0));
        let (compatible, incompatible) = plugins
            .into_iter()
            .partition::<Vec<_>, _>(|(_, manifest)| manifest.supports(runtime));
        let records = |list: Vec<(PluginName, Manifest)>| {
            let record = |(name, manifest): &(PluginName, Manifest)| manifest.record(name);
            list.iter().map(record).collect()
        };
        Ok(Compatibility {
            compatible: records(compatible),
            incompatible: records(incompatible),
        })
    }

    /// What is known of a workspace; nothing when it cannot be looked up.
    async fn target_of(&self, workspace: Uuid) -> Option<Target> {
        let row = target::target(&self.services.db, workspace).await;
        row.unwrap_or_else(|error| {
            tracing::warn!(workspace.id = %workspace, %error, "workspace could not be looked up");
            None
        })
    }

    async fn look_into(&self, workspace: Uuid, row: &Target) -> Look {
        let Some(plugins) = self.services.backend.plugins() else {
            return Look::NotRunning;
        };
        let instance = InstanceRef {
            workspace_id: workspace,
            instance_id: row.instance_id.clone(),
        };
        if row.external || row.is_removed() || !self.is_running(&instance).await {
            return Look::NotRunning;
        }
        match tokio::time::timeout(LIST_TIMEOUT, plugins.list(&instance)).await {
            Ok(Ok(found)) => Look::There(found),
            Ok(Err(DeliveryError::NotRunning)) => Look::NotRunning,
            Ok(Err(error)) => {
                let error = self.describe(&error);
                tracing::warn!(workspace.id = %workspace, error, "installed plugins could not be listed");
                Look::Failed
            }
            Err(_) => {
                tracing::warn!(workspace.id = %workspace, "installed plugins were not listed in time");
                Look::Failed
            }
        }
    }
}

/// What is known of a workspace, for the rows of its plugins.
struct Known<'a> {
    row: Option<&'a Target>,
    loaded: Option<&'a [LoadedPlugin]>,
}

impl Known<'_> {
    fn found(&self, plugin: InstalledPlugin, tracked: Option<Tracked>) -> InstalledRow {
        let manifest = manifest_of(&plugin);
        let marker = plugin.marker.as_deref().and_then(Marker::parse);
        let complete = marker.is_some();
        let marker = marker.unwrap_or_default();
        let evidence = Evidence::There(DeliveredTree {
            sha: marker.sha,
            tree_sha256: marker.tree_sha256,
            at: marker.installed_at,
        });
        let runtime = self.row.and_then(Target::runtime);
        let mut record = manifest.record(&plugin.name);
        record.supported_on_runtime = runtime.map(|runtime| manifest.supports(runtime));
        InstalledRow {
            receipt: self.receipt(&record.name, tracked.as_ref(), evidence),
            record,
            installed: true,
            complete,
            tracked,
        }
    }

    fn missing(&self, tracked: Tracked, evidence: Evidence) -> Option<InstalledRow> {
        let name = PluginName::parse(&tracked.plugin_name)?;
        Some(InstalledRow {
            record: Manifest::default().record(&name),
            receipt: self.receipt(name.as_str(), Some(&tracked), evidence),
            installed: false,
            complete: false,
            tracked: Some(tracked),
        })
    }

    fn receipt(&self, plugin: &str, tracked: Option<&Tracked>, evidence: Evidence) -> Receipt {
        let agent = match self.row {
            Some(row) => Agent::of(row, self.loaded),
            None => Agent {
                loaded: None,
                restarts: false,
                started_at: None,
            },
        };
        let delivered_at = tracked.and_then(|tracked| tracked.delivered_at);
        Receipt::new(
            plugin,
            tracked.map(Wanted::of),
            evidence,
            delivered_at,
            agent,
        )
    }
}

fn manifest_of(plugin: &InstalledPlugin) -> Manifest {
    let bytes = plugin.manifest.as_deref();
    bytes.map(Manifest::parse).unwrap_or_default()
}
