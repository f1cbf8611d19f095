//! Workspaces that ran before: what they keep, and what can be read of it.

use std::time::Duration;

use molecule_core::backend::{
    BackendError, ExistingConfig, InstanceRef, Liveness, ManagedInstance, StartSpec,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::never;
use crate::backend_support::agent::{self, Seen};
use crate::backend_support::fixture::{Fixture, file, liveness, spec};

/// Longest file that is read.
const MAX_BYTES: usize = 256 * 1024;

/// The next start of a workspace, which keeps its files.
fn again(first: &StartSpec, fallback: Option<&tempfile::TempDir>) -> StartSpec {
    StartSpec {
        files: vec![file(".auth_token", "renewed", 0o600)],
        existing_config: Some(ExistingConfig {
            fallback: fallback.map(|folder| folder.path().to_owned()),
        }),
        ..first.clone()
    }
}

fn template() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, content) in [
        ("config.yaml", "name: fallback\n"),
        ("prompt.md", "from the template"),
    ] {
        std::fs::write(folder.path().join(name), content).expect("a file");
    }
    folder
}

/// What is left of a workspace whose compute is gone.
fn storage_of(workspace: Uuid) -> ManagedInstance {
    ManagedInstance {
        workspace_id: workspace,
        compute: false,
        running: None,
        instance_id: None,
        unstarted: false,
        storage: true,
    }
}

pub(crate) async fn a_start_that_keeps_files_keeps_them(fixture: &impl Fixture) {
    // Given an agent that changed its configuration and wrote things down
    let backend = fixture.backend();
    let first = spec();
    let instance = backend.start(&first, &never()).await.expect("a start");
    agent::wait_until_ready(&instance.url).await;
    let script =
        "echo 'name: mine' > config.yaml; $B mkdir -p memory; echo remember > memory/notes.txt";
    fixture.script(first.workspace_id, script).await;

    // When it starts again, with a template at hand and without, running and stopped
    let template = template();
    for (fallback, stopped) in [(Some(&template), false), (None, true), (None, false)] {
        if stopped {
            let reference = InstanceRef::of(first.workspace_id);
            backend.stop(&reference).await.expect("a stop");
        }
        let spec = again(&first, fallback);
        let instance = backend.start(&spec, &never()).await.expect("a start");

        // Then its files are as it left them, and the platform's are new
        let seen = Seen::by_agent(&instance.url).await;
        for (name, content) in [
            ("config.yaml", "name: mine\n"),
            ("memory/notes.txt", "remember\n"),
            (".auth_token", "renewed"),
        ] {
            assert_eq!(seen.content(name).await.as_deref(), Some(content), "{name}");
        }
        assert!(
            !seen.files.contains_key("prompt.md"),
            "the template was copied"
        );
        let owner = fixture.file_owner();
        for name in ["config.yaml", "memory/notes.txt", ".auth_token"] {
            let found = &seen.files[name];
            assert_eq!((found.uid, found.gid), owner, "{name}");
        }
    }

    // And a configuration that is too long to be read is one all the same
    let script = "$B yes '# comment' | $B head -c 300000 > config.yaml";
    fixture.script(first.workspace_id, script).await;
    for fallback in [Some(&template), None] {
        let spec = again(&first, fallback);
        let instance = backend.start(&spec, &never()).await.expect("a start");
        let seen = Seen::by_agent(&instance.url).await;
        let length = seen.content("config.yaml").await.map(|text| text.len());
        assert_eq!(length, Some(300_000));
    }
}

pub(crate) async fn a_restart_without_a_configuration_falls_back_or_fails(fixture: &impl Fixture) {
    // Given an agent that lost its configuration
    let backend = fixture.backend();
    let first = spec();
    let id = first.workspace_id;
    let instance = backend.start(&first, &never()).await.expect("a start");
    agent::wait_until_ready(&instance.url).await;
    let script = "$B rm config.yaml; echo remember > notes.txt";
    fixture.script(id, script).await;

    // When it starts again without anything to fall back to
    let error = backend.start(&again(&first, None), &never()).await;
    let error = error.expect_err("nothing to start with");

    // Then that is said, and only the storage is left
    assert!(matches!(error, BackendError::NoConfig), "{error:?}");
    assert!(!error.is_transient());
    assert_eq!(
        backend.list_managed().await.expect("a list"),
        [storage_of(id)]
    );
    let found = liveness(&backend, id).await;
    assert!(matches!(found, Liveness::Missing), "{found:?}");

    // When there is a template, then it is copied beside what is there
    let template = template();
    let spec = again(&first, Some(&template));
    let instance = backend.start(&spec, &never()).await.expect("a start");
    let seen = Seen::by_agent(&instance.url).await;
    for (name, content) in [
        ("config.yaml", "name: fallback\n"),
        ("prompt.md", "from the template"),
        ("notes.txt", "remember\n"),
        (".auth_token", "renewed"),
    ] {
        assert_eq!(seen.content(name).await.as_deref(), Some(content), "{name}");
    }

    // But whatever the agent put in its place is its own
    for script in [
        "$B rm config.yaml; $B ln -s notes.txt config.yaml",
        "$B rm config.yaml; $B mkdir config.yaml",
    ] {
        let script = format!("{script}; echo mine > prompt.md");
        fixture.script(id, &script).await;
        for fallback in [None, Some(&template)] {
            let spec = again(&first, fallback);
            let instance = backend.start(&spec, &never()).await.expect("a start");
            let seen = Seen::by_agent(&instance.url).await;
            let kept = [("prompt.md", "mine\n"), ("notes.txt", "remember\n")];
            for (name, content) in kept {
                let found = seen.content(name).await;
                assert_eq!(found.as_deref(), Some(content), "{script}: {name}");
            }
        }
    }
}

pub(crate) async fn a_first_start_that_keeps_files_needs_something_to_start_with(
    fixture: &impl Fixture,
) {
    // Given a workspace whose storage is gone, when it starts
    let backend = fixture.backend();
    let first = spec();
    let error = backend.start(&again(&first, None), &never()).await;
    let error = error.expect_err("nothing to start with");

    // Then nothing is left of the attempt
    assert!(matches!(error, BackendError::NoConfig), "{error:?}");
    assert_eq!(fixture.leftovers().await, [""; 0]);

    // And a template is enough
    let template = template();
    let spec = again(&first, Some(&template));
    let instance = backend.start(&spec, &never()).await.expect("a start");
    let seen = Seen::by_agent(&instance.url).await;
    let content = seen.content("config.yaml").await;
    assert_eq!(content.as_deref(), Some("name: fallback\n"));
}

pub(crate) async fn config_files_are_read_if_they_are_plain_and_short(fixture: &impl Fixture) {
    // Given a config directory with all kinds of things in it
    let backend = fixture.backend();
    let spec = spec();
    let id = spec.workspace_id;
    let instance = backend.start(&spec, &never()).await.expect("a start");
    agent::wait_until_ready(&instance.url).await;
    let script = format!(
        "$B mkdir -p folder; echo deep > folder/file; $B ln -s config.yaml link; \
         $B ln -s /etc/passwd outside; $B ln -s nowhere dangling; $B mkfifo pipe; : > empty; \
         $B head -c {MAX_BYTES} /dev/zero > longest; $B head -c {} /dev/zero > longer; \
         $B head -c 3000000 /dev/zero > huge",
        MAX_BYTES + 1
    );
    fixture.script(id, &script).await;
    let longest = vec![0; MAX_BYTES];
    let table: [(&str, Option<&[u8]>); 19] = [
        ("config.yaml", Some(b"name: test\n")),
        ("folder/file", Some(b"deep\n")),
        ("empty", Some(b"")),
        ("longest", Some(&longest)),
        ("longer", None),
        ("huge", None),
        ("absent", None),
        ("absent/file", None),
        ("config.yaml/file", None),
        ("folder", None),
        ("link", None),
        ("outside", None),
        ("dangling", None),
        ("pipe", None),
        ("", None),
        (".", None),
        ("../configs/config.yaml", None),
        ("/etc/passwd", None),
        ("folder/../config.yaml", None),
    ];
    let look = async |state: &str| {
        for (name, content) in table {
            let read = backend.read_config(id, name).await.expect("a look");
            assert!(
                read.as_deref() == content,
                "{state}: {name:?}: {:?}",
                read.map(|r| r.len())
            );
        }
    };
    look("running").await;

    // Then it is the same when the agent has ended
    fixture.kill_compute(id).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while !matches!(liveness(&backend, id).await, Liveness::Stopped) {
        assert!(Instant::now() < deadline, "it still runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    look("stopped").await;

    // And nothing is read of what is not there, or somebody else's
    let read = backend.read_config(Uuid::new_v4(), "config.yaml").await;
    assert_eq!(read.expect("a look"), None);
    let read = fixture.stranger().read_config(id, "config.yaml").await;
    assert_eq!(read.expect("a look"), None);

    // And a backend in trouble says so
    fixture.damage(id).await;
    if let Ok(read) = backend.read_config(id, "config.yaml").await {
        assert!(read.is_some(), "trouble is not absence");
    }
    fixture.mend(id).await;
}
