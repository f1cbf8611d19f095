//! Volumes: those of older servers, those of sessions, and their end.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, UploadToContainerOptionsBuilder,
};
use molecule_core::backend::{BackendError, ExistingConfig, InstanceRef, StartSpec};
use tokio_tar::{Builder, EntryType, Header};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::backend_support::agent::{self, Seen, root_file_system_with};
use crate::backend_support::docker::DockerFixture;
use crate::backend_support::fixture::{Fixture, spec, with_env};

const SESSIONS: &str = "/root/.claude/sessions";

fn never() -> CancellationToken {
    CancellationToken::new()
}

fn short(workspace: Uuid) -> String {
    format!("ws-{}", &workspace.to_string()[..12])
}

/// A backend for which `claude-code` has an image.
fn with_sessions(
    fixture: &DockerFixture,
    image: String,
) -> std::sync::Arc<dyn molecule_core::backend::WorkspaceBackend> {
    fixture.backend_with(&fixture.instance, |config| {
        config.images.insert("claude-code".to_owned(), image);
    })
}

fn claude() -> StartSpec {
    StartSpec {
        runtime: "claude-code".to_owned(),
        ..spec()
    }
}

/// A container of somebody else that uses a volume; answers its id.
async fn user_of(fixture: &DockerFixture, volume: &str, target: &str) -> String {
    let name = format!("molecule-user-{}", Uuid::new_v4().simple());
    fixture.remove_later_container(&name);
    let body = ContainerCreateBody {
        image: Some(fixture.image()),
        host_config: Some(HostConfig {
            mounts: Some(vec![Mount {
                typ: Some(MountType::VOLUME),
                source: Some(volume.to_owned()),
                target: Some(target.to_owned()),
                ..Mount::default()
            }]),
            ..HostConfig::default()
        }),
        labels: Some(HashMap::new()),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    let created = fixture.docker.create_container(Some(options), body).await;
    created.expect("a container").id
}

/// Puts a file into a volume, as an older server's agent did.
async fn put(fixture: &DockerFixture, volume: &str, name: &str, content: &str) {
    let user = user_of(fixture, volume, "/v").await;
    let mut tar = Builder::new_non_terminated(Vec::new());
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(1000);
    header.set_gid(1000);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, format!("v/{name}"), content.as_bytes())
        .await
        .unwrap();
    let options = UploadToContainerOptionsBuilder::default().path("/").build();
    let body = bollard::body_full(tar.into_inner().await.unwrap().into());
    fixture
        .docker
        .upload_to_container(&user, Some(options), body)
        .await
        .expect("an upload");
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    let removed = fixture.docker.remove_container(&user, Some(options)).await;
    removed.expect("a removal");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_volumes_of_an_older_server_stay_in_use_and_go_with_the_workspace() {
    // Given what an older server left: short names, no owner
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let spec = StartSpec {
        files: Vec::new(),
        existing_config: Some(ExistingConfig { fallback: None }),
        ..claude()
    };
    let id = spec.workspace_id;
    let configs = format!("{}-configs", short(id));
    let sessions = format!("{}-claude-sessions", short(id));
    let workspace = format!("ws-{id}-workspace");
    let managed = [("molecule.platform.managed", "true")];
    fixture.make_volume(&configs, &managed).await;
    fixture.make_volume(&sessions, &managed).await;
    fixture.make_volume(&workspace, &[]).await;
    put(&fixture, &configs, "config.yaml", "name: older\n").await;
    put(&fixture, &sessions, "one.jsonl", "a session").await;

    // When this server starts the workspace, twice
    let backend = with_sessions(&fixture, fixture.image());
    for _ in 0..2 {
        let instance = backend.start(&spec, &never()).await.expect("a start");

        // Then everything is where it was, and nothing took its place
        let seen = Seen::by_agent(&instance.url).await;
        let config = seen.content("config.yaml").await;
        assert_eq!(config.as_deref(), Some("name: older\n"));
        let read = backend
            .read_config(id, "config.yaml")
            .await
            .expect("a look");
        assert_eq!(read.as_deref(), Some(&b"name: older\n"[..]));
        let name = format!("ws-{id}");
        let session = fixture.inside(&name, "$B cat /root/.claude/sessions/one.jsonl");
        assert_eq!(session.await, "a session");
        for new in [
            format!("ws-{id}-configs"),
            format!("ws-{id}-claude-sessions"),
        ] {
            assert!(!fixture.has_volume(&new).await, "{new}");
        }
    }

    // And a delete takes all of it
    backend.stop(&InstanceRef::of(id)).await.expect("a stop");
    backend.remove_storage(id).await.expect("a removal");
    for old in [configs, sessions, workspace] {
        assert!(!fixture.has_volume(&old).await, "{old}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_volume_wins_over_an_older_one_and_a_strangers_is_left_alone() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let backend = fixture.backend();
    let other = Uuid::new_v4().to_string();
    let theirs = fixture.other_instance();
    // A short name that somebody else's workspace has
    for label in [
        ("molecule.platform.instance", theirs.as_str()),
        ("molecule.workspace.id", other.as_str()),
    ] {
        let spec = spec();
        let id = spec.workspace_id;
        let old = format!("{}-configs", short(id));
        fixture.make_volume(&old, &[label]).await;
        backend.start(&spec, &never()).await.expect("a start");
        assert!(fixture.has_volume(&format!("ws-{id}-configs")).await);
        backend.stop(&InstanceRef::of(id)).await.expect("a stop");
        backend.remove_storage(id).await.expect("a removal");
        assert!(fixture.has_volume(&old).await, "{label:?}");
    }
    // Both names: ours it is
    let spec = spec();
    let id = spec.workspace_id;
    backend.start(&spec, &never()).await.expect("a start");
    fixture
        .make_volume(&format!("{}-configs", short(id)), &[])
        .await;
    backend.start(&spec, &never()).await.expect("a start");
    let mounts = fixture.inspect(&format!("ws-{id}")).await.mounts;
    let configs = mounts
        .expect("mounts")
        .into_iter()
        .find(|mount| mount.destination.as_deref() == Some("/configs"));
    let name = configs.and_then(|mount| mount.name);
    assert_eq!(name, Some(format!("ws-{id}-configs")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_another_servers_volume_has_fails_the_start_with_the_volume() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let backend = with_sessions(&fixture, fixture.image());
    let theirs = fixture.other_instance();
    let label = [("molecule.platform.instance", theirs.as_str())];
    for (kind, what) in [
        ("configs", "config volume"),
        ("claude-sessions", "claude-sessions volume"),
        ("workspace", "workspace volume"),
    ] {
        let spec = claude();
        let id = spec.workspace_id;
        let name = format!("ws-{id}-{kind}");
        fixture.make_volume(&name, &label).await;
        let error = backend.start(&spec, &never()).await.expect_err("no start");
        assert!(matches!(error, BackendError::Failed { .. }), "{error:?}");
        let wanted = format!("failed to create {what} {name}: ");
        assert!(error.to_string().contains(&wanted), "{error}");
        assert_eq!(fixture.leftovers().await, [""; 0], "{kind}");
        backend.remove_storage(id).await.expect("nothing of ours");
        assert!(fixture.has_volume(&name).await, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_kept_until_somebody_resets_them() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let backend = with_sessions(&fixture, fixture.image());
    let spec = claude();
    let id = spec.workspace_id;
    let name = format!("ws-{id}");
    let list = format!("$B ls {SESSIONS}");
    let start = async |spec: &StartSpec| {
        let instance = backend.start(spec, &never()).await.expect("a start");
        agent::wait_until_ready(&instance.url).await;
        fixture.inside(&name, &list).await
    };

    // Given an agent with a session of its own user
    assert_eq!(start(&spec).await, "");
    let script = format!("$B stat -c %u:%g {SESSIONS}");
    let owner = fixture.inside(&name, &script);
    assert_eq!(owner.await.trim(), "1000:1000");
    let write = format!("echo x > {SESSIONS}/one");
    let (said, code) = fixture.exec(&name, &write, Some("1000:1000")).await;
    assert_eq!(code, Some(0), "{said}");

    // Then a restart keeps it, and each way to ask discards it
    assert_eq!(start(&spec).await.trim(), "one");
    let reset = StartSpec {
        reset_session: true,
        ..spec.clone()
    };
    let by_variable = with_env(spec.clone(), "WORKSPACE_RESET_SESSION", "true");
    for asking in [reset, by_variable] {
        fixture.inside(&name, &write).await;
        assert_eq!(start(&asking).await, "");
    }
    let managed = backend.list_managed().await.expect("a list");
    assert!(managed[0].storage && managed.len() == 1);

    // The lowest tier has none, and the other runtimes neither
    let none = StartSpec {
        runtime: "langgraph".to_owned(),
        ..spec.clone()
    };
    let sealed = StartSpec {
        tier: 1,
        ..spec.clone()
    };
    for spec in [none, sealed] {
        backend.start(&spec, &never()).await.expect("a start");
        let mounts = fixture.inspect(&name).await.mounts.expect("mounts");
        let at =
            |mount: &bollard::models::MountPoint| mount.destination.as_deref() == Some(SESSIONS);
        assert!(!mounts.iter().any(at));
    }

    // And a delete takes them
    backend.stop(&InstanceRef::of(id)).await.expect("a stop");
    backend.remove_storage(id).await.expect("a removal");
    assert_eq!(fixture.leftovers().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_sessions_volume_belongs_to_whom_the_image_says() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let folders = [
        ("root/", 0o755, 0),
        ("root/.claude/", 0o755, 0),
        ("root/.claude/sessions/", 0o700, 2345),
    ];
    let tar = root_file_system_with(&folders).await;
    let command = r#"["/bin/busybox", "sh", "/agent.sh"]"#;
    let image = fixture.import("owned", tar, command).await;
    let spec = claude();
    let backend = with_sessions(&fixture, image);
    backend.start(&spec, &never()).await.expect("a start");
    let name = format!("ws-{}", spec.workspace_id);
    let script = format!("$B stat -c '%u %a' {SESSIONS}");
    let owner = fixture.inside(&name, &script);
    assert_eq!(owner.await.trim(), "2345 700");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_somebody_uses_cannot_be_discarded_and_are_not_lost() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let backend = with_sessions(&fixture, fixture.image());
    let spec = claude();
    let id = spec.workspace_id;
    backend.start(&spec, &never()).await.expect("a start");
    let volume = format!("ws-{id}-claude-sessions");
    let user = user_of(&fixture, &volume, "/v").await;

    let reset = StartSpec {
        reset_session: true,
        ..spec
    };
    let error = backend.start(&reset, &never()).await.expect_err("in use");
    assert!(matches!(error, BackendError::Failed { .. }), "{error:?}");
    let wanted = format!("failed to remove volume {volume}: status 409");
    assert!(error.to_string().contains(&wanted), "{error}");
    assert!(fixture.has_volume(&volume).await);
    assert_eq!(fixture.leftovers().await.len(), 3);

    // And a delete says so too, after it removed what nobody uses
    let error = backend.remove_storage(id).await.expect_err("in use");
    assert!(error.to_string().contains(&wanted), "{error}");
    assert_eq!(fixture.leftovers().await, [volume]);
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    let removed = fixture.docker.remove_container(&user, Some(options)).await;
    removed.expect("a removal");
    backend.remove_storage(id).await.expect("a removal");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_takes_every_volume_under_every_name() {
    let Some(fixture) = DockerFixture::new().await else {
        return;
    };
    let id = Uuid::new_v4();
    let long = format!("ws-{id}");
    let all = [
        format!("{long}-configs"),
        format!("{long}-claude-sessions"),
        format!("{long}-workspace"),
        format!("{}-configs", short(id)),
        format!("{}-claude-sessions", short(id)),
    ];
    for name in &all {
        fixture.make_volume(name, &[]).await;
    }
    let theirs = fixture.other_instance();
    let backend = fixture.backend();
    let foreign = [("molecule.platform.instance", theirs.as_str())];
    let next = format!("ws-{}-configs", Uuid::new_v4());
    fixture.make_volume(&next, &foreign).await;
    backend.remove_storage(id).await.expect("a removal");
    for name in &all {
        assert!(!fixture.has_volume(name).await, "{name}");
    }
    assert!(fixture.has_volume(&next).await);
}
