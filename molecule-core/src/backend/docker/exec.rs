//! Programs that run in a container to their end: what they said, and how they ended.

use std::time::Duration;

use bollard::models::ExecConfig;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep, timeout_at};

use super::daemon::{CallError, Daemon};
use super::transport::raw;

/// The end of the output comes a moment before the exit code.
const CODE_TIMEOUT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);
/// Exit codes that the daemon gives to what could not be run.
const NOT_RUN: std::ops::RangeInclusive<i64> = 126..=128;
/// The head of a frame: which stream, three zeros, how many bytes.
const HEAD_BYTES: usize = 8;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
/// What is read at once.
const PIECE_BYTES: usize = 16 * 1024;

/// What is to be run.
pub(super) struct Exec<'a> {
    pub(super) container: &'a str,
    /// User and group, as numbers.
    pub(super) user: &'a str,
    /// Where it runs. One that its user may not enter would keep it from running.
    pub(super) directory: &'a str,
    pub(super) command: Vec<String>,
}

/// What one run may cost.
pub(super) struct Bounds {
    pub(super) time: Duration,
    /// A program that says more on standard output is not listened to any longer.
    pub(super) stdout: usize,
    /// More on standard error is dropped.
    pub(super) stderr: usize,
}

/// How a program ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) code: i64,
    pub(super) stdout: Vec<u8>,
    /// The beginning of it.
    pub(super) stderr: Vec<u8>,
}

impl Ended {
    /// True when the daemon may have given the code because there was no program.
    pub(super) fn may_not_have_run(&self) -> bool {
        NOT_RUN.contains(&self.code)
    }
}

/// Why there is no end to tell of.
#[derive(Debug)]
pub(super) enum ExecError {
    /// The program does not exist, or cannot run there.
    NotRun(CallError),
    /// Nothing runs: the daemon refused before it began.
    Refused(CallError),
    /// It may have run, may still run, and may have done what it was to do.
    Lost(CallError),
}

/// Runs a program and waits for its end. What runs is not ended when this is dropped:
/// the daemon knows no way to.
pub(super) async fn run(
    daemon: &Daemon,
    exec: Exec<'_>,
    bounds: Bounds,
) -> Result<Ended, ExecError> {
    let deadline = Instant::now() + bounds.time;
    let config = ExecConfig {
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(exec.command),
        user: Some(exec.user.to_owned()),
        working_dir: Some(exec.directory.to_owned()),
        ..ExecConfig::default()
    };
    let created = daemon
        .call(|client| client.create_exec(exec.container, config))
        .await
        .map_err(ExecError::Refused)?;
    let path = format!("/exec/{}/start", created.id);
    let body = json!({ "Detach": false, "Tty": false });
    let started = tokio::time::timeout(
        daemon.timeout(),
        raw::upgrade(daemon.endpoint(), &path, &body),
    );
    let mut stream = match started.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if is_not_run(&error) => return Err(ExecError::NotRun(error)),
        Ok(Err(error)) if error.is_answer() => return Err(ExecError::Refused(error)),
        Ok(Err(error)) => return Err(ExecError::Lost(error)),
        Err(_) => return Err(ExecError::Lost(CallError::Timeout)),
    };
    let mut ended = Ended::default();
    match timeout_at(deadline, listen(&mut stream, &bounds, &mut ended)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(ExecError::Lost(error)),
        Err(_) => return Err(ExecError::Lost(CallError::Timeout)),
    }
    ended.code = code(daemon, &created.id).await.map_err(ExecError::Lost)?;
    Ok(ended)
}

/// True when a daemon that looks before it answers found no program that it could run.
pub(super) fn is_not_run(error: &CallError) -> bool {
    matches!(error, CallError::Status(400 | 404 | 500, text) if {
        let text = text.to_lowercase();
        text.contains("exec") && (text.contains("no such file") || text.contains("not found")
            || text.contains("permission denied") || text.contains("format error"))
    })
}

/// The exit code of an exec whose output ended.
async fn code(daemon: &Daemon, exec: &str) -> Result<i64, CallError> {
    let deadline = Instant::now() + CODE_TIMEOUT;
    let mut pause = PAUSE;
    loop {
        let found = daemon.call(|client| client.inspect_exec(exec)).await?;
        if found.running == Some(false)
            && let Some(code) = found.exit_code
        {
            return Ok(code);
        }
        if Instant::now() > deadline {
            return Err(CallError::Timeout);
        }
        sleep(pause).await;
        pause = (pause * 2).min(CODE_TIMEOUT / 40);
    }
}

/// Reads frames until the stream ends.
async fn listen(
    stream: &mut (impl AsyncRead + Unpin),
    bounds: &Bounds,
    ended: &mut Ended,
) -> Result<(), CallError> {
    let broken = |error: std::io::Error| CallError::Broken(error.to_string());
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let mut head = [0; HEAD_BYTES];
        if stream.read(&mut head[..1]).await.map_err(broken)? == 0 {
            return Ok(());
        }
        stream.read_exact(&mut head[1..]).await.map_err(broken)?;
        let [kind, 0, 0, 0, length @ ..] = head else {
            return Err(CallError::Broken("output that makes no sense".to_owned()));
        };
        let mut left = u32::from_be_bytes(length) as usize;
        while left > 0 {
            let wanted = left.min(PIECE_BYTES);
            let read = stream.read(&mut piece[..wanted]).await.map_err(broken)?;
            if read == 0 {
                return Err(CallError::Broken("the output ended early".to_owned()));
            }
            left -= read;
            let said = &piece[..read];
            match kind {
                STDOUT if ended.stdout.len() + read > bounds.stdout => {
                    return Err(CallError::Broken("it says too much".to_owned()));
                }
                STDOUT => ended.stdout.extend_from_slice(said),
                STDERR => {
                    let room = bounds.stderr.saturating_sub(ended.stderr.len());
                    ended.stderr.extend_from_slice(&said[..read.min(room)]);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, said: &[u8]) -> Vec<u8> {
        let length = u32::try_from(said.len()).unwrap().to_be_bytes();
        [&[kind, 0, 0, 0][..], &length[..], said].concat()
    }

    async fn heard(mut bytes: &[u8]) -> Result<Ended, CallError> {
        let bounds = Bounds {
            time: Duration::from_secs(1),
            stdout: 10,
            stderr: 4,
        };
        let mut ended = Ended::default();
        listen(&mut bytes, &bounds, &mut ended).await?;
        Ok(ended)
    }

    #[tokio::test]
    async fn what_is_said_is_told_apart_and_bounded() {
        let bytes = [
            frame(1, b"one"),
            frame(2, b"error"),
            frame(1, b""),
            frame(1, b" two"),
        ];
        let ended = heard(&bytes.concat()).await.unwrap();
        assert_eq!(
            (&ended.stdout[..], &ended.stderr[..]),
            (&b"one two"[..], &b"erro"[..])
        );
        assert!(heard(&frame(1, &[b'x'; 11])).await.is_err());
        assert!(heard(&frame(2, &[b'x'; 100])).await.is_ok());
        for broken in [&frame(1, b"one")[..10], b"\x01", b"OCI runtime exec failed"] {
            assert!(heard(broken).await.is_err(), "{broken:?}");
        }
    }

    #[test]
    fn what_was_not_run_is_recognised() {
        let status = |code, text: &str| is_not_run(&CallError::Status(code, text.to_owned()));
        let failed = "OCI runtime exec failed: exec failed: ";
        assert!(status(
            400,
            &format!("{failed}\"/x\": stat /x: no such file or directory")
        ));
        assert!(status(500, &format!("{failed}exec /x: exec format error")));
        assert!(!status(409, "container is not running"));
        assert!(!status(404, "no such exec instance"));
    }

    proptest! {
        #[test]
        fn any_stream_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(heard(&bytes));
        }
    }
}
