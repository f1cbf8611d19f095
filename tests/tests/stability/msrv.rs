//! The oldest compiler that we say is enough, is enough.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::api::repository;

/// Everything that is built, with its dependencies.
fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--all-features"])
        .current_dir(repository())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata failed");
    let mut metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    match metadata["packages"].take() {
        Value::Array(packages) => packages,
        other => panic!("cargo metadata has no packages: {other}"),
    }
}

/// `1.94` and `1.94.0` are the same.
fn version(text: &str) -> (u64, u64, u64) {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

/// `rust-version` of the workspace.
fn ours() -> String {
    let text = fs::read_to_string(repository().join("Cargo.toml")).expect("Cargo.toml can be read");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = \""));
    let found = line.and_then(|rest| rest.split('"').next());
    found.expect("Cargo.toml has a rust-version").to_owned()
}

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap_or_default()
}

#[test]
fn no_dependency_needs_a_newer_compiler_than_we_say() {
    let ours = ours();
    let packages = packages();
    assert!(packages.len() > 100, "the dependencies are not there");
    let offenders: Vec<_> = packages
        .iter()
        .filter_map(|package| {
            let wanted = package["rust_version"].as_str()?;
            (version(wanted) > version(&ours)).then(|| {
                let number = package["version"].as_str().unwrap_or_default();
                format!("{} {number} needs {wanted}", name(package))
            })
        })
        .collect();
    crate::assert_none(
        &offenders,
        &format!(
            "Cargo.toml says that Rust {ours} is enough, and these need a newer one: take an older \
             version of them (`cargo update -p NAME --precise VERSION`), or raise rust-version, which \
             docs/src/STABILITY.md says how to announce"
        ),
    );
}

#[test]
fn every_crate_of_ours_says_the_same() {
    let ours = ours();
    let offenders: Vec<_> = packages()
        .iter()
        .filter(|package| package["source"].is_null())
        .filter(|package| package["rust_version"].as_str() != Some(ours.as_str()))
        .map(|package| format!("{}: {}", name(package), package["rust_version"]))
        .collect();
    crate::assert_none(
        &offenders,
        "a crate of the workspace has `rust-version.workspace = true`: cargo then refuses older \
         compilers with a sentence, and clippy warns of what they lack (incompatible_msrv)",
    );
    let readme = fs::read_to_string(repository().join("README.md")).expect("README.md can be read");
    assert!(
        readme.contains(&format!("Rust {ours}")),
        "README.md names another Rust than {ours}"
    );
}

#[test]
fn clippy_is_left_to_warn_of_newer_functions() {
    let read = |name: &str| fs::read_to_string(repository().join(name)).unwrap_or_default();
    let clippy = read("clippy.toml");
    assert!(
        !clippy
            .lines()
            .any(|line| line.trim_start().starts_with("msrv")),
        "clippy.toml overrides rust-version, which Cargo.toml alone says"
    );
    assert!(
        !read("Cargo.toml").contains("incompatible_msrv"),
        "the lint is on by default; leave it on"
    );
}

#[test]
fn versions_are_compared_as_numbers() {
    assert!(version("1.100") > version("1.94"));
    assert_eq!(version("1.94"), version("1.94.0"));
    assert!(version("1.94.1") > version("1.94"));
}
