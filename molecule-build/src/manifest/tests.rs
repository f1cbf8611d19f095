//! Manifests of made-up packages in real git repositories.

use std::collections::BTreeMap;
use std::process::Command;

use tempfile::TempDir;

use super::*;

const LOCK: &str = "version = 4\n\n[[package]]\nname = \"server\"\nversion = \"1.2.3\"\n\
                    dependencies = [\n \"molecule-core\",\n \"vault\",\n]\n\n\
                    [[package]]\nname = \"molecule-core\"\nversion = \"0.1.0\"\ndependencies = [\n \"molecule-hooks\",\n]\n\n\
                    [[package]]\nname = \"molecule-hooks\"\nversion = \"0.1.1\"\n\n\
                    [[package]]\nname = \"vault\"\nversion = \"0.4.0\"\ndependencies = [\n \"molecule-hooks\",\n]\n";

/// A workspace with one package, `server`, and the environment of its build script.
struct World {
    root: TempDir,
    env: BTreeMap<&'static str, String>,
}

impl World {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        let package = root.path().join("server");
        fs::create_dir_all(&package).expect("a folder");
        fs::write(root.path().join("Cargo.lock"), LOCK).expect("a lock file");
        fs::write(package.join("Cargo.toml"), "[package]\n").expect("a manifest");
        let env = BTreeMap::from([
            ("CARGO_PKG_NAME", "server".to_owned()),
            ("CARGO_PKG_VERSION", "1.2.3".to_owned()),
            ("CARGO_MANIFEST_DIR", package.to_string_lossy().into_owned()),
            ("TARGET", "x86_64-unknown-linux-gnu".to_owned()),
            ("PROFILE", "release".to_owned()),
            ("CARGO_CFG_FEATURE", "default,tls".to_owned()),
        ]);
        Self { root, env }
    }

    /// The same as a repository with one commit.
    fn in_git() -> Self {
        let world = Self::new();
        world.git(&["init", "--quiet", "--initial-branch=main"]);
        world.git(&["add", "."]);
        world.commit("first");
        world
    }

    fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=Test", "-c", "user.email=test@example.org"])
            .args(["-c", "commit.gpgsign=false"])
            .args(arguments)
            .current_dir(self.root.path())
            .output()
            .expect("git runs");
        assert!(output.status.success(), "git {arguments:?}: {output:?}");
        String::from_utf8(output.stdout)
            .expect("UTF-8")
            .trim()
            .to_owned()
    }

    fn commit(&self, message: &str) {
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message]);
    }

    fn collect(&self) -> Found {
        collect(&|name| self.env.get(name).cloned())
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.root.path().join(name), text).expect("a file");
    }

    fn head(&self) -> Option<Commit> {
        self.collect().manifest.git
    }
}

fn names(crates: &[Named]) -> Vec<String> {
    let text = |found: &Named| format!("{} {}", found.name, found.version);
    crates.iter().map(text).collect()
}

#[test]
fn everything_that_is_known_is_written_down() {
    let world = World::in_git();
    let found = world.collect();
    let manifest = &found.manifest;
    assert_eq!(
        manifest.package.as_ref().map(|p| p.name.as_str()),
        Some("server")
    );
    assert_eq!(manifest.molecule_core.as_deref(), Some("0.1.0"));
    assert_eq!(manifest.molecule_hooks.as_deref(), Some("0.1.1"));
    assert_eq!(names(&manifest.hook_crates), ["vault 0.4.0"]);
    assert_eq!(manifest.features, ["default", "tls"]);
    assert_eq!(manifest.profile.as_deref(), Some("release"));
    assert_eq!(manifest.lock_sha256.as_ref().map(String::len), Some(64));
    assert_eq!(
        manifest.git,
        Some(Commit {
            revision: world.git(&["rev-parse", "HEAD"]),
            dirty: false
        })
    );
    assert!(
        !found
            .directives
            .iter()
            .any(|line| line.starts_with("warning") || line.starts_with("error"))
    );
    // The same twice, and nothing in it says where it was built.
    let text = manifest.to_json();
    assert_eq!(text, world.collect().manifest.to_json());
    let folder = world.root.path().to_string_lossy().into_owned();
    assert!(!text.contains(&folder), "{text}");
}

#[test]
fn only_changes_of_tracked_files_make_it_dirty() {
    let world = World::in_git();
    let dirty = || world.head().expect("a commit").dirty;
    world.write("scratch.txt", "untracked");
    assert!(!dirty());
    world.write("Cargo.lock", &format!("{LOCK}\n# changed\n"));
    assert!(dirty());
    world.write("Cargo.lock", LOCK);
    assert!(!dirty(), "written back");
    world.git(&["add", "scratch.txt"]);
    assert!(dirty(), "staged");
    world.commit("second");
    assert!(!dirty());
    fs::remove_file(world.root.path().join("scratch.txt")).expect("removed");
    assert!(dirty(), "deleted");
}

#[test]
fn what_would_change_the_answer_is_watched() {
    let world = World::in_git();
    world.write("odd\nname", "x");
    world.git(&["add", "."]);
    world.commit("second");
    let lines = world.collect().directives;
    let watched = |path: &str| {
        let path = world.root.path().join(path);
        lines.contains(&format!("rerun-if-changed={}", path.display()))
    };
    for path in [
        "Cargo.lock",
        "server/Cargo.toml",
        ".git/HEAD",
        ".git/index",
        ".git/logs/HEAD",
        ".git/refs/heads/main",
    ] {
        assert!(watched(path), "{path}: {lines:?}");
    }
    for name in [REVISION, EPOCH] {
        assert!(
            lines.contains(&format!("rerun-if-env-changed={name}")),
            "{name}"
        );
    }
    // What is not there would have cargo run it each time; a line break would be a directive.
    let paths = lines
        .iter()
        .filter_map(|line| line.strip_prefix("rerun-if-changed="));
    for path in paths.filter(|path| *path != "build.rs") {
        assert!(Path::new(path).exists(), "{path}");
    }
    assert!(lines.iter().all(|line| !line.contains('\n')));
}

#[test]
fn looking_writes_nothing() {
    let world = World::in_git();
    let index = world.root.path().join(".git/index");
    let before = fs::read(&index).expect("an index");
    // Its time is news to the index, its text is not.
    world.write("Cargo.lock", LOCK);
    assert!(!world.head().expect("a commit").dirty);
    assert_eq!(fs::read(&index).expect("an index"), before);
}

#[test]
fn without_git_a_commit_or_a_tracked_package_there_is_no_revision() {
    let world = World::new();
    assert_eq!(world.head(), None, "no repository");
    world.git(&["init", "--quiet", "--initial-branch=main"]);
    assert_eq!(world.head(), None, "nothing tracked");
    world.git(&["add", "."]);
    assert_eq!(world.head(), None, "nothing committed");
    world.commit("first");
    assert!(world.head().is_some());
    // A repository around sources that are none of its own
    let around = World::in_git();
    let inner = around.root.path().join("rendered");
    fs::create_dir_all(inner.join("server")).expect("a folder");
    fs::write(inner.join("Cargo.lock"), LOCK).expect("a lock file");
    fs::write(inner.join("server/Cargo.toml"), "[package]\n").expect("a manifest");
    let folder = inner.join("server").to_string_lossy().into_owned();
    let env = World {
        root: around.root,
        env: BTreeMap::from([("CARGO_MANIFEST_DIR", folder)]),
    };
    assert_eq!(env.head(), None, "another repository");
}

#[test]
fn a_repository_that_git_refuses_is_a_warning_of_one_line() {
    let world = World::in_git();
    world.write(".git/config", "[core\nbroken");
    let found = world.collect();
    assert_eq!(found.manifest.git, None);
    let warning = found
        .directives
        .iter()
        .find(|line| line.starts_with("warning="));
    let warning = warning.expect("a warning");
    assert!(
        warning.contains("git revision is left out") && !warning.contains('\n'),
        "{warning}"
    );
}

#[test]
fn a_revision_that_the_operator_names_wins_and_must_be_one() {
    let mut world = World::in_git();
    world.env.insert(REVISION, "0123abcd-dirty".to_owned());
    let commit = world.head().expect("a commit");
    assert_eq!((commit.revision.as_str(), commit.dirty), ("0123abcd", true));
    world.env.insert(REVISION, "main".to_owned());
    let found = world.collect();
    assert_eq!(found.manifest.git, None);
    assert!(
        found
            .directives
            .iter()
            .any(|line| line.starts_with("error=MOLECULE_GIT_REVISION"))
    );
    world.env.insert(REVISION, String::new());
    assert!(world.head().is_some(), "empty is not set");
}

#[test]
fn only_the_agreed_variable_adds_a_date() {
    let mut world = World::new();
    assert_eq!(world.collect().manifest.source_date_epoch, None);
    world.env.insert(EPOCH, "1700000000".to_owned());
    assert_eq!(
        world.collect().manifest.source_date_epoch,
        Some(1_700_000_000)
    );
    world.env.insert(EPOCH, "yesterday".to_owned());
    let found = world.collect();
    assert_eq!(found.manifest.source_date_epoch, None);
    assert!(
        found
            .directives
            .iter()
            .any(|line| line.starts_with("error=SOURCE_DATE_EPOCH"))
    );
}

#[test]
fn outside_of_a_build_script_nothing_is_known_and_nothing_fails() {
    let found = collect(&|_| None);
    assert_eq!(found.manifest, Manifest::default());
    assert!(
        !found
            .directives
            .iter()
            .any(|line| line.starts_with("error"))
    );
}
