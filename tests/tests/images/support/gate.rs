//! A slow way to a registry: pulls through it can be watched and interrupted.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::registry::Registry;
use super::until;

/// How often a connection may send its share.
const BEAT: Duration = Duration::from_millis(20);

struct State {
    registry: String,
    /// Bytes per beat and connection from the registry.
    share: AtomicUsize,
    passed: AtomicUsize,
    open: AtomicUsize,
}

/// Listens on a port of its own. Ends when dropped; what the daemon pulled through it
/// is removed with the registry.
pub(crate) struct Gate {
    port: u16,
    state: Arc<State>,
    _serving: JoinSet<()>,
}

impl Gate {
    /// One that lets so many bytes per second of every connection through.
    pub(crate) async fn before(registry: &Registry, bytes_per_sec: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State {
            registry: registry.host(),
            share: AtomicUsize::new(bytes_per_sec / 50),
            passed: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
        });
        registry.also_forget(format!("127.0.0.1:{port}"));
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::clone(&state)));
        Self {
            port,
            state,
            _serving: serving,
        }
    }

    /// How the daemon asks for an image through the gate.
    pub(crate) fn reference(&self, repository: &str, tag: &str) -> String {
        format!("{}/{repository}:{tag}", self.host())
    }

    /// No limit from now on.
    pub(crate) fn open_wide(&self) {
        self.state.share.store(1024 * 1024, Ordering::Relaxed);
    }

    /// Waits until so many bytes came through.
    pub(crate) async fn passed(&self, bytes: usize) {
        until("bytes pass the gate", async || {
            self.state.passed.load(Ordering::Relaxed) >= bytes
        })
        .await;
    }

    /// Waits until nobody is connected.
    pub(crate) async fn is_left(&self) {
        until("the gate is left", async || {
            self.state.open.load(Ordering::Relaxed) == 0
        })
        .await;
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            state.open.fetch_add(1, Ordering::Relaxed);
            let _ = connect(client, &state).await;
            state.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn connect(client: TcpStream, state: &State) -> io::Result<()> {
    let registry = TcpStream::connect(&state.registry).await?;
    let (from_client, to_client) = client.into_split();
    let (from_registry, to_registry) = registry.into_split();
    // One side that is done is the end of both.
    tokio::select! {
        done = copy(from_client, to_registry, |_| Duration::ZERO, || 16 * 1024) => done,
        done = copy(
            from_registry,
            to_client,
            |bytes| {
                state.passed.fetch_add(bytes, Ordering::Relaxed);
                BEAT
            },
            || state.share.load(Ordering::Relaxed),
        ) => done,
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    passed: impl Fn(usize) -> Duration,
    share: impl Fn() -> usize,
) -> io::Result<()> {
    loop {
        let mut part = vec![0; share().max(1)];
        let bytes = from.read(&mut part).await?;
        if bytes == 0 {
            return Ok(());
        }
        to.write_all(&part[..bytes]).await?;
        tokio::time::sleep(passed(bytes)).await;
    }
}
