//! Several who want the same image at once.

use futures_util::future::join_all;
use molecule_core::backend::{BackendError, StartSpec};
use tokio_util::sync::CancellationToken;

use crate::support::build_world::{BuildWorld, Heard};
use crate::support::until;

#[tokio::test(flavor = "multi_thread")]
async fn docker_workspaces_that_start_at_once_share_one_build() {
    let Some(world) = BuildWorld::new().await else {
        return;
    };
    // Long enough that everybody comes while it lasts.
    world.commit("claude-code", r#"RUN ["/bin/busybox", "sleep", "3"]"#);
    let heard: Vec<Heard> = (0..4).map(|_| Heard::default()).collect();
    let starts = heard.iter().map(|heard| {
        let spec = StartSpec {
            progress: heard.progress(),
            ..world.spec("claude-code")
        };
        let backend = &world.backend;
        async move { backend.start(&spec, &CancellationToken::new()).await }
    });
    for started in join_all(starts).await {
        started.unwrap();
    }
    assert_eq!(world.host.fetches(), 1);
    for heard in heard {
        assert!(heard.has(" : RUN "), "{:?}", heard.lines());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_servers_that_share_folder_and_daemon_build_once() {
    let Some(world) = BuildWorld::new().await else {
        return;
    };
    world.commit("hermes", r#"RUN ["/bin/busybox", "sleep", "3"]"#);
    let neighbour = world.neighbour(|_| {});
    let cancel = CancellationToken::new();
    let (ours, theirs) = (world.spec("hermes"), world.spec("hermes"));
    let (ours, theirs) = tokio::join!(
        world.backend.start(&ours, &cancel),
        neighbour.start(&theirs, &cancel)
    );
    ours.unwrap();
    theirs.unwrap();
    assert_eq!(world.host.fetches(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_one_who_leaves_takes_nothing_from_those_who_wait() {
    let Some(world) = BuildWorld::new().await else {
        return;
    };
    let reference = world.commit("langgraph", r#"RUN ["/bin/busybox", "sleep", "3"]"#);
    let (first, second) = (Heard::default(), Heard::default());
    let leaves = CancellationToken::new();
    let stays = CancellationToken::new();
    let spec = |heard: &Heard| StartSpec {
        progress: heard.progress(),
        ..world.spec("langgraph")
    };
    let (leaver, stayer) = (spec(&first), spec(&second));
    let (left, stayed, ()) = tokio::join!(
        world.backend.start(&leaver, &leaves),
        world.backend.start(&stayer, &stays),
        async {
            let both = async || first.has(" : RUN ") && second.has(" : RUN ");
            until("both wait for the build", both).await;
            leaves.cancel();
        }
    );
    assert!(matches!(left, Err(BackendError::Cancelled)), "{left:?}");
    stayed.unwrap();
    assert_eq!(world.host.fetches(), 1);
    assert!(world.image(&reference).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_start_right_after_an_abandoned_one_builds_anew() {
    let Some(world) = BuildWorld::new().await else {
        return;
    };
    world.commit("codex", r#"RUN ["/bin/busybox", "sleep", "3"]"#);
    let heard = Heard::default();
    let cancel = CancellationToken::new();
    let spec = StartSpec {
        progress: heard.progress(),
        ..world.spec("codex")
    };
    let (ended, ()) = tokio::join!(world.backend.start(&spec, &cancel), async {
        until("it builds", async || heard.has(" : RUN ")).await;
        cancel.cancel();
    });
    assert!(ended.is_err());
    world.start("codex").await.unwrap();
    assert_eq!(world.host.fetches(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_servers_that_build_the_same_commit_of_two_places_keep_out_of_each_others_way() {
    let Some(world) = BuildWorld::new().await else {
        return;
    };
    let usual = world.commit("deepagents", "");
    let elsewhere = world.neighbour(|config| {
        let prefix = &mut config.local_build.repo_prefix;
        *prefix = prefix.replace("127.0.0.1", "localhost");
    });
    let image_of = async |instance: &str| {
        let container = world.fixture.inspect(instance).await;
        container.config.unwrap().image.unwrap()
    };
    for _ in 0..2 {
        let ours = world.start("deepagents").await.unwrap();
        assert_eq!(image_of(&ours.instance_id).await, usual);
        let spec = world.spec("deepagents");
        let theirs = elsewhere.start(&spec, &CancellationToken::new()).await;
        let theirs = image_of(&theirs.unwrap().instance_id).await;
        assert!(theirs.starts_with(&format!("{usual}-")), "{theirs}");
    }
    // Each was built once.
    assert_eq!(world.host.fetches(), 2);
}
