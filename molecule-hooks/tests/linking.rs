//! What happens in somebody else's cargo workspace: a hook crate that is named,
//! one that is not, and two versions of this crate.
//!
//! Each test writes small packages and runs cargo on them, offline and in a
//! target directory that they share with each other only.

#![allow(clippy::unwrap_used)] // helpers of tests count as tests

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Below the target directory, so that the cargo configuration of this
/// repository applies to them as well.
const SCRATCH: &str = env!("CARGO_TARGET_TMPDIR");

const HOOK_LIB: &str = r#"
use std::sync::Arc;
use molecule_hooks::*;

struct ScratchHook;

#[async_trait]
impl EnvMutator for ScratchHook {
    fn name(&self) -> &str {
        "scratch-hook"
    }
    async fn mutate_env(&self, _: &WorkspaceContext, _: &mut EnvMap) -> Result<(), HookError> {
        Ok(())
    }
}

fn build(_: NoConfig, _: &BuildContext) -> BuildResult {
    Ok(Some(Arc::new(ScratchHook)))
}

register_hook! { name: "scratch-hook", description: "A test", config: NoConfig, build: build }
"#;

/// Prints the names of the linked hooks.
const MAIN: &str = r#"
fn main() {
    let registry = molecule_hooks::Registry::from_linked(&molecule_hooks::HooksConfig::new());
    println!("{:?}", registry.map(|registry| registry.names()));
}
"#;

/// What the template of a server has in its first line.
const LINT: &str = "#![cfg_attr(not(test), deny(unused_crate_dependencies))]\n";

struct Scratch {
    root: PathBuf,
}

impl Scratch {
    /// An empty workspace with the lock file of this one: nothing but what is
    /// already here can be resolved offline. Its place is fixed, so that cargo
    /// finds what it compiled the last time.
    fn new(name: &str, members: &[&str]) -> Self {
        let root = Path::new(SCRATCH).join(name);
        if root.exists() {
            fs::remove_dir_all(&root).unwrap();
        }
        let scratch = Self { root };
        let members = format!("{members:?}");
        scratch.write(
            "Cargo.toml",
            &format!("[workspace]\nresolver = \"3\"\nmembers = {members}\n\n[profile.dev]\ndebug = false\n"),
        );
        let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
        fs::copy(lock, scratch.path("Cargo.lock")).unwrap();
        scratch
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    fn write(&self, relative: &str, text: &str) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A package that depends on paths.
    fn package(&self, name: &str, dependencies: &[(&str, &Path)], source: &str, file: &str) {
        let dependencies: String = dependencies
            .iter()
            .map(|(name, path)| format!("{name} = {{ path = {path:?} }}\n"))
            .collect();
        self.write(
            &format!("{name}/Cargo.toml"),
            &format!(
                "[package]\nname = {name:?}\nversion = \"1.0.0\"\nedition = \"2024\"\n\n[dependencies]\n{dependencies}"
            ),
        );
        self.write(&format!("{name}/src/{file}"), source);
    }

    fn cargo(&self, arguments: &[&str]) -> Output {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        Command::new(cargo)
            .args(arguments)
            .args(["--offline", "--color", "never"])
            .current_dir(&self.root)
            .env(
                "CARGO_TARGET_DIR",
                Path::new(SCRATCH).join("linking-target"),
            )
            .output()
            .unwrap()
    }
}

fn this_crate() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A hook crate and three servers: one that names it, one that forgets to, and
/// one that forgets to and does not use the lint.
fn servers() -> Scratch {
    let scratch = Scratch::new(
        "linking-servers",
        &["scratch-hook", "named", "forgotten", "without-lint"],
    );
    let this = this_crate();
    let hook = scratch.path("scratch-hook");
    scratch.package(
        "scratch-hook",
        &[("molecule-hooks", &this)],
        HOOK_LIB,
        "lib.rs",
    );
    for (server, source) in [
        ("named", format!("{LINT}use scratch_hook as _;\n{MAIN}")),
        ("forgotten", format!("{LINT}{MAIN}")),
        ("without-lint", MAIN.to_owned()),
    ] {
        let dependencies: [(&str, &Path); 2] = [("molecule-hooks", &this), ("scratch-hook", &hook)];
        scratch.package(server, &dependencies, &source, "main.rs");
    }
    scratch
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn run(scratch: &Scratch, server: &str) -> String {
    let output = scratch.cargo(&["run", "--quiet", "-p", server]);
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_hook_is_linked_if_and_only_if_the_server_names_it() {
    let scratch = servers();

    // The dependency and the line: the hook is there.
    assert_eq!(run(&scratch, "named"), r#"Ok(["scratch-hook"])"#);

    // The dependency alone: it silently is not. Hence the lint.
    assert_eq!(run(&scratch, "without-lint"), "Ok([])");

    // With the lint, forgetting the line does not compile, and the message
    // names the fix.
    let forgotten = scratch.cargo(&["check", "-p", "forgotten"]);
    assert!(!forgotten.status.success());
    let message = stderr(&forgotten);
    assert!(message.contains("use scratch_hook as _"), "{message}");
}

#[test]
fn two_versions_of_this_crate_do_not_resolve() {
    // Given a hook crate that asks for another version than the server does.
    // The other version needs no code: cargo must refuse before compiling.
    let scratch = Scratch::new("linking-versions", &["server", "newer-hook"]);
    let (this, newer) = (this_crate(), scratch.path("molecule-hooks"));
    scratch.write(
        "molecule-hooks/Cargo.toml",
        "[package]\nname = \"molecule-hooks\"\nversion = \"99.0.0\"\nedition = \"2024\"\nlinks = \"molecule-hooks\"\n",
    );
    scratch.write("molecule-hooks/build.rs", "fn main() {}\n");
    scratch.write("molecule-hooks/src/lib.rs", "");
    scratch.package("newer-hook", &[("molecule-hooks", &newer)], "", "lib.rs");
    let hook = scratch.path("newer-hook");
    let dependencies: [(&str, &Path); 2] = [("molecule-hooks", &this), ("newer-hook", &hook)];
    scratch.package("server", &dependencies, MAIN, "main.rs");

    let resolved = scratch.cargo(&["generate-lockfile"]);

    assert!(!resolved.status.success());
    let message = stderr(&resolved);
    assert!(message.contains("`molecule-hooks`"), "{message}");
    assert!(
        message.contains("links to the native library `molecule-hooks`"),
        "{message}"
    );
    assert!(message.contains("required by package"), "{message}");
    assert!(message.contains("v99.0.0"), "{message}");
}
