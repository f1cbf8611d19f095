//! Everything that can go wrong between a lookup and an image.

use std::time::Duration;

use hyper::Method;
use molecule_core::backend::{BackendError, StartSpec};
use tokio_util::sync::CancellationToken;

use crate::backend_support::proxy::{Fault, Rule};
use crate::support::build_world::{BuildWorld, Heard, explain};
use crate::support::git_host::{Api, Content};
use crate::support::until;

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_host_that_answers_nonsense_is_refused() {
    let Some(world) = BuildWorld::new().await else {
        return;
    };
    let sha = "0123456789abcdef0123456789abcdef01234567";
    let answer = |id: &str| format!(r#"{{"name":"main","commit":{{"id":"{id}"}}}}"#).into_bytes();
    let mut padded = answer(sha);
    padded.resize(65 * 1024, b' ');
    for (status, body, expected) in [
        (200, b"<html>".to_vec(), "answered without a commit id"),
        (200, vec![0xff; 1000], "answered without a commit id"),
        (200, answer("abc"), "answered without a commit id"),
        (
            200,
            answer("../../../../../../../../../../../etc/x"),
            "answered without a commit id",
        ),
        (200, padded, "answered with more than 64 KiB"),
        (
            200,
            vec![b'['; 8 * 1024 * 1024],
            "answered with more than 64 KiB",
        ),
        (204, Vec::new(), "returned 204"),
        (500, b"planted upstream body".to_vec(), "returned 500"),
        (403, Vec::new(), "auth failure (403)"),
    ] {
        world.host.set_api(Api::Says(status, body));
        let error = world.start("hermes").await.unwrap_err();
        assert_eq!(error.is_transient(), status == 500, "{error:?}");
        let text = explain(error);
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("local-build: cannot determine HEAD sha for runtime \"hermes\""));
        assert!(
            !text.contains("planted") && !text.contains("ghcr"),
            "{text}"
        );
    }
    assert_eq!(world.host.fetches(), 0);
    assert!(world.sources("hermes").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_host_that_hangs_or_is_gone_is_waited_for_only_so_long() {
    let Some(world) = BuildWorld::with(|config| config.pull_timeout_secs = 2).await else {
        return;
    };
    world.commit("hermes", "");
    world.host.set_api(Api::Hangs);
    let error = world.start("hermes").await.unwrap_err();
    assert!(matches!(error, BackendError::Timeout { .. }), "{error:?}");

    world.host.set_api(Api::Honest);
    world.host.set_git_hangs(true);
    let error = world.start("hermes").await.unwrap_err();
    assert!(matches!(error, BackendError::Timeout { .. }), "{error:?}");
    assert!(world.sources("hermes").is_empty());

    let nowhere = world.neighbour(|config| {
        // Discards: nobody listens there.
        config.local_build.repo_prefix = "http://127.0.0.1:9/acme/template-".to_owned();
    });
    let error = nowhere
        .start(&world.spec("hermes"), &CancellationToken::new())
        .await
        .unwrap_err();
    assert!(error.is_transient());
    let text = explain(error);
    assert!(text.contains("cannot be reached"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_repository_that_cannot_be_built_says_why_and_leaves_nothing() {
    let Some(world) = BuildWorld::new().await else {
        return;
    };
    let commit = world
        .host
        .commit("crewai", &[("README.md", Content::Text("no build here"))]);
    let text = world.refused("crewai").await;
    let expected = format!(
        "local-build: cloned tree at {}crewai@{} has no Dockerfile (template repo malformed)",
        world.host.repo_prefix(),
        &commit[..12]
    );
    assert!(text.contains(&expected), "{text}");

    let false_run = r#"RUN ["/bin/busybox", "sh", "-c", "echo why it failed; exit 7"]"#;
    for (instructions, expected) in [
        ("COPY missing /", "missing"),
        (false_run, "why it failed"),
        ("NONSENSE x", "NONSENSE"),
        (
            "FROM molecule-test.invalid/nothing:here",
            "molecule-test.invalid",
        ),
    ] {
        let reference = world.commit("crewai", instructions);
        let error = world.start("crewai").await.unwrap_err();
        assert!(!error.is_transient(), "{error:?}");
        let text = explain(error);
        assert!(
            text.contains(&format!("docker build of {reference} failed: ")),
            "{text}"
        );
        assert!(text.contains(expected), "{text}");
        assert!(world.image(&reference).await.is_none());
    }
    until("nothing is left", async || world.built().await.is_empty()).await;
    assert!(world.sources("crewai").is_empty());
    assert!(world.fixture.objects(None).await.is_empty());

    // When somebody mends it, the next start works.
    world.commit("crewai", "");
    world.start("crewai").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_start_cancelled_while_it_clones_or_builds_leaves_nothing() {
    let Some(world) = BuildWorld::new().await else {
        return;
    };
    let sleeping = r#"RUN ["/bin/busybox", "sleep", "600"]"#;
    let reference = world.commit("deepagents", sleeping);

    // While it clones.
    world.host.set_git_hangs(true);
    let cancel = CancellationToken::new();
    let spec = world.spec("deepagents");
    let (ended, ()) = tokio::join!(world.backend.start(&spec, &cancel), async {
        until("git asks", async || world.host.fetches() == 1).await;
        cancel.cancel();
    });
    assert!(matches!(ended, Err(BackendError::Cancelled)), "{ended:?}");
    until("the source is gone", async || {
        world.sources("deepagents").is_empty()
    })
    .await;
    world.host.set_git_hangs(false);

    // While it builds.
    let heard = Heard::default();
    let cancel = CancellationToken::new();
    let spec = StartSpec {
        progress: heard.progress(),
        ..world.spec("deepagents")
    };
    let (ended, ()) = tokio::join!(world.backend.start(&spec, &cancel), async {
        until("it builds", async || heard.has(" : RUN ")).await;
        cancel.cancel();
    });
    assert!(matches!(ended, Err(BackendError::Cancelled)), "{ended:?}");
    until("the source is gone", async || {
        world.sources("deepagents").is_empty()
    })
    .await;
    until("the daemon has nothing", async || {
        world.built().await.is_empty()
    })
    .await;
    assert!(world.image(&reference).await.is_none());
    assert!(world.fixture.objects(None).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_server_that_shuts_down_takes_its_build_back() {
    let Some(world) = BuildWorld::new().await else {
        return;
    };
    world.commit("autogen", r#"RUN ["/bin/busybox", "sleep", "600"]"#);
    let heard = Heard::default();
    let spec = StartSpec {
        progress: heard.progress(),
        ..world.spec("autogen")
    };
    let cancel = CancellationToken::new();
    let (ended, ()) = tokio::join!(world.backend.start(&spec, &cancel), async {
        until("it builds", async || heard.has(" : RUN ")).await;
        world.backend.shutdown().await;
        assert!(world.sources("autogen").is_empty());
        // The daemon ends the step at its own pace.
        let is_empty = async || world.built().await.is_empty();
        until("the daemon has nothing", is_empty).await;
    });
    assert!(ended.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_a_daemon_in_trouble_is_told_from_a_bad_repository() {
    let Some(world) = BuildWorld::new().await else {
        return;
    };
    let reference = world.commit("gemini-cli", "");
    for fault in [Fault::Cut, Fault::Echo, Fault::Garbage] {
        world
            .fixture
            .proxy
            .add(Rule::once(Method::POST, "/build", 0, fault));
        let error = world.start("gemini-cli").await.unwrap_err();
        let text = explain(error);
        assert!(
            text.contains("local-build mode: ensure image for runtime"),
            "{fault:?}: {text}"
        );
        assert!(world.image(&reference).await.is_none(), "{fault:?}");
        assert!(world.sources("gemini-cli").is_empty(), "{fault:?}");
    }
    // A build that hangs ends with its time.
    world
        .fixture
        .proxy
        .add(Rule::once(Method::POST, "/build", 0, Fault::Hang));
    let hasty = world.neighbour(|config| config.pull_timeout_secs = 3);
    let started = tokio::time::Instant::now();
    let error = hasty
        .start(&world.spec("gemini-cli"), &CancellationToken::new())
        .await
        .unwrap_err();
    assert!(matches!(error, BackendError::Timeout { .. }), "{error:?}");
    assert!(started.elapsed() < Duration::from_secs(60));
    // And then all is well.
    world.start("gemini-cli").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_errors_inside_the_output_of_a_build_are_found() {
    const VANISHED: &str = r#"{"stream":"Step 1/9 : FROM scratch\n"}
{"errorDetail":{"message":"unable to find image \"sha256:0123\""},"error":"unable to find image"}
"#;
    let Some(world) = BuildWorld::new().await else {
        return;
    };
    let reference = world.commit("crewai", "");
    for (output, expected) in [
        (
            r#"{"errorDetail":{"message":"no space left"},"error":"no space left"}"#,
            "failed: no space left",
        ),
        // An old daemon, or one that forgot to say what went wrong.
        (r#"{"error":"no space left"}"#, "ended without an image"),
        (
            r#"{"stream":"Successfully built 0123456789ab\n"}"#,
            "ended without an image",
        ),
        ("", "ended without an image"),
    ] {
        let rule = Rule::once(Method::POST, "/build", 0, Fault::Says(output));
        world.fixture.proxy.add(rule);
        let text = world.refused("crewai").await;
        assert!(text.contains(expected), "{text}");
        assert!(world.image(&reference).await.is_none());
        assert!(world.sources("crewai").is_empty());
    }
    // Somebody removed an image at the moment when the daemon looked at it for its
    // cache. That says nothing about ours.
    let rule = Rule::once(Method::POST, "/build", 0, Fault::Says(VANISHED));
    world.fixture.proxy.add(rule);
    world.start("crewai").await.unwrap();
    assert!(world.image(&reference).await.is_some());
}
