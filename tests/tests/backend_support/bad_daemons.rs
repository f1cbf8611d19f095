//! What answers at the daemon's address is no daemon, or a sick one. No Docker
//! is needed here.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use molecule_core::backend::{DockerBackend, InstanceRef, Liveness, WorkspaceBackend};
use molecule_core::config::backend::DockerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backend_support::fixture::{assert_free_of_secrets, spec};

/// What a thing at the daemon's address does with a connection.
#[derive(Debug, Clone, Copy)]
enum Behaviour {
    Hangs,
    Closes,
    Says(&'static str),
    /// The text, then spaces without end.
    SaysForever(&'static str),
    /// The text, then a space now and then.
    Drips(&'static str),
}

const OK_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n";

async fn behave(mut stream: UnixStream, behaviour: Behaviour) -> std::io::Result<()> {
    if let Behaviour::Hangs = behaviour {
        return std::future::pending().await;
    }
    let mut request = [0; 4096];
    let _ = stream.read(&mut request).await?;
    match behaviour {
        Behaviour::Hangs | Behaviour::Closes => Ok(()),
        Behaviour::Says(text) => stream.write_all(text.as_bytes()).await,
        Behaviour::SaysForever(text) => {
            stream.write_all(text.as_bytes()).await?;
            loop {
                stream.write_all(&[b' '; 65536]).await?;
            }
        }
        Behaviour::Drips(text) => {
            stream.write_all(text.as_bytes()).await?;
            loop {
                stream.write_all(b" ").await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn serve(listener: UnixListener, behaviour: Behaviour) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(behave(stream, behaviour));
    }
}

fn backend(socket: &Path) -> Arc<dyn WorkspaceBackend> {
    let config = DockerConfig {
        host: Some(format!("unix://{}", socket.display())),
        timeout_secs: 1,
        ..DockerConfig::default()
    };
    Arc::new(DockerBackend::connect(config, "test".to_owned()).expect("a backend"))
}

/// Nothing is known, nothing succeeds, and nothing takes long.
async fn assert_useless(what: &str, backend: &Arc<dyn WorkspaceBackend>) {
    let began = Instant::now();
    let unknown = InstanceRef::of(Uuid::new_v4());
    match backend.liveness(&unknown).await {
        Liveness::Unknown(error) => {
            assert!(error.to_string().len() < 1000, "{what}: an endless error");
            assert!(
                error.is_transient() || what.contains("404"),
                "{what}: {error:?}"
            );
        }
        other => panic!("{what}: {other:?}"),
    }
    let spec = spec();
    for result in [
        backend.check().await.map(drop),
        backend.list_managed().await.map(drop),
        backend.stop(&unknown).await,
        backend.url(&unknown).await.map(drop),
        backend.remove_storage(unknown.workspace_id).await,
        backend
            .start(&spec, &CancellationToken::new())
            .await
            .map(drop),
    ] {
        assert_free_of_secrets(result.expect_err(what));
    }
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{what}: {:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_learned_from_a_socket_without_daemon() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_useless("no socket", &backend(&folder.path().join("none.sock"))).await;

    let closed = folder.path().join("closed.sock");
    drop(UnixListener::bind(&closed).expect("a socket"));
    assert_useless("a socket nobody listens on", &backend(&closed)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_learned_from_something_that_is_no_daemon() {
    let folder = tempfile::tempdir().expect("a folder");
    let cases = [
        ("hangs", Behaviour::Hangs),
        ("closes", Behaviour::Closes),
        ("no http", Behaviour::Says("hello\n")),
        (
            "500",
            Behaviour::Says("HTTP/1.1 500 Oops\r\ncontent-length: 2\r\n\r\n{}"),
        ),
        (
            "404",
            Behaviour::Says("HTTP/1.1 404 None\r\ncontent-length: 4\r\n\r\nnone"),
        ),
        (
            "garbage",
            Behaviour::Says("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n<html"),
        ),
        (
            "wrong json",
            Behaviour::Says("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]"),
        ),
        (
            "half an answer",
            Behaviour::Says("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"),
        ),
        ("an endless body", Behaviour::SaysForever(OK_HEAD)),
        (
            "an endless head",
            Behaviour::SaysForever("HTTP/1.1 200 OK\r\nx: "),
        ),
        ("a body in drops", Behaviour::Drips(OK_HEAD)),
        (
            "an endless refusal",
            Behaviour::SaysForever("HTTP/1.1 500 Oops\r\n\r\n"),
        ),
    ];
    for (at, (what, behaviour)) in cases.into_iter().enumerate() {
        let socket = folder.path().join(format!("{at}.sock"));
        let listener = UnixListener::bind(&socket).expect("a socket");
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, behaviour));
        assert_useless(what, &backend(&socket)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_start_does_not_wait_for_a_daemon_that_hangs() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("hangs.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let mut serving = JoinSet::new();
    serving.spawn(serve(listener, Behaviour::Hangs));
    let config = DockerConfig {
        host: Some(format!("unix://{}", socket.display())),
        timeout_secs: 600,
        ..DockerConfig::default()
    };
    let backend = DockerBackend::connect(config, "test".to_owned()).expect("a backend");

    let (cancel, spec) = (CancellationToken::new(), spec());
    let soon = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        cancel.cancel();
    };
    let began = Instant::now();
    let (started, ()) = tokio::join!(backend.start(&spec, &cancel), soon);
    assert!(started.is_err());
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}
