//! A backend that remembers what it was asked and fails where it is told to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use molecule_core::backend::{
    BackendError, BackendKind, Instance, InstanceRef, Liveness, ManagedInstance, StartSpec,
    WorkspaceBackend,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How the next calls behave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Fault {
    /// As they should.
    #[default]
    None,
    /// `start` fails with this reason.
    StartFails(String),
    /// `start` waits for cancellation.
    StartHangs,
    /// `start` panics with this text.
    StartPanics(String),
    /// `stop` fails.
    StopFails,
    /// `remove_storage` fails.
    RemoveFails,
}

/// The backend. It runs nothing.
#[derive(Default)]
pub struct FakeBackend {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    fault: Fault,
    running: BTreeMap<Uuid, StartSpec>,
    storage: BTreeSet<Uuid>,
    starts: Vec<StartSpec>,
    stops: Vec<Uuid>,
    cancelled: usize,
    in_containers: bool,
}

impl FakeBackend {
    /// Sets the behaviour of the calls that follow.
    pub fn set_fault(&self, fault: Fault) {
        self.state(|state| state.fault = fault);
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

    /// Puts something there that no row knows of.
    pub fn plant(&self, id: Uuid) {
        self.state(|state| state.storage.insert(id));
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

    fn internal_url(&self, workspace_id: Uuid) -> Option<String> {
        let short = workspace_id.to_string()[..12].to_owned();
        self.state(|state| state.in_containers)
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
            Fault::StartPanics(text) => panic!("{text}"),
            Fault::StartHangs => {
                cancel.cancelled().await;
                tokio::time::sleep(Duration::from_millis(20)).await;
                self.state(|state| state.cancelled += 1);
                return Err(BackendError::Cancelled);
            }
            _ => {}
        }
        self.state(|state| {
            state.running.insert(id, spec.clone());
            state.storage.insert(id);
        });
        Ok(Instance {
            instance_id: format!("fake-{id}"),
            url: "http://127.0.0.1:9".to_owned(),
        })
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
            Ok(())
        })
    }

    async fn liveness(&self, instance: &InstanceRef) -> Liveness {
        match self.state(|state| state.running.contains_key(&instance.workspace_id)) {
            true => Liveness::Running,
            false => Liveness::Missing,
        }
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
            Ok(())
        })
    }

    async fn list_managed(&self) -> Result<Vec<ManagedInstance>, BackendError> {
        Ok(self.state(|state| {
            let ids: BTreeSet<Uuid> = state
                .running
                .keys()
                .chain(&state.storage)
                .copied()
                .collect();
            ids.into_iter()
                .map(|workspace_id| ManagedInstance {
                    workspace_id,
                    compute: state.running.contains_key(&workspace_id),
                    instance_id: (state.running.get(&workspace_id))
                        .map(|_| format!("fake-{workspace_id}")),
                    storage: state.storage.contains(&workspace_id),
                })
                .collect()
        }))
    }

    async fn check(&self) -> Result<String, BackendError> {
        Ok("fake".to_owned())
    }
}
