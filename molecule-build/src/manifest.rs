//! From the surroundings of a build script to the text that is embedded.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{cargo, git, lock};

/// Names the commit where there is no git.
const REVISION: &str = "MOLECULE_GIT_REVISION";
/// Seconds since 1970; see reproducible-builds.org.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// What a binary is made of. The order of the fields is that of the text.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Manifest {
    pub(crate) package: Option<Named>,
    pub(crate) git: Option<Commit>,
    pub(crate) lock_sha256: Option<String>,
    pub(crate) rustc: Option<String>,
    pub(crate) target: Option<String>,
    pub(crate) profile: Option<String>,
    pub(crate) features: Vec<String>,
    pub(crate) source_date_epoch: Option<i64>,
    pub(crate) molecule_core: Option<String>,
    pub(crate) molecule_hooks: Option<String>,
    pub(crate) hook_crates: Vec<Named>,
}

/// A package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// What the sources are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Commit {
    pub(crate) revision: String,
    /// Whether tracked files differ from it.
    pub(crate) dirty: bool,
}

impl Manifest {
    /// The same bytes for the same manifest.
    pub(crate) fn to_json(&self) -> String {
        // Strings, numbers and lists always have a form in JSON.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_else(|_| "{}".to_owned());
        text.push('\n');
        text
    }
}

/// A manifest, and what cargo has to be told.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) manifest: Manifest,
    /// Lines for cargo, without `cargo::`.
    pub(crate) directives: Vec<String>,
}

impl Found {
    fn watch(&mut self, path: &Path) {
        // A line break would end the directive.
        match path.to_str() {
            Some(path) if !path.contains(['\n', '\r']) => {
                self.directives.push(format!("rerun-if-changed={path}"));
            }
            _ => {}
        }
    }

    fn watch_variable(&mut self, name: &str) {
        self.directives.push(format!("rerun-if-env-changed={name}"));
    }

    fn warn(&mut self, what: &str) {
        self.directives.push(format!("warning={}", one_line(what)));
    }

    fn fail(&mut self, what: &str) {
        self.directives.push(format!("error={}", one_line(what)));
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Finds out everything; `variable` reads the environment of the build script.
pub(crate) fn collect(variable: &dyn Fn(&str) -> Option<String>) -> Found {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let mut found = Found::default();
    found
        .directives
        .push("rerun-if-changed=build.rs".to_owned());
    for name in [REVISION, EPOCH] {
        found.watch_variable(name);
    }
    found.manifest.target = set("TARGET");
    found.manifest.profile = cargo::profile(&set);
    found.manifest.features = cargo::features(&set);
    found.manifest.rustc = set("RUSTC").and_then(|rustc| cargo::rustc_version(&rustc));
    if let Some(text) = set(EPOCH) {
        match text.parse() {
            Ok(seconds) => found.manifest.source_date_epoch = Some(seconds),
            Err(_) => found.fail("SOURCE_DATE_EPOCH must be whole seconds since 1970"),
        }
    }
    let package = set("CARGO_PKG_NAME").zip(set("CARGO_PKG_VERSION"));
    found.manifest.package = package.map(|(name, version)| Named { name, version });
    let folder = set("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let lock_file = folder.as_deref().and_then(nearest_lock_file);
    if let Some(path) = &lock_file {
        read_lock(path, &mut found);
    }
    match set(REVISION) {
        Some(text) => match git::parse_revision(&text) {
            Some(commit) => found.manifest.git = Some(commit),
            None => found.fail(
                "MOLECULE_GIT_REVISION must be 7 to 64 hexadecimal digits, with or without -dirty",
            ),
        },
        None => {
            // What cargo builds from lies below the folder of the lock file.
            let root = lock_file.as_deref().and_then(Path::parent);
            if let (Some(root), Some(folder)) = (root, &folder) {
                read_git(root, folder, &mut found);
            }
        }
    }
    found
}

/// The lock file of the package's workspace.
fn nearest_lock_file(folder: &Path) -> Option<PathBuf> {
    let paths = folder.ancestors().map(|folder| folder.join("Cargo.lock"));
    paths.into_iter().find(|path| path.is_file())
}

fn read_lock(path: &Path, found: &mut Found) {
    found.watch(path);
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => return found.warn(&format!("Cargo.lock cannot be read: {error}")),
    };
    let digest = Sha256::digest(&bytes);
    let digits = digest.iter().map(|byte| format!("{byte:02x}"));
    found.manifest.lock_sha256 = Some(digits.collect());
    let packages = lock::parse(&String::from_utf8_lossy(&bytes));
    let below = match &found.manifest.package {
        Some(root) => lock::below(&packages, &root.name, &root.version),
        None => Vec::new(),
    };
    let version_of = |name: &str| {
        let package = below.iter().find(|package| package.name == name);
        package.map(|package| package.version.clone())
    };
    found.manifest.molecule_core = version_of(lock::CORE);
    found.manifest.molecule_hooks = version_of(lock::SDK);
    let hooks = below.iter().filter(|package| package.is_hook_crate());
    found.manifest.hook_crates = hooks
        .map(|package| Named {
            name: package.name.clone(),
            version: package.version.clone(),
        })
        .collect();
    found.manifest.hook_crates.sort();
}

fn read_git(root: &Path, package: &Path, found: &mut Found) {
    match git::examine(root, package) {
        Ok(Some(state)) => {
            found.manifest.git = Some(state.commit);
            for path in &state.watched {
                found.watch(path);
            }
        }
        Ok(None) => {}
        Err(reason) => found.warn(&format!(
            "the git revision is left out of the build manifest: {reason}"
        )),
    }
}

#[cfg(test)]
mod tests;
