//! Which room of molecule-core may use which other room.

use crate::assert_none;
use crate::source::{Source, rust_in};
use crate::walls::is_routes;

const CORE: &str = "molecule-core/src/";

/// These wire the rooms together and may use all of them.
const WIRING: [&str; 5] = ["app", "cli", "lib", "run", "server"];

/// What a room may use besides itself. An entry with `::` allows that item only.
const ALLOWED: [(&str, &[&str]); 28] = [
    // Plumbing: knows no room above it.
    ("build_info", &[]),
    ("cidr", &[]),
    (
        "config",
        &["cidr", "plugins::TrustedKey", "secrets::EncryptionKey"],
    ),
    ("error", &[]),
    // The program, for whoever fetches: runtimes' sources, plugins.
    ("git", &[]),
    ("identity", &["store"]),
    // Calls to the outside: any room that makes one may use it.
    ("outbound", &["config"]),
    ("provlog", &[]),
    ("redact", &[]),
    ("store", &["config", "error", "supervisor"]),
    ("supervisor", &[]),
    ("telemetry", &["config", "redact", "supervisor"]),
    ("tree", &[]),
    // The shell and what rooms are built on.
    ("backend", &["config", "git", "tree"]),
    ("events", &["redact", "store", "supervisor"]),
    (
        "http",
        &["cidr", "error", "redact", "supervisor", "telemetry"],
    ),
    // The domain.
    (
        "a2a",
        &[
            "backend",
            "error",
            "outbound",
            "presence",
            "supervisor",
            "workspaces",
        ],
    ),
    (
        "auth",
        &["config", "error", "redact", "store", "supervisor"],
    ),
    ("canvas", &["error", "store"]),
    ("images", &["backend", "config", "error", "store"]),
    (
        "rollout",
        &[
            "backend",
            "config",
            "error",
            "images",
            "store",
            "supervisor",
            "workspaces",
        ],
    ),
    ("hooks", &["config", "error", "redact"]),
    (
        "plugins",
        &[
            "auth",
            "backend",
            "config",
            "error",
            "events",
            "git",
            "redact",
            "store",
            "supervisor",
            "tree",
            "workspaces",
        ],
    ),
    (
        "presence",
        &[
            "auth",
            "error",
            "events",
            "outbound",
            "redact",
            "store",
            "supervisor",
            "workspaces",
        ],
    ),
    ("secrets", &["error", "redact", "store"]),
    // Loops over everything; nobody below knows of them.
    (
        "sweeps",
        &[
            "auth",
            "backend",
            "config",
            "error",
            "presence",
            "store",
            "supervisor",
            "workspaces",
        ],
    ),
    (
        "terminal",
        &[
            "backend",
            "error",
            "events",
            "redact",
            "store",
            "supervisor",
            "workspaces",
        ],
    ),
    (
        "workspaces",
        &[
            "auth",
            "backend",
            "config",
            "error",
            "events",
            "hooks",
            "images",
            "outbound",
            "provlog",
            "redact",
            "secrets",
            "store",
            "supervisor",
        ],
    ),
];

/// Where HTTP meets the rooms: handlers get the whole application as state.
fn allowed_for_shell_files(file: &Source) -> &'static [&'static str] {
    match &file.path[CORE.len()..] {
        "auth/extract.rs" => &["http"],
        "http/system.rs" => &["app", "auth"],
        _ if is_routes(file) => &["app", "auth", "error", "http"],
        _ => &[],
    }
}

#[test]
fn rooms_only_use_the_rooms_below_them() {
    let mut offenders = Vec::new();
    for file in rust_in(&[CORE]) {
        let room = room_of(&file);
        // Unit tests in a file of their own may set up what they need.
        if WIRING.contains(&room) || file.is_test() {
            continue;
        }
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == room) else {
            offenders.push(format!(
                "{}: the room `{room}` is not in the table",
                file.path
            ));
            continue;
        };
        for used in crate_paths(&file.code()) {
            let target = used.split("::").next().unwrap_or(&used);
            let is_room = ALLOWED.iter().any(|(name, _)| *name == target);
            // `crate::Config` and the like are re-exports; macros have no room.
            if target == room || !(is_room || WIRING.contains(&target)) {
                continue;
            }
            let permits = |entry: &str| used == entry || used.starts_with(&format!("{entry}::"));
            let shell = allowed_for_shell_files(&file);
            if !allowed.iter().chain(shell).any(|entry| permits(entry)) {
                offenders.push(format!("{}: uses crate::{used}", file.path));
            }
        }
    }
    assert_none(
        &offenders,
        "rooms of molecule-core use only the rooms below them, so that one can be read, tested and \
         changed without the others: routes -> service -> {store, backend, hooks, events}, presence -> \
         workspaces, never back; http, store, events and backend know no domain room. Move the code to \
         the room that owns it, pass a value or a trait in from `server`, or extend the table in \
         tests/tests/architecture/arrows.rs and say why in ARCHITECTURE.md.",
    );
}

#[test]
fn no_two_rooms_use_each_other() {
    let mut offenders = Vec::new();
    for (room, _) in ALLOWED {
        let mut seen = vec![room];
        let mut next = 0;
        while next < seen.len() {
            let (_, targets) = ALLOWED
                .iter()
                .find(|(name, _)| *name == seen[next])
                .expect("every target of the table is a room of the table");
            // A single item is a value, not the room behind it.
            for &target in targets.iter().filter(|target| !target.contains("::")) {
                if target == room {
                    offenders.push(format!("{room} reaches itself through {}", seen[next]));
                } else if !seen.contains(&target) {
                    seen.push(target);
                }
            }
            next += 1;
        }
    }
    assert_none(
        &offenders,
        "the table of allowed arrows must have no circle",
    );
}

/// `workspaces/store.rs` is in the room `workspaces`, `error.rs` in `error`.
fn room_of(file: &Source) -> &str {
    let path = &file.path[CORE.len()..];
    let end = path.find('/').unwrap_or(path.len() - ".rs".len());
    &path[..end]
}

/// Every `crate::…` path in the code, without the `crate::`; groups are taken apart.
fn crate_paths(code: &str) -> Vec<String> {
    const ROOT: &str = "crate::";
    let mut found = Vec::new();
    for (at, _) in code.match_indices(ROOT) {
        let is_longer_name = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if !is_longer_name {
            read_path(&code[at + ROOT.len()..], "", &mut found);
        }
    }
    found
}

/// Reads one path or `{…}` group and returns the text after it.
fn read_path<'a>(text: &'a str, prefix: &str, found: &mut Vec<String>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            match rest.strip_prefix('}') {
                Some(after) => return after,
                None if rest.is_empty() => return rest,
                None => rest = read_path(rest, prefix, found),
            }
            // An alias: `Name as Other`.
            rest = rest.trim_start_matches(|c| c != ',' && c != '}');
        }
    }
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let path = match (prefix, name) {
        (prefix, "") => prefix.to_owned(),
        ("", name) => name.to_owned(),
        (prefix, name) => format!("{prefix}::{name}"),
    };
    match rest.strip_prefix("::") {
        Some(deeper) => read_path(deeper, &path, found),
        None => {
            found.push(path);
            rest
        }
    }
}

#[test]
fn paths_are_read_with_groups_aliases_and_generics() {
    let code = "use crate::{\n auth::{Auth as A, extract::*},\n error::Error,\n};\n\
                let x = crate::http::get::<u8>(); $crate::store::run(); my_crate::no();";
    assert_eq!(
        crate_paths(code),
        [
            "auth::Auth",
            "auth::extract",
            "error::Error",
            "http::get",
            "store::run"
        ]
    );
}
