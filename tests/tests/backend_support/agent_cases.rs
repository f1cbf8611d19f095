//! Agents and containers that are not as one expects: without a shell, gone at once,
//! half removed, somebody else's.

use std::time::Duration;

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::CreateContainerOptionsBuilder;
use hyper::Method;
use molecule_core::backend::{BackendError, InstanceRef, Liveness, StartSpec};
use tokio_util::sync::CancellationToken;

use crate::backend_support::agent;
use crate::backend_support::docker::DockerFixture;
use crate::backend_support::fixture::{Fixture, assert_free_of_secrets, liveness, spec, with_env};
use crate::backend_support::proxy::{Fault, Rule};

fn never() -> CancellationToken {
    CancellationToken::new()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_a_shell_works() {
    // Given an image that holds one program and nothing else
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let tar = agent::shell_less_file_system().await;
    let command = r#"["/busybox", "httpd", "-f", "-p", "8000", "-h", "/configs"]"#;
    let image = fixture.import("shell-less", tar, command).await;
    let backend = fixture.backend_with(&fixture.instance, |config| {
        config.images.insert("langgraph".to_owned(), image);
    });
    // Then every tier starts, stops, and has its files
    for tier in [1, 2, 3] {
        let spec = StartSpec { tier, ..spec() };
        for _ in 0..2 {
            let instance = backend.start(&spec, &never()).await.expect("a start");
            let config = agent::get(&instance.url, "config.yaml").await;
            assert_eq!(config.as_deref(), Some("name: test\n"), "tier {tier}");
        }
        let id = spec.workspace_id;
        let read = backend
            .read_config(id, "config.yaml")
            .await
            .expect("a look");
        assert_eq!(read.as_deref(), Some(&b"name: test\n"[..]));
        backend.stop(&InstanceRef::of(id)).await.expect("a stop");
        backend.remove_storage(id).await.expect("a removal");
    }
    assert_eq!(fixture.leftovers().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_exits_at_once_fails_the_start_with_its_code() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let backend = fixture.backend();
    for code in ["0", "7", "137"] {
        let spec = with_env(spec(), "TEST_EXIT", code);
        let error = backend.start(&spec, &never()).await.expect_err("an end");
        assert!(matches!(error, BackendError::Failed { .. }), "{error:?}");
        let wanted =
            format!("failed to start container: the agent exited at once with code {code}");
        assert!(error.to_string().ends_with(&wanted), "{error}");
        assert_eq!(fixture.leftovers().await, [""; 0], "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_program_does_not_exist_fails_the_start_with_the_daemons_words() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let tar = agent::shell_less_file_system().await;
    let image = fixture.import("no-program", tar, r#"["/bin/sh"]"#).await;
    let backend = fixture.backend_with(&fixture.instance, |config| {
        config.images.insert("langgraph".to_owned(), image);
    });
    let error = backend
        .start(&spec(), &never())
        .await
        .expect_err("no program");
    let text = error.to_string();
    assert!(text.contains("exited at once with code 127"), "{text}");
    // In the words of who tried
    assert!(text.contains("/bin/sh"), "{text}");
    assert_eq!(fixture.leftovers().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_words_of_an_agent_are_told_without_its_secrets() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let tar = agent::root_file_system().await;
    let script = "echo key $API_KEY; /bin/busybox cat /configs/.auth_token >&2; exit 3";
    let command = format!(r#"["/bin/busybox", "sh", "-c", "{script}"]"#);
    let image = fixture.import("talking", tar, &command).await;
    let backend = fixture.backend_with(&fixture.instance, |config| {
        config.images.insert("langgraph".to_owned(), image);
    });
    let error = backend.start(&spec(), &never()).await.expect_err("an end");
    let text = error.to_string();
    assert!(text.contains("with code 3: "), "{text}");
    assert!(text.contains("key "), "{text}");
    assert_free_of_secrets(error);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_in_progress_is_a_stop_and_a_start_waits_for_its_end() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let (backend, spec) = (fixture.backend(), spec());
    let reference = InstanceRef::of(spec.workspace_id);
    let half_a_second = Fault::Removing(Duration::from_millis(500));
    let being_removed = || Rule::once(Method::DELETE, "/containers/", 0, half_a_second);

    // Given a container that somebody removes at this moment
    backend.start(&spec, &never()).await.expect("a start");
    fixture.proxy.add(being_removed());
    // Then stopping it succeeds without waiting
    backend.stop(&reference).await.expect("a stop");
    // And a start that comes too early waits until the name is free
    fixture.proxy.add(being_removed());
    let instance = backend.start(&spec, &never()).await.expect("a start");
    agent::wait_until_ready(&instance.url).await;

    // And storage may be removed right after such a stop
    fixture.proxy.clear();
    let stops = (0..3).map(|_| backend.stop(&reference));
    for stopped in futures_util::future::join_all(stops).await {
        stopped.expect("a stop");
    }
    let removed = backend.remove_storage(spec.workspace_id).await;
    removed.expect("a removal");
    assert_eq!(fixture.leftovers().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_fails_says_which_container_it_was() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let (backend, spec) = (fixture.backend(), spec());
    backend.start(&spec, &never()).await.expect("a start");
    // An answer that is about something else does not count as gone
    for fault in [Fault::Echo, Fault::Page] {
        fixture
            .proxy
            .add(Rule::always(Method::DELETE, "/containers/", fault));
        let id = spec.workspace_id.to_string();
        let stopped = backend.stop(&InstanceRef::of(spec.workspace_id)).await;
        let text = format!("{:#}", anyhow::Error::new(stopped.expect_err("no stop")));
        let wanted = format!("force-remove ws-{}: status ", &id[..12]);
        assert!(text.contains(&wanted), "{text}");
        let found = liveness(&backend, spec.workspace_id).await;
        assert!(matches!(found, Liveness::Running), "{found:?}");
        fixture.proxy.clear();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_a_foreign_container_has_fails_the_start_and_leaves_nothing_new() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let (backend, spec) = (fixture.backend(), spec());
    let name = format!("ws-{}", spec.workspace_id);
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    let body = ContainerCreateBody {
        image: Some(fixture.image()),
        ..ContainerCreateBody::default()
    };
    fixture.remove_later_container(&name);
    let foreign = fixture.docker.create_container(Some(options), body).await;
    let foreign = foreign.expect("a container").id;

    let error = backend.start(&spec, &never()).await.expect_err("taken");
    assert!(error.to_string().contains("belongs to another"), "{error}");
    assert_eq!(fixture.leftovers().await, [""; 0]);
    assert_eq!(fixture.inspect(&name).await.id, Some(foreign));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_at_the_last_moment_is_not_taken_away() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    // Given a daemon that says so when the container is to be made
    let (backend, spec) = (fixture.backend(), spec());
    let name = format!("ws-{}", spec.workspace_id);
    let rule = Rule::once(
        Method::POST,
        "/containers/create",
        0,
        Fault::Late(Duration::from_millis(700)),
    );
    let reached = rule.reached();
    fixture.proxy.add(rule);
    let meanwhile = async {
        reached.notified().await;
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let body = ContainerCreateBody {
            image: Some(fixture.image()),
            ..ContainerCreateBody::default()
        };
        fixture.remove_later_container(&name);
        let created = fixture.docker.create_container(Some(options), body).await;
        created.expect("a container").id
    };
    let token = never();
    let (started, foreign) = tokio::join!(backend.start(&spec, &token), meanwhile);
    let error = started.expect_err("a name that is taken");
    let wanted = "failed to create container: status 409";
    assert!(error.to_string().contains(wanted), "{error}");
    assert_eq!(fixture.leftovers().await, [""; 0]);
    assert_eq!(fixture.inspect(&name).await.id, Some(foreign));
}
