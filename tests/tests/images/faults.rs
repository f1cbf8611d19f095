//! Pulls that are interrupted, and daemons that misreport.

use std::time::Duration;

use hyper::Method;
use molecule_core::backend::{BackendError, InstanceRef, Liveness, StartSpec};

use crate::backend_support::agent::wait_until_ready;
use crate::backend_support::fixture::{Fixture, liveness, spec};
use crate::backend_support::proxy::{Fault, Rule};
use crate::support::gate::Gate;
use crate::world::{World, digest, never, obtain};

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_dies_during_a_pull_leaves_nothing_and_can_be_tried_again() {
    let Some(mut world) = World::new().await else {
        return;
    };
    let pushed = world
        .registry
        .push_large("agent", "1", "one", 2_000_000)
        .await;
    let gate = Gate::before(&world.registry, 200_000).await;
    let backend = world.backend_with(&gate.reference("agent", "1"), |config| {
        config.pull_timeout_secs = 6;
    });
    let (spec, cancel) = (spec(), never());
    let start = backend.start(&spec, &cancel);
    let registry = &mut world.registry;
    let dies = async {
        gate.passed(100_000).await;
        registry.stop();
    };
    let (started, ()) = tokio::join!(start, dies);
    let error = started.expect_err("half an image");
    assert!(
        error.to_string().contains("not found after pull attempt"),
        "{error}"
    );
    assert_eq!(world.fixture.leftovers().await, [""; 0]);

    world.registry.start_again().await;
    gate.open_wide();
    let instance = backend.start(&spec, &never()).await.expect("a start");
    assert_eq!(instance.image_digest, digest(&pushed));
    wait_until_ready(&instance.url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_pull_ends_and_leaves_the_old_container_running() {
    let Some(world) = World::new().await else {
        return;
    };
    world.registry.push("agent", "1", "one").await;
    world
        .registry
        .push_large("agent", "2", "two", 2_000_000)
        .await;
    let spec = spec();
    let before = world.backend(&world.registry.reference("agent", "1"));
    let old = before.start(&spec, &never()).await.expect("a start");

    // Given a restart whose image takes its time, and another one that waits for it
    let gate = Gate::before(&world.registry, 100_000).await;
    let after = world.backend(&gate.reference("agent", "2"));
    let (cancel, patient) = (never(), never());
    let other = StartSpec {
        workspace_id: uuid::Uuid::new_v4(),
        ..spec.clone()
    };
    let mut waits = std::pin::pin!(after.start(&other, &patient));
    {
        let mut restart = std::pin::pin!(after.start(&spec, &cancel));
        tokio::select! {
            ended = &mut restart => panic!("{ended:?}"),
            ended = &mut waits => panic!("{ended:?}"),
            () = gate.passed(50_000) => {}
        }
        // When the restart is cancelled
        cancel.cancel();
        let error = restart.await.expect_err("a cancelled start");
        assert!(matches!(error, BackendError::Cancelled), "{error:?}");
    }

    // Then the old container runs, and the pull of the other one goes on
    let found = liveness(&after, spec.workspace_id).await;
    assert!(matches!(found, Liveness::Running), "{found:?}");
    wait_until_ready(&old.url).await;
    let found = world.fixture.inspect(&old.instance_id).await;
    assert_eq!(found.restart_count, Some(0));
    tokio::select! {
        ended = &mut waits => panic!("{ended:?}"),
        () = gate.passed(150_000) => {}
    }

    // And once nobody waits any more, nobody pulls
    patient.cancel();
    let error = waits.await.expect_err("a cancelled start");
    assert!(matches!(error, BackendError::Cancelled), "{error:?}");
    gate.is_left().await;
    let rest = world.fixture.objects(Some(other.workspace_id)).await;
    assert_eq!(rest, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_shuts_down_ends_its_pulls() {
    let Some(world) = World::new().await else {
        return;
    };
    world
        .registry
        .push_large("agent", "1", "one", 2_000_000)
        .await;
    let gate = Gate::before(&world.registry, 100_000).await;
    let backend = world.backend(&gate.reference("agent", "1"));
    let mut obtains = std::pin::pin!(obtain(&backend));
    tokio::select! {
        ended = &mut obtains => panic!("{ended:?}"),
        () = gate.passed(50_000) => {}
    }
    backend.shutdown().await;
    let error = obtains.await.expect_err("an end");
    assert!(matches!(error, BackendError::Cancelled), "{error:?}");
    gate.is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_in_trouble_is_no_missing_image() {
    let Some(world) = World::new().await else {
        return;
    };
    let pushed = world.registry.push("agent", "latest", "one").await;
    let backend = world.backend(&world.registry.reference("agent", "latest"));
    let spec = spec();
    let instance = backend.start(&spec, &never()).await.expect("a start");

    // A daemon that does not even know what it has
    let looks = Rule::always(Method::GET, "/images/*/json", Fault::Echo);
    world.fixture.proxy.add(looks);
    let error = backend.start(&spec, &never()).await.expect_err("no answer");
    assert!(error.is_transient(), "{error:?}");
    world.fixture.proxy.clear();

    // One that cannot pull: the copy serves, whatever the daemon answers
    for fault in [Fault::Cut, Fault::Garbage, Fault::Page, Fault::Echo] {
        let backend = world.backend(&world.registry.reference("agent", "latest"));
        let pulls = Rule::always(Method::POST, "/images/create", fault);
        world.fixture.proxy.add(pulls);
        let obtained = obtain(&backend).await.expect("the copy");
        assert!(obtained.stale, "{fault:?}");
        assert_eq!(obtained.digest, digest(&pushed));
        world.fixture.proxy.clear();
    }

    // One that says nothing keeps nobody waiting for long
    let pulls = Rule::always(Method::POST, "/images/create", Fault::Hang);
    world.fixture.proxy.add(pulls);
    let patience = Duration::from_secs(60);
    let obtained = tokio::time::timeout(patience, obtain(&backend)).await;
    assert!(obtained.expect("an answer").expect("the copy").stale);
    wait_until_ready(&instance.url).await;
    let known = InstanceRef::of(spec.workspace_id);
    assert!(matches!(backend.liveness(&known).await, Liveness::Running));
}
