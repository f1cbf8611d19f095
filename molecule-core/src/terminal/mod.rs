//! Terminals: shells next to agents, for people over WebSockets.
//!
//! Every terminal is recorded when it begins and when it is over: who, from where,
//! how long. What is typed and printed is nobody's but the client's.

mod protocol;
pub(crate) mod routes;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::backend::{
    InstanceRef, SharedBackend, TerminalError, TerminalSession, TerminalSize, TerminalUser,
};
use crate::error::{Error, Result};
use crate::events::{EventType, Events};
use crate::redact::Redactor;
use crate::store::Db;
use crate::supervisor::Supervisor;
use crate::workspaces::{Status, Workspaces};

/// Terminals of operators in one workspace at a time.
const MAX_PER_WORKSPACE: usize = 4;
/// Terminals that a workspace opens in itself, at a time.
const MAX_OWN_PER_WORKSPACE: usize = 2;
/// Terminals of this server at a time.
const MAX_IN_ALL: usize = 64;
/// How many of them workspaces may open themselves: agents never take the last one
/// from an operator.
const MAX_OWN_IN_ALL: usize = MAX_IN_ALL / 2;
/// Who found no place tries again after this time.
const RETRY_SECS: u64 = 10;
/// Opening takes a few calls to the backend, each of which has a limit of its own.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
const GAUGE: &str = "molecule_terminals_active";

/// What this room works with.
pub(crate) struct Services {
    pub(crate) backend: SharedBackend,
    pub(crate) db: Db,
    pub(crate) events: Events,
    pub(crate) redactor: Redactor,
    pub(crate) supervisor: Supervisor,
    pub(crate) workspaces: Workspaces,
}

/// The room's service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Terminals(Arc<Inner>);

type Counts = HashMap<(Uuid, TerminalUser), usize>;

struct Inner {
    services: Services,
    /// How many are open, per workspace and kind of visitor.
    open: Mutex<Counts>,
}

/// Whoever wants a terminal.
pub(crate) struct Visitor {
    /// Kind and name of the credential, as records show it; never the credential.
    pub(crate) by: String,
    /// The address of the client.
    pub(crate) remote: String,
    /// As whom the shell runs.
    pub(crate) user: TerminalUser,
}

/// How a terminal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// A bounded word for the record.
    pub(crate) reason: &'static str,
    /// That of the shell, if it ended by itself.
    pub(crate) exit_code: Option<i64>,
}

impl Terminals {
    pub(crate) fn new(services: Services) -> Self {
        // The series is there before the first terminal is.
        metrics::gauge!(GAUGE).increment(0.0);
        Self(Arc::new(Inner {
            services,
            open: Mutex::default(),
        }))
    }

    /// Starts a shell in a workspace and records it. In a task of its own: of a
    /// client that leaves meanwhile either both ends are recorded or none.
    ///
    /// # Errors
    /// 404 `workspace not found`; 409 `workspace is not running` or `no shell in this
    /// workspace's image`; 501 `terminal unavailable on this deployment`; 502
    /// `terminal could not be opened`; 503 when there are too many, or the database
    /// does not answer.
    pub(crate) async fn open(
        &self,
        id: Uuid,
        visitor: Visitor,
        size: TerminalSize,
    ) -> Result<Opened> {
        let (sender, opened) = oneshot::channel();
        let this = self.clone();
        let supervisor = &self.0.services.supervisor;
        supervisor.spawn("terminal-open", async move {
            // If nobody waits for it any more, it ends here.
            let _ = sender.send(this.begin(id, visitor, size).await);
        });
        opened.await.unwrap_or_else(|_| {
            let cause = anyhow::anyhow!("opening a terminal panicked");
            Err(Error::internal("terminal could not be opened", cause))
        })
    }

    async fn begin(&self, id: Uuid, visitor: Visitor, size: TerminalSize) -> Result<Opened> {
        let services = &self.0.services;
        let workspace = services.workspaces.get(id).await?;
        let not_running = || Error::conflict("workspace is not running");
        match workspace.status() {
            Status::Removed => return Err(Error::not_found("workspace not found")),
            Status::Paused | Status::Hibernating | Status::Hibernated if !workspace.external => {
                return Err(not_running());
            }
            _ => {}
        }
        // An external agent runs on no machine of ours.
        let terminal = services.backend.terminal().filter(|_| !workspace.external);
        let Some(terminal) = terminal else {
            return Err(Error::not_implemented(
                "terminal unavailable on this deployment",
            ));
        };
        let place = self.take_place(id, visitor.user)?;
        let instance = InstanceRef {
            workspace_id: id,
            instance_id: workspace.instance_id,
        };
        let failed = |cause: String| {
            Error::bad_gateway("terminal could not be opened", anyhow::anyhow!(cause))
        };
        let opening = terminal.open(&instance, visitor.user, size);
        let session = match tokio::time::timeout(OPEN_TIMEOUT, opening).await {
            Ok(Ok(session)) => session,
            Ok(Err(TerminalError::NotRunning)) => return Err(not_running()),
            Ok(Err(TerminalError::NoShell)) => {
                return Err(Error::conflict("no shell in this workspace's image"));
            }
            Ok(Err(TerminalError::Backend(error))) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                return Err(failed(services.redactor.redact(&error)));
            }
            Err(_) => return Err(failed("timed out".to_owned())),
        };
        let record = Record {
            terminals: self.clone(),
            workspace: id,
            session: Uuid::now_v7(),
            visitor,
            since: Instant::now(),
        };
        // Nobody types before it is written down.
        record.opened().await?;
        Ok(Opened {
            record: Some((record, place)),
            session: Some(session),
            outcome: Outcome {
                reason: "never connected",
                exit_code: None,
            },
        })
    }

    /// True while a workspace is one that a terminal may be open in.
    pub(crate) async fn may_stay(&self, id: Uuid) -> bool {
        let directory = self.0.services.workspaces.directory();
        match directory.status(id).await {
            Ok(status) => !matches!(
                status,
                None | Some(
                    Status::Removed | Status::Paused | Status::Hibernating | Status::Hibernated
                )
            ),
            // A database that does not answer ends nothing.
            Err(_) => true,
        }
    }

    fn take_place(&self, workspace: Uuid, user: TerminalUser) -> Result<Place> {
        let mut open = self.places();
        let key = (workspace, user);
        if !has_room(&open, key) {
            let error = Error::not_now("too many terminals are open, close one or try again later");
            return Err(error.retry_after(RETRY_SECS));
        }
        *open.entry(key).or_default() += 1;
        metrics::gauge!(GAUGE).increment(1.0);
        Ok(Place {
            terminals: self.clone(),
            key,
        })
    }

    fn places(&self) -> MutexGuard<'_, Counts> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True when one more may be open.
fn has_room(open: &Counts, key: (Uuid, TerminalUser)) -> bool {
    let here = open.get(&key).copied().unwrap_or_default();
    let in_all: usize = open.values().sum();
    let own = open
        .iter()
        .filter(|((_, user), _)| *user == TerminalUser::Agent);
    let own: usize = own.map(|(_, count)| count).sum();
    in_all < MAX_IN_ALL
        && match key.1 {
            TerminalUser::Operator => here < MAX_PER_WORKSPACE,
            TerminalUser::Agent => here < MAX_OWN_PER_WORKSPACE && own < MAX_OWN_IN_ALL,
        }
}

/// One of the terminals that may be open.
struct Place {
    terminals: Terminals,
    key: (Uuid, TerminalUser),
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.terminals.places();
        if let Some(count) = open.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.key);
            }
        }
        metrics::gauge!(GAUGE).decrement(1.0);
    }
}

/// A terminal that is open. Dropping it ends its shell, in a task of its own, and
/// records that.
pub(crate) struct Opened {
    record: Option<(Record, Place)>,
    session: Option<TerminalSession>,
    outcome: Outcome,
}

impl Opened {
    /// The shell; none after its end.
    fn session(&mut self) -> Option<&mut TerminalSession> {
        self.session.as_mut()
    }

    /// Ends it.
    fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        let (Some((record, place)), Some(session)) = (self.record.take(), self.session.take())
        else {
            return;
        };
        let outcome = self.outcome;
        let supervisor = record.terminals.0.services.supervisor.clone();
        supervisor.spawn("terminal-end", async move {
            session.control.close().await;
            // Only now is there room for another.
            drop((session, place));
            record.closed(outcome).await;
        });
    }
}

/// What is written down about a terminal.
struct Record {
    terminals: Terminals,
    workspace: Uuid,
    session: Uuid,
    visitor: Visitor,
    since: Instant,
}

impl Record {
    async fn opened(&self) -> Result<()> {
        let payload = json!({
            "session": self.session,
            "by": self.visitor.by,
            "remote": self.visitor.remote,
        });
        self.write(EventType::WorkspaceTerminalOpened, payload)
            .await?;
        tracing::info!(
            workspace.id = %self.workspace,
            terminal.session = %self.session,
            terminal.by = self.visitor.by,
            terminal.remote = self.visitor.remote,
            "terminal opened"
        );
        Ok(())
    }

    async fn closed(&self, outcome: Outcome) {
        let duration_secs = self.since.elapsed().as_secs();
        let payload = json!({
            "session": self.session,
            "by": self.visitor.by,
            "remote": self.visitor.remote,
            "duration_secs": duration_secs,
            "reason": outcome.reason,
            "exit_code": outcome.exit_code,
        });
        let written = self
            .write(EventType::WorkspaceTerminalClosed, payload)
            .await;
        if let Err(error) = written {
            let error = error.internal_context();
            tracing::warn!(error, "the end of a terminal could not be recorded");
        }
        tracing::info!(
            workspace.id = %self.workspace,
            terminal.session = %self.session,
            terminal.by = self.visitor.by,
            terminal.remote = self.visitor.remote,
            duration_secs,
            reason = outcome.reason,
            exit_code = outcome.exit_code,
            "terminal closed"
        );
    }

    async fn write(&self, event: EventType, payload: serde_json::Value) -> Result<()> {
        let Services { db, events, .. } = &self.terminals.0.services;
        let mut tx = db.begin().await?;
        let event = events
            .record(&mut tx, event, self.workspace, payload)
            .await?;
        tx.commit().await?;
        events.publish(event);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_of_many_workspaces_leave_half_of_all_places_to_operators() {
        let mut open = Counts::new();
        let mut fill = |user, most: usize| {
            let mut found = 0;
            for _ in 0..most {
                let id = Uuid::new_v4();
                while has_room(&open, (id, user)) {
                    *open.entry((id, user)).or_default() += 1;
                    found += 1;
                }
            }
            found
        };
        assert_eq!(fill(TerminalUser::Agent, 1), 2);
        assert_eq!(fill(TerminalUser::Agent, 100), 30);
        assert_eq!(fill(TerminalUser::Operator, 1), 4);
        assert_eq!(fill(TerminalUser::Operator, 100), 28);
        assert_eq!(fill(TerminalUser::Agent, 1), 0);
    }
}
