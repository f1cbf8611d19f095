//! A server that was put together or configured wrongly says what to change.

use serde_json::{Value, json};

use crate::config::{assert_lists, check, text};
use crate::process::Deployment;

const DEV: &str = "environment: development\nbackend: { kind: none }\n";
const BAD_CONFIG: i32 = 78;

#[test]
fn a_misspelled_key_or_name_leads_to_the_right_one() {
    let deployment = Deployment::new();
    let yaml = "environment: development\n\
        server: { prot: 1 }\n\
        admin_token: x\n\
        backend: { kind: dokcer, docker: { memroy_mb: [] } }\n\
        hooks:\n  timeouts_secs: { m-midle: 3 }\n  config:\n    m-midle: { behaviour: ok }\n    \
        a-first: { behavior: ok }\n    token-source: { tokne_file: /x }\n";
    let found = check(&deployment, yaml);
    assert_lists(
        &found,
        &[
            "did you mean \"port\"?",
            "did you mean \"auth.admin_token\"?",
            "backend.kind: unknown variant, expected one of",
            "did you mean \"docker\"?",
            "did you mean \"memory_mb\"?",
            "hooks.timeouts_secs.m-midle: no hook of that name is linked; did you mean \"m-middle\"?",
            "hooks.config.m-midle names the hook \"m-midle\", which is not linked",
            "Did you mean \"m-middle\"?",
            "hook \"a-first\": unknown key \"behavior\"; known keys: behaviour, password (or password_file); \
             did you mean \"behaviour\"?",
        ],
    );
}

#[test]
fn a_misspelled_variable_is_a_warning_that_names_the_right_one() {
    let mut deployment = Deployment::new();
    deployment.env("MOLECULE_BAKEND", "planted-configuration-secret");
    let (code, said) = check(&deployment, DEV);
    assert_eq!(code, Some(0), "{said}");
    let warning = "warning: MOLECULE_BAKEND: is no variable of this server and does nothing; did you mean \
                   MOLECULE_BACKEND?";
    assert!(said.contains(warning), "{said}");
    assert!(!said.contains("planted"), "{said}");
}

#[test]
fn a_hook_that_is_not_linked_is_answered_with_the_two_lines() {
    let deployment = Deployment::new();
    let found = check(
        &deployment,
        format!("{DEV}hooks: {{ config: {{ corporate-proxy: {{}} }} }}\n"),
    );
    assert_lists(
        &found,
        &[
            "hooks.config.corporate-proxy names the hook \"corporate-proxy\"",
            "`molecule-hook-corporate-proxy = \"…\"` to Cargo.toml",
            "`use molecule_hook_corporate_proxy as _;` to main.rs",
        ],
    );
}

#[test]
fn a_hook_whose_building_panics_or_hangs_is_named_beside_other_problems() {
    let yaml = format!(
        "{DEV}hooks:\n  build_timeout_secs: 1\n  config:\n    \
         a-first: {{ behaviour: panic-when-built, password: planted-configuration-secret }}\n    \
         m-middle: {{ behaviour: hang-when-built }}\n    z-last: {{ colour: red }}\n"
    );
    let problems = [
        "3 problem(s)",
        "hook \"a-first\": it panicked while it was built: cannot be built with [REDACTED]; this is a bug in \
         the hook, and without its `use` line the server starts without it",
        "hook \"m-middle\": it was not built within 1 s (hooks.build_timeout_secs)",
        "hook \"z-last\": unknown key \"colour\"",
    ];
    let deployment = Deployment::new();
    let file = deployment.write_text(&yaml).to_string_lossy().into_owned();
    for command in [&["config", "check"][..], &["serve"]] {
        let output = deployment.run(&[command, &["--config", &file]].concat());
        // Nor does the panic itself print the password.
        assert_lists(&(output.status.code(), text(&output)), &problems);
    }
    let (code, said) = check(
        &deployment,
        format!("{DEV}hooks: {{ build_timeout_secs: 0 }}\n"),
    );
    assert_eq!(code, Some(BAD_CONFIG), "{said}");
    assert!(
        said.contains("hooks.build_timeout_secs: must be between 1 and 3600"),
        "{said}"
    );
}

#[test]
fn a_server_with_two_of_one_kind_names_both_and_what_to_remove() {
    let deployment = Deployment::new();
    let file = deployment
        .write_text(format!(
            "{DEV}hooks: {{ config: {{ gitlab-token: {{}}, vualt: {{}} }} }}\n"
        ))
        .to_string_lossy()
        .into_owned();
    for command in [&["config", "check"][..], &["serve"]] {
        let output = deployment.run_doubled(&[command, &["--config", &file]].concat());
        let found = (output.status.code(), text(&output));
        assert_lists(
            &found,
            &[
                "4 problem(s)",
                "the hook crate vault is linked in 2 versions (0.1.0, 0.2.0); let Cargo.toml ask for one",
                "two linked hooks are called \"proxy\" (acme-proxy 1.0.0 and corporate-proxy 3.1.4); remove \
                 one of the two crates",
                "Its crate gitlab-token 0.4.0 is a dependency already; add the line `use gitlab_token as _;` to \
                 main.rs",
                "hooks.config.vualt names the hook \"vualt\", which is not linked into this binary (linked: \
                 proxy, vault). Did you mean \"vault\"?",
            ],
        );
    }
}

#[test]
fn a_verdict_of_another_version_is_shown_as_such() {
    let deployment = Deployment::new();
    let output = deployment.run_doubled(&["hooks", "--json"]);
    let hooks: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let of = |version: &str| {
        let mut all = hooks["hooks"].as_array().expect("hooks").iter();
        all.find(|hook| hook["version"] == version).expect("a hook")["contract"].clone()
    };
    let checks = json!([{ "name": "call-failed", "result": "passed" }]);
    for (version, current) in [("0.1.0", true), ("0.2.0", false)] {
        assert_eq!(
            of(version),
            json!({
                "current": current, "passed": true, "crate_version": "0.1.0", "kit_version": 1,
                "checks": checks,
            })
        );
    }
    assert_eq!(of("3.1.4"), Value::Null, "no verdict at all");
    let lines = text(&deployment.run_doubled(&["hooks"]));
    assert!(
        lines.contains("vault  0.1.0  A hook of a test [contract kept]\n")
            && lines.contains("vault  0.2.0  A hook of a test [contract of another version]\n")
            && lines.contains("proxy  3.1.4  A hook of a test\n"),
        "{lines}"
    );
}

#[test]
fn build_info_says_what_was_written_down() {
    let deployment = Deployment::new();
    let output = deployment.run_doubled(&["build-info", "--json"]);
    let info: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let version = env!("CARGO_PKG_VERSION");
    for (field, value) in [
        ("package", json!("doubled-server")),
        ("version", json!("7.0.0")),
        ("core_version", json!(version)),
        ("sdk_version", json!(version)),
        ("source_date", json!("2023-11-14T22:13:20Z")),
        ("lock_sha256", Value::Null),
        ("features", json!([])),
    ] {
        assert_eq!(info[field], value, "{field}");
    }
    assert_eq!(info["git"]["dirty"], true);
    assert_eq!(
        info["hook_crates"][0],
        json!({ "name": "gitlab-token", "version": "0.4.0" })
    );
    assert_eq!(info["hooks"].as_array().map(Vec::len), Some(4));
    assert!(
        info["hooks"][0].get("config").is_none(),
        "that is what `hooks` is for"
    );
    let lines = text(&deployment.run_doubled(&["build-info"]));
    for line in [
        "package         doubled-server 7.0.0\n",
        "git             0123456789abcdef0123456789abcdef01234567 (with changes)\n",
        "hook crates     gitlab-token 0.4.0, vault 0.1.0\n",
        "rustc           rustc 1.95.0 (a test)\n",
        "proxy  1.0.0  A hook of a test\n",
    ] {
        assert!(lines.contains(line), "{line:?}:\n{lines}");
    }
}

#[tokio::test]
async fn a_server_without_a_manifest_says_what_it_knows_and_how_to_know_more() {
    // Given a server whose package has no build script
    let mut deployment = Deployment::new();
    let output = deployment.run(&["build-info", "--json"]);
    let info: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for field in [
        "package",
        "git",
        "lock_sha256",
        "rustc",
        "features",
        "hook_crates",
        "source_date",
    ] {
        assert_eq!(info[field], Value::Null, "{field}");
    }
    assert_eq!(info["core_version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(info["hooks"][0]["crate"], "molecule-tests");
    let lines = text(&deployment.run(&["build-info"]));
    assert!(
        lines.contains("hint: `molecule_core::build_info!();` in main.rs"),
        "{lines}"
    );

    // Then the running one answers the same, to the administrator only
    let server = deployment.start().await;
    let reply = server.admin("GET", "/admin/build-info").send().await;
    assert_eq!((reply.status, reply.json()), (200, info.clone()));
    assert_eq!(
        server
            .request("GET", "/admin/build-info")
            .send()
            .await
            .status,
        401
    );
    let log = server.stop().await;
    let line = log
        .lines()
        .find(|line| line.contains("this binary"))
        .expect("a line");
    let version = info["core_version"].as_str().unwrap_or_default();
    for part in [
        format!("build.core_version=\"{version}\""),
        format!("z-last {version}"),
    ] {
        assert!(line.contains(&part), "{part}: {line}");
    }
}

#[tokio::test]
async fn the_log_of_a_token_names_its_provider_and_never_the_token() {
    const TOKEN: &str = "served-token-in-plain-sight";
    let mut deployment = Deployment::new();
    deployment
        .set("log.format", "json")
        .set("log.filter", "debug")
        .set("hooks.config.token-source.token", TOKEN);
    let server = deployment.start().await;
    let id = server.create(json!({ "name": "one" })).await;
    let path = format!("/workspaces/{id}/credentials/token-source");
    let reply = server.admin("GET", &path).send().await;
    assert_eq!((reply.status, &reply.json()["token"]), (200, &json!(TOKEN)));
    let log = server.stop().await;
    let line = log
        .lines()
        .find(|line| line.contains("[github] token refreshed"));
    let line = line.unwrap_or_else(|| panic!("no line of the refresh:\n{log}"));
    assert!(line.contains(r#""hook.name":"token-source""#), "{line}");
    assert!(!log.contains(TOKEN), "the token is in the log");
}
