//! Stands in front of the socket of a Docker daemon, counts the calls, and breaks
//! them as it is told: with a refusal, by silence, in the middle of an answer, or by
//! being slow. It works on bytes: what passes, passes as it is.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

/// Longest head of a request.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The daemon gets it and its answer comes back.
    Pass,
    /// It is refused with this status; the daemon never hears of it.
    Status(u16),
    /// Nothing happens, ever.
    Hang,
    /// The daemon does it; of the answer so many bytes come back.
    CutAfter(usize),
    /// The daemon does it; the answer comes in small pieces, so far apart.
    Slow(Duration),
}

/// One call: method and path, without the query.
type Call = (String, String);

#[derive(Default)]
struct State {
    daemon: PathBuf,
    /// The first one whose part the path contains counts.
    rules: Mutex<Vec<(&'static str, Mode)>>,
    calls: Mutex<Vec<Call>>,
    connections: Mutex<JoinSet<()>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running proxy. Ends when dropped.
pub(crate) struct DaemonProxy {
    state: Arc<State>,
    socket: PathBuf,
    accepting: JoinHandle<()>,
    _folder: TempDir,
}

impl DaemonProxy {
    pub(crate) fn start(daemon: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the socket");
        let socket = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let state = Arc::new(State {
            daemon: daemon.to_owned(),
            ..State::default()
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self {
            state,
            socket,
            accepting,
            _folder: folder,
        }
    }

    /// As a backend is configured with it.
    pub(crate) fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Every call from now on.
    pub(crate) fn break_all(&self, mode: Mode) {
        self.break_calls("", mode);
    }

    /// Every call from now on whose path contains this.
    pub(crate) fn break_calls(&self, part: &'static str, mode: Mode) {
        locked(&self.state.rules).insert(0, (part, mode));
    }

    /// Lets everything pass again, and ends what hangs.
    pub(crate) fn mend(&self) {
        locked(&self.state.rules).clear();
        self.cut();
    }

    /// Ends every connection, also those over which events come.
    pub(crate) fn cut(&self) {
        locked(&self.state.connections).abort_all();
    }

    /// How many calls of this method had this end of their path.
    pub(crate) fn calls(&self, method: &str, end: &str) -> usize {
        let calls = locked(&self.state.calls);
        let wanted = |(made, path): &&Call| made == method && path.ends_with(end);
        calls.iter().filter(wanted).count()
    }
}

impl Drop for DaemonProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: UnixListener, state: Arc<State>) {
    while let Ok((client, _)) = listener.accept().await {
        let serving = Arc::clone(&state);
        let mut connections = locked(&state.connections);
        connections.spawn(async move {
            // Whoever leaves in the middle ends it for both.
            let _ = serve(client, &serving).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(mut client: UnixStream, state: &State) -> std::io::Result<()> {
    let head = read_head(&mut client).await?;
    let line = String::from_utf8_lossy(&head);
    let mut words = line.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let mode = locked(&state.rules)
        .iter()
        .find(|(part, _)| path.contains(part))
        .map_or(Mode::Pass, |(_, mode)| *mode);
    locked(&state.calls).push((method, path));
    match mode {
        Mode::Hang => std::future::pending().await,
        Mode::Status(status) => refuse(client, status).await,
        Mode::Pass => {
            let mut daemon = UnixStream::connect(&state.daemon).await?;
            daemon.write_all(&head).await?;
            copy_bidirectional(&mut client, &mut daemon).await?;
            Ok(())
        }
        Mode::CutAfter(_) | Mode::Slow(_) => {
            let mut daemon = UnixStream::connect(&state.daemon).await?;
            daemon.write_all(&head).await?;
            let (mut from_client, to_client) = client.split();
            let (from_daemon, mut to_daemon) = daemon.split();
            tokio::select! {
                answered = answer(from_daemon, to_client, mode) => answered,
                // The rest of the request; its end is not the end of the answer.
                failed = async { copy(&mut from_client, &mut to_daemon).await?; std::future::pending().await } => failed,
            }
        }
    }
}

async fn read_head(client: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if client.read_buf(&mut head).await? == 0 || head.len() > MAX_HEAD_BYTES {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
    }
    Ok(head)
}

async fn refuse(mut client: UnixStream, status: u16) -> std::io::Result<()> {
    let body = r#"{"message":"the daemon is in trouble"}"#;
    let answer = format!(
        "HTTP/1.1 {status} Trouble\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await?;
    // Who is still sending must be able to end, or it never reads the answer.
    copy(&mut client, &mut tokio::io::sink()).await?;
    Ok(())
}

async fn answer(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mode: Mode,
) -> std::io::Result<()> {
    let (mut left, pause) = match mode {
        Mode::CutAfter(bytes) => (bytes, None),
        Mode::Slow(pause) => (usize::MAX, Some(pause)),
        _ => (usize::MAX, None),
    };
    let mut piece = [0; 256];
    while left > 0 {
        let most = left.min(piece.len());
        let read = from.read(&mut piece[..most]).await?;
        if read == 0 {
            break;
        }
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        to.write_all(&piece[..read]).await?;
        left -= read;
    }
    Ok(())
}
