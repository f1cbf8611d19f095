//! Plugins of the fake backend: folders in memory, and trouble where it is told to.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use molecule_core::backend::{
    BackendError, DeliveryError, InstalledFile, InstalledPlugin, InstanceRef, MARKER_FILE,
    PluginDelivery, PluginRemoval, PluginTarget, StartSpec, SupplyResult,
};
use molecule_core::tree::EntryKind;
use molecule_hooks::PluginName;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::FakeBackend;

/// Something that goes wrong with a call, or makes it take its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PluginFault {
    /// The next `deliver` fails at this step; the old tree stays.
    DeliverFails(&'static str),
    /// The next `deliver` loses the old tree as well.
    DeliverLoses,
    /// The next `deliver` finds that nothing runs.
    DeliverFindsNothing,
    /// The next `deliver` waits for cancellation, then fails.
    DeliverHangs,
    /// The next `deliver` waits for ever, whatever it is told.
    DeliverIsDeaf,
    /// The next `deliver` takes this long.
    DeliverSlow(Duration),
    /// The next `deliver` does its work and panics.
    DeliverPanics,
    /// The next `list` fails.
    ListFails,
    /// The next `files` fails.
    FilesFail,
    /// The next `remove` fails.
    RemoveFails,
    /// The next `remove` takes this long.
    RemoveSlow(Duration),
}

/// A call that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PluginCall {
    /// A tree was put in place.
    Deliver,
    /// A plugin was removed.
    Remove,
    /// The plugins were listed.
    List,
    /// The files of a plugin were read.
    Files,
}

/// What lies in the workspaces.
#[derive(Default)]
pub struct FakePlugins(Mutex<State>, AtomicBool);

#[derive(Default)]
struct State {
    faults: VecDeque<PluginFault>,
    calls: Vec<(PluginCall, Uuid, Option<String>)>,
    removals: Vec<PluginRemoval>,
    workspaces: BTreeMap<Uuid, BTreeMap<PluginName, Folder>>,
    /// Deliveries under way, and how many there were at once at most.
    delivering: usize,
    most_delivering: usize,
    cancelled: usize,
}

/// A plugin in a workspace.
#[derive(Debug, Clone, Default)]
struct Folder {
    files: BTreeMap<String, Vec<u8>>,
    marker: Option<Vec<u8>>,
}

impl FakePlugins {
    /// Something goes wrong, once; after what was asked for before.
    pub fn set_fault(&self, fault: PluginFault) {
        self.state(|state| state.faults.push_back(fault));
    }

    /// From now on the backend can deliver none.
    pub fn switch_off(&self) {
        self.1.store(true, Ordering::Relaxed);
    }

    pub(crate) fn are_off(&self) -> bool {
        self.1.load(Ordering::Relaxed)
    }

    /// How often something was called.
    pub fn calls(&self, call: PluginCall) -> usize {
        self.state(|state| {
            state
                .calls
                .iter()
                .filter(|(made, ..)| *made == call)
                .count()
        })
    }

    /// How often anything was called.
    pub fn all_calls(&self) -> usize {
        self.state(|state| state.calls.len())
    }

    /// What was removed so far.
    pub fn removals(&self) -> Vec<PluginRemoval> {
        self.state(|state| state.removals.clone())
    }

    /// How many deliveries ran at once at most.
    pub fn most_delivering(&self) -> usize {
        self.state(|state| state.most_delivering)
    }

    /// How many deliveries run now.
    pub fn delivering(&self) -> usize {
        self.state(|state| state.delivering)
    }

    /// How many deliveries were cancelled while they hung.
    pub fn cancelled(&self) -> usize {
        self.state(|state| state.cancelled)
    }

    /// Names of the plugins in a workspace.
    pub fn names(&self, workspace: &str) -> Vec<String> {
        self.workspace(workspace, |folders| {
            folders.keys().map(PluginName::to_string).collect()
        })
    }

    /// A file of a plugin in a workspace.
    pub fn file(&self, workspace: &str, plugin: &str, path: &str) -> Option<String> {
        let plugin = name(plugin);
        self.workspace(workspace, |folders| {
            let bytes = folders.get(&plugin)?.files.get(path)?;
            Some(String::from_utf8_lossy(bytes).into_owned())
        })
    }

    /// The marker of a plugin in a workspace; null without one.
    pub fn marker(&self, workspace: &str, plugin: &str) -> Value {
        let plugin = name(plugin);
        let marker = self.workspace(workspace, |folders| folders.get(&plugin)?.marker.clone());
        marker.map_or(Value::Null, |marker| {
            serde_json::from_slice(&marker).expect("a marker in JSON")
        })
    }

    /// Puts a plugin into a workspace behind the server's back.
    pub fn plant(
        &self,
        workspace: &str,
        plugin: &str,
        files: &[(&str, &str)],
        marker: Option<&str>,
    ) {
        let files = files.iter();
        let files = files.map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()));
        let folder = Folder {
            files: files.collect(),
            marker: marker.map(|marker| marker.as_bytes().to_vec()),
        };
        let plugin = name(plugin);
        self.workspace(workspace, |folders| folders.insert(plugin, folder));
    }

    /// Takes a plugin out of a workspace behind the server's back.
    pub fn lose(&self, workspace: &str, plugin: &str) {
        let plugin = name(plugin);
        self.workspace(workspace, |folders| folders.remove(&plugin));
    }

    /// Nothing is left of a workspace.
    pub(crate) fn forget(&self, workspace: Uuid) {
        self.state(|state| state.workspaces.remove(&workspace));
    }

    /// Brings what a workspace should have and has not, as a start does.
    pub(crate) async fn supply(&self, spec: &StartSpec) {
        let Some(supply) = spec.plugins.supply() else {
            return;
        };
        for wanted in supply.wanted() {
            let id = spec.workspace_id;
            let has_it = self.state(|state| {
                let folders = state.workspaces.entry(id).or_default();
                let folder = folders.get(&wanted.name);
                let marker = folder.and_then(|folder| folder.marker.as_deref());
                marker.is_some_and(|marker| wanted.is_met_by(marker))
            });
            let result = match has_it {
                true => SupplyResult::Present,
                false => match supply.delivery(&wanted.name).await {
                    Ok(delivery) => {
                        self.put(id, &delivery);
                        SupplyResult::Delivered
                    }
                    Err(reason) => SupplyResult::Failed(reason),
                },
            };
            supply.done(&wanted.name, result);
        }
    }

    fn put(&self, workspace: Uuid, delivery: &PluginDelivery) {
        let mut files = BTreeMap::new();
        for entry in delivery.tree.entries() {
            if matches!(entry.kind, EntryKind::File { .. }) && entry.path != MARKER_FILE {
                let mut content = Vec::new();
                let mut file = delivery.tree.open(entry).expect("a file of the tree");
                file.read_to_end(&mut content).expect("its content");
                files.insert(entry.path.clone(), content);
            }
        }
        let folder = Folder {
            files,
            marker: Some(delivery.marker.clone()),
        };
        self.state(|state| {
            let folders = state.workspaces.entry(workspace).or_default();
            folders.insert(delivery.name.clone(), folder);
        });
    }

    fn workspace<T>(
        &self,
        id: &str,
        work: impl FnOnce(&mut BTreeMap<PluginName, Folder>) -> T,
    ) -> T {
        let id = Uuid::parse_str(id).expect("a UUID");
        self.state(|state| work(state.workspaces.entry(id).or_default()))
    }

    /// The next trouble, if it is one of these.
    fn fault(&self, is_mine: impl Fn(&PluginFault) -> bool) -> Option<PluginFault> {
        self.state(|state| {
            let at = state.faults.iter().position(is_mine)?;
            state.faults.remove(at)
        })
    }

    fn note(&self, call: PluginCall, instance: &InstanceRef, plugin: Option<&PluginName>) {
        let plugin = plugin.map(PluginName::to_string);
        self.state(|state| state.calls.push((call, instance.workspace_id, plugin)));
    }

    fn state<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Counts itself among the deliveries under way.
struct Delivering<'a>(&'a FakePlugins);

impl<'a> Delivering<'a> {
    fn begin(plugins: &'a FakePlugins) -> Self {
        plugins.state(|state| {
            state.delivering += 1;
            state.most_delivering = state.most_delivering.max(state.delivering);
        });
        Self(plugins)
    }
}

impl Drop for Delivering<'_> {
    fn drop(&mut self) {
        self.0.state(|state| state.delivering -= 1);
    }
}

fn name(plugin: &str) -> PluginName {
    PluginName::parse(plugin).expect("a name of a plugin")
}

fn step(step: &'static str) -> DeliveryError {
    DeliveryError::Step {
        step,
        reason: "secret-daemon-detail".to_owned(),
    }
}

fn timed_out(operation: &'static str) -> DeliveryError {
    DeliveryError::Backend(BackendError::Timeout { operation })
}

#[async_trait]
impl PluginTarget for FakeBackend {
    async fn deliver(
        &self,
        instance: &InstanceRef,
        delivery: &PluginDelivery,
        cancel: &CancellationToken,
    ) -> Result<(), DeliveryError> {
        use PluginFault::*;
        let (plugins, id) = (&self.plugins, instance.workspace_id);
        plugins.note(PluginCall::Deliver, instance, Some(&delivery.name));
        let _delivering = Delivering::begin(plugins);
        let fault = plugins.fault(|fault| {
            matches!(
                fault,
                DeliverFails(_)
                    | DeliverLoses
                    | DeliverFindsNothing
                    | DeliverHangs
                    | DeliverIsDeaf
                    | DeliverSlow(_)
                    | DeliverPanics
            )
        });
        match fault {
            Some(DeliverFails(at)) => return Err(step(at)),
            Some(DeliverLoses) => {
                plugins.state(|state| {
                    let folders = state.workspaces.entry(id).or_default();
                    folders.remove(&delivery.name);
                });
                let secret = "secret-daemon-detail".to_owned();
                return Err(DeliveryError::Absent {
                    reason: secret.clone(),
                    rollback: secret,
                });
            }
            Some(DeliverFindsNothing) => return Err(DeliveryError::NotRunning),
            Some(DeliverHangs) => {
                cancel.cancelled().await;
                plugins.state(|state| state.cancelled += 1);
                return Err(DeliveryError::Backend(BackendError::Cancelled));
            }
            Some(DeliverIsDeaf) => std::future::pending::<()>().await,
            Some(DeliverSlow(time)) => tokio::select! {
                () = cancel.cancelled() => {
                    plugins.state(|state| state.cancelled += 1);
                    return Err(DeliveryError::Backend(BackendError::Cancelled));
                }
                () = tokio::time::sleep(time) => {}
            },
            Some(DeliverPanics) => {
                plugins.put(id, delivery);
                panic!("as it was told");
            }
            _ => {}
        }
        if !self.runs(&id.to_string()) {
            return Err(DeliveryError::NotRunning);
        }
        plugins.put(id, delivery);
        Ok(())
    }

    async fn remove(
        &self,
        instance: &InstanceRef,
        removal: &PluginRemoval,
    ) -> Result<(), DeliveryError> {
        let plugins = &self.plugins;
        plugins.note(PluginCall::Remove, instance, Some(&removal.name));
        let is_mine = |fault: &PluginFault| {
            matches!(fault, PluginFault::RemoveFails | PluginFault::RemoveSlow(_))
        };
        match plugins.fault(is_mine) {
            Some(PluginFault::RemoveFails) => return Err(step("remove")),
            Some(PluginFault::RemoveSlow(time)) => tokio::time::sleep(time).await,
            _ => {}
        }
        plugins.state(|state| {
            state.removals.push(removal.clone());
            let folders = state.workspaces.entry(instance.workspace_id).or_default();
            folders.remove(&removal.name);
        });
        Ok(())
    }

    async fn list(&self, instance: &InstanceRef) -> Result<Vec<InstalledPlugin>, DeliveryError> {
        let plugins = &self.plugins;
        plugins.note(PluginCall::List, instance, None);
        if plugins
            .fault(|fault| *fault == PluginFault::ListFails)
            .is_some()
        {
            return Err(timed_out("list plugins"));
        }
        Ok(plugins.state(|state| {
            let folders = state.workspaces.entry(instance.workspace_id).or_default();
            let plugin = |(name, folder): (&PluginName, &Folder)| InstalledPlugin {
                name: name.clone(),
                manifest: folder.files.get("plugin.yaml").cloned(),
                marker: folder.marker.clone(),
            };
            folders.iter().map(plugin).collect()
        }))
    }

    async fn files(
        &self,
        instance: &InstanceRef,
        plugin: &PluginName,
    ) -> Result<Option<Vec<InstalledFile>>, DeliveryError> {
        let plugins = &self.plugins;
        plugins.note(PluginCall::Files, instance, Some(plugin));
        if plugins
            .fault(|fault| *fault == PluginFault::FilesFail)
            .is_some()
        {
            return Err(timed_out("read plugin"));
        }
        Ok(plugins.state(|state| {
            let folder = state.workspaces.get(&instance.workspace_id)?.get(plugin)?;
            let file = |(path, content): (&String, &Vec<u8>)| InstalledFile {
                path: path.clone(),
                sha256: Sha256::digest(content).into(),
            };
            Some(folder.files.iter().map(file).collect())
        }))
    }

    async fn repair(&self, _: &InstanceRef) -> Result<Vec<PluginName>, DeliveryError> {
        Ok(Vec::new())
    }
}
