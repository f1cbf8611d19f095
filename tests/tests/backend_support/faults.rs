//! Every call of a start goes wrong in every way, one at a time, and nothing may
//! be left of the start.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use hyper::Method;
use molecule_core::backend::{BackendError, InstanceRef, Liveness, StartSpec};
use tokio_util::sync::CancellationToken;

use crate::backend_support::docker::{DockerFixture, daemon_socket};
use crate::backend_support::fixture::{Fixture, assert_free_of_secrets, liveness, spec};
use crate::backend_support::proxy::{Fault, Proxy, Rule};

/// One call of a start: method, path, and which of those that match.
type Step = (Method, &'static str, usize);

/// The calls of a first start on a daemon without our network.
const USUAL: &[Step] = &[
    (Method::GET, "/version", 0),
    (Method::GET, "/networks", 0),
    (Method::POST, "/networks/create", 0),
    (Method::GET, "/networks", 1),
    (Method::GET, "/images/*/json", 0),
    (Method::GET, "/volumes/ws-*-configs", 0),
    (Method::GET, "/volumes/ws-*-configs", 1),
    (Method::POST, "/volumes/create", 0),
    (Method::POST, "/volumes/create", 1),
    (Method::GET, "/containers/ws-*/json", 0),
    (Method::GET, "/containers/ws-*/json", 2),
    (Method::GET, "/info", 0),
    (Method::POST, "/containers/create", 0),
    (Method::PUT, "/containers/*/archive", 0),
    (Method::POST, "/containers/*/start", 0),
    (Method::GET, "/containers/*/json", 3),
];

/// What the lowest tier does in addition.
const SEALED: &[Step] = &[
    (Method::POST, "/containers/create", 0),
    (Method::PUT, "/containers/*/archive", 0),
    (Method::DELETE, "/containers/", 0),
    (Method::POST, "/containers/create", 1),
    (Method::PUT, "/containers/*/archive", 1),
];

/// The calls that make something.
const MAKING: &[Step] = &[
    (Method::POST, "/volumes/create", 0),
    (Method::POST, "/volumes/create", 1),
    (Method::POST, "/containers/create", 0),
];

/// Starts that run at the same time.
const SIDE_BY_SIDE: usize = 4;

#[derive(Clone, Copy, PartialEq)]
enum Then {
    Wait,
    Cancel,
}

/// Starts `spec` with one fault and says how it ended.
async fn start_with(
    fixture: &DockerFixture,
    spec: &StartSpec,
    timeout_secs: u64,
    (method, path, nth): &Step,
    fault: Fault,
    then: Then,
) -> BackendError {
    let what = format!("{method} {path} #{nth} {fault:?}");
    let proxy = Proxy::start(&daemon_socket());
    // A daemon has room for a few dozen networks: one of its own only for those calls
    // that are about it.
    let mut network = fixture.config.network.clone();
    if path.starts_with("/networks") {
        network = format!("{network}-{}", spec.workspace_id.simple());
    }
    let backend = fixture.backend_with(&fixture.instance, |config| {
        config.host = Some(proxy.address());
        config.network.clone_from(&network);
        config.timeout_secs = timeout_secs;
    });
    let rule = Rule::once(method.clone(), path, *nth, fault);
    let reached = rule.reached();
    proxy.add(rule);

    let cancel = CancellationToken::new();
    let mut start = std::pin::pin!(backend.start(spec, &cancel));
    let early = tokio::select! {
        biased;
        () = reached.notified() => None,
        ended = &mut start => {
            // Both may have come at once.
            let called = reached.notified().now_or_never().is_some();
            assert!(called, "{what}: the start never made this call: {ended:?}");
            Some(ended)
        }
    };
    if then == Then::Cancel {
        cancel.cancel();
    }
    let ended = match early {
        Some(ended) => ended,
        None => start.await,
    };
    let Err(error) = ended else {
        panic!("{what}: the start succeeded")
    };
    if network != fixture.config.network {
        fixture.remove_network(&network).await;
    }
    let left = fixture.objects(Some(spec.workspace_id)).await;
    assert!(left.is_empty(), "{what}: {left:?} left after {error:?}");
    error
}

async fn fail_each(tier: u8, timeout_secs: u64, steps: &[Step], fault: Fault, then: Then) {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    fixture.make_network().await;
    futures_util::stream::iter(steps)
        .for_each_concurrent(SIDE_BY_SIDE, |step| {
            let fixture = &fixture;
            async move {
                let spec = StartSpec { tier, ..spec() };
                let error = start_with(fixture, &spec, timeout_secs, step, fault, then).await;
                if then == Then::Cancel {
                    assert!(
                        matches!(error, BackendError::Cancelled),
                        "{step:?}: {error:?}"
                    );
                }
                assert!(error.to_string().len() < 1000, "{step:?}: an endless error");
                assert_free_of_secrets(error);
            }
        })
        .await;
    assert_eq!(fixture.leftovers().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_at_any_step_leaves_nothing_and_its_echo_tells_no_secret() {
    fail_each(2, 30, USUAL, Fault::Echo, Then::Wait).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_at_any_step_of_a_sealed_start_leaves_nothing() {
    fail_each(1, 30, SEALED, Fault::Echo, Then::Wait).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_before_any_step_leaves_nothing() {
    fail_each(2, 30, USUAL, Fault::Cut, Then::Wait).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_after_any_step_leaves_nothing() {
    fail_each(2, 30, USUAL, Fault::CutAfter, Then::Wait).await;
    fail_each(1, 30, SEALED, Fault::CutAfter, Then::Wait).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_hangs_at_any_step_leaves_nothing() {
    fail_each(2, 3, USUAL, Fault::Hang, Then::Wait).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_while_any_step_hangs_leaves_nothing() {
    fail_each(2, 30, USUAL, Fault::Hang, Then::Cancel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_while_any_step_is_being_done_leaves_nothing() {
    let soon = Fault::Late(Duration::from_millis(300));
    fail_each(2, 30, USUAL, soon, Then::Cancel).await;
    fail_each(1, 30, SEALED, soon, Then::Cancel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_slow_daemon_makes_after_we_gave_up_is_taken_back() {
    fail_each(
        2,
        2,
        MAKING,
        Fault::Late(Duration::from_millis(3300)),
        Then::Wait,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_make_no_sense_fail_the_start() {
    // An upload is answered by its status alone
    let telling: Vec<Step> = USUAL
        .iter()
        .filter(|(method, ..)| method != Method::PUT)
        .cloned()
        .collect();
    fail_each(2, 30, &telling, Fault::Garbage, Then::Wait).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_container_that_cannot_be_removed_stays_as_it_is() {
    // Given a running workspace and a daemon that refuses to remove it
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let (backend, spec) = (fixture.backend(), spec());
    let instance = backend
        .start(&spec, &CancellationToken::new())
        .await
        .expect("a start");
    fixture
        .proxy
        .add(Rule::always(Method::DELETE, "/containers/", Fault::Echo));

    // Then neither a new start nor a stop pretends to have succeeded
    let error = backend
        .start(&spec, &CancellationToken::new())
        .await
        .expect_err("no start");
    assert!(error.is_transient(), "{error:?}");
    backend
        .stop(&InstanceRef::of(spec.workspace_id))
        .await
        .expect_err("no stop");

    // And everything is still there
    fixture.proxy.clear();
    let found = liveness(&backend, spec.workspace_id).await;
    assert!(matches!(found, Liveness::Running), "{found:?}");
    assert_eq!(
        fixture.inspect(&instance.instance_id).await.id,
        Some(instance.instance_id)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_senseless_answer_makes_a_running_workspace_look_dead() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let spec = spec();
    let backend = fixture.backend_with(&fixture.instance, |config| config.timeout_secs = 5);
    backend
        .start(&spec, &CancellationToken::new())
        .await
        .expect("a start");

    for fault in [
        Fault::Echo,
        Fault::Garbage,
        Fault::Page,
        Fault::Endless,
        Fault::Cut,
        Fault::Hang,
    ] {
        fixture
            .proxy
            .add(Rule::always(Method::GET, "/containers/*/json", fault));
        let found = liveness(&backend, spec.workspace_id).await;
        assert!(
            matches!(found, Liveness::Unknown(_)),
            "{fault:?}: {found:?}"
        );
        let stopped = backend.stop(&InstanceRef::of(spec.workspace_id)).await;
        assert!(stopped.is_err(), "{fault:?}: {stopped:?}");
        fixture.proxy.clear();
    }
    for fault in [
        Fault::Echo,
        Fault::Garbage,
        Fault::Page,
        Fault::Endless,
        Fault::Cut,
    ] {
        for path in ["/containers/json", "/volumes"] {
            fixture.proxy.add(Rule::always(Method::GET, path, fault));
            let listed = backend.list_managed().await;
            assert!(listed.is_err(), "{path} {fault:?}: {listed:?}");
            fixture.proxy.clear();
        }
    }
    let found = liveness(&backend, spec.workspace_id).await;
    assert!(matches!(found, Liveness::Running), "{found:?}");
}
