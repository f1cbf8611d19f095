//! Plugins in containers of particular kinds: sealed, without a shell, without anything
//! that can run, with a full disk.

use std::collections::BTreeMap;

use hyper::Method;
use molecule_core::backend::{DeliveryError, InstanceRef, StartSpec};
use tokio_util::sync::CancellationToken;

use crate::backend_support::agent::{self, shell_less_file_system};
use crate::backend_support::docker::DockerFixture;
use crate::backend_support::fixture::{Fixture, spec};
use crate::backend_support::plugin_world::{
    Files, Kind, World, delivery, make_volume, name, shell_file_system,
};
use crate::backend_support::proxy::{Fault, Rule};

const FIRST: Files<'_> = &[("plugin.yaml", "version: one\n", false), ("a", "1", false)];
const SECOND: Files<'_> = &[("plugin.yaml", "version: two\n", false), ("b", "2", true)];

/// A volume that lets no program run.
const NO_PROGRAMS: [(&str, &str); 2] = [("type", "tmpfs"), ("o", "noexec,mode=0755,size=64m")];

fn never() -> CancellationToken {
    CancellationToken::new()
}

fn step_of(error: &DeliveryError) -> (&'static str, &str) {
    match error {
        DeliveryError::Step { step, reason } => (*step, reason),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_workspace_gets_and_loses_plugins() {
    // Nothing but its volume can be written, and its agent has no capability
    let sealed = StartSpec { tier: 1, ..spec() };
    for kind in [Kind::Program, Kind::Shell] {
        let Some(world) = World::with(
            kind,
            StartSpec {
                workspace_id: uuid::Uuid::new_v4(),
                ..sealed.clone()
            },
        )
        .await
        else {
            return;
        };
        world.deliver("demo", FIRST).await.expect("a delivery");
        world.deliver("demo", SECOND).await.expect("a delivery");
        world.assert_is("demo", SECOND).await;
        let listed = world.target().list(&world.instance()).await;
        assert_eq!(listed.expect("a list").len(), 1);
        world.remove("demo", &[]).await.expect("a removal");
        assert!(!world.path().await.join("plugins/demo").exists());
        assert_eq!(world.hidden().await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_as_root_although_the_image_does() {
    for kind in [Kind::Program, Kind::Shell] {
        let Some(world) = World::new(kind).await else {
            return;
        };
        // Given execs that wait before they start
        let proxy = &world.docker().proxy;
        let rule = Rule::once(Method::POST, "/exec/*/start", 0, Fault::Held);
        let reached = rule.reached();
        proxy.add(rule);
        let looking = async {
            reached.notified().await;
            let found = world.docker().inspect(&world.container()).await;
            let ids = found.exec_ids.unwrap_or_default();
            let docker = &world.docker().docker;
            let exec = docker.inspect_exec(&ids[0]).await.expect("an exec");
            proxy.release();
            exec.process_config.and_then(|process| process.user)
        };
        let (delivered, user) = tokio::join!(world.deliver("demo", FIRST), looking);
        delivered.expect("a delivery");
        assert_eq!(user.as_deref(), Some("1000:1000"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_nothing_but_its_agent_gets_plugins() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let (backend, spec) = shell_less(&fixture, spec()).await;
    backend.start(&spec, &never()).await.expect("a start");
    let (target, instance) = (
        backend.plugins().expect("plugins"),
        InstanceRef::of(spec.workspace_id),
    );
    for files in [FIRST, SECOND] {
        let tree = delivery("demo", files);
        target
            .deliver(&instance, &tree, &never())
            .await
            .expect("a delivery");
        let found = target.files(&instance, &name("demo")).await;
        let found = found.expect("an answer").expect("a plugin");
        let names: Vec<_> = found.iter().map(|file| file.path.as_str()).collect();
        let mut sent: Vec<_> = files.iter().map(|(path, ..)| *path).collect();
        sent.sort_unstable();
        assert_eq!(names, sent);
    }
    assert_eq!(target.list(&instance).await.expect("a list").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_can_run_that_is_what_the_error_says_and_nothing_changes() {
    // Given an image without a shell, and a volume that lets no program run
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let (backend, spec) = shell_less(&fixture, spec()).await;
    make_volume(&fixture, spec.workspace_id, &NO_PROGRAMS, "tmpfs".as_ref()).await;
    backend.start(&spec, &never()).await.expect("a start");
    let (target, instance) = (
        backend.plugins().expect("plugins"),
        InstanceRef::of(spec.workspace_id),
    );

    let large = "x".repeat(300_000);
    let tree = delivery("demo", &[("plugin.yaml", &large, false)]);
    let error = target.deliver(&instance, &tree, &never()).await;
    let error = error.expect_err("nothing can run");

    let (step, reason) = step_of(&error);
    assert_eq!(step, "run");
    assert!(reason.contains("the image has no shell"), "{reason}");
    assert!(reason.contains("permission denied"), "{reason}");
    // And nothing is where a plugin would be, nor takes room
    let volume = format!("ws-{}-configs", spec.workspace_id);
    let volume = fixture.docker.inspect_volume(&volume).await;
    let plugins = std::path::PathBuf::from(volume.expect("a volume").mountpoint).join("plugins");
    assert!(!plugins.join("demo").exists());
    for entry in std::fs::read_dir(plugins.join(".staging")).expect("a folder") {
        let data = entry.expect("an entry").metadata().expect("it");
        assert!(data.is_file() && data.len() == 0, "{data:?}");
    }
    let found = target.files(&instance, &name("demo")).await;
    assert_eq!(found.expect("looking needs no program"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_the_delivery_and_keeps_the_old_version() {
    // Given a config volume of one megabyte
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let (backend, spec) = (fixture.backend(), spec());
    let small = [("type", "tmpfs"), ("o", "size=1m,mode=0755")];
    make_volume(&fixture, spec.workspace_id, &small, "tmpfs".as_ref()).await;
    backend.start(&spec, &never()).await.expect("a start");
    let (target, instance) = (
        backend.plugins().expect("plugins"),
        InstanceRef::of(spec.workspace_id),
    );
    let first = delivery("demo", FIRST);
    target
        .deliver(&instance, &first, &never())
        .await
        .expect("a delivery");

    // When more is to be brought, which fails within one piece or between many
    for size in [2, 20] {
        let large = "0123456789abcdef".repeat(size * 65536);
        let tree = delivery(
            "demo",
            &[("plugin.yaml", "x", false), ("large", &large, false)],
        );
        let error = target.deliver(&instance, &tree, &never()).await;
        let error = error.expect_err("a full disk");

        // Then that is what the error says, the old version is there, and the disk is
        // as empty as before
        let (step, reason) = step_of(&error);
        assert_eq!(step, "stage", "{error}");
        assert!(reason.contains("no space left"), "{reason}");
        let container = format!("ws-{}", spec.workspace_id);
        let said = fixture
            .inside(
                &container,
                "$B cat plugins/demo/a; $B ls -A plugins/.staging; $B du -s plugins | $B cut -f1",
            )
            .await;
        let mut lines = said.lines();
        assert_eq!(
            lines.next().unwrap_or_default().get(..1),
            Some("1"),
            "{said}"
        );
        assert!(said.lines().count() <= 2, "{said}");
        let second = delivery("demo", SECOND);
        target
            .deliver(&instance, &second, &never())
            .await
            .expect("a small one");
        target
            .deliver(&instance, &first, &never())
            .await
            .expect("and back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_program_can_run_a_shell_does() {
    // Given a volume that lets no program run, and an image with a shell
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let command = r#"["/bin/busybox", "sh", "/agent.sh"]"#;
    let image = fixture
        .import("shell", shell_file_system().await, command)
        .await;
    let backend = fixture.backend_with(&fixture.instance, |config| {
        config.images.insert("langgraph".to_owned(), image);
    });
    let spec = spec();
    make_volume(&fixture, spec.workspace_id, &NO_PROGRAMS, "tmpfs".as_ref()).await;
    backend.start(&spec, &never()).await.expect("a start");
    let (target, instance) = (
        backend.plugins().expect("plugins"),
        InstanceRef::of(spec.workspace_id),
    );
    for files in [FIRST, SECOND] {
        let tree = delivery("demo", files);
        target
            .deliver(&instance, &tree, &never())
            .await
            .expect("a delivery");
    }
    let listed = target.list(&instance).await.expect("a list");
    assert_eq!(listed[0].manifest.as_deref(), Some(SECOND[0].1.as_bytes()));
    let container = format!("ws-{}", spec.workspace_id);
    let said = fixture.inside(&container, "$B cp /bin/busybox busybox; ./busybox true || echo refused; $B ls -A plugins/.staging plugins/demo").await;
    assert!(said.contains("refused"), "{said}");
    assert!(!said.contains(".helper"), "{said}");
    assert!(said.contains(".complete"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_there_when_its_agent_restarts_and_the_server_was_another() {
    let Some(mut world) = World::new(Kind::Program).await else {
        return;
    };
    world.deliver("demo", FIRST).await.expect("a delivery");
    let url = world.restart().await;
    let seen = agent::get(&url, "configs/plugins/demo/plugin.yaml").await;
    assert_eq!(seen.as_deref(), Some(FIRST[0].1));
    let other = world.docker().restarted();
    let listed = other
        .plugins()
        .expect("plugins")
        .list(&world.instance())
        .await;
    let names: BTreeMap<_, _> = listed
        .expect("a list")
        .into_iter()
        .map(|p| (p.name.to_string(), p.marker.is_some()))
        .collect();
    assert_eq!(names, BTreeMap::from([("demo".to_owned(), true)]));
}

/// A backend whose image is one program.
async fn shell_less(
    fixture: &DockerFixture,
    spec: StartSpec,
) -> (
    std::sync::Arc<dyn molecule_core::backend::WorkspaceBackend>,
    StartSpec,
) {
    let command = r#"["/busybox", "httpd", "-f", "-p", "8000", "-h", "/configs"]"#;
    let image = fixture
        .import("bare", shell_less_file_system().await, command)
        .await;
    let backend = fixture.backend_with(&fixture.instance, |config| {
        config.images.insert("langgraph".to_owned(), image);
    });
    (backend, spec)
}
