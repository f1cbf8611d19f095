//! Shells in the containers of workspaces: execs with a terminal.
//!
//! The daemon leaves an exec alone when nobody listens to it any more, and knows no
//! way to end one. So the shell tells its number when it starts, and carries a mark
//! in its environment that everything it starts inherits; whoever ends it runs a
//! second exec that looks for both.

mod end;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::models::ExecConfig;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::oneshot;
use tokio_util::io::ReaderStream;
use uuid::Uuid;

use self::end::{Marked, Shell};
use super::container::AGENT_USER;
use super::daemon::CallError;
use super::exec::is_not_run;
use super::objects::{self, Found};
use super::transport::raw;
use super::{DockerBackend, Inner, names};
use crate::backend::scrub::Scrubber;
use crate::backend::{
    BackendError, InstanceRef, Terminal, TerminalError, TerminalSession, TerminalSize, TerminalUser,
};

const OPERATION: &str = "open terminal";
/// Tried in this order; either of them starts the better one of the two.
const SHELLS: [&str; 2] = ["/bin/sh", "/bin/bash"];
/// Says the number of the shell, then becomes it.
const START: &str = "echo \"molecule-terminal $$\"; \
                     if [ -x /bin/bash ]; then exec /bin/bash; else exec /bin/sh; fi";
const GREETING: &[u8] = b"molecule-terminal ";
/// What a shell may print before its greeting ends.
const MAX_GREETING_BYTES: usize = 4 * 1024;
/// A shell that did not greet by now is none.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes that are handed on at once.
const CHUNK_BYTES: usize = 16 * 1024;
/// Exit codes of a command that could not be run or was not found.
const NOT_RUN: [i64; 2] = [126, 127];

#[async_trait]
impl Terminal for DockerBackend {
    async fn open(
        &self,
        instance: &InstanceRef,
        user: TerminalUser,
        size: TerminalSize,
    ) -> Result<TerminalSession, TerminalError> {
        if self.inner.tasks.closing().is_cancelled() {
            return Err(BackendError::Cancelled.into());
        }
        let (sender, opened) = oneshot::channel();
        let inner = Arc::clone(&self.inner);
        let workspace = instance.workspace_id;
        // A task of its own: if the caller left, what was opened is dropped, which
        // ends it.
        self.inner.tasks.spawn(async move {
            let opening = Opening { inner, size };
            let _ = sender.send(opening.open(workspace, user).await);
        });
        (opened.await).unwrap_or_else(|_| Err(BackendError::Cancelled.into()))
    }
}

struct Opening {
    inner: Arc<Inner>,
    size: TerminalSize,
}

/// A container in which a shell can be started.
struct Host {
    id: String,
    user: Option<String>,
}

impl Opening {
    async fn open(
        &self,
        workspace: Uuid,
        user: TerminalUser,
    ) -> Result<TerminalSession, TerminalError> {
        let host = self.host(workspace, user).await?;
        for shell in SHELLS {
            match self.attempt(&host, shell).await {
                Err(TerminalError::NoShell) => {}
                other => return other,
            }
        }
        Err(TerminalError::NoShell)
    }

    async fn host(&self, workspace: Uuid, user: TerminalUser) -> Result<Host, TerminalError> {
        let inner = &self.inner;
        for name in names::containers(workspace) {
            let found = objects::find(&inner.daemon, &name, &inner.instance).await;
            match found.map_err(failed)? {
                Found::Ours(id, container) => {
                    let state = container.state.unwrap_or_default();
                    if state.running != Some(true)
                        || state.restarting == Some(true)
                        || state.paused == Some(true)
                    {
                        return Err(TerminalError::NotRunning);
                    }
                    let own = container.config.and_then(|config| config.user);
                    let is_root = own.is_none_or(|user| is_root(&user));
                    let as_agent = user == TerminalUser::Agent && is_root;
                    return Ok(Host {
                        id,
                        user: as_agent.then(|| AGENT_USER.to_owned()),
                    });
                }
                Found::Foreign if name == names::container(workspace) => {
                    return Err(TerminalError::Backend(BackendError::Failed {
                        operation: OPERATION,
                        reason: "a container of this name belongs to another server".to_owned(),
                    }));
                }
                Found::Foreign | Found::Nothing => {}
            }
        }
        Err(TerminalError::NotRunning)
    }

    async fn attempt(
        &self,
        host: &Host,
        program: &'static str,
    ) -> Result<TerminalSession, TerminalError> {
        let daemon = &self.inner.daemon;
        let mark = Uuid::new_v4();
        let exec = self.exec(host, program, mark);
        let created = daemon
            .call(|client| client.create_exec(&host.id, exec))
            .await
            .map_err(refused)?;
        // From here on a shell may run, whatever goes wrong.
        let marked = Marked {
            inner: Arc::clone(&self.inner),
            container: host.id.clone(),
            user: host.user.clone(),
            exec: created.id.clone(),
            program,
            mark,
        };
        let mut shell = Shell::new(marked);
        let path = format!("/exec/{}/start", created.id);
        let body = json!({ "Detach": false, "Tty": true });
        let started = tokio::time::timeout(
            daemon.timeout(),
            raw::upgrade(daemon.endpoint(), &path, &body),
        );
        let mut stream = match started.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if is_not_run(&error) => {
                shell.never_ran();
                return Err(TerminalError::NoShell);
            }
            Ok(Err(error)) => return Err(refused(error)),
            Err(_) => return Err(failed(CallError::Timeout)),
        };
        let greeted = tokio::time::timeout(GREETING_TIMEOUT, greeting(&mut stream)).await;
        let Ok(Some((number, rest))) = greeted else {
            return Err(self.no_greeting(&shell).await);
        };
        shell.is_numbered(number);
        // The shell works with a wrong size, too.
        if let Err(error) = shell.set_size(self.size).await {
            let error = error.text(&Scrubber::plain());
            tracing::debug!(error, "the size of a terminal could not be set");
        }
        Ok(session(stream, rest, shell))
    }

    fn exec(&self, host: &Host, program: &str, mark: Uuid) -> ExecConfig {
        let TerminalSize { cols, rows } = self.size;
        ExecConfig {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(true),
            // Newer daemons know it; the others are told after the start.
            console_size: Some(vec![rows.into(), cols.into()]),
            env: Some(vec!["TERM=xterm-256color".to_owned(), end::variable(mark)]),
            cmd: Some([program, "-c", START].map(str::to_owned).into()),
            user: host.user.clone(),
            ..ExecConfig::default()
        }
    }

    /// Why a shell said nothing.
    async fn no_greeting(&self, shell: &Shell) -> TerminalError {
        match shell.code().await {
            Some(code) if NOT_RUN.contains(&code) => {
                shell.never_ran();
                TerminalError::NoShell
            }
            Some(_) => TerminalError::NotRunning,
            None => failed(CallError::Timeout),
        }
    }
}

fn session(stream: TokioIo<Upgraded>, rest: Bytes, shell: Shell) -> TerminalSession {
    let (output, input) = tokio::io::split(stream);
    let output = ReaderStream::with_capacity(output, CHUNK_BYTES);
    let output = output.map(|chunk| {
        chunk.map_err(|error| {
            CallError::Broken(error.to_string()).into_backend("read terminal", &Scrubber::plain())
        })
    });
    let rest = futures_util::stream::iter((!rest.is_empty()).then_some(Ok(rest)));
    TerminalSession {
        output: rest.chain(output).boxed(),
        input: Box::pin(input),
        control: Box::new(shell),
    }
}

/// Reads the number that a shell says first, and what it printed right after. None
/// when it ends, or says something else.
async fn greeting(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u32, Bytes)> {
    let mut read = BytesMut::new();
    loop {
        if let Some(end) = read.iter().position(|byte| *byte == b'\n') {
            let line = read.split_to(end + 1);
            let number = line.strip_prefix(GREETING)?.trim_ascii();
            let number = std::str::from_utf8(number).ok()?.parse().ok()?;
            return Some((number, read.freeze()));
        }
        if read.len() > MAX_GREETING_BYTES || stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}

fn is_root(user: &str) -> bool {
    let name = user.split(':').next().unwrap_or_default();
    matches!(name, "" | "0" | "root")
}

fn refused(error: CallError) -> TerminalError {
    // It ended, was paused or was removed since it was looked at.
    match error.is_container_missing() || error.is_conflict() {
        true => TerminalError::NotRunning,
        false => failed(error),
    }
}

fn failed(error: CallError) -> TerminalError {
    error.into_backend(OPERATION, &Scrubber::plain()).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    async fn greeted(mut bytes: &[u8]) -> Option<(u32, Bytes)> {
        greeting(&mut bytes).await
    }

    #[tokio::test]
    async fn a_greeting_ends_with_its_line() {
        let (number, rest) = greeted(b"molecule-terminal 42\r\n# ").await.unwrap();
        assert_eq!((number, &rest[..]), (42, &b"# "[..]));
        for text in [
            "",
            "molecule-terminal 42",
            "molecule-terminal\n",
            "molecule-terminal -1\r\n",
            "OCI runtime exec failed: no such file\r\n",
        ] {
            assert!(greeted(text.as_bytes()).await.is_none(), "{text:?}");
        }
        assert!(greeted(&[b'x'; 2 * MAX_GREETING_BYTES]).await.is_none());
    }

    #[test]
    fn root_has_several_names() {
        for root in ["", "0", "0:0", "root", "root:root", ":1000"] {
            assert!(is_root(root), "{root:?}");
        }
        for other in ["1000", "1000:0", "agent", "00x"] {
            assert!(!is_root(other), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_shell_says_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(greeted(&bytes));
        }
    }
}
