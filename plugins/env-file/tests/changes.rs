//! Files that change, vanish and turn into something else while the server runs.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod common;

use std::fmt;
use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{Files, boot};
use molecule_hooks::tracing::field::{Field, Visit};
use molecule_hooks::tracing::span::{Attributes, Id, Record};
use molecule_hooks::tracing::{self, Event, Level, Metadata, Subscriber};
use molecule_hooks::{HookErrorKind, RegisteredHook};
use serde_json::json;

/// The longest file there is.
const MOST_BYTES: usize = 256 * 1024;

/// The warnings of this thread.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!("{field}={value:?} "));
    }
}

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// A hook with a common file that nobody else can read.
fn with_common(files: &Files, text: &str) -> RegisteredHook {
    files.write("common.env", text);
    files.hook(json!({ "common_file": files.path("common.env") }))
}

/// What a boot gets as `A`, which must work.
async fn value(hook: &RegisteredHook) -> Option<String> {
    let (result, env) = boot(hook, "qa").await;
    result.unwrap();
    env.get("A").map(str::to_owned)
}

/// Why a boot does not work. It changes nothing and names no path.
async fn problem(hook: &RegisteredHook, files: &Files) -> String {
    let (result, env) = boot(hook, "qa").await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), HookErrorKind::Permanent);
    assert_eq!(env.len(), 1);
    let shown = format!("{error:?} {}", error.chain());
    assert!(!shown.contains(files.path("").to_str().unwrap()), "{shown}");
    error.to_string()
}

fn remove(path: &Path) {
    match path.is_dir() {
        true => fs::remove_dir_all(path).unwrap(),
        false => fs::remove_file(path).unwrap(),
    }
}

#[tokio::test]
async fn that_others_can_read_the_common_file_is_said_once() {
    let files = Files::new();
    files.write_with_mode("common.env", b"A=planted7f3a91c2\n", 0o644);
    let hook = files.hook(json!({ "common_file": files.path("common.env") }));
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    for _ in 0..3 {
        assert!(value(&hook).await.is_some());
    }
    // Nor is it when the file was closed for a while
    for mode in [0o600, 0o644] {
        let path = files.path("common.env");
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        assert!(value(&hook).await.is_some());
    }
    let said = warnings.0.lock().unwrap().clone();
    assert_eq!(
        said,
        ["message=env-file: the common file can be read by others than its owner "]
    );
}

#[tokio::test]
async fn a_file_that_only_its_owner_can_read_is_no_warning() {
    let files = Files::new();
    let hook = with_common(&files, "A=1\n");
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    assert_eq!(value(&hook).await.as_deref(), Some("1"));
    assert!(warnings.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_common_file_counts_as_it_is_at_the_boot() {
    let files = Files::new();
    let hook = with_common(&files, "A=1\n");
    assert_eq!(value(&hook).await.as_deref(), Some("1"));
    // Exchanged, written over, gone, and back
    files.write("common.env", "A=2\n");
    assert_eq!(value(&hook).await.as_deref(), Some("2"));
    fs::write(files.path("common.env"), "A=3\nB=1\n").unwrap();
    assert_eq!(value(&hook).await.as_deref(), Some("3"));
    remove(&files.path("common.env"));
    assert_eq!(value(&hook).await, None);
    files.write("common.env", "A=4\n");
    assert_eq!(value(&hook).await.as_deref(), Some("4"));
    // Even its folder may be gone for a while, as that of a volume
    remove(&files.path("roles"));
    remove(&files.path("workspaces"));
    assert_eq!(value(&hook).await.as_deref(), Some("4"));
}

#[tokio::test]
async fn a_file_that_turned_into_something_else_stops_the_boot_until_it_is_one_again() {
    let files = Files::new();
    files.write("roles/qa/env", "B=1\n");
    let hook = with_common(&files, "A=1\n");
    assert_eq!(value(&hook).await.as_deref(), Some("1"));
    for (name, label) in [
        ("common.env", "the common file"),
        ("roles/qa/env", "the file of the role"),
    ] {
        let (path, text) = (
            files.path(name),
            fs::read_to_string(files.path(name)).unwrap(),
        );
        remove(&path);
        fs::create_dir(&path).unwrap();
        let refused = format!("env-file: {label} is not a regular file");
        assert_eq!(problem(&hook, &files).await, refused);

        // A pipe without a writer: reading it would wait for ever
        remove(&path);
        let made = std::process::Command::new("mkfifo")
            .args(["-m", "600"])
            .arg(&path)
            .status()
            .unwrap();
        assert!(made.success());
        assert_eq!(problem(&hook, &files).await, refused);

        remove(&path);
        files.write(name, &text);
        assert_eq!(value(&hook).await.as_deref(), Some("1"));
    }
}

#[tokio::test]
async fn a_folder_of_the_common_file_that_is_none_any_more_is_not_called_a_link() {
    let files = Files::new();
    files.write("conf/common.env", "A=1\n");
    let hook = files.hook(json!({ "common_file": files.path("conf/common.env") }));
    assert_eq!(value(&hook).await.as_deref(), Some("1"));
    remove(&files.path("conf"));
    files.write("conf", "no folder");
    let text = problem(&hook, &files).await;
    assert_eq!(text, "env-file: the common file cannot be read");
}

#[tokio::test]
async fn a_huge_file_is_refused_without_being_read() {
    let files = Files::new();
    let longest = format!("A=1\n#{}", "x".repeat(MOST_BYTES - 5));
    assert_eq!(longest.len(), MOST_BYTES);
    let hook = with_common(&files, &longest);
    assert_eq!(value(&hook).await.as_deref(), Some("1"));

    // Eight gigabytes that take no room on the disk
    let path = files.path("common.env");
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(1 << 33).unwrap();
    drop(file);
    assert_eq!(
        problem(&hook, &files).await,
        "env-file: the common file is longer than 262144 bytes"
    );

    files.write("common.env", "A=2\n");
    assert_eq!(value(&hook).await.as_deref(), Some("2"));
}
