//! Which room may see which library.

use crate::assert_none;
use crate::source::{Source, has_word, rust_in};

const CORE: &str = "molecule-core/src/";

/// Libraries and hook crates: code that runs inside somebody's server.
const LIBRARIES: [&str; 6] = [
    CORE,
    "molecule-hooks/src/",
    "plugins/",
    "examples/env-mutator/src/",
    "examples/plugin-source/src/",
    "examples/token-provider/src/",
];

/// Files that speak HTTP.
pub(crate) fn is_http_shell(file: &Source) -> bool {
    let Some(path) = file.path.strip_prefix(CORE) else {
        return false;
    };
    is_routes(file)
        || path.starts_with("http/")
        || ["app.rs", "server.rs", "auth/extract.rs"].contains(&path)
}

/// `routes.rs`, `routes_of_something.rs` or a file in `routes/`.
pub(crate) fn is_routes(file: &Source) -> bool {
    let is_file = file.file_name().starts_with("routes");
    is_file || file.path.contains("/routes/")
}

/// Lines of code, without comments and literals, that break a rule.
fn offending(files: &[Source], breaks: impl Fn(&Source, &str) -> bool) -> Vec<String> {
    let mut offenders = Vec::new();
    for file in files {
        for (index, line) in file.code().lines().enumerate() {
            if breaks(file, line) {
                offenders.push(format!("{}:{}: {}", file.path, index + 1, line.trim()));
            }
        }
    }
    offenders
}

#[test]
fn only_routes_and_the_http_shell_see_axum() {
    let offenders = offending(&rust_in(&[CORE]), |file, line| {
        // The derive describes a type of the wire next to it; it does no HTTP.
        let line = line.replace("utoipa::ToSchema", "");
        !is_http_shell(file)
            && ["axum", "utoipa", "utoipa_axum"]
                .iter()
                .any(|name| has_word(&line, name))
    });
    assert_none(
        &offenders,
        "only routes*.rs, http/, auth/extract.rs, app.rs and server.rs may use axum and utoipa: \
         a service that knows HTTP can be called by nothing else, neither by a sweep nor by a test. \
         Decode and encode in the room's routes.rs and pass plain values on.",
    );
}

#[test]
fn only_store_files_see_sqlx() {
    let speaks_sql = |file: &Source| {
        let path = &file.path[CORE.len()..];
        file.file_name() == "store.rs"
            || path.contains("store/")
            // One statement each; a file of its own would say less.
            || ["events/mod.rs", "identity.rs"].contains(&path)
    };
    let offenders = offending(&rust_in(&[CORE]), |file, line| {
        // A service may pass a database failure on; it may not talk to the database.
        let mut line = line.replace("sqlx::Error", "").replace("sqlx::Result", "");
        if file.file_name() == "model.rs" {
            // A row type says how its columns are stored.
            line = line.replace("sqlx::types::Json", "");
        }
        !speaks_sql(file)
            && ["sqlx", "with_db", "with_tx"]
                .iter()
                .any(|name| has_word(&line, name))
    });
    assert_none(
        &offenders,
        "only store.rs and store/ may use sqlx: every statement must run on SQLite and PostgreSQL, \
         and that is checked where the statements are. Move the statement to the room's store.rs. \
         `sqlx::Error` and `sqlx::Result` may pass through anywhere; `sqlx::types::Json` may stand in model.rs.",
    );
}

#[test]
fn only_the_docker_backend_sees_bollard() {
    let files = rust_in(&[CORE, "molecule-hooks/", "plugins/", "examples/"]);
    let offenders = offending(&files, |file, line| {
        !file.is_in(&["molecule-core/src/backend/docker/"]) && has_word(line, "bollard")
    });
    assert_none(
        &offenders,
        "only backend/docker may use bollard: everything else works with any WorkspaceBackend, \
         and whether a container is really gone is decided in one place. Ask the backend for a capability.",
    );
}

#[test]
fn only_the_secrets_room_sees_the_cipher() {
    let offenders = offending(&rust_in(&LIBRARIES), |file, line| {
        !file.is_in(&["molecule-core/src/secrets/"])
            && ["aead", "AES_256_GCM", "RandomizedNonceKey"]
                .iter()
                .any(|name| has_word(line, name))
    });
    assert_none(
        &offenders,
        "only secrets/ may use the cipher: key rotation and the binding of a value to its row \
         are right once or nowhere. Call `Secrets` instead.",
    );
}

#[test]
fn only_config_reads_the_environment() {
    let offenders = offending(&rust_in(&LIBRARIES), |file, line| {
        let is_config = file.is_in(&["molecule-core/src/config/"]);
        // Part of tests: a wish of whoever runs them, which no server has.
        let is_kit = file.is_in(&["molecule-hooks/src/testing/"]);
        let is_program = file.file_name() == "build.rs" || file.is_test();
        let reads = ["env::var", "env::set_var", "env::remove_var", "env::{"];
        !is_config && !is_kit && !is_program && reads.iter().any(|call| line.contains(call))
    });
    assert_none(
        &offenders,
        "only molecule-core/src/config may read the process environment: a setting read elsewhere is \
         missing from `config check`, cannot be set in molecule.yaml and makes tests depend on each other. \
         Add a field to the typed configuration.",
    );
}

#[test]
fn only_the_command_line_prints() {
    let offenders = offending(&rust_in(&LIBRARIES), |file, line| {
        let is_cli = file.is_in(&["molecule-core/src/cli/"]);
        !is_cli
            && !file.is_test()
            && ["println!", "eprintln!", "print!", "eprint!"]
                .iter()
                .any(|name| prints(line, name))
    });
    assert_none(
        &offenders,
        "only molecule-core/src/cli may print: a line printed elsewhere passes the redactor and the \
         operator's log format by. Use tracing.",
    );
}

/// `has_word` for a macro call, whose name ends with `!`.
fn prints(line: &str, name: &str) -> bool {
    has_word(line, name.trim_end_matches('!')) && line.contains(name)
}

#[test]
fn nothing_is_left_for_later() {
    let offenders = offending(&crate::source::files(&["rs"]), |_, line| {
        ["todo!", "unimplemented!", "dbg!"]
            .iter()
            .any(|name| prints(line, name))
            || line.replace(' ', "").contains("#[ignore")
    });
    assert_none(
        &offenders,
        "no todo!, unimplemented!, dbg! or #[ignore]: what is in the tree works, and a test that \
         does not run proves nothing. Finish it or leave it out.",
    );
}
