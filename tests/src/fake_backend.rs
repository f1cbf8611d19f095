//! A backend that remembers what it was asked and fails where it is told to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use molecule_core::backend::{
    BackendError, BackendKind, Change, Changes, Console, Images, Instance, InstanceRef, Liveness,
    ManagedInstance, PluginTarget, StartSpec, WorkspaceBackend,
};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::fake_images::FakeImages;
use crate::fake_plugins::FakePlugins;

/// How the next calls behave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Fault {
    /// As they should.
    #[default]
    None,
    /// `start` fails with this reason.
    StartFails(String),
    /// `start` finds the backend away.
    StartUnavailable,
    /// `start` waits for cancellation.
    StartHangs,
    /// `start` panics with this text.
    StartPanics(String),
    /// `stop` fails.
    StopFails,
    /// `remove_storage` fails.
    RemoveFails,
    /// `start` takes this long.
    StartSlow(Duration),
    /// `start` finds no `config.yaml` where the workspace should have one.
    ConfigLost,
}

/// What a console does when it is read.
#[derive(Debug, Clone)]
pub enum ConsoleScript {
    /// Shows this.
    Shows(String),
    /// Fails with this reason.
    Fails(String),
}

/// The backend. It runs nothing.
#[derive(Default)]
pub struct FakeBackend {
    state: Mutex<State>,
    /// Its images; it has none until they are switched on.
    pub images: FakeImages,
    /// The plugins in its workspaces; it has them unless they are switched off.
    pub plugins: FakePlugins,
}

#[derive(Default)]
struct State {
    fault: Fault,
    /// What ended by itself and is still there.
    stopped: BTreeSet<Uuid>,
    /// What was made and never started.
    unstarted: BTreeSet<Uuid>,
    unknown: bool,
    list_fails: bool,
    down: bool,
    list_hides_state: bool,
    latency: Duration,
    looks: usize,
    looking: usize,
    most_looking: usize,
    lists: usize,
    running: BTreeMap<Uuid, StartSpec>,
    storage: BTreeSet<Uuid>,
    starts: Vec<StartSpec>,
    stops: Vec<Uuid>,
    url: Option<String>,
    configs: BTreeMap<(Uuid, String), Vec<u8>>,
    cancelled: usize,
    console: Option<ConsoleScript>,
    in_containers: bool,
    changes: Option<broadcast::Sender<Change>>,
}

/// Changes that a listener may fall behind by.
const CHANGES: usize = 65_536;

impl FakeBackend {
    /// Sets the behaviour of the calls that follow.
    pub fn set_fault(&self, fault: Fault) {
        self.state(|state| state.fault = fault);
    }

    /// From now on it tells what happens, as far as [`tell`](Self::tell) says so.
    pub fn tells_changes(&self) {
        self.state(|state| state.changes = Some(broadcast::Sender::new(CHANGES)));
    }

    /// Tells a change to everybody who listens; false when nobody does.
    pub fn tell(&self, change: Change) -> bool {
        self.state(|state| {
            let sender = state.changes.as_ref();
            sender.is_some_and(|sender| sender.send(change).is_ok())
        })
    }

    /// As [`tell`](Self::tell), that the compute of a workspace ended.
    pub fn tell_end(&self, id: &str) -> bool {
        self.tell(Change::Ended(Uuid::parse_str(id).expect("a UUID")))
    }

    /// Gives workspaces a console, which they do not have otherwise.
    pub fn set_console(&self, script: ConsoleScript) {
        self.state(|state| state.console = Some(script));
    }

    /// From now on its agents seem to be in containers on a network of their own.
    pub fn put_in_containers(&self) {
        self.state(|state| state.in_containers = true);
    }

    /// Every `start` so far, successful or not.
    pub fn starts(&self) -> Vec<StartSpec> {
        self.state(|state| state.starts.clone())
    }

    /// Ids given to `stop` so far.
    pub fn stops(&self) -> Vec<Uuid> {
        self.state(|state| state.stops.clone())
    }

    /// How many starts were cancelled while they hung.
    pub fn cancelled(&self) -> usize {
        self.state(|state| state.cancelled)
    }

    /// True when nothing runs and nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.state(|state| state.running.is_empty() && state.storage.is_empty())
    }

    /// A file that `start` was given for a workspace.
    pub fn file(&self, id: &str, path: &str) -> Option<String> {
        let id = Uuid::parse_str(id).ok()?;
        self.state(|state| {
            let spec = state.running.get(&id)?;
            let file = spec.files.iter().find(|file| file.path == path)?;
            String::from_utf8(file.content.clone()).ok()
        })
    }

    /// The agent's token: what is in its `.auth_token`.
    pub fn agent_token(&self, id: &str) -> Option<String> {
        self.file(id, ".auth_token")
    }

    /// The environment that `start` was given for a workspace.
    pub fn env(&self, id: &str) -> BTreeMap<String, String> {
        let id = Uuid::parse_str(id).expect("a UUID");
        self.state(|state| {
            let spec = state.running.get(&id).expect("a running workspace");
            spec.env
                .iter()
                .map(|(name, value)| (name.clone(), value.expose().to_owned()))
                .collect()
        })
    }

    /// Lets agents that start from now on be reached at this URL.
    pub fn set_url(&self, url: &str) {
        self.state(|state| state.url = Some(url.to_owned()));
    }

    /// True while something of a workspace is stored.
    pub fn stores(&self, id: &str) -> bool {
        let id = Uuid::parse_str(id).expect("a UUID");
        self.state(|state| state.storage.contains(&id))
    }

    /// The starts of one workspace so far.
    pub fn starts_of(&self, id: &str) -> Vec<StartSpec> {
        let id = Uuid::parse_str(id).expect("a UUID");
        let starts = self.starts();
        starts
            .into_iter()
            .filter(|spec| spec.workspace_id == id)
            .collect()
    }

    /// Changes a file of a workspace's config directory, as its agent might.
    pub fn write_config(&self, id: &str, path: &str, text: &str) {
        let id = Uuid::parse_str(id).expect("a UUID");
        let key = (id, path.to_owned());
        self.state(|state| state.configs.insert(key, text.as_bytes().to_vec()));
    }

    /// Puts something there that no row knows of.
    pub fn plant(&self, id: Uuid) {
        self.state(|state| state.storage.insert(id));
    }

    /// Makes compute of a workspace without starting it, as a backend may that is slow.
    pub fn make_late(&self, id: Uuid) {
        self.state(|state| state.unstarted.insert(id));
    }

    /// True while there is such compute.
    pub fn has_late(&self, id: Uuid) -> bool {
        self.state(|state| state.unstarted.contains(&id))
    }

    /// True while there is compute, running or not, or storage of a workspace.
    pub fn holds(&self, id: Uuid) -> bool {
        self.state(|state| {
            let compute = state.running.contains_key(&id) || state.stopped.contains(&id);
            compute || state.storage.contains(&id)
        })
    }

    /// Ends the compute of a workspace as a crash would: it is stopped, and still
    /// there.
    pub fn kill(&self, id: &str) {
        let id = Uuid::parse_str(id).expect("a UUID");
        self.state(|state| {
            if state.running.remove(&id).is_some() {
                state.stopped.insert(id);
            }
        });
    }

    /// Removes the compute of a workspace behind the server's back.
    pub fn lose(&self, id: &str) {
        let id = Uuid::parse_str(id).expect("a UUID");
        self.state(|state| {
            state.running.remove(&id);
            state.stopped.remove(&id);
        });
    }

    /// Loses the compute of every workspace at once; returns how many ran.
    pub fn lose_all(&self) -> usize {
        self.state(|state| {
            state.stopped.clear();
            std::mem::take(&mut state.running).len()
        })
    }

    /// What runs, as it was started.
    pub(crate) fn running(&self) -> Vec<StartSpec> {
        self.state(|state| state.running.values().cloned().collect())
    }

    /// Whether the compute of a workspace runs.
    pub fn runs(&self, id: &str) -> bool {
        let id = Uuid::parse_str(id).expect("a UUID");
        self.state(|state| state.running.contains_key(&id))
    }

    /// `liveness` cannot tell any more, or can again.
    pub fn set_unknown(&self, unknown: bool) {
        self.state(|state| state.unknown = unknown);
    }

    /// `list_managed` fails, or works again.
    pub fn set_list_fails(&self, fails: bool) {
        self.state(|state| state.list_fails = fails);
    }

    /// `check` fails, or works again.
    pub fn set_down(&self, down: bool) {
        self.state(|state| state.down = down);
    }

    /// `list_managed` does not say what runs, or does again.
    pub fn set_list_hides_state(&self, hides: bool) {
        self.state(|state| state.list_hides_state = hides);
    }

    /// Every `liveness` takes this long to tell what it saw at once.
    pub fn set_latency(&self, latency: Duration) {
        self.state(|state| state.latency = latency);
    }

    /// How often `liveness` was asked, and how many of the calls ran at once at
    /// most.
    pub fn looks(&self) -> (usize, usize) {
        self.state(|state| (state.looks, state.most_looking))
    }

    /// How often `list_managed` was asked.
    pub fn lists(&self) -> usize {
        self.state(|state| state.lists)
    }

    fn state<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl WorkspaceBackend for FakeBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Process
    }

    fn platform_host(&self) -> &'static str {
        match self.state(|state| state.in_containers) {
            true => "host.docker.internal",
            false => "127.0.0.1",
        }
    }

    fn internal_url(&self, workspace_id: Uuid, tier: u8) -> Option<String> {
        let short = workspace_id.to_string()[..12].to_owned();
        // Those of tier 4 seem to be on the network of the host.
        self.state(|state| state.in_containers && tier != 4)
            .then(|| format!("http://ws-{short}:8000"))
    }

    async fn start(
        &self,
        spec: &StartSpec,
        cancel: &CancellationToken,
    ) -> Result<Instance, BackendError> {
        let id = spec.workspace_id;
        let fault = self.state(|state| {
            state.starts.push(spec.clone());
            state.fault.clone()
        });
        match fault {
            Fault::StartFails(reason) => {
                return Err(BackendError::Failed {
                    operation: "start",
                    reason,
                });
            }
            Fault::StartUnavailable => return Err(BackendError::Timeout { operation: "start" }),
            Fault::ConfigLost if spec.existing_config.is_some() => {
                return Err(BackendError::NoConfig);
            }
            Fault::StartSlow(time) => tokio::select! {
                () = cancel.cancelled() => return Err(BackendError::Cancelled),
                () = tokio::time::sleep(time) => {}
            },
            Fault::StartPanics(text) => panic!("{text}"),
            Fault::StartHangs => {
                cancel.cancelled().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
                self.state(|state| state.cancelled += 1);
                return Err(BackendError::Cancelled);
            }
            _ => {}
        }
        let image_digest = self.images.digest_of(spec, cancel).await?;
        self.plugins.supply(spec).await;
        self.state(|state| {
            state.stopped.remove(&id);
            state.running.insert(id, spec.clone());
            state.storage.insert(id);
        });
        Ok(Instance {
            instance_id: format!("fake-{id}"),
            url: (self.state(|state| state.url.clone()))
                .unwrap_or_else(|| "http://127.0.0.1:9".to_owned()),
            image_digest,
        })
    }

    async fn url(&self, instance: &InstanceRef) -> Result<Option<String>, BackendError> {
        let id = instance.workspace_id;
        Ok(self.state(|state| {
            let runs = state.running.contains_key(&id);
            let url = state.url.clone();
            runs.then(|| url.unwrap_or_else(|| "http://127.0.0.1:9".to_owned()))
        }))
    }

    async fn read_config(
        &self,
        workspace_id: Uuid,
        path: &str,
    ) -> Result<Option<Vec<u8>>, BackendError> {
        Ok(self.state(|state| state.configs.get(&(workspace_id, path.to_owned())).cloned()))
    }

    async fn stop(&self, instance: &InstanceRef) -> Result<(), BackendError> {
        self.state(|state| {
            state.stops.push(instance.workspace_id);
            if state.fault == Fault::StopFails {
                let reason = "secret-backend-detail".to_owned();
                return Err(BackendError::Failed {
                    operation: "stop",
                    reason,
                });
            }
            state.running.remove(&instance.workspace_id);
            state.stopped.remove(&instance.workspace_id);
            state.unstarted.remove(&instance.workspace_id);
            Ok(())
        })
    }

    async fn liveness(&self, instance: &InstanceRef) -> Liveness {
        let id = instance.workspace_id;
        let (found, latency) = self.state(|state| {
            state.looks += 1;
            state.looking += 1;
            state.most_looking = state.most_looking.max(state.looking);
            let found = match state.unknown {
                true => Liveness::Unknown(BackendError::Timeout { operation: "look" }),
                false if state.running.contains_key(&id) => Liveness::Running,
                false if state.stopped.contains(&id) => Liveness::Stopped,
                false => Liveness::Missing,
            };
            (found, state.latency)
        });
        // The answer may be old when it arrives.
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        self.state(|state| state.looking -= 1);
        found
    }

    async fn remove_storage(&self, workspace_id: Uuid) -> Result<(), BackendError> {
        self.state(|state| {
            if state.fault == Fault::RemoveFails {
                let reason = "in use".to_owned();
                return Err(BackendError::Failed {
                    operation: "remove",
                    reason,
                });
            }
            state.storage.remove(&workspace_id);
            self.plugins.forget(workspace_id);
            Ok(())
        })
    }

    async fn list_managed(&self) -> Result<Vec<ManagedInstance>, BackendError> {
        self.state(|state| {
            state.lists += 1;
            if state.list_fails {
                return Err(BackendError::Timeout { operation: "list" });
            }
            let ids: BTreeSet<Uuid> = state
                .running
                .keys()
                .chain(&state.stopped)
                .chain(&state.unstarted)
                .chain(&state.storage)
                .copied()
                .collect();
            let list = ids.into_iter().map(|workspace_id| {
                let runs = state.running.contains_key(&workspace_id);
                let compute = runs
                    || state.stopped.contains(&workspace_id)
                    || state.unstarted.contains(&workspace_id);
                ManagedInstance {
                    workspace_id,
                    compute,
                    running: (compute && !state.list_hides_state).then_some(runs),
                    instance_id: compute.then(|| format!("fake-{workspace_id}")),
                    unstarted: state.unstarted.contains(&workspace_id),
                    storage: state.storage.contains(&workspace_id),
                }
            });
            Ok(list.collect())
        })
    }

    async fn check(&self) -> Result<String, BackendError> {
        match self.state(|state| state.down) {
            true => Err(BackendError::Timeout { operation: "check" }),
            false => Ok("fake".to_owned()),
        }
    }

    fn changes(&self) -> Option<Changes> {
        let heard = self.state(|state| state.changes.as_ref().map(broadcast::Sender::subscribe))?;
        let changes = stream::unfold(heard, |mut heard| async move {
            match heard.recv().await {
                Ok(change) => Some((change, heard)),
                Err(RecvError::Lagged(_)) => Some((Change::Missed, heard)),
                Err(RecvError::Closed) => None,
            }
        });
        Some(changes.boxed())
    }

    fn images(&self) -> Option<&dyn Images> {
        self.images.are_on().then_some(self as &dyn Images)
    }

    fn plugins(&self) -> Option<&dyn PluginTarget> {
        (!self.plugins.are_off()).then_some(self as &dyn PluginTarget)
    }

    fn console(&self) -> Option<&dyn Console> {
        let has_one = self.state(|state| state.console.is_some());
        has_one.then_some(self as &dyn Console)
    }
}

#[async_trait]
impl Console for FakeBackend {
    async fn read(&self, _: &InstanceRef) -> Result<String, BackendError> {
        match self.state(|state| state.console.clone()) {
            Some(ConsoleScript::Shows(output)) => Ok(output),
            Some(ConsoleScript::Fails(reason)) => Err(BackendError::Failed {
                operation: "console",
                reason,
            }),
            None => Err(BackendError::NotConfigured),
        }
    }
}
