//! Starting an agent as a child process.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::agent::AgentRecord;
use super::folder::{Folder, FolderError, Owner};
use super::{Inner, blocking, blocking_io, plugins};
use crate::backend::environment::agent_env;
use crate::backend::{BackendError, Instance, StartSpec, UndoStack, WorkspaceAccess};
use crate::config::backend::ProcessConfig;

/// What one step may take to be undone: ending a stubborn agent takes longest.
const UNDO_BOUND: Duration = Duration::from_secs(15);
/// An agent that ends within this time of its start never ran.
const GRACE: Duration = Duration::from_millis(300);

/// Starts a workspace, or takes back everything that was done for it.
pub(super) async fn run(
    inner: Arc<Inner>,
    spec: StartSpec,
    cancel: CancellationToken,
) -> Result<Instance, BackendError> {
    let lock = inner.lock_of(spec.workspace_id);
    let _held = tokio::select! {
        held = lock.lock() => held,
        () = cancel.cancelled() => return Err(BackendError::Cancelled),
    };
    let mut undo = UndoStack::default();
    let result = steps(&inner, &spec, &cancel, &mut undo).await;
    if result.is_err() {
        undo.unwind(UNDO_BOUND).await;
    }
    result
}

async fn steps(
    inner: &Arc<Inner>,
    spec: &StartSpec,
    cancel: &CancellationToken,
    undo: &mut UndoStack,
) -> Result<Instance, BackendError> {
    let folder = inner.folder(spec.workspace_id);
    let working_dir = working_dir(spec, &folder)?;
    inner.end_agent(spec.workspace_id).await?;
    go_on(cancel)?;
    create_folder(&folder, undo).await?;
    go_on(cancel)?;
    write_files(&folder, spec, cancel).await?;
    go_on(cancel)?;
    plugins::prepare(inner, spec, folder.configs(), cancel).await;
    go_on(cancel)?;

    let configs = folder.configs();
    let configs = configs.to_str().ok_or_else(|| {
        failed(
            "build environment",
            "the folder of the process backend is not UTF-8",
        )
    })?;
    let port = free_port().map_err(|error| broken("find a free port", error))?;
    let env = agent_env(spec, configs, vec![("PORT".to_owned(), port.to_string())])?;
    let mut command = Command::new(&inner.program);
    command
        .args(&inner.args)
        .env_clear()
        .env("PATH", ProcessConfig::search_path())
        .envs(env.iter().map(|(name, value)| (name, value.expose())))
        .current_dir(working_dir)
        .stdin(Stdio::null())
        .process_group(0);
    let mut child = spawn(command, folder.clone()).await?;
    let record = remember(&mut child, &folder, spec, port, undo).await?;

    tokio::select! {
        () = cancel.cancelled() => return Err(BackendError::Cancelled),
        ended = timeout(GRACE, child.wait()) => if let Ok(status) = ended {
            let status = status.map_err(|error| broken("start agent", error))?;
            return Err(failed("start agent", &format!("the agent ended at once ({status})")));
        },
    }
    inner.supervise(spec.workspace_id, child);
    Ok(Instance {
        instance_id: record.instance_id(),
        url: record.url(),
        image_digest: None,
    })
}

/// Where the agent runs.
fn working_dir(spec: &StartSpec, folder: &Folder) -> Result<std::path::PathBuf, BackendError> {
    match (&spec.workspace_dir, spec.workspace_access) {
        (None, _) | (_, WorkspaceAccess::None) => Ok(folder.workspace()),
        (Some(dir), WorkspaceAccess::ReadWrite) => Ok(dir.clone()),
        // Without isolation this promise could not be kept.
        (Some(_), WorkspaceAccess::ReadOnly) => Err(failed(
            "mount workspace",
            "the process backend cannot give a folder for reading only",
        )),
    }
}

async fn create_folder(folder: &Folder, undo: &mut UndoStack) -> Result<(), BackendError> {
    const OPERATION: &str = "create workspace folder";
    let own = folder.clone();
    let new = blocking_io(OPERATION, move || match own.owner()? {
        Owner::Other => Ok(None),
        Owner::Nobody | Owner::Us => own.create().map(Some),
    })
    .await?;
    match new {
        None => Err(failed(OPERATION, "the folder belongs to another server")),
        Some(false) => Ok(()),
        Some(true) => {
            let own = folder.clone();
            undo.push(OPERATION, async move {
                blocking_io(OPERATION, move || own.remove())
                    .await
                    .map_err(|e| e.to_string())
            });
            Ok(())
        }
    }
}

async fn write_files(
    folder: &Folder,
    spec: &StartSpec,
    cancel: &CancellationToken,
) -> Result<(), BackendError> {
    const OPERATION: &str = "write files";
    let (folder, spec, cancel) = (folder.clone(), spec.clone(), cancel.clone());
    blocking(OPERATION, move || {
        folder.write_configs(&spec, || cancel.is_cancelled())
    })
    .await?
    .map_err(|error| match error {
        FolderError::NoConfig => BackendError::NoConfig,
        error => failed(OPERATION, &error.to_string()),
    })
}

async fn spawn(mut command: Command, folder: Folder) -> Result<Child, BackendError> {
    const OPERATION: &str = "start agent";
    let log = blocking_io(OPERATION, move || {
        let log = folder.open_log()?;
        Ok((log.try_clone()?, log))
    })
    .await?;
    command.stdout(log.0).stderr(log.1);
    command
        .spawn()
        .map_err(|error| failed(OPERATION, &error.kind().to_string()))
}

/// Writes down which process the agent is, and how to end it again.
async fn remember(
    child: &mut Child,
    folder: &Folder,
    spec: &StartSpec,
    port: u16,
    undo: &mut UndoStack,
) -> Result<AgentRecord, BackendError> {
    const OPERATION: &str = "start agent";
    let pid = child.id().and_then(|id| i32::try_from(id).ok());
    let pid = pid.ok_or_else(|| failed(OPERATION, "the agent has no process id"))?;
    // The child is not waited for yet, so its entry is there even if it ended.
    let record = match blocking_io(OPERATION, move || AgentRecord::of(pid, port)).await {
        Ok(record) => record,
        Err(error) => {
            // Nothing else would ever find it.
            let _ = child.start_kill();
            return Err(error);
        }
    };
    let (workspace, own, agent) = (spec.workspace_id, folder.clone(), record.clone());
    undo.push(OPERATION, async move {
        agent
            .end(workspace)
            .await
            .map_err(|error| error.to_string())?;
        blocking_io(OPERATION, move || own.remove_record())
            .await
            .map_err(|e| e.to_string())
    });
    let (own, agent) = (folder.clone(), record.clone());
    blocking_io(OPERATION, move || own.write_record(&agent)).await?;
    Ok(record)
}

/// A port that nobody listens on now. Another program may take it before the
/// agent does; then the agent ends at once and the start fails.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

fn go_on(cancel: &CancellationToken) -> Result<(), BackendError> {
    if cancel.is_cancelled() {
        Err(BackendError::Cancelled)
    } else {
        Ok(())
    }
}

fn failed(operation: &'static str, reason: &str) -> BackendError {
    BackendError::Failed {
        operation,
        reason: reason.to_owned(),
    }
}

fn broken(operation: &'static str, error: io::Error) -> BackendError {
    BackendError::Unavailable {
        operation,
        source: anyhow::Error::new(error),
    }
}
