//! A shell that runs, and how it is ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bollard::exec::StartExecOptions;
use bollard::models::{ExecConfig, ExecInspectResponse};
use bollard::query_parameters::ResizeExecOptionsBuilder;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::super::Inner;
use super::super::daemon::CallError;
use crate::backend::scrub::Scrubber;
use crate::backend::{BackendError, TerminalControl, TerminalSize};

/// Ends everything that carries the mark, and the whole session of the shell while
/// the shell is alive: politely first, a second later for good. Needs nothing but a
/// shell; without `grep` it finds the session only. Exit code 0 means that nothing
/// is left.
const SCRIPT: &str = include_str!("end.sh");
const MARK: &str = "MOLECULE_TERMINAL";
/// How long the script is waited for. It needs about two seconds.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a shell is tried to be ended while the daemon does not do it.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);
/// The end of the output comes a moment before the exit code.
const CODE_TIMEOUT: Duration = Duration::from_secs(2);

/// The variable that a shell hands on to whatever it starts.
pub(super) fn variable(mark: Uuid) -> String {
    format!("{MARK}={mark}")
}

/// Where a shell runs and what it is known by.
pub(super) struct Marked {
    pub(super) inner: Arc<Inner>,
    pub(super) container: String,
    pub(super) user: Option<String>,
    pub(super) exec: String,
    /// The shell that runs scripts there.
    pub(super) program: &'static str,
    pub(super) mark: Uuid,
}

/// A shell that may run. Dropping it ends it.
pub(super) struct Shell {
    marked: Arc<Marked>,
    /// Its number in the container; 0 as long as it is not known.
    number: u32,
    is_ended: AtomicBool,
}

impl Shell {
    pub(super) fn new(marked: Marked) -> Self {
        Self {
            marked: Arc::new(marked),
            number: 0,
            is_ended: AtomicBool::new(false),
        }
    }

    pub(super) fn is_numbered(&mut self, number: u32) {
        self.number = number;
    }

    /// Says that there was no such program: nothing runs that would have to be ended,
    /// and nothing could end it.
    pub(super) fn never_ran(&self) {
        self.is_ended.store(true, Ordering::Release);
    }

    pub(super) async fn set_size(&self, size: TerminalSize) -> Result<(), CallError> {
        let options = ResizeExecOptionsBuilder::default()
            .h(size.rows.into())
            .w(size.cols.into())
            .build();
        let daemon = &self.marked.inner.daemon;
        daemon
            .call(|client| client.resize_exec(&self.marked.exec, options))
            .await
    }

    /// Its exit code, once it ended.
    pub(super) async fn code(&self) -> Option<i64> {
        let deadline = Instant::now() + CODE_TIMEOUT;
        loop {
            let found = self.marked.inspect(&self.marked.exec).await.ok()?;
            if found.running == Some(false) {
                return found.exit_code;
            }
            if Instant::now() > deadline {
                return None;
            }
            sleep(PAUSE).await;
        }
    }

    /// Begins to end it, unless that was done.
    fn begin_to_end(&self) -> Option<JoinHandle<()>> {
        if self.is_ended.swap(true, Ordering::AcqRel) {
            return None;
        }
        // Without a runtime the process is about to end, and nobody can do anything.
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        let (marked, number) = (Arc::clone(&self.marked), self.number);
        let ending = async move { marked.end(number).await };
        Some(self.marked.inner.tasks.spawn_on(ending, &runtime))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.begin_to_end();
    }
}

#[async_trait]
impl TerminalControl for Shell {
    async fn resize(&self, size: TerminalSize) -> Result<(), BackendError> {
        self.set_size(size)
            .await
            .map_err(|error| error.into_backend("resize terminal", &Scrubber::plain()))
    }

    async fn exit_code(&self) -> Option<i64> {
        self.code().await
    }

    async fn close(&self) {
        if let Some(ending) = self.begin_to_end() {
            let _ = ending.await;
        }
    }
}

impl Marked {
    async fn inspect(&self, exec: &str) -> Result<ExecInspectResponse, CallError> {
        let daemon = &self.inner.daemon;
        daemon.call(|client| client.inspect_exec(exec)).await
    }

    async fn end(&self, number: u32) {
        let mut last = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                sleep(PAUSE * 10).await;
            }
            match self.run_script(number).await {
                Ok(Some(0)) => return,
                Ok(code) => last = format!("the script ended with {code:?}"),
                // With the container everything in it ended.
                Err(error) if error.is_container_missing() || error.is_conflict() => return,
                Err(error) => last = error.text(&Scrubber::plain()),
            }
        }
        tracing::warn!(
            container = self.container,
            error = last,
            "a terminal could not be ended; what was started in it may still run"
        );
    }

    /// The script's exit code; none when it did not end in time.
    async fn run_script(&self, number: u32) -> Result<Option<i64>, CallError> {
        let mark = variable(self.mark);
        let command = [
            self.program,
            "-c",
            SCRIPT,
            "end",
            &mark,
            &number.to_string(),
        ];
        let exec = ExecConfig {
            cmd: Some(command.map(str::to_owned).into()),
            // Whoever started something may end it.
            user: self.user.clone(),
            ..ExecConfig::default()
        };
        let daemon = &self.inner.daemon;
        let created = daemon
            .call(|client| client.create_exec(&self.container, exec))
            .await?;
        let options = StartExecOptions {
            detach: true,
            ..StartExecOptions::default()
        };
        daemon
            .call(|client| client.start_exec(&created.id, Some(options)))
            .await?;
        let deadline = Instant::now() + SCRIPT_TIMEOUT;
        while Instant::now() < deadline {
            let found = self.inspect(&created.id).await?;
            if found.running == Some(false) {
                return Ok(found.exit_code);
            }
            sleep(PAUSE).await;
        }
        Ok(None)
    }
}
