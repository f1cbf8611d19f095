//! Workspaces as child processes of this server, without isolation: for
//! development and fast tests, never for production.
//!
//! Agents keep running when the server restarts; it recognises them by process
//! id and start time. Needs Linux's `/proc`.

mod agent;
mod folder;
mod plugins;
mod proc_table;
mod start;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;
use tokio::process::Child;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::agent::AgentRecord;
use self::folder::{Folder, Owner};
use super::plugins::Deliveries;
use super::tasks::Tasks;
use super::{
    BackendError, BackendKind, Instance, InstanceRef, Liveness, ManagedInstance, PluginTarget,
    StartSpec, WorkspaceBackend, platform_env,
};
use crate::config::backend::ProcessConfig;

/// Runs workspaces as child processes.
pub struct ProcessBackend {
    inner: Arc<Inner>,
}

struct Inner {
    program: String,
    args: Vec<String>,
    dir: PathBuf,
    instance: String,
    locks: Mutex<HashMap<Uuid, Weak<tokio::sync::Mutex<()>>>>,
    tasks: Tasks,
    deliveries: Deliveries,
}

impl std::fmt::Debug for ProcessBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The command may carry a secret among its arguments.
        f.debug_struct("ProcessBackend")
            .field("instance", &self.inner.instance)
            .finish_non_exhaustive()
    }
}

impl Drop for ProcessBackend {
    fn drop(&mut self) {
        self.inner.tasks.close();
    }
}

impl ProcessBackend {
    /// A backend that keeps its workspaces below `dir`. `instance` is a short id
    /// of this server's database and says which of them are its own.
    ///
    /// # Errors
    /// [`BackendError::Failed`] when no command is configured or `dir` is not
    /// absolute.
    pub fn new(
        config: ProcessConfig,
        dir: PathBuf,
        instance: String,
    ) -> Result<Self, BackendError> {
        let refuse = |reason: &str| {
            Err(BackendError::Failed {
                operation: "set up processes",
                reason: reason.to_owned(),
            })
        };
        let mut command = config.command.into_iter();
        let Some(program) = command.next().filter(|program| !program.is_empty()) else {
            return refuse("backend.process.command is empty");
        };
        if !dir.is_absolute() {
            return refuse("the folder of the process backend must be an absolute path");
        }
        if instance.is_empty() {
            return refuse("the instance id is empty");
        }
        let inner = Inner {
            program,
            args: command.collect(),
            dir,
            instance,
            locks: Mutex::default(),
            tasks: Tasks::default(),
            deliveries: Deliveries::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }
}

#[async_trait]
impl WorkspaceBackend for ProcessBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Process
    }

    fn platform_host(&self) -> &'static str {
        "127.0.0.1"
    }

    async fn start(
        &self,
        spec: &StartSpec,
        cancel: &CancellationToken,
    ) -> Result<Instance, BackendError> {
        let (inner, spec) = (Arc::clone(&self.inner), spec.clone());
        let tasks = &self.inner.tasks;
        tasks
            .run(cancel, |token| start::run(inner, spec, token))
            .await
    }

    fn forced_env(&self, spec: &StartSpec) -> Vec<(String, Option<String>)> {
        let configs = self.inner.folder(spec.workspace_id).configs();
        platform_env(spec, &configs.to_string_lossy())
            .into_iter()
            .map(|(name, value)| (name, Some(value)))
            .chain([("PORT".to_owned(), None)])
            .collect()
    }

    async fn stop(&self, instance: &InstanceRef) -> Result<(), BackendError> {
        let lock = self.inner.lock_of(instance.workspace_id);
        let _held = lock.lock().await;
        self.inner.end_agent(instance.workspace_id).await
    }

    async fn liveness(&self, instance: &InstanceRef) -> Liveness {
        const OPERATION: &str = "look for process";
        let folder = self.inner.folder(instance.workspace_id);
        let looked = blocking_io(OPERATION, move || match folder.owner()? {
            Owner::Nobody => Ok(Some(Liveness::Missing)),
            Owner::Other => Ok(None),
            Owner::Us => Ok(Some(match folder.read_record()? {
                None => Liveness::Missing,
                Some(record) if record.runs()? => Liveness::Running,
                Some(_) => Liveness::Stopped,
            })),
        });
        match looked.await {
            Ok(Some(liveness)) => liveness,
            // Not ours, so not for us to call dead.
            Ok(None) => Liveness::Unknown(BackendError::Failed {
                operation: OPERATION,
                reason: "the folder belongs to another server".to_owned(),
            }),
            Err(error) => Liveness::Unknown(error),
        }
    }

    async fn url(&self, instance: &InstanceRef) -> Result<Option<String>, BackendError> {
        let folder = self.inner.folder(instance.workspace_id);
        let wanted = instance.instance_id.clone();
        blocking_io("look for process", move || {
            if folder.owner()? != Owner::Us {
                return Ok(None);
            }
            let Some(record) = folder.read_record()? else {
                return Ok(None);
            };
            let meant = wanted.is_none_or(|known| known == record.instance_id());
            Ok((meant && record.runs()?).then(|| record.url()))
        })
        .await
    }

    async fn read_config(
        &self,
        workspace_id: Uuid,
        path: &str,
    ) -> Result<Option<Vec<u8>>, BackendError> {
        let folder = self.inner.folder(workspace_id);
        let path = path.to_owned();
        blocking_io("read config", move || match folder.owner()? {
            Owner::Us => folder.read_config(&path),
            Owner::Nobody | Owner::Other => Ok(None),
        })
        .await
    }

    async fn remove_storage(&self, workspace_id: Uuid) -> Result<(), BackendError> {
        const OPERATION: &str = "remove storage";
        let lock = self.inner.lock_of(workspace_id);
        let _held = lock.lock().await;
        let folder = self.inner.folder(workspace_id);
        let removed = blocking_io(OPERATION, move || {
            if folder.owner()? != Owner::Us {
                return Ok(true);
            }
            // A record that makes no sense names no process that could run.
            if let Ok(Some(record)) = folder.read_record()
                && record.runs()?
            {
                return Ok(false);
            }
            folder.remove().map(|()| true)
        });
        if removed.await? {
            Ok(())
        } else {
            Err(BackendError::Failed {
                operation: OPERATION,
                reason: "the workspace still runs".to_owned(),
            })
        }
    }

    async fn list_managed(&self) -> Result<Vec<ManagedInstance>, BackendError> {
        let inner = Arc::clone(&self.inner);
        blocking_io("list workspaces", move || inner.list()).await
    }

    fn plugins(&self) -> Option<&dyn PluginTarget> {
        Some(self)
    }

    async fn check(&self) -> Result<String, BackendError> {
        const OPERATION: &str = "check processes";
        let inner = Arc::clone(&self.inner);
        let found = blocking_io(OPERATION, move || {
            std::fs::create_dir_all(&inner.dir)?;
            proc_table::boot_id()?;
            Ok(find_program(&inner.program))
        })
        .await?;
        if found {
            Ok("processes without isolation".to_owned())
        } else {
            Err(BackendError::Failed {
                operation: OPERATION,
                reason: "the program of backend.process.command does not exist".to_owned(),
            })
        }
    }

    async fn shutdown(&self) {
        self.inner.tasks.shutdown().await;
    }
}

impl Inner {
    fn folder(&self, workspace: Uuid) -> Folder {
        Folder::of(&self.dir, workspace, &self.instance)
    }

    /// Start and stop of one workspace take turns.
    fn lock_of(&self, workspace: Uuid) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(&workspace).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        locks.insert(workspace, Arc::downgrade(&lock));
        lock
    }

    /// Ends the agent of a workspace, if there is one and it is ours.
    async fn end_agent(&self, workspace: Uuid) -> Result<(), BackendError> {
        const OPERATION: &str = "stop workspace";
        let folder = self.folder(workspace);
        let own = folder.clone();
        let record = blocking_io(OPERATION, move || match own.owner()? {
            Owner::Us => match own.read_record()? {
                Some(record) => Ok(Some(record)),
                None => AgentRecord::unrecorded(&own.configs().to_string_lossy()),
            },
            Owner::Nobody | Owner::Other => Ok(None),
        });
        if let Some(record) = record.await? {
            record.end(workspace).await?;
            blocking_io(OPERATION, move || folder.remove_record()).await?;
        }
        Ok(())
    }

    /// Waits for the child in the background: otherwise it would stay in the
    /// process table after its end.
    fn supervise(&self, workspace: Uuid, mut child: Child) {
        let closing = self.tasks.closing().clone();
        self.tasks.spawn(async move {
            tokio::select! {
                status = child.wait() => match status {
                    Ok(status) => tracing::info!(workspace.id = %workspace, %status, "agent ended"),
                    Err(error) => {
                        tracing::warn!(workspace.id = %workspace, %error, "agent lost");
                    }
                },
                // The agent outlives the server.
                () = closing.cancelled() => {}
            }
        });
    }

    fn list(&self) -> io::Result<Vec<ManagedInstance>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let Some(workspace_id) = name.to_str().and_then(|name| name.parse::<Uuid>().ok())
            else {
                continue;
            };
            let folder = self.folder(workspace_id);
            if name.to_str() == Some(&workspace_id.to_string()) && folder.owner()? == Owner::Us {
                // A record that cannot be read still speaks of an agent.
                let (compute, running, instance_id) = match folder.read_record() {
                    Ok(Some(record)) => (true, record.runs().ok(), Some(record.instance_id())),
                    Ok(None) => (false, None, None),
                    Err(_) => (true, None, None),
                };
                found.push(ManagedInstance {
                    workspace_id,
                    compute,
                    running,
                    instance_id,
                    unstarted: false,
                    storage: true,
                });
            }
        }
        found.sort_by_key(|instance| instance.workspace_id);
        Ok(found)
    }
}

/// Runs work on files outside the async runtime.
async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BackendError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| BackendError::Failed {
            operation,
            reason: "the work on files ended early".to_owned(),
        })
}

/// The same, for work whose only way to fail is the file system.
async fn blocking_io<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BackendError> {
    blocking(operation, work)
        .await?
        .map_err(|error| BackendError::Unavailable {
            operation,
            source: anyhow::Error::msg(error.kind().to_string()),
        })
}

fn find_program(program: &str) -> bool {
    if program.contains('/') {
        return std::path::Path::new(program).is_file();
    }
    std::env::split_paths(&ProcessConfig::search_path()).any(|dir| dir.join(program).is_file())
}
