//! Configurations that are wrong, and the commands around them.

use std::process::Output;
use std::time::{Duration, Instant};

use molecule_tests::{ADMIN, KEY};
use serde_json::json;

use crate::process::{Deployment, ServerProcess};

/// `EX_CONFIG`.
const BAD_CONFIG: i32 = 78;
/// What must never be echoed.
const PLANT: &str = "planted-configuration-secret";

pub(crate) fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// `config check` of this file.
pub(crate) fn check(deployment: &Deployment, yaml: impl AsRef<[u8]>) -> (Option<i32>, String) {
    let file = deployment.write_text(yaml);
    let output = deployment.run(&["config", "check", "--config", &file.to_string_lossy()]);
    (output.status.code(), text(&output))
}

#[track_caller]
pub(crate) fn assert_lists(found: &(Option<i32>, String), problems: &[&str]) {
    let (code, text) = found;
    assert_eq!(*code, Some(BAD_CONFIG), "{text}");
    for problem in problems {
        assert!(text.contains(problem), "{problem:?} is missing in:\n{text}");
    }
    assert!(!text.contains(PLANT), "a secret was echoed:\n{text}");
}

const MANY_PROBLEMS: &str = r"
nonsense: 1
environment: production
server:
  port: eighty
  bogus_key: 1
  max_body_bytes: 1
  platform_url: ftp://example.org
  request_timeout_secs: 0
database:
  url: mysql://user:planted-configuration-secret@host/db
  max_connections: 0
secrets:
  encryption_key: planted-configuration-secret
backend:
  kind: process
  docker: { memory_mb: [0, 1, 1] }
workspaces:
  provision_concurrency: 0
  templates_dir: /does/not/exist
hooks:
  timeout_secs: 0
  timeouts_secs: { never-linked: 5 }
  config:
    vault: { url: x }
    m-middle: { behaviour: nonsense, password: [planted-configuration-secret] }
    z-last: { colour: red }
";

#[test]
fn every_problem_is_listed_in_one_run_of_every_command() {
    let mut deployment = Deployment::new();
    deployment
        .env("MOLECULE_PROVISION_CONCURRENCY", "many")
        .env("TIER2_MEMORY_MB", "-1")
        .env("RUST_LOG", "molecule_core=shout")
        .env("ADMIN_TOKEN_FILE", "/does/not/exist");
    let problems = [
        "nonsense: unknown field",
        "server.port: ",
        "bogus_key",
        "server.max_body_bytes: must be between",
        "server.platform_url: must be an http:// or https:// URL",
        "server.request_timeout_secs: must be between",
        "database.url: must start with sqlite:// or postgres://",
        "database.max_connections: must be between",
        "secrets.encryption_key: ",
        "backend.kind: process runs agents without isolation",
        "backend.process.command: is required",
        "backend.docker: memory_mb",
        "workspaces.templates_dir (CONFIGS_DIR): is not a folder",
        "workspaces.provision_concurrency: must be at least 1",
        "hooks.timeout_secs: must be at least 1",
        "hooks.timeouts_secs.never-linked: no hook of that name is linked",
        "\"vault\"",
        "hook \"m-middle\"",
        "hook \"z-last\"",
        "MOLECULE_PROVISION_CONCURRENCY: must be a whole number",
        "TIER2_MEMORY_MB: must be a positive whole number",
        "log.filter (RUST_LOG)",
        "auth.admin_token_file: cannot be read",
    ];
    let found = check(&deployment, MANY_PROBLEMS);
    assert_lists(&found, &problems);
    // No problem hides behind a count that says less.
    let counted = format!("{} problem(s)", found.1.matches("\n  - ").count());
    assert!(found.1.contains(&counted), "{}", found.1);

    let file = deployment.write_text(MANY_PROBLEMS);
    // The database needs no hooks; everything else looks at them too.
    for (command, problems) in [
        (Some("serve"), &problems[..]),
        (None, &problems),
        (Some("migrate"), &problems[..15]),
    ] {
        let path = file.to_string_lossy();
        let args: Vec<&str> = command.into_iter().chain(["--config", &path]).collect();
        let output = deployment.run(&args);
        assert_lists(&(output.status.code(), text(&output)), problems);
    }
    let output = deployment.run(&["doctor", "--config", &file.to_string_lossy()]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        text(&output).contains("FAIL  configuration"),
        "{}",
        text(&output)
    );
    assert!(!text(&output).contains(PLANT), "{}", text(&output));
}

#[test]
fn a_wrong_value_in_a_secret_place_is_never_echoed() {
    let deployment = Deployment::new();
    let dev = "environment: development\n";
    let yamls = [
        format!("{dev}auth: {PLANT}\n"),
        format!("{dev}auth: [{PLANT}]\n"),
        format!("{dev}auth: {{ admin_token: [{PLANT}] }}\n"),
        format!("{dev}auth: {{ {PLANT}: x }}\nsecrets: {PLANT}\n"),
        format!("{dev}secrets: {{ encryption_key: {{ value: {PLANT} }} }}\n"),
        format!("{dev}secrets: {{ encryption_key: {PLANT} }}\n"),
        format!("{dev}database: postgres://user:{PLANT}@host/db\n"),
        format!("{dev}database: {{ url: [\"postgres://user:{PLANT}@host/db\"] }}\n"),
        format!("{dev}database: {{ url: \"oracle://user:{PLANT}@host/db\" }}\n"),
        format!("{dev}backend: {{ process: {{ command: \"agent --token {PLANT}\" }} }}\n"),
        format!("{dev}server: {{ platform_url: \"ftp://user:{PLANT}@host\" }}\n"),
        format!("{dev}server: {{ port: {PLANT} }}\n"),
        format!("{dev}hooks: {PLANT}\n"),
        format!("{dev}hooks: {{ config: {PLANT} }}\n"),
        format!("{dev}hooks: {{ config: {{ m-middle: {PLANT} }} }}\n"),
        format!("{dev}hooks: {{ config: {{ m-middle: {{ password: [{PLANT}] }} }} }}\n"),
        format!(
            "{dev}hooks: {{ config: {{ m-middle: {{ behaviour: 5, password: {PLANT} }} }} }}\n"
        ),
        format!("{dev}auth: {{ admin_token: \"{PLANT}\n"),
        format!("{dev}auth: {{ admin_token: {PLANT}, admin_token: {PLANT} }}\n"),
        format!("{dev}auth: {{ admin_token: !{PLANT} x }}\n"),
        format!("{dev}auth: {{ admin_token: *{PLANT} }}\n"),
        format!("{PLANT}\n"),
        format!("- {PLANT}\n"),
    ];
    for yaml in yamls {
        // A key is not a value; a key that is a secret is beyond help.
        if yaml.contains(&format!("{PLANT}: x")) {
            continue;
        }
        let found = check(&deployment, &yaml);
        assert_eq!(found.0, Some(BAD_CONFIG), "{yaml}\n{}", found.1);
        assert!(!found.1.contains(PLANT), "{yaml}\n{}", found.1);
    }
    // A URL that only the driver finds wrong
    let yaml = format!("{dev}database: {{ url: \"postgres://user:{PLANT}@host:nonsense/db\" }}\n");
    let file = deployment.write_text(yaml);
    let output = deployment.run(&["migrate", "--config", &file.to_string_lossy()]);
    assert!(
        !output.status.success() && !text(&output).contains(PLANT),
        "{}",
        text(&output)
    );
}

#[test]
fn files_that_are_no_configuration_are_told_apart() {
    let mut deployment = Deployment::new();
    deployment.env("MOLECULE_ENV", "development");
    // (content, what is said)
    let bombs = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned()
        + &('b'..='k')
            .map(|c| {
                let before = char::from(c as u8 - 1);
                format!("{c}: &{c} [{}]\n", vec![format!("*{before}"); 9].join(","))
            })
            .collect::<String>();
    let table: [(&[u8], &str); 8] = [
        (b"just some words", "must be a mapping of keys to values"),
        (b"- a\n- b\n", "must be a mapping of keys to values"),
        (b"42", "must be a mapping of keys to values"),
        (b"server: {", "is not valid YAML"),
        (b"\xff\xfe\x00bad", "cannot be read"),
        (b"server:\n\tport: 1\n", "is not valid YAML"),
        (&b"#".repeat(1024 * 1024 + 1), "larger than 1048576 bytes"),
        (bombs.as_bytes(), ""),
    ];
    for (yaml, said) in table {
        let started = Instant::now();
        assert_lists(&check(&deployment, yaml), &[said]);
        assert!(started.elapsed() < Duration::from_secs(10), "{said}");
    }
    let deep = "a: ".to_owned() + &"[".repeat(2_000);
    assert_lists(&check(&deployment, deep), &["is not valid YAML"]);

    // An empty file, or one with comments only, says nothing and is fine
    for yaml in ["", "# nothing\n", "---\n"] {
        let (code, text) = check(&deployment, yaml);
        assert_eq!(code, Some(0), "{text}");
    }

    // Files that are named must be there and be files; a default one need not
    let folder = deployment.dir.path().to_string_lossy().into_owned();
    for path in ["/does/not/exist.yaml", &folder, "/dev/zero"] {
        let output = deployment.run(&["config", "check", "--config", path]);
        assert_lists(&(output.status.code(), text(&output)), &[path]);
    }
    std::fs::remove_file(deployment.dir.path().join("molecule.yaml")).expect("the file is gone");
    assert_eq!(deployment.run(&["config", "check"]).status.code(), Some(0));
    deployment.env("MOLECULE_CONFIG", "/does/not/exist.yaml");
    let output = deployment.run(&["config", "check"]);
    assert_lists(
        &(output.status.code(), text(&output)),
        &["/does/not/exist.yaml"],
    );
}

#[test]
fn environment_variables_of_the_wrong_type_are_named() {
    // (variable, value, what names it)
    let table = [
        ("PORT", "http", "PORT: must be a whole number"),
        ("PORT", "70000", "server.port: invalid value"),
        (
            "MOLECULE_ENV",
            "produktion",
            "environment: unknown variant, expected one of",
        ),
        ("MOLECULE_ADDRESS", "somewhere", "server.address: "),
        (
            "MOLECULE_LEGACY_WORKSPACE_ADMIN",
            "maybe",
            "MOLECULE_LEGACY_WORKSPACE_ADMIN: must be true or false",
        ),
        (
            "MOLECULE_BACKEND",
            "kubernetes",
            "backend.kind: unknown variant",
        ),
        (
            "PROVISION_TIMEOUT_SECONDS",
            "-5",
            "PROVISION_TIMEOUT_SECONDS: must be a whole number",
        ),
        (
            "PROVISION_TIMEOUT_SECONDS",
            "0",
            "provision_timeout_secs must be at least 1",
        ),
        ("MOLECULE_LOG_FORMAT", "xml", "log.format: unknown variant"),
        (
            "TIER3_CPU_SHARES",
            "lots",
            "TIER3_CPU_SHARES: must be a positive whole number",
        ),
        (
            "WORKSPACE_DIR",
            "relative/path",
            "(WORKSPACE_DIR): must be an absolute path",
        ),
        ("PLATFORM_URL", "not a url", "server.platform_url: "),
        (
            "MOLECULE_HOOKS_ORDER",
            "a-first,never-linked",
            "\"never-linked\"",
        ),
        (
            "RUST_LOG",
            "info,molecule_core=loud",
            "log.filter (RUST_LOG): ",
        ),
    ];
    for (name, value, said) in table {
        let mut deployment = Deployment::new();
        deployment
            .env("MOLECULE_ENV", "development")
            .env(name, value);
        let found = check(&deployment, "");
        assert_lists(&found, &[said]);
        assert_lists(&found, &["1 problem(s)"]);
    }
}

#[tokio::test]
async fn secrets_come_from_files_as_well() {
    let mut deployment = Deployment::new();
    let write = |deployment: &Deployment, name: &str, text: &str| {
        let path = deployment.dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_string_lossy().into_owned()
    };
    let token = write(&deployment, "token", &format!("{ADMIN}\r\n"));
    let key = write(&deployment, "key", &format!("{KEY}\n"));
    let empty = write(&deployment, "empty", "\n");
    let bad = write(&deployment, "bad", PLANT);

    // Twins that do not work
    let dev = "environment: development\n";
    let table = [
        (
            format!("auth: {{ admin_token_file: {empty} }}\n"),
            "auth.admin_token: must not be empty",
        ),
        (
            format!("auth: {{ admin_token: {PLANT}, admin_token_file: {token} }}\n"),
            "not both",
        ),
        (
            "auth: { admin_token_file: /does/not/exist }\n".to_owned(),
            "auth.admin_token_file: cannot be read",
        ),
        (
            format!(
                "auth: {{ admin_token_file: {} }}\n",
                deployment.dir.path().display()
            ),
            "auth.admin_token_file",
        ),
        (
            "auth: { admin_token_file: /dev/zero }\n".to_owned(),
            "auth.admin_token_file",
        ),
        (
            format!("secrets: {{ encryption_key_file: {bad} }}\n"),
            "secrets.encryption_key: ",
        ),
        (
            format!("hooks: {{ config: {{ m-middle: {{ password_file: {empty} }} }} }}\n"),
            "password_file",
        ),
    ];
    for (yaml, said) in table {
        assert_lists(&check(&deployment, format!("{dev}{yaml}")), &[said]);
    }

    // And twins that do: the token of the file is the one that counts
    deployment
        .set("auth", json!({ "admin_token_file": token }))
        .set("secrets", json!({ "encryption_key_file": key }));
    let server: ServerProcess = deployment.start().await;
    assert_eq!(server.admin("GET", "/workspaces").send().await.status, 200);
    assert_eq!(
        server
            .request("GET", "/workspaces")
            .bearer("another-token")
            .send()
            .await
            .status,
        401
    );
    server.stop().await;
}

#[test]
fn an_invalid_key_is_fatal_everywhere_and_production_wants_one() {
    for environment in ["development", "staging", "production"] {
        for key in ["short", "x", &"g".repeat(64), &format!("{PLANT}-and-more")] {
            let mut deployment = Deployment::new();
            deployment
                .env("MOLECULE_ENV", environment)
                .env("SECRETS_ENCRYPTION_KEY", key);
            deployment.env("ADMIN_TOKEN", ADMIN);
            assert_lists(
                &check(&deployment, ""),
                &["1 problem(s)", "secrets.encryption_key: "],
            );
        }
    }
    // Nothing said at all means production
    for environment in ["", "environment: production\n"] {
        let found = check(&Deployment::new(), environment);
        let wanted = [
            "2 problem(s)",
            "auth.admin_token: is required",
            "secrets.encryption_key: is required",
        ];
        assert_lists(&found, &wanted);
    }
    let mut deployment = Deployment::new();
    deployment
        .env("ADMIN_TOKEN", "short")
        .env("SECRETS_ENCRYPTION_KEY", KEY);
    assert_lists(
        &check(&deployment, ""),
        &["auth.admin_token: must have at least 16 characters"],
    );
}

#[test]
fn a_section_of_a_hook_that_is_not_linked_prints_the_two_lines_to_add() {
    let deployment = Deployment::new();
    let yaml = "environment: development\nhooks: { order: [corporate-proxy], config: { corporate-proxy: { url: x } } }\n";
    let lines = [
        "`molecule-hook-corporate-proxy = \"…\"` to Cargo.toml",
        "`use molecule_hook_corporate_proxy as _;` to main.rs",
    ];
    assert_lists(&check(&deployment, yaml), &lines);
}
