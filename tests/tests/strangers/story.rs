//! The empty folder in which somebody begins.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use crate::program::said;

/// The root of the repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

/// The target directory that this test came from.
pub(crate) fn target() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    // <target>/<profile>/deps/<this test>
    this.ancestors().nth(3).unwrap().to_owned()
}

/// One of the scripts of the repository.
pub(crate) fn script(name: &str) -> Command {
    let mut command = Command::new(repository().join("scripts").join(name));
    command.stdin(Stdio::null());
    command
}

/// The crates that strangers use, as a publication would hold them.
pub(crate) fn packages() -> PathBuf {
    static PACKAGES: OnceLock<PathBuf> = OnceLock::new();
    PACKAGES.get_or_init(make_packages).clone()
}

fn make_packages() -> PathBuf {
    let folder = target().join("strangers");
    fs::create_dir_all(&folder).unwrap();
    let _one_at_a_time = locked(&folder.join("packages.lock"));
    let packages = folder.join("packages");
    let output = script("packages").arg(&packages).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    packages
}

fn locked(path: &Path) -> File {
    let file = File::create(path).unwrap();
    file.lock().unwrap();
    file
}

/// A folder outside the workspace, gone at the end. It has the same place every time,
/// so that cargo finds what it compiled the last time.
pub(crate) struct Story {
    root: PathBuf,
    lock: PathBuf,
    _alone: File,
}

impl Story {
    pub(crate) fn begin(name: &str) -> Self {
        let mut checkout = DefaultHasher::new();
        repository().hash(&mut checkout);
        let place = format!("molecule-stranger-{:016x}-{name}", checkout.finish());
        let root = std::env::temp_dir().join(place);
        let lock = root.with_extension("lock");
        let alone = locked(&lock);
        if root.exists() {
            fs::remove_dir_all(&root).unwrap();
        }
        fs::create_dir(&root).unwrap();
        Self {
            root: root.canonicalize().unwrap(),
            lock,
            _alone: alone,
        }
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// Makes a server or a hook crate from its template, against the packages, with the
    /// versions of this workspace's lock file.
    pub(crate) fn make(&self, script_name: &str, arguments: &[&str]) {
        let output = script(script_name)
            .args(arguments)
            .arg("--molecule")
            .arg(packages())
            .current_dir(&self.root)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
        let lock = repository().join("Cargo.lock");
        fs::copy(lock, self.path(arguments[0]).join("Cargo.lock")).unwrap();
    }

    /// Adds a hook crate of this story to a server of it: the dependency, and with
    /// `named` also the line that links it.
    pub(crate) fn add_hook(&self, server: &str, hook: &str, named: bool) {
        let dependency =
            format!("[dependencies]\nmolecule-hook-{hook} = {{ path = \"../{hook}\" }}");
        self.edit(
            &format!("{server}/Cargo.toml"),
            "[dependencies]",
            &dependency,
        );
        if named {
            self.name_hook(server, hook);
        }
    }

    /// The second of the two lines.
    pub(crate) fn name_hook(&self, server: &str, hook: &str) {
        let line = format!(
            "use molecule_hook_{} as _;\nuse molecule_hook_github_app_auth as _;",
            hook.replace('-', "_")
        );
        self.edit(
            &format!("{server}/src/main.rs"),
            "use molecule_hook_github_app_auth as _;",
            &line,
        );
    }

    /// Replaces a text that must be there, once.
    pub(crate) fn edit(&self, file: &str, from: &str, to: &str) {
        let path = self.path(file);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches(from).count(), 1, "{from:?} in {file}:\n{text}");
        fs::write(path, text.replacen(from, to, 1)).unwrap();
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        let path = self.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Cargo in a folder of this story.
    pub(crate) fn cargo(&self, folder: &str, arguments: &[&str]) -> Output {
        self.cargo_command(folder).args(arguments).output().unwrap()
    }

    pub(crate) fn cargo_command(&self, folder: &str) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .env("CARGO_TARGET_DIR", target())
            .env("CARGO_NET_OFFLINE", "true")
            .env("CARGO_TERM_COLOR", "never")
            .current_dir(self.path(folder))
            .stdin(Stdio::null());
        command
    }

    /// What cargo prints; it must succeed.
    pub(crate) fn cargo_succeeds(&self, folder: &str, arguments: &[&str]) -> String {
        let output = self.cargo(folder, arguments);
        let text = said(&output);
        assert!(output.status.success(), "cargo {arguments:?}:\n{text}");
        text
    }

    /// What cargo prints; it must fail.
    pub(crate) fn cargo_fails(&self, folder: &str, arguments: &[&str]) -> String {
        let output = self.cargo(folder, arguments);
        let text = said(&output);
        assert!(!output.status.success(), "cargo {arguments:?}:\n{text}");
        text
    }

    /// The binary of a server of this story, after `cargo build`.
    pub(crate) fn binary(&self, name: &str) -> PathBuf {
        target().join("debug").join(name)
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
        let _ = fs::remove_file(&self.lock);
    }
}
