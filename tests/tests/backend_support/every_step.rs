//! A start is cancelled at every single call it makes, whatever those are, and leaves
//! nothing that was not there before.

use std::time::Duration;

use molecule_core::backend::{BackendError, Instance, InstanceRef, StartSpec};
use tokio_util::sync::CancellationToken;

use crate::backend_support::agent;
use crate::backend_support::docker::{DockerFixture, daemon_socket};
use crate::backend_support::fixture::{Fixture, file, spec};
use crate::backend_support::proxy::{Fault, Proxy, Rule};

/// More calls than any start makes.
const MANY: usize = 60;

/// How a start that was cancelled at a call ended.
enum Ended {
    Cancelled,
    /// It was too late to cancel.
    Started(Instance),
    /// There is no such call.
    NoSuchCall(Instance),
}

fn never() -> CancellationToken {
    CancellationToken::new()
}

/// The runtime `claude-code` has an image here too.
fn with_sessions(spec: StartSpec) -> StartSpec {
    StartSpec {
        runtime: "claude-code".to_owned(),
        ..spec
    }
}

/// Starts `spec` and cancels it when its `nth` call is made, which goes on as `fault`
/// says.
async fn cancelled_at(
    fixture: &DockerFixture,
    spec: &StartSpec,
    nth: usize,
    fault: Fault,
) -> Ended {
    let proxy = Proxy::start(&daemon_socket());
    let backend = fixture.backend_with(&fixture.instance, |config| {
        config.host = Some(proxy.address());
        config
            .images
            .insert("claude-code".to_owned(), fixture.image());
    });
    let rule = Rule::nth(nth, fault);
    let reached = rule.reached();
    proxy.add(rule);
    let cancel = never();
    let mut start = std::pin::pin!(backend.start(spec, &cancel));
    let ended = tokio::select! {
        biased;
        () = reached.notified() => None,
        ended = &mut start => Some(ended),
    };
    match ended {
        Some(started) => Ended::NoSuchCall(started.expect("a start")),
        None => {
            cancel.cancel();
            match start.await {
                Err(BackendError::Cancelled) => Ended::Cancelled,
                Ok(instance) => Ended::Started(instance),
                Err(error) => panic!("call {nth}: {error:?}"),
            }
        }
    }
}

async fn a_first_start_leaves_nothing(make: impl Fn() -> StartSpec, at_least: usize, fault: Fault) {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    for nth in 0..MANY {
        let spec = make();
        let ended = cancelled_at(&fixture, &spec, nth, fault).await;
        if let Ended::Started(_) | Ended::NoSuchCall(_) = ended {
            let backend = fixture.backend();
            backend
                .stop(&InstanceRef::of(spec.workspace_id))
                .await
                .expect("a stop");
            backend
                .remove_storage(spec.workspace_id)
                .await
                .expect("a removal");
        }
        let left = fixture.objects(Some(spec.workspace_id)).await;
        assert!(left.is_empty(), "call {nth}: {left:?}");
        if let Ended::NoSuchCall(_) = ended {
            assert!(nth >= at_least, "only {nth} calls");
            assert_eq!(fixture.leftovers().await, [""; 0]);
            return;
        }
    }
    panic!("a start without end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_cancelled_at_any_call_leaves_nothing() {
    a_first_start_leaves_nothing(spec, 14, Fault::Late(Duration::ZERO)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_cancelled_while_any_call_is_slow_leaves_nothing() {
    let slow = Fault::Late(Duration::from_millis(150));
    a_first_start_leaves_nothing(spec, 14, slow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_first_start_cancelled_at_any_call_leaves_nothing() {
    let sealed = || StartSpec { tier: 1, ..spec() };
    a_first_start_leaves_nothing(sealed, 16, Fault::Late(Duration::from_millis(20))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_with_sessions_cancelled_at_any_call_leaves_nothing() {
    let make = || StartSpec {
        reset_session: true,
        ..with_sessions(spec())
    };
    a_first_start_leaves_nothing(make, 16, Fault::Late(Duration::from_millis(20))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_cancelled_at_any_call_keeps_the_storage_and_makes_nothing_else() {
    // Given a workspace that ran and has something to lose
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let backend = fixture.backend_with(&fixture.instance, |config| {
        config
            .images
            .insert("claude-code".to_owned(), fixture.image());
    });
    let mut first = with_sessions(spec());
    first.files.push(file("memory.txt", "remember me", 0o644));
    let again = StartSpec {
        files: vec![file(".auth_token", "another-token", 0o600)],
        ..first.clone()
    };
    let id = first.workspace_id;
    let mut old = backend.start(&first, &never()).await.expect("a start");
    let volumes = ["configs", "workspace", "claude-sessions"].map(|kind| format!("ws-{id}-{kind}"));

    for nth in 0..MANY {
        // When it is started again and cancelled
        let fault = Fault::Late(Duration::from_millis(20));
        let ended = cancelled_at(&fixture, &again, nth, fault).await;

        // Then its storage is there, and of containers only the old one, if any
        for volume in &volumes {
            assert!(fixture.has_volume(volume).await, "call {nth}: {volume}");
        }
        let left = fixture.objects(Some(id)).await;
        let containers = left.len() - volumes.len();
        match ended {
            Ended::Cancelled if containers == 0 => {
                old = backend.start(&again, &never()).await.expect("a start");
            }
            Ended::Cancelled => {
                let found = fixture.inspect(&format!("ws-{id}")).await;
                assert_eq!(found.id, Some(old.instance_id.clone()), "call {nth}");
                assert_eq!(containers, 1, "call {nth}: {left:?}");
            }
            Ended::Started(instance) => old = instance,
            Ended::NoSuchCall(instance) => {
                assert!(nth >= 12, "only {nth} calls");
                agent::wait_until_ready(&instance.url).await;
                let memory = agent::get(&instance.url, "configs/memory.txt").await;
                assert_eq!(memory.as_deref(), Some("remember me"));
                return;
            }
        }
    }
    panic!("a start without end");
}
