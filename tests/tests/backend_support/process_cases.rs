//! What is particular to processes: groups, signals, adoption, the folder.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use molecule_core::backend::{
    BackendError, InstanceRef, Liveness, ProcessBackend, StartSpec, WorkspaceAccess,
};
use molecule_core::config::backend::ProcessConfig;
use tokio_util::sync::CancellationToken;

use crate::backend_support::agent::wait_until_ready;
use crate::backend_support::fixture::{Fixture, file, liveness, spec, with_env};
use crate::backend_support::process::{ProcessFixture, kill};

async fn fixture() -> ProcessFixture {
    ProcessFixture::new().await.expect("a fixture")
}

fn never() -> CancellationToken {
    CancellationToken::new()
}

async fn assert_no_process_left(fixture: &ProcessFixture) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let mut left = fixture.leftovers().await;
        left.retain(|what| what.starts_with("process"));
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{left:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_ignores_polite_signals_is_ended_with_its_children() {
    let fixture = fixture().await;
    let spec = with_env(spec(), "TEST_STUBBORN", "1");
    let instance = fixture
        .backend()
        .start(&spec, &never())
        .await
        .expect("a start");
    wait_until_ready(&instance.url).await;

    fixture
        .backend()
        .stop(&InstanceRef::of(spec.workspace_id))
        .await
        .expect("a stop");
    assert_no_process_left(&fixture).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn children_of_a_dead_agent_are_ended_too() {
    let fixture = fixture().await;
    let spec = with_env(spec(), "TEST_STUBBORN", "1");
    let instance = fixture
        .backend()
        .start(&spec, &never())
        .await
        .expect("a start");
    wait_until_ready(&instance.url).await;
    fixture.kill_compute(spec.workspace_id).await;

    fixture
        .backend()
        .stop(&InstanceRef::of(spec.workspace_id))
        .await
        .expect("a stop");
    assert_no_process_left(&fixture).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_only_has_the_same_number_is_left_alone() {
    // Given a record whose process id was given to somebody else meanwhile
    let fixture = fixture().await;
    let (backend, spec) = (fixture.backend(), spec());
    backend.start(&spec, &never()).await.expect("a start");
    let mut record = fixture.record(spec.workspace_id);
    backend
        .stop(&InstanceRef::of(spec.workspace_id))
        .await
        .expect("a stop");
    let mut other = Command::new("/bin/busybox");
    std::os::unix::process::CommandExt::process_group(&mut other, 0);
    let mut other = other.args(["sleep", "300"]).spawn().expect("a process");
    record["pid"] = other.id().into();
    fs::write(fixture.record_file(spec.workspace_id), record.to_string()).unwrap();

    // Then the workspace is stopped, and ending it ends nobody
    let found = liveness(&backend, spec.workspace_id).await;
    assert!(matches!(found, Liveness::Stopped), "{found:?}");
    backend
        .stop(&InstanceRef::of(spec.workspace_id))
        .await
        .expect("a stop");
    assert!(
        other.try_wait().expect("a status").is_none(),
        "somebody else was ended"
    );

    kill(other.id().into());
    other.wait().expect("an end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ended_and_was_not_waited_for_is_stopped() {
    let fixture = fixture().await;
    let (backend, spec) = (fixture.backend(), spec());
    backend.start(&spec, &never()).await.expect("a start");
    let mut record = fixture.record(spec.workspace_id);
    backend
        .stop(&InstanceRef::of(spec.workspace_id))
        .await
        .expect("a stop");

    // Given a zombie, with everything the record says about it being right
    let mut child = Command::new("/bin/busybox")
        .args(["sh", "-c", "read line"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("a process");
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    record["pid"] = child.id().into();
    record["start_time"] = fields[19].parse::<u64>().unwrap().into();
    fs::write(fixture.record_file(spec.workspace_id), record.to_string()).unwrap();
    let found = liveness(&backend, spec.workspace_id).await;
    assert!(matches!(found, Liveness::Running), "{found:?}");
    drop(child.stdin.take());

    let deadline = Instant::now() + Duration::from_secs(5);
    while !matches!(
        liveness(&backend, spec.workspace_id).await,
        Liveness::Stopped
    ) {
        assert!(Instant::now() < deadline, "a zombie counts as running");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    child.wait().expect("an end");
}

#[tokio::test(flavor = "multi_thread")]
async fn links_an_agent_left_behind_are_not_followed() {
    // Given an agent that turned its files into links to somebody else's
    let fixture = fixture().await;
    let (backend, mut spec) = (fixture.backend(), spec());
    spec.files.push(file("sub/inner.txt", "ours", 0o644));
    backend.start(&spec, &never()).await.expect("a start");
    backend
        .stop(&InstanceRef::of(spec.workspace_id))
        .await
        .expect("a stop");
    let outside = tempfile::tempdir().expect("a folder");
    fs::write(outside.path().join("config.yaml"), "theirs").unwrap();
    let configs = std::path::PathBuf::from(fixture.config_path(spec.workspace_id));
    fs::remove_file(configs.join("config.yaml")).unwrap();
    fs::remove_dir_all(configs.join("sub")).unwrap();
    let link = std::os::unix::fs::symlink::<_, std::path::PathBuf>;
    link(
        outside.path().join("config.yaml"),
        configs.join("config.yaml"),
    )
    .unwrap();
    link(outside.path().to_owned(), configs.join("sub")).unwrap();

    // When the workspace starts again
    backend
        .start(&spec, &never())
        .await
        .expect("a second start");

    // Then only its own files changed
    assert_eq!(
        fs::read_to_string(outside.path().join("config.yaml")).unwrap(),
        "theirs"
    );
    assert!(!outside.path().join("inner.txt").exists());
    assert_eq!(
        fs::read_to_string(configs.join("config.yaml")).unwrap(),
        "name: test\n"
    );
    assert_eq!(
        fs::read_to_string(configs.join("sub/inner.txt")).unwrap(),
        "ours"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_kept_and_does_not_grow_for_ever() {
    let fixture = fixture().await;
    let script = "echo to-stdout; echo to-stderr >&2; exec /bin/busybox sleep 300";
    let backend = fixture.with_command(&["/bin/sh", "-c", script], "logger");
    let spec = spec();
    backend.start(&spec, &never()).await.expect("a start");
    let log = fixture
        .record_file(spec.workspace_id)
        .with_file_name("agent.log");
    let text = fs::read_to_string(&log).unwrap();
    assert!(
        text.contains("to-stdout") && text.contains("to-stderr"),
        "{text}"
    );

    fs::OpenOptions::new()
        .write(true)
        .open(&log)
        .unwrap()
        .set_len(11 << 20)
        .unwrap();
    backend
        .start(&spec, &never())
        .await
        .expect("a second start");
    assert!(fs::metadata(&log).unwrap().len() < 1000);
    assert!(log.with_extension("log.1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_said_clearly() {
    let fixture = fixture().await;
    let backend = fixture.with_command(&["/nonexistent/agent"], "broken");
    backend.check().await.expect_err("a missing program");
    let error = backend
        .start(&spec(), &never())
        .await
        .expect_err("a missing program");
    assert!(!error.to_string().contains("/nonexistent"), "{error}");
    assert_eq!(fixture.leftovers().await, [""; 0]);

    // A promise that needs isolation
    let read_only = StartSpec {
        workspace_dir: Some("/".into()),
        workspace_access: WorkspaceAccess::ReadOnly,
        ..spec()
    };
    let error = fixture
        .backend()
        .start(&read_only, &never())
        .await
        .expect_err("a refusal");
    assert!(matches!(error, BackendError::Failed { .. }), "{error:?}");

    let none = ProcessConfig {
        command: Vec::new(),
        dir: None,
    };
    ProcessBackend::new(none, fixture.dir(), "x".to_owned()).expect_err("no command");
}
