//! What every backend promises. Each function is one scenario, run for each
//! backend by the root of the test.

mod existing;
mod url;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use molecule_core::backend::{
    BackendError, ConfigFile, InstanceRef, Liveness, ManagedInstance, WorkspaceAccess,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::agent::{self, Seen, SeenFile};
use super::fixture::{
    Fixture, assert_free_of_secrets, file, liveness, short_lived, spec, with_env,
};

pub(crate) use existing::{
    a_first_start_that_keeps_files_needs_something_to_start_with,
    a_restart_without_a_configuration_falls_back_or_fails, a_start_that_keeps_files_keeps_them,
    config_files_are_read_if_they_are_plain_and_short,
};
pub(crate) use url::the_url_of_an_agent_is_known_while_it_runs;

fn never() -> CancellationToken {
    CancellationToken::new()
}

pub(crate) async fn an_unknown_workspace_is_not_running(fixture: &impl Fixture) {
    let backend = fixture.backend();
    for instance_id in [None, Some("0123456789ab".to_owned())] {
        let unknown = InstanceRef {
            workspace_id: Uuid::new_v4(),
            instance_id,
        };
        let found = backend.liveness(&unknown).await;
        assert!(matches!(found, Liveness::Missing), "{found:?}");
    }
}

pub(crate) async fn stopping_what_does_not_exist_succeeds(fixture: &impl Fixture) {
    let backend = fixture.backend();
    let unknown = InstanceRef::of(Uuid::new_v4());
    backend.stop(&unknown).await.expect("a first time");
    backend.stop(&unknown).await.expect("a second time");
    let (a, b, c) = tokio::join!(
        backend.stop(&unknown),
        backend.stop(&unknown),
        backend.stop(&unknown)
    );
    a.and(b).and(c).expect("at the same time");
}

pub(crate) async fn a_started_agent_is_reachable_until_it_is_stopped(fixture: &impl Fixture) {
    // Given a started workspace
    let backend = fixture.backend();
    let spec = spec();
    let instance = backend.start(&spec, &never()).await.expect("a start");
    assert!(!instance.instance_id.is_empty());
    let one = ManagedInstance {
        workspace_id: spec.workspace_id,
        compute: true,
        running: Some(true),
        instance_id: Some(instance.instance_id.clone()),
        unstarted: false,
        storage: true,
    };
    assert_eq!(backend.list_managed().await.expect("a list"), [one]);
    agent::wait_until_ready(&instance.url).await;
    let found = liveness(&backend, spec.workspace_id).await;
    assert!(matches!(found, Liveness::Running), "{found:?}");

    // When it is stopped, several times at once
    let reference = InstanceRef {
        workspace_id: spec.workspace_id,
        instance_id: Some(instance.instance_id),
    };
    let stops = (0..3).map(|_| backend.stop(&reference));
    for stopped in futures_util::future::join_all(stops).await {
        stopped.expect("a stop");
    }

    // Then nothing runs, and the storage is kept
    let deadline = Instant::now() + Duration::from_secs(10);
    while !matches!(
        liveness(&backend, spec.workspace_id).await,
        Liveness::Missing
    ) {
        assert!(Instant::now() < deadline, "it is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!agent::answers(&instance.url).await);
    let kept = ManagedInstance {
        workspace_id: spec.workspace_id,
        compute: false,
        running: None,
        instance_id: None,
        unstarted: false,
        storage: true,
    };
    assert_eq!(backend.list_managed().await.expect("a list"), [kept]);
}

pub(crate) async fn compute_that_ended_is_stopped_and_not_missing(fixture: &impl Fixture) {
    let backend = fixture.backend();
    let spec = spec();
    let instance = backend.start(&spec, &never()).await.expect("a start");

    fixture.kill_compute(spec.workspace_id).await;

    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match liveness(&backend, spec.workspace_id).await {
            Liveness::Stopped => break,
            Liveness::Running if Instant::now() < deadline => {}
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let dead = ManagedInstance {
        workspace_id: spec.workspace_id,
        compute: true,
        running: Some(false),
        instance_id: Some(instance.instance_id),
        unstarted: false,
        storage: true,
    };
    assert_eq!(backend.list_managed().await.expect("a list"), [dead]);
    backend
        .stop(&InstanceRef::of(spec.workspace_id))
        .await
        .expect("a stop of what ended");
}

pub(crate) async fn a_backend_in_trouble_calls_nobody_dead(fixture: &impl Fixture) {
    // Given a running workspace and a backend that cannot look at it
    let backend = fixture.backend();
    let spec = spec();
    let instance = backend.start(&spec, &never()).await.expect("a start");
    fixture.damage(spec.workspace_id).await;

    // Then it is not known to be dead, and a stop does not pretend to succeed
    let found = liveness(&backend, spec.workspace_id).await;
    assert!(matches!(found, Liveness::Unknown(_)), "{found:?}");
    let error = backend
        .url(&InstanceRef::of(spec.workspace_id))
        .await
        .expect_err("no look at its URL");
    assert_free_of_secrets(error);
    let error = backend
        .stop(&InstanceRef::of(spec.workspace_id))
        .await
        .expect_err("an error");
    assert_free_of_secrets(error);

    // And when the trouble is over, everything is as before
    fixture.mend(spec.workspace_id).await;
    let found = liveness(&backend, spec.workspace_id).await;
    assert!(matches!(found, Liveness::Running), "{found:?}");
    agent::wait_until_ready(&instance.url).await;
}

pub(crate) async fn files_are_in_place_when_the_agent_starts(fixture: &impl Fixture) {
    // Given a template, reached through a link, with all that can go wrong
    let folder = tempfile::tempdir().expect("a folder");
    let template = folder.path().join("template");
    fs::create_dir_all(template.join("skills/deep")).unwrap();
    let long = format!("skills/{}.txt", "long".repeat(40));
    let write = |name: &str, content: &str, mode: u32| {
        let path = template.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    write("run.sh", "#!/bin/sh\r\necho hi\r\n", 0o755);
    write("data.bin", "a\r\nb", 0o644);
    write("skills/deep/SKILL.md", "# one\r\n\r\ntwo\r\n", 0o666);
    write("suid", "x", 0o4755);
    write("config.yaml", "name: from the template\n", 0o644);
    write(&long, "long name", 0o644);
    fs::write(folder.path().join("outside"), "outside").unwrap();
    std::os::unix::fs::symlink("../outside", template.join("link")).unwrap();
    std::os::unix::fs::symlink("/etc", template.join("etc")).unwrap();
    let root = folder.path().join("root");
    std::os::unix::fs::symlink(&template, &root).unwrap();

    let mut spec = spec();
    spec.template_dir = Some(root);
    spec.files.push(file("nested/a/b.json", "{}", 0o640));

    // When the workspace starts
    let instance = fixture
        .backend()
        .start(&spec, &never())
        .await
        .expect("a start");
    let seen = Seen::by_agent(&instance.url).await;

    // Then the agent found every file with owner and mode when it looked first
    let (uid, gid) = fixture.file_owner();
    let regular = |mode| SeenFile {
        mode,
        uid,
        gid,
        folder: false,
    };
    for (name, mode) in [
        ("run.sh", 0o755),
        ("data.bin", 0o644),
        ("skills/deep/SKILL.md", 0o644),
        ("suid", 0o755),
        ("config.yaml", 0o644),
        (".auth_token", 0o600),
        ("nested/a/b.json", 0o640),
        (long.as_str(), 0o644),
    ] {
        assert_eq!(seen.files.get(name), Some(&regular(mode)), "{name}");
    }
    for name in ["skills/deep", "nested/a", "."] {
        let found = &seen.files[name];
        assert!(
            found.folder && (found.uid, found.gid) == (uid, gid),
            "{name}: {found:?}"
        );
    }
    assert!(!seen.files.contains_key("link") && !seen.files.contains_key("etc"));
    let content = async |name: &str| seen.content(name).await.expect("a file");
    assert_eq!(content("config.yaml").await, "name: test\n");
    assert_eq!(content("run.sh").await, "#!/bin/sh\necho hi\n");
    assert_eq!(content("data.bin").await, "a\r\nb");
    assert_eq!(content("skills/deep/SKILL.md").await, "# one\n\ntwo\n");
}

pub(crate) async fn the_platform_has_the_last_word_on_the_environment(fixture: &impl Fixture) {
    let mut spec = spec();
    for (name, value) in [
        ("PYTHONPATH", "/mine"),
        ("PLATFORM_URL", "http://elsewhere"),
        ("WORKSPACE_ID", "elsewhere"),
        ("TWICE", "first"),
        ("TWICE", "second"),
        ("ODD", "a=b c'd\"e$f"),
    ] {
        spec = with_env(spec, name, value);
    }
    let instance = fixture
        .backend()
        .start(&spec, &never())
        .await
        .expect("a start");
    let seen = Seen::by_agent(&instance.url).await;

    let id = spec.workspace_id.to_string();
    let configs = fixture.config_path(spec.workspace_id);
    for (name, value) in [
        ("PYTHONPATH", "/mine"),
        ("PLUGINS_DIR", "/plugins"),
        ("PLATFORM_URL", "http://platform.test:8080"),
        ("MOLECULE_URL", "http://platform.test:8080"),
        ("WORKSPACE_ID", &id),
        ("WORKSPACE_CONFIG_PATH", &configs),
        ("TIER", "2"),
        ("TWICE", "second"),
        ("ODD", "a=b c'd\"e$f"),
    ] {
        assert_eq!(seen.values(name), [value], "{name}");
    }
    // And what is told beforehand is what the agent gets
    for (name, value) in fixture.backend().forced_env(&spec) {
        let got = seen.values(&name);
        match value {
            Some(value) => assert_eq!(got, [value], "{name}"),
            None => assert_eq!(got.len(), 1, "{name}"),
        }
    }
    // Nothing of the server's own environment
    assert!(seen.values("CARGO_MANIFEST_DIR").is_empty());
}

pub(crate) async fn a_start_that_fails_leaves_nothing_and_tells_no_secret(fixture: &impl Fixture) {
    let backend = fixture.backend();

    let error = backend
        .start(&short_lived(), &never())
        .await
        .expect_err("an agent that ends");
    assert!(matches!(error, BackendError::Failed { .. }), "{error:?}");
    assert_free_of_secrets(error);
    assert_eq!(fixture.leftovers().await, [""; 0]);

    let mut broken = spec();
    broken.template_dir = Some("/nonexistent/template".into());
    let error = backend
        .start(&broken, &never())
        .await
        .expect_err("a missing template");
    assert!(!error.to_string().contains("/nonexistent"), "{error}");
    assert_eq!(fixture.leftovers().await, [""; 0]);

    let mut nul = spec();
    nul.env.push(("BAD\0NAME".to_owned(), "x".into()));
    backend
        .start(&nul, &never())
        .await
        .expect_err("an impossible variable");
    assert_eq!(fixture.leftovers().await, [""; 0]);
}

pub(crate) async fn files_cannot_leave_the_config_folder(fixture: &impl Fixture) {
    for path in ["../evil", "/etc/evil", "a/../../evil", "", "a//b"] {
        let mut spec = spec();
        spec.files.push(ConfigFile {
            path: path.to_owned(),
            content: vec![1],
            mode: 0o644,
        });
        let error = fixture
            .backend()
            .start(&spec, &never())
            .await
            .expect_err("a refusal");
        assert!(
            matches!(error, BackendError::Failed { .. }),
            "{path}: {error:?}"
        );
        assert_eq!(fixture.leftovers().await, [""; 0], "{path}");
    }
}

pub(crate) async fn a_start_cancelled_at_any_time_leaves_nothing(fixture: &impl Fixture) {
    let backend = fixture.backend();
    let cancelled = never();
    cancelled.cancel();
    let error = backend
        .start(&spec(), &cancelled)
        .await
        .expect_err("a cancelled start");
    assert!(matches!(error, BackendError::Cancelled), "{error:?}");

    for delay in [0, 3, 10, 30, 60, 100, 150, 220, 300, 400, 500, 650] {
        let (spec, cancel) = (spec(), never());
        let later = async {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            cancel.cancel();
        };
        let (started, ()) = tokio::join!(backend.start(&spec, &cancel), later);
        match started {
            Err(BackendError::Cancelled) => {}
            Err(other) => panic!("after {delay} ms: {other:?}"),
            Ok(_) => {
                backend
                    .stop(&InstanceRef::of(spec.workspace_id))
                    .await
                    .expect("a stop");
                backend
                    .remove_storage(spec.workspace_id)
                    .await
                    .expect("a removal");
            }
        }
        assert_eq!(fixture.leftovers().await, [""; 0], "after {delay} ms");
    }
}

pub(crate) async fn a_start_nobody_waits_for_leaves_nothing(fixture: &impl Fixture) {
    let backend = fixture.backend();
    for delay in [1, 40, 120, 250] {
        let (spec, cancel) = (spec(), never());
        let start = backend.start(&spec, &cancel);
        let waited = tokio::time::timeout(Duration::from_millis(delay), start).await;
        assert!(waited.is_err(), "the start was too fast for this test");
    }
    backend.shutdown().await;
    assert_eq!(fixture.leftovers().await, [""; 0]);
}

pub(crate) async fn starting_again_replaces_compute_and_keeps_storage(fixture: &impl Fixture) {
    // Given a running workspace
    let backend = fixture.backend();
    let mut spec = spec();
    spec.files
        .push(file("memory/notes.txt", "remember me", 0o644));
    let first = backend.start(&spec, &never()).await.expect("a first start");
    agent::wait_until_ready(&first.url).await;

    // When it starts again with other files
    spec.files = vec![file("config.yaml", "name: second\n", 0o644)];
    let second = backend
        .start(&spec, &never())
        .await
        .expect("a second start");

    // Then there is one agent, with the old files and the new ones
    assert_ne!(first.instance_id, second.instance_id);
    let seen = Seen::by_agent(&second.url).await;
    assert_eq!(seen.content("config.yaml").await.unwrap(), "name: second\n");
    assert_eq!(
        seen.content("memory/notes.txt").await.unwrap(),
        "remember me"
    );
    if first.url != second.url {
        assert!(!agent::answers(&first.url).await);
    }
    let one = ManagedInstance {
        workspace_id: spec.workspace_id,
        compute: true,
        running: Some(true),
        instance_id: Some(second.instance_id),
        unstarted: false,
        storage: true,
    };
    assert_eq!(backend.list_managed().await.expect("a list"), [one]);
}

pub(crate) async fn a_failed_restart_keeps_the_storage(fixture: &impl Fixture) {
    let backend = fixture.backend();
    let good = spec();
    backend.start(&good, &never()).await.expect("a start");

    let bad = molecule_core::backend::StartSpec {
        workspace_id: good.workspace_id,
        ..short_lived()
    };
    backend
        .start(&bad, &never())
        .await
        .expect_err("an agent that ends");

    let kept = ManagedInstance {
        workspace_id: good.workspace_id,
        compute: false,
        running: None,
        instance_id: None,
        unstarted: false,
        storage: true,
    };
    assert_eq!(backend.list_managed().await.expect("a list"), [kept]);
    let again = backend
        .start(&good, &never())
        .await
        .expect("a start on the old storage");
    agent::wait_until_ready(&again.url).await;
}

pub(crate) async fn storage_goes_only_when_nothing_uses_it(fixture: &impl Fixture) {
    let backend = fixture.backend();
    let spec = spec();
    backend
        .remove_storage(spec.workspace_id)
        .await
        .expect("nothing to remove");
    backend.start(&spec, &never()).await.expect("a start");
    let error = backend
        .remove_storage(spec.workspace_id)
        .await
        .expect_err("storage in use");
    assert!(matches!(error, BackendError::Failed { .. }), "{error:?}");

    backend
        .stop(&InstanceRef::of(spec.workspace_id))
        .await
        .expect("a stop");
    backend
        .remove_storage(spec.workspace_id)
        .await
        .expect("a removal");
    backend
        .remove_storage(spec.workspace_id)
        .await
        .expect("a second removal");
    assert_eq!(fixture.leftovers().await, [""; 0]);
    assert_eq!(backend.list_managed().await.expect("a list"), []);
}

pub(crate) async fn two_servers_on_one_machine_never_touch_each_other(fixture: &impl Fixture) {
    // Given a running workspace of one server
    let (ours, theirs) = (fixture.backend(), fixture.stranger());
    let spec = spec();
    let instance = ours.start(&spec, &never()).await.expect("a start");

    // Then the other one does not see it, and nothing it does has an effect
    assert_eq!(theirs.list_managed().await.expect("a list"), []);
    let found = liveness(&theirs, spec.workspace_id).await;
    assert!(matches!(found, Liveness::Unknown(_)), "{found:?}");
    theirs
        .stop(&InstanceRef::of(spec.workspace_id))
        .await
        .expect("nothing of its own to stop");
    theirs
        .remove_storage(spec.workspace_id)
        .await
        .expect("nothing of its own to remove");
    let error = theirs
        .start(&spec, &never())
        .await
        .expect_err("a name that is taken");
    assert!(matches!(error, BackendError::Failed { .. }), "{error:?}");

    let found = liveness(&ours, spec.workspace_id).await;
    assert!(matches!(found, Liveness::Running), "{found:?}");
    agent::wait_until_ready(&instance.url).await;
    let seen = Seen::by_agent(&instance.url).await;
    assert!(seen.files.contains_key("config.yaml"));
}

pub(crate) async fn workspaces_outlive_the_server(fixture: &impl Fixture) {
    // Given a running workspace whose server goes away
    let before = fixture.backend();
    let spec = spec();
    let instance = before.start(&spec, &never()).await.expect("a start");
    before.shutdown().await;

    // When the server comes back
    let after = fixture.restarted();

    // Then it knows the workspace and can stop it
    let found = liveness(&after, spec.workspace_id).await;
    assert!(matches!(found, Liveness::Running), "{found:?}");
    agent::wait_until_ready(&instance.url).await;
    after
        .stop(&InstanceRef::of(spec.workspace_id))
        .await
        .expect("a stop");
    assert!(!agent::answers(&instance.url).await);
    let found = liveness(&after, spec.workspace_id).await;
    assert!(matches!(found, Liveness::Missing), "{found:?}");
}

pub(crate) async fn workspaces_start_side_by_side(fixture: &impl Fixture) {
    let backend = fixture.backend();
    let specs: Vec<_> = (0..4).map(|_| spec()).collect();
    let starts = specs.iter().map(|spec| {
        let backend = Arc::clone(&backend);
        async move { backend.start(spec, &never()).await }
    });
    let mut urls = Vec::new();
    for started in futures_util::future::join_all(starts).await {
        let instance = started.expect("a start");
        agent::wait_until_ready(&instance.url).await;
        urls.push(instance.url);
    }
    urls.sort();
    urls.dedup();
    assert_eq!(urls.len(), specs.len());
    assert_eq!(
        backend.list_managed().await.expect("a list").len(),
        specs.len()
    );
}

pub(crate) async fn an_agent_works_in_the_folder_it_was_given(fixture: &impl Fixture) {
    // Given a folder of the host with write access
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mut spec = spec();
    spec.workspace_dir = Some(folder.path().to_owned());
    spec.workspace_access = WorkspaceAccess::ReadWrite;

    let instance = fixture
        .backend()
        .start(&spec, &never())
        .await
        .expect("a start");
    agent::wait_until_ready(&instance.url).await;

    // Then stopping and removing storage leaves it alone
    fs::write(folder.path().join("mine"), "mine").unwrap();
    let backend = fixture.backend();
    backend
        .stop(&InstanceRef::of(spec.workspace_id))
        .await
        .expect("a stop");
    backend
        .remove_storage(spec.workspace_id)
        .await
        .expect("a removal");
    assert_eq!(
        fs::read_to_string(folder.path().join("mine")).unwrap(),
        "mine"
    );
}

pub(crate) async fn a_healthy_backend_says_what_it_is(fixture: &impl Fixture) {
    let backend = fixture.backend();
    let text = backend.check().await.expect("a healthy backend");
    assert!(!text.is_empty() && text.len() < 100, "{text}");
    assert_eq!(backend.list_managed().await.expect("a list"), []);
    assert!(
        !format!("{:?}", spec()).contains("planted"),
        "a spec shows secrets"
    );
}
