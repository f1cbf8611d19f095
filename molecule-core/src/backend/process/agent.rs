//! A started agent: how it is remembered, recognised and ended.

use std::io;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::proc_table::{self, ProcessStat};
use crate::backend::BackendError;

const OPERATION: &str = "stop workspace";
/// What an agent gets to end by itself, and the kernel to end it.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// What is written down about a started agent, so that a restarted server finds
/// it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AgentRecord {
    /// Also the number of its process group.
    pub(super) pid: i32,
    /// When it started, in ticks since boot.
    pub(super) start_time: u64,
    /// Which boot that was.
    pub(super) boot_id: String,
    /// The port it was given.
    pub(super) port: u16,
}

impl AgentRecord {
    /// The record of a process that was just started.
    pub(super) fn of(pid: i32, port: u16) -> io::Result<Self> {
        let process = proc_table::stat(pid)?.ok_or(io::ErrorKind::NotFound)?;
        let boot_id = proc_table::boot_id()?;
        Ok(Self {
            pid,
            start_time: process.start_time,
            boot_id,
            port,
        })
    }

    /// The agent whose files lie in `configs`, when it runs and nobody wrote that
    /// down: its server was killed in the moment it started it.
    pub(super) fn unrecorded(configs: &str) -> io::Result<Option<Self>> {
        let mark = format!("WORKSPACE_CONFIG_PATH={configs}");
        match proc_table::leader_with_variable(&mark)? {
            Some(process) => Self::of(process.pid, 0).map(Some),
            None => Ok(None),
        }
    }

    /// What the backend calls it towards its callers.
    pub(super) fn instance_id(&self) -> String {
        self.pid.to_string()
    }

    /// Where the agent was told to listen.
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// True when the agent itself still runs.
    pub(super) fn runs(&self) -> io::Result<bool> {
        if proc_table::boot_id()? != self.boot_id {
            return Ok(false);
        }
        Ok(proc_table::stat(self.pid)?
            .is_some_and(|process| !process.ended && process.start_time == self.start_time))
    }

    /// Ends the agent and everything it started: politely, then not.
    pub(super) async fn end(&self, workspace: Uuid) -> Result<(), BackendError> {
        let group = Group::of(self, workspace).map_err(unreadable)?;
        for signal in [Signal::TERM, Signal::KILL] {
            if group.signal(signal).map_err(unreadable)? {
                return Ok(());
            }
            let deadline = Instant::now() + PATIENCE;
            while Instant::now() < deadline {
                if group.members().map_err(unreadable)?.is_empty() {
                    return Ok(());
                }
                sleep(PAUSE).await;
            }
        }
        Err(BackendError::Timeout {
            operation: OPERATION,
        })
    }
}

fn unreadable(error: io::Error) -> BackendError {
    BackendError::Unavailable {
        operation: OPERATION,
        source: anyhow::Error::new(error),
    }
}

/// The processes that belong to an agent.
struct Group {
    number: i32,
    /// True when the leader was seen to be the agent. As long as a group has
    /// members, the kernel gives its number to nobody else.
    certain: bool,
    /// What members of a group without leader are recognised by.
    mark: String,
}

impl Group {
    fn of(record: &AgentRecord, workspace: Uuid) -> io::Result<Self> {
        Ok(Self {
            number: record.pid,
            certain: record.runs()?,
            mark: format!("WORKSPACE_ID={workspace}"),
        })
    }

    fn members(&self) -> io::Result<Vec<ProcessStat>> {
        let mut members = proc_table::group_members(self.number)?;
        if !self.certain {
            members.retain(|process| proc_table::has_variable(process.pid, &self.mark));
        }
        Ok(members)
    }

    /// Sends a signal to all members. Answers whether there were none.
    fn signal(&self, signal: Signal) -> io::Result<bool> {
        let members = self.members()?;
        if members.is_empty() {
            return Ok(true);
        }
        if self.certain {
            if let Some(group) = Pid::from_raw(self.number) {
                gone_is_fine(kill_process_group(group, signal))?;
            }
        } else {
            for pid in members
                .iter()
                .filter_map(|process| Pid::from_raw(process.pid))
            {
                gone_is_fine(kill_process(pid, signal))?;
            }
        }
        Ok(false)
    }
}

fn gone_is_fine(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        other => Ok(other?),
    }
}
