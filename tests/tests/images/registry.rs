//! Images of a registry: when they are pulled, which one a workspace runs, who uses
//! them.

use futures_util::FutureExt;
use hyper::Method;
use molecule_core::backend::{ObtainedImage, Phase, StartSpec};

use crate::backend_support::agent::wait_until_ready;
use crate::backend_support::fixture::{Fixture, spec};
use crate::backend_support::proxy::{Fault, Rule};
use crate::support::gate::Gate;
use crate::support::registry::MARKER;
use crate::world::{Told, World, digest, images, never, obtain, request};

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_is_pulled_and_its_content_known() {
    let Some(world) = World::new().await else {
        return;
    };
    let pushed = world.registry.push("agent", "1", "one").await;
    let reference = world.registry.reference("agent", "1");
    let backend = world.backend(&reference);

    let told = Told::default();
    let spec = StartSpec {
        progress: told.progress(),
        ..spec()
    };
    let instance = backend.start(&spec, &never()).await.expect("a start");
    wait_until_ready(&instance.url).await;

    assert_eq!(instance.image_digest, digest(&pushed));
    let steps = told.steps();
    assert!(!steps.is_empty());
    for step in steps.iter().filter(|step| step.phase == Phase::Pull) {
        let known = step.detail == "pulling image"
            || step.detail.starts_with("pulled ") && step.detail.ends_with(" layers");
        assert!(known, "{step:?}");
    }
    let found = world.fixture.inspect(&instance.instance_id).await;
    assert_eq!(
        found.config.and_then(|config| config.image),
        Some(reference)
    );
    assert_eq!(
        images(&backend)
            .latest("langgraph")
            .await
            .expect("an answer")
            .as_str(),
        pushed
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moving_tag_is_pulled_again_and_a_pinned_one_is_not() {
    let Some(mut world) = World::new().await else {
        return;
    };
    for tag in ["latest", "1"] {
        world.registry.push("agent", tag, "one").await;
    }
    let pinned = world.backend(&world.registry.reference("agent", "1"));
    // Without a tag, which means the moving one
    let moving = world.backend(&format!("{}/agent", world.registry.host()));
    let first = obtain(&pinned).await.expect("an image");
    let same = obtain(&moving).await.expect("an image");
    assert_eq!(first.digest, same.digest);
    assert!(!first.stale && !same.stale);

    // When both tags get another image
    let mut newer = String::new();
    for tag in ["latest", "1"] {
        newer = world.registry.push("agent", tag, "two").await;
    }

    // Then only one of them is looked for again
    let moved = obtain(&moving).await.expect("an image");
    assert_eq!(moved.digest, digest(&newer));
    assert_eq!(moved.reference, world.registry.reference("agent", "latest"));
    let kept = obtain(&pinned).await.expect("an image");
    assert_eq!(kept, first);
    world.registry.stop();
    assert_eq!(obtain(&pinned).await.expect("an image"), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_pull_is_remembered_and_made_up_for() {
    let Some(mut world) = World::new().await else {
        return;
    };
    let older = world.registry.push("agent", "main", "one").await;
    let backend = world.backend(&world.registry.reference("agent", "main"));
    assert!(!obtain(&backend).await.expect("an image").stale);

    // When the registry is away, the copy serves
    world.registry.stop();
    let stale = obtain(&backend).await.expect("a copy");
    assert!(stale.stale);
    assert_eq!(stale.digest, digest(&older));
    assert_eq!(images(&backend).retry_stale(&never()).await, [""; 0]);

    // And no start asks the registry again for a while
    let again = Rule::always(Method::POST, "/images/create", Fault::Cut);
    let asked = again.reached();
    world.fixture.proxy.add(again);
    let instance = backend.start(&spec(), &never()).await.expect("a start");
    assert_eq!(instance.image_digest, digest(&older));
    assert!(obtain(&backend).await.expect("a copy").stale);
    assert!(asked.notified().now_or_never().is_none());
    world.fixture.proxy.clear();

    // But once the registry is back, the newer image is brought and told of, once
    world.registry.start_again().await;
    let newer = world.registry.push("agent", "main", "two").await;
    assert_eq!(images(&backend).retry_stale(&never()).await, ["langgraph"]);
    assert_eq!(images(&backend).retry_stale(&never()).await, [""; 0]);
    let fresh = obtain(&backend).await.expect("an image");
    assert!(!fresh.stale);
    assert_eq!(fresh.digest, digest(&newer));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_in_no_registry_is_used_as_it_is() {
    let Some(world) = World::new().await else {
        return;
    };
    // Given an image of the daemon's own under a moving tag, which the registry
    // does not know
    let local = world.registry.reference("never/pushed", "dev");
    let (name, tag) = local.rsplit_once(':').expect("a tag");
    let options = bollard::query_parameters::TagImageOptionsBuilder::default()
        .repo(name)
        .tag(tag)
        .build();
    let own = &world.fixture.config.images["langgraph"];
    let tagged = world.fixture.docker.tag_image(own, Some(options)).await;
    tagged.expect("another name");

    let backend = world.backend(&local);
    let instance = backend.start(&spec(), &never()).await.expect("a start");
    wait_until_ready(&instance.url).await;
    assert_eq!(instance.image_digest, None);
    let obtained = obtain(&backend).await.expect("the copy");
    assert!(obtained.stale && obtained.digest.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_want_one_image_pull_once() {
    let Some(world) = World::new().await else {
        return;
    };
    let pushed = world.registry.push("agent", "1", "one").await;
    let gate = Gate::before(&world.registry, 2_000_000).await;
    let backend = world.backend(&gate.reference("agent", "1"));
    let second = Rule::once(Method::POST, "/images/create", 1, Fault::Cut);
    let pulled_twice = second.reached();
    world.fixture.proxy.add(second);

    let (one, two) = (spec(), spec());
    let cancel = never();
    let (one, two) = tokio::join!(backend.start(&one, &cancel), backend.start(&two, &cancel));
    for instance in [one, two] {
        let instance = instance.expect("a start");
        assert_eq!(instance.image_digest, digest(&pushed));
    }
    assert!(pulled_twice.notified().now_or_never().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_brings_an_older_image_back() {
    let Some(world) = World::new().await else {
        return;
    };
    let older = world.registry.push("agent", "latest", "one").await;
    let newer = world.registry.push("agent", "latest", "two").await;
    let backend = world.backend(&world.registry.reference("agent", "latest"));
    let unpinned = spec();
    let instance = backend.start(&unpinned, &never()).await.expect("a start");
    assert_eq!(instance.image_digest, digest(&newer));

    let pinned = StartSpec {
        image_pin: digest(&older),
        ..unpinned.clone()
    };
    let instance = backend.start(&pinned, &never()).await.expect("a start");

    assert_eq!(instance.image_digest, digest(&older));
    let script = format!("$B grep -qx one {MARKER}");
    wait_until_ready(&instance.url).await;
    world.fixture.script(pinned.workspace_id, &script).await;
    let reference = format!("{}/agent@{older}", world.registry.host());
    let users = images(&backend)
        .users_of("langgraph")
        .await
        .expect("a list");
    assert_eq!(users.len(), 1);
    assert_eq!(users[0].reference, reference);

    // A pin on what never was there fails, and spares what runs
    let lost = StartSpec {
        image_pin: digest(&format!("sha256:{}", "0".repeat(64))),
        ..unpinned
    };
    let error = backend.start(&lost, &never()).await.expect_err("no image");
    assert!(
        error.to_string().contains("not found after pull attempt"),
        "{error}"
    );
    world.fixture.script(pinned.workspace_id, &script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_takes_the_image_that_was_obtained_for_it() {
    let Some(world) = World::new().await else {
        return;
    };
    let first = world.registry.push("agent", "latest", "one").await;
    let backend = world.backend(&world.registry.reference("agent", "latest"));
    let obtained = obtain(&backend).await.expect("an image");
    let newer = world.registry.push("agent", "latest", "two").await;

    // What was obtained is not asked for again
    let mut spec = spec();
    spec.image = Some(obtained.clone());
    let instance = backend.start(&spec, &never()).await.expect("a start");
    assert_eq!(instance.image_digest, digest(&first));
    let script = format!("$B grep -qx one {MARKER}");
    world.fixture.script(spec.workspace_id, &script).await;

    // Unless it is gone by now
    spec.image = Some(ObtainedImage {
        reference: world.registry.reference("agent", "gone"),
        ..obtained
    });
    let instance = backend.start(&spec, &never()).await.expect("a start");
    assert_eq!(instance.image_digest, digest(&newer));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_pulls_whatever_is_there() {
    let Some(mut world) = World::new().await else {
        return;
    };
    world.registry.push("agent", "stable", "one").await;
    let backend = world.backend(&world.registry.reference("agent", "stable"));
    obtain(&backend).await.expect("an image");
    let newer = world.registry.push("agent", "stable", "two").await;
    let latest = images(&backend)
        .latest("langgraph")
        .await
        .expect("an answer");
    assert_eq!(latest.as_str(), newer);

    let refreshed = images(&backend).refresh("langgraph", &never()).await;
    assert_eq!(refreshed.expect("a pull").digest, digest(&newer));

    // Failing leaves the copy
    world.registry.stop();
    images(&backend)
        .refresh("langgraph", &never())
        .await
        .expect_err("no registry");
    images(&backend)
        .latest("langgraph")
        .await
        .expect_err("no registry");
    let kept = obtain(&backend).await.expect("the copy");
    assert_eq!(kept.digest, digest(&newer));

    // And what would be built here is in no registry
    assert!(images(&backend).builds_locally());
    for runtime in ["codex", "cobol", ""] {
        images(&backend)
            .refresh(runtime, &never())
            .await
            .expect_err("nothing to pull");
        images(&backend)
            .latest(runtime)
            .await
            .expect_err("nothing to ask for");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_an_image_are_those_of_exactly_its_repository() {
    let Some(world) = World::new().await else {
        return;
    };
    for repository in ["agent", "agent-two"] {
        world.registry.push(repository, "latest", repository).await;
    }
    let host = world.registry.host();
    let backend = world.backend_with(&format!("{host}/agent"), |config| {
        let two = format!("{host}/agent-two:latest");
        config.images.insert("hermes".to_owned(), two);
    });
    let (runs, stopped) = (spec(), spec());
    let other = StartSpec {
        runtime: "hermes".to_owned(),
        ..spec()
    };
    for spec in [&runs, &stopped, &other] {
        backend.start(spec, &never()).await.expect("a start");
    }
    world.fixture.kill_compute(stopped.workspace_id).await;
    // The tag moves on, and the daemon's list forgets what the containers were made of
    world.registry.push("agent", "latest", "newer").await;
    images(&backend)
        .refresh("langgraph", &never())
        .await
        .expect("a pull");

    let users = images(&backend)
        .users_of("langgraph")
        .await
        .expect("a list");
    let mut expected = [runs.workspace_id, stopped.workspace_id];
    expected.sort();
    let found: Vec<_> = users.iter().map(|user| user.workspace_id).collect();
    assert_eq!(found, expected);
    assert!(
        users
            .iter()
            .all(|user| user.reference == format!("{host}/agent:latest"))
    );
    let users = images(&backend).users_of("hermes").await.expect("a list");
    assert_eq!(users.len(), 1);
    assert_eq!(users[0].workspace_id, other.workspace_id);
    assert_eq!(
        images(&backend).users_of("codex").await.expect("a list"),
        []
    );

    // Another server's containers are not ours, and an error is not an empty list
    let stranger = world.fixture.stranger();
    assert_eq!(
        images(&stranger)
            .users_of("langgraph")
            .await
            .expect("a list"),
        []
    );
    world.fixture.proxy.set_down(true);
    images(&backend)
        .users_of("langgraph")
        .await
        .expect_err("a daemon in trouble");
    world.fixture.proxy.set_down(false);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_is_the_operators() {
    let Some(world) = World::new().await else {
        return;
    };
    world.registry.push("agent", "1", "one").await;
    let reference = world.registry.reference("agent", "1");
    let native = match std::env::consts::ARCH {
        "aarch64" => "linux/arm64",
        _ => "linux/amd64",
    };
    let on = |platform: &str| {
        world.backend_with(&reference, |config| {
            config.image_platform = Some(platform.to_owned());
        })
    };
    // Given a workspace that runs
    let spec = spec();
    let backend = on(native);
    let instance = backend.start(&spec, &never()).await.expect("a start");

    // What no image is for says so, whether or not another one is there, and stops
    // nobody
    for platform in ["linux/s390x", "plan9/mips"] {
        let error = on(platform)
            .start(&spec, &never())
            .await
            .expect_err("no image");
        let text = error.to_string();
        assert!(text.contains(platform) && text.contains(native), "{text}");
    }
    wait_until_ready(&instance.url).await;

    // Half a platform and an empty one are none
    for platform in ["", "linux"] {
        let none = molecule_core::backend::Progress::none();
        let backend = on(platform);
        let obtained = images(&backend).obtain(&request(), &none, &never()).await;
        obtained.expect("an image");
    }
}
