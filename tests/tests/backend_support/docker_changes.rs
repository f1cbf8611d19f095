//! What the daemon tells by itself, also through connections that break.

use std::sync::Arc;
use std::time::Duration;

use bollard::query_parameters::{RemoveContainerOptionsBuilder, StartContainerOptions};
use futures_util::StreamExt;
use molecule_core::backend::{Change, DockerBackend, InstanceRef, WorkspaceBackend};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backend_support::docker::{DockerFixture, daemon_socket};
use crate::backend_support::fixture::{Fixture, spec};
use crate::daemon_proxy::{DaemonProxy, Mode};

/// How long to wait for what must be told.
const PATIENCE: Duration = Duration::from_secs(60);
/// For what a busy daemon may spoil.
const TRIES: usize = 5;

/// Reads the changes of a backend as fast as they come.
struct Listener {
    heard: UnboundedReceiver<Change>,
    reading: JoinHandle<()>,
}

impl Listener {
    fn of(backend: &Arc<dyn WorkspaceBackend>) -> Self {
        let mut changes = backend.changes().expect("a backend that tells");
        let (tell, heard) = unbounded_channel();
        let reading = tokio::spawn(async move {
            while let Some(change) = changes.next().await {
                let _ = tell.send(change);
            }
        });
        Self { heard, reading }
    }

    /// Waits until this is told; returns what was told before.
    async fn wait_for(&mut self, wanted: &Change) -> Vec<Change> {
        let mut before = Vec::new();
        loop {
            let heard = tokio::time::timeout(PATIENCE, self.heard.recv()).await;
            let Ok(Some(change)) = heard else {
                panic!("never told {wanted:?}, but {before:?}");
            };
            if change == *wanted {
                return before;
            }
            before.push(change);
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

async fn start(backend: &Arc<dyn WorkspaceBackend>) -> Uuid {
    let spec = spec();
    let started = backend.start(&spec, &CancellationToken::new()).await;
    started.expect("a start");
    spec.workspace_id
}

/// A backend of the fixture's instance behind a proxy of its own.
fn behind(fixture: &DockerFixture) -> (DaemonProxy, Arc<dyn WorkspaceBackend>) {
    let proxy = DaemonProxy::start(&daemon_socket());
    let backend = fixture.backend_with(&fixture.instance, |config| {
        config.host = Some(proxy.address());
        config.timeout_secs = 2;
    });
    (proxy, backend)
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_and_starts_are_told_of_our_workspaces_only() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    // Given two servers on one daemon, one of which listens
    let (backend, stranger) = (fixture.backend(), fixture.stranger());
    let mut listener = Listener::of(&backend);
    let theirs = start(&stranger).await;
    let ours = start(&backend).await;
    let mut heard = listener.wait_for(&Change::Started(ours)).await;

    // When containers of both are killed, started and removed by hand
    for id in [theirs, ours] {
        let name = format!("ws-{id}");
        fixture.kill_compute(id).await;
        let again = fixture
            .docker
            .start_container(&name, None::<StartContainerOptions>);
        again.await.expect("a start by hand");
    }
    heard.extend(listener.wait_for(&Change::Ended(ours)).await);
    heard.extend(listener.wait_for(&Change::Started(ours)).await);
    for id in [theirs, ours] {
        let name = format!("ws-{id}");
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        let removed = fixture.docker.remove_container(&name, Some(options));
        removed.await.expect("a removal by hand");
    }
    heard.extend(listener.wait_for(&Change::Ended(ours)).await);

    // Then nothing is told of theirs
    let is_other =
        |change: &Change| matches!(change, Change::Ended(id) | Change::Started(id) if *id != ours);
    assert!(!heard.iter().any(is_other), "{heard:?}, not {ours} only");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_a_connection_is_made_anew() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    // Given a listener that heard something
    let (proxy, backend) = behind(&fixture);
    let mut listener = Listener::of(&backend);
    let id = start(&backend).await;
    listener.wait_for(&Change::Started(id)).await;

    // When the connection ends, and so does the container while there is none
    proxy.break_calls("/events", Mode::Status(503));
    proxy.cut();
    fixture.kill_compute(id).await;
    proxy.mend();

    // Then its end is told all the same, and afterwards everything is as before
    listener.wait_for(&Change::Ended(id)).await;
    let next = start(&backend).await;
    listener.wait_for(&Change::Started(next)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_that_is_mended_at_once_costs_no_look_at_everything() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let (proxy, backend) = behind(&fixture);
    let mut heard = Vec::new();
    // A daemon remembers a few hundred events; one that other tests keep busy forgets
    // ours, and then a look is right.
    for _ in 0..TRIES {
        heard = cut_and_mended(&proxy, &backend).await;
        if !heard.contains(&Change::Missed) {
            return;
        }
    }
    panic!("each time something was missed: {heard:?}");
}

/// What is told while the connection is cut twice.
async fn cut_and_mended(proxy: &DaemonProxy, backend: &Arc<dyn WorkspaceBackend>) -> Vec<Change> {
    let mut listener = Listener::of(backend);
    let mut heard = Vec::new();
    for _ in 0..2 {
        let id = start(backend).await;
        heard.extend(listener.wait_for(&Change::Started(id)).await);
        let connections = proxy.calls("GET", "/events");
        proxy.cut();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while proxy.calls("GET", "/events") == connections {
            assert!(tokio::time::Instant::now() < deadline, "never reconnected");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let last = start(backend).await;
    heard.extend(listener.wait_for(&Change::Started(last)).await);
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_listen_is_told_to_look() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    for mode in [
        Mode::Status(403),
        Mode::Status(500),
        Mode::Hang,
        Mode::CutAfter(0),
        Mode::CutAfter(40),
    ] {
        // Given a daemon whose events cannot be had
        let (proxy, backend) = behind(&fixture);
        proxy.break_calls("/events", mode);
        let mut listener = Listener::of(&backend);
        listener.wait_for(&Change::Missed).await;

        // When they can
        proxy.mend();

        // Then they come
        let id = start(&backend).await;
        listener.wait_for(&Change::Started(id)).await;
        let stopped = backend.stop(&InstanceRef::of(id)).await;
        stopped.expect("a stop");
        listener.wait_for(&Change::Ended(id)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_daemon_tells_all_the_same() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let (proxy, backend) = behind(&fixture);
    proxy.break_calls("/events", Mode::Slow(Duration::from_millis(20)));
    let mut listener = Listener::of(&backend);
    let id = start(&backend).await;
    listener.wait_for(&Change::Started(id)).await;
    fixture.kill_compute(id).await;
    listener.wait_for(&Change::Ended(id)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_end_with_the_backend_whatever_the_daemon_does() {
    // Given listeners on daemons that work, hang, and are not there
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let (hanging, stuck) = behind(&fixture);
    hanging.break_all(Mode::Hang);
    let nowhere = fixture.backend_with(&fixture.instance, |config| {
        config.host = Some("unix:///nonexistent/docker.sock".to_owned());
    });
    for backend in [fixture.restarted(), stuck, nowhere] {
        let listener = Listener::of(&backend);
        tokio::time::sleep(Duration::from_millis(50)).await;

        // When the backend is shut down, then they are done
        backend.shutdown().await;
        let mut listener = listener;
        let ended = tokio::time::timeout(PATIENCE, &mut listener.reading).await;
        ended.expect("an end").expect("a clean end");
    }
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_no_reason_to_hurry() {
    // Given a listener without a daemon
    let config = molecule_core::config::backend::DockerConfig {
        host: Some("unix:///nonexistent/docker.sock".to_owned()),
        ..Default::default()
    };
    let backend = DockerBackend::connect(config, "test".to_owned()).expect("a backend");
    let backend: Arc<dyn WorkspaceBackend> = Arc::new(backend);
    let mut listener = Listener::of(&backend);
    listener.wait_for(&Change::Missed).await;

    // Then it is not told again and again
    let more = tokio::time::timeout(Duration::from_secs(3), listener.heard.recv()).await;
    assert!(more.is_err(), "{more:?}");
}
