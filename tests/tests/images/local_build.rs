//! Local-build mode: a real git host on one side, a real daemon on the other.

mod faults;
mod hostile;
mod secrets;
mod sharing;

use chrono::Utc;
use molecule_core::backend::StartSpec;
use tokio_util::sync::CancellationToken;

use crate::backend_support::agent::Seen;
use crate::support::build_world::{BuildWorld, Heard, explain, reference};
use crate::support::git_host::Api;
use crate::support::until;

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_workspace_runs_from_an_image_that_was_built_here() {
    let Some(world) = BuildWorld::new().await else {
        return;
    };
    let first = world.commit("openclaw", "LABEL version=1");
    let heard = Heard::default();
    let spec = StartSpec {
        progress: heard.progress(),
        ..world.spec("openclaw")
    };

    // When the first workspace starts, the image is built and the agent runs in it.
    let instance = world
        .backend
        .start(&spec, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(instance.image_digest, None);
    let seen = Seen::by_agent(&instance.url).await;
    assert!(seen.content("config.yaml").await.is_some());
    let container = world.fixture.inspect(&instance.instance_id).await;
    assert_eq!(container.config.unwrap().image.as_deref(), Some(&*first));
    let image = world.image(&first).await.unwrap();
    let labels = image.config.unwrap().labels.unwrap();
    assert_eq!(labels["molecule.platform.managed"], "true");
    assert_eq!(labels["molecule.build.runtime"], "openclaw");
    // Containers inherit labels: an image must not say that it is this server's.
    assert!(!labels.contains_key("molecule.platform.instance"));
    let latest = world
        .image("molecule-local/workspace-template-openclaw:latest")
        .await;
    assert_eq!(latest.unwrap().id, image.id);
    assert_eq!(world.host.fetches(), 1);
    assert_eq!(world.sources("openclaw"), [&first[first.len() - 12..]]);

    // And the build was told line by line.
    assert!(
        heard.has("looking up the newest commit"),
        "{:?}",
        heard.lines()
    );
    assert!(heard.has(" : COPY agent.sh /"), "{:?}", heard.lines());
    let percents = heard.percents();
    assert!(
        percents.is_sorted() && percents.contains(&0),
        "{percents:?}"
    );

    // When another one starts, nothing is fetched and nothing is built.
    let heard = Heard::default();
    let spec = StartSpec {
        progress: heard.progress(),
        ..world.spec("openclaw")
    };
    world
        .backend
        .start(&spec, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!((world.host.lookups(), world.host.fetches()), (2, 1));
    assert!(!heard.has("Step "), "{:?}", heard.lines());

    // When the branch moves, the next start builds again.
    let second = world.commit("openclaw", "LABEL version=2");
    assert_ne!(first, second);
    let instance = world.start("openclaw").await.unwrap();
    let container = world.fixture.inspect(&instance.instance_id).await;
    assert_eq!(container.config.unwrap().image.as_deref(), Some(&*second));
    assert_eq!(world.host.fetches(), 2);
    let newest = world.image(&second).await.unwrap().id;
    let latest = world
        .image("molecule-local/workspace-template-openclaw:latest")
        .await;
    assert_eq!(latest.unwrap().id, newest);
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_an_unknown_runtime_is_refused_before_anything_is_asked() {
    let Some(world) = BuildWorld::new().await else {
        return;
    };
    for runtime in ["cobol", "../x", "codex ", "langgraph/../../evil"] {
        let text = world.refused(runtime).await;
        assert!(
            text.contains(&format!(
                "refusing to build unknown runtime {runtime:?} (must be one of [autogen, "
            )),
            "{text}"
        );
        assert!(
            text.contains("local-build mode: ensure image for runtime "),
            "{text}"
        );
    }
    assert!(world.host.asked().is_empty());
    assert!(world.source_dirs().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_sources_and_images_beyond_the_newest_are_removed() {
    let Some(world) = BuildWorld::with(|config| config.local_build.keep = 2).await else {
        return;
    };
    let mut references = Vec::new();
    let mut second = 0;
    for version in 0..4 {
        // The daemon tells their age in whole seconds.
        let next = async || Utc::now().timestamp() > second;
        until("the second of the image before is over", next).await;
        references.push(world.commit("gemini-cli", &format!("LABEL version={version}")));
        let instance = world.start("gemini-cli").await.unwrap();
        second = Utc::now().timestamp();
        // The first one stays in use, so its image cannot go.
        if version > 0 {
            let docker = &world.fixture.docker;
            let options = bollard::query_parameters::RemoveContainerOptionsBuilder::default()
                .force(true)
                .build();
            docker
                .remove_container(&instance.instance_id, Some(options))
                .await
                .unwrap();
        }
    }
    let mut there = Vec::new();
    for reference in &references {
        there.push(world.image(reference).await.is_some());
    }
    assert_eq!(there, [true, false, true, true]);
    assert_eq!(world.sources("gemini-cli").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_an_image_of_another_source_or_platform_does_not_count() {
    let Some(world) = BuildWorld::new().await else {
        return;
    };
    let commit = world.commit("hermes", "LABEL version=1");

    // Given an image under the right name that nobody built here.
    let (repository, tag) = commit.split_once(':').unwrap();
    let options = bollard::query_parameters::TagImageOptionsBuilder::default()
        .repo(repository)
        .tag(tag)
        .build();
    let fixture_image = &world.fixture.config.images["langgraph"];
    world
        .fixture
        .docker
        .tag_image(fixture_image, Some(options))
        .await
        .unwrap();
    let strange = world.image(&commit).await.unwrap().id;

    // Then it is built all the same.
    world.start("hermes").await.unwrap();
    assert_eq!(world.host.fetches(), 1);
    assert_ne!(world.image(&commit).await.unwrap().id, strange);

    // And again for another platform, under another name. Whether it runs is not the
    // point: what the daemon runs is one processor.
    let foreign = if cfg!(target_arch = "aarch64") {
        "linux/amd64"
    } else {
        "linux/arm64"
    };
    let other = world.neighbour(|config| config.image_platform = Some(foreign.to_owned()));
    let _ = other
        .start(&world.spec("hermes"), &CancellationToken::new())
        .await;
    let other = format!("{commit}-{}", foreign.replace('/', "-"));
    world.fixture.remove_later(other.clone());
    assert!(world.image(&other).await.is_some());
    assert_eq!(world.host.fetches(), 2);

    // And once more for the daemon's own platform, which is the first name again.
    let own = if cfg!(target_arch = "aarch64") {
        "linux/arm64"
    } else {
        "linux/amd64"
    };
    let same = world.neighbour(|config| config.image_platform = Some(own.to_owned()));
    same.start(&world.spec("hermes"), &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(world.host.fetches(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_branch_that_moves_while_it_is_cloned_is_built_as_it_is_then() {
    let Some(world) = BuildWorld::new().await else {
        return;
    };
    let old = "0123456789abcdef0123456789abcdef01234567".to_owned();
    let current = world.commit("codex", "LABEL version=1");

    // Given a lookup that is older than what is cloned, once.
    world.host.set_api(Api::Behind(old.clone(), 1));
    world.start("codex").await.unwrap();
    assert_eq!((world.host.lookups(), world.host.fetches()), (2, 2));
    assert!(world.image(&current).await.is_some());
    assert!(world.image(&reference("codex", &old)).await.is_none());
    assert_eq!(world.sources("codex"), [&current[current.len() - 12..]]);

    // Given one that always is.
    world.commit("codex", "LABEL version=2");
    world.host.set_api(Api::Behind(old.clone(), 100));
    let error = world.start("codex").await.unwrap_err();
    assert!(error.is_transient());
    let text = explain(error);
    assert!(text.contains("moved each time it was cloned"), "{text}");
    assert!(world.image(&reference("codex", &old)).await.is_none());
    assert_eq!(world.sources("codex").len(), 1);
}
