//! What the crates of the workspace depend on.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::assert_none;
use crate::source::{has_word, repository, rust_in};

/// Crates that must not be built, and why. `deny.toml` has the same list.
const BANNED: [(&str, &str); 7] = [
    (
        "native-tls",
        "TLS is rustls, so that a server needs no system library",
    ),
    (
        "openssl",
        "TLS is rustls, so that a server needs no system library",
    ),
    (
        "openssl-sys",
        "TLS is rustls, so that a server needs no system library",
    ),
    (
        "ring",
        "with two crypto providers rustls cannot choose and panics at the first TLS connection",
    ),
    (
        "rsa",
        "RUSTSEC-2023-0071 has no fix; aws-lc-rs signs in constant time",
    ),
    (
        "serde_yml",
        "RUSTSEC-2025-0068; yaml_serde is the maintained one",
    ),
    (
        "tokio-tar",
        "RUSTSEC-2025-0111; astral-tokio-tar is the maintained one",
    ),
];

/// Crates of which a second version would cost much or break silently.
/// `deny.toml` has the same list.
const ONE_VERSION: [&str; 12] = [
    "axum",
    "bollard",
    "http",
    "hyper",
    "inventory",
    "jsonwebtoken",
    "metrics",
    "molecule-hooks",
    "reqwest",
    "rustls",
    "sqlx",
    "tracing",
];

fn cargo(arguments: &[&str]) -> String {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program)
        .args(arguments)
        .current_dir(repository())
        .output()
        .expect("cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "cargo {arguments:?} failed; if a download is missing, `cargo fetch` gets it:\n{errors}"
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Name and version of everything that is built, on any platform.
fn built(arguments: &[&str]) -> Vec<(String, String)> {
    let tree = [
        "tree",
        "--all-features",
        "--target=all",
        "--prefix=none",
        "--format={p}",
    ];
    let mut found: Vec<_> = cargo(&[&tree, arguments].concat())
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

/// The packages of the workspace with the dependencies their manifests name.
fn workspace() -> Vec<Value> {
    let text = cargo(&["metadata", "--no-deps", "--format-version=1"]);
    let mut metadata: Value = serde_json::from_str(&text).expect("cargo metadata prints JSON");
    match metadata["packages"].take() {
        Value::Array(packages) => packages,
        other => panic!("cargo metadata has no packages: {other}"),
    }
}

fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap_or_default()
}

/// Dependencies of this workspace that are linked into the package.
fn linked_from_ours<'a>(package: &'a Value, ours: &[&str]) -> Vec<&'a str> {
    let dependencies = package["dependencies"].as_array();
    dependencies
        .into_iter()
        .flatten()
        .filter(|dependency| dependency["kind"].is_null())
        .map(name)
        .filter(|name| ours.contains(name))
        .collect()
}

/// A hook crate that comes with Molecule and is no example.
fn is_shipped(package: &Value) -> bool {
    let manifest = package["manifest_path"].as_str().unwrap_or_default();
    manifest.contains("/plugins/")
}

/// A hook crate is what builds on the SDK without being a server or a test.
fn hook_crates(packages: &[Value]) -> Vec<&Value> {
    let ours: Vec<_> = packages.iter().map(name).collect();
    packages
        .iter()
        .filter(|package| {
            let linked = linked_from_ours(package, &ours);
            is_shipped(package)
                || linked.contains(&"molecule-hooks")
                    && !linked.contains(&"molecule-core")
                    && !["molecule-core", "molecule-tests", "molecule-benches"]
                        .contains(&name(package))
        })
        .collect()
}

#[test]
fn banned_crates_are_not_built() {
    let built = built(&["--workspace", "--edges=normal,build,dev"]);
    let offenders: Vec<_> = BANNED
        .iter()
        .filter(|(banned, _)| built.iter().any(|(name, _)| name == banned))
        .map(|(banned, why)| {
            format!("{banned}: {why}; `cargo tree --target all -i {banned}` shows who wants it")
        })
        .collect();
    assert_none(&offenders, "these crates must not be in the build");
}

#[test]
fn big_crates_are_built_in_one_version() {
    let built = built(&["--workspace", "--edges=normal,build,dev"]);
    let mut offenders = Vec::new();
    for single in ONE_VERSION {
        let versions: Vec<_> = built
            .iter()
            .filter(|(name, _)| name == single)
            .map(|(_, version)| version.as_str())
            .collect();
        if versions.len() != 1 {
            offenders.push(format!("{single}: {versions:?}"));
        }
    }
    assert_none(
        &offenders,
        "one version of each of these: their types cross our public interfaces, or a second copy \
         keeps a registry of its own that nobody reads. `cargo tree --duplicates` shows who wants the other",
    );
}

#[test]
fn deny_toml_says_the_same() {
    let path = repository().join("deny.toml");
    let deny = fs::read_to_string(path).expect("deny.toml can be read");
    let ours = |name: &&str| *name != "molecule-hooks";
    let offenders: Vec<_> = BANNED
        .iter()
        .map(|(name, _)| *name)
        .chain(ONE_VERSION)
        .filter(ours)
        .filter(|name| !deny.contains(&format!("crate = \"{name}\"")))
        .map(str::to_owned)
        .collect();
    assert_none(&offenders, "deny.toml must list what this test bans");
}

#[test]
fn the_hook_sdk_stays_small() {
    let built = built(&["--package=molecule-hooks", "--edges=normal,build"]);
    let heavy = ["axum", "bollard", "molecule-core", "reqwest", "sqlx"];
    let offenders: Vec<_> = built
        .into_iter()
        .filter(|(name, _)| heavy.contains(&name.as_str()))
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    assert_none(
        &offenders,
        "molecule-hooks must not depend on the server or its libraries, not even through another \
         crate: every hook author compiles it and is tied to its versions",
    );
}

#[test]
fn hook_crates_need_only_the_sdk() {
    let packages = workspace();
    let ours: Vec<_> = packages.iter().map(name).collect();
    let hooks = hook_crates(&packages);
    assert!(hooks.len() >= 4, "hook crates are not recognised any more");
    let offenders: Vec<_> = hooks
        .into_iter()
        .filter_map(|hook| {
            let linked = linked_from_ours(hook, &ours);
            let is_sdk = |name: &&str| ["molecule-hooks", "molecule-hooks-http"].contains(name);
            let only_sdk = linked.contains(&"molecule-hooks") && linked.iter().all(is_sdk);
            (!only_sdk).then(|| format!("{}: {linked:?}", name(hook)))
        })
        .collect();
    assert_none(
        &offenders,
        "a hook crate links the SDK (molecule-hooks, and molecule-hooks-http if it asks an upstream) \
         and nothing else of this workspace, so that one written elsewhere has the same means as ours",
    );
}

/// Whether a line of code names a hook crate or its hook. A hook of one word, such as
/// `vault`, has the name of what it is for, so that alone says nothing.
fn names_crate(line: &str, package: &str) -> bool {
    let hook = package.strip_prefix("molecule-hook-").unwrap_or(package);
    let names = if hook.contains('-') {
        vec![package, hook]
    } else {
        vec![package]
    };
    names
        .iter()
        .any(|name| has_word(line, name) || has_word(line, &name.replace('-', "_")))
}

#[test]
fn the_server_names_no_hook_crate() {
    let packages = workspace();
    let hooks: Vec<_> = hook_crates(&packages).into_iter().map(name).collect();
    // The examples have the names of what they show, so code may hold them.
    let shipped: Vec<_> = packages
        .iter()
        .filter(|package| is_shipped(package))
        .map(name)
        .collect();
    let mut offenders = Vec::new();
    for package in packages
        .iter()
        .filter(|package| ["molecule-core", "molecule-hooks"].contains(&name(package)))
    {
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            if hooks.contains(&name(dependency)) {
                offenders.push(format!("{} depends on {}", name(package), name(dependency)));
            }
        }
    }
    for file in rust_in(&["molecule-core/src/", "molecule-hooks/src/"]) {
        for (index, line) in file.code_and_literals().lines().enumerate() {
            for hook in &shipped {
                if names_crate(line, hook) {
                    offenders.push(format!("{}:{}: {}", file.path, index + 1, line.trim()));
                }
            }
        }
    }
    assert_none(
        &offenders,
        "molecule-core and molecule-hooks must not name a hook crate: which hooks a server has is \
         the choice of the binary that links them",
    );
}
