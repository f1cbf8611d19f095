//! The commands around a configuration.

use molecule_tests::{ADMIN, KEY};
use serde_json::{Value, json};

use crate::config::{assert_lists, check, text};
use crate::process::Deployment;

#[test]
fn the_example_is_a_configuration_that_lacks_only_the_secrets() {
    let mut deployment = Deployment::new();
    let example = deployment.run(&["config", "example"]);
    assert!(example.status.success());
    let text_of_example = text(&example);
    for hook in ["a-first", "m-middle", "token-source", "FAULT_TOKEN"] {
        assert!(text_of_example.contains(hook), "{hook}");
    }
    let found = check(&deployment, &example.stdout);
    assert_lists(
        &found,
        &["2 problem(s)", "auth.admin_token", "secrets.encryption_key"],
    );
    deployment
        .env("ADMIN_TOKEN", ADMIN)
        .env("SECRETS_ENCRYPTION_KEY", KEY);
    let (code, said) = check(&deployment, &example.stdout);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("configuration ok (production)"), "{said}");
}

#[test]
fn the_other_commands_do_their_work() {
    let mut deployment = Deployment::new();
    deployment.set("hooks.config.z-last.behaviour", "ok");
    let file = deployment.write_config().to_string_lossy().into_owned();
    let run = |args: &[&str]| {
        let output = deployment.run(&[args, &["--config", &file]].concat());
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    assert!(
        run(&["doctor"]).contains("pending"),
        "before the first migration"
    );
    assert_eq!(run(&["migrate"]), "sqlite: 4 migration(s) applied\n");
    assert_eq!(run(&["migrate"]), "sqlite: 0 migration(s) applied\n");
    let doctor = run(&["doctor"]);
    for line in [
        "ok    configuration",
        "ok    hooks: [z-last]",
        "ok    database: sqlite, up to date",
        "ok    backend: process",
    ] {
        assert!(doctor.contains(line), "{line}: {doctor}");
    }
    let document: Value = serde_json::from_str(&run(&["openapi"])).expect("JSON");
    assert!(document["paths"]["/workspaces"]["post"].is_object());
    let hooks: Value = serde_json::from_str(&run(&["hooks", "--json"])).expect("JSON");
    let names: Vec<&str> = hooks["hooks"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|h| h["name"].as_str())
        .collect();
    assert_eq!(names, ["a-first", "m-middle", "token-source", "z-last"]);
    let lines = run(&["hooks"]);
    assert_eq!(
        (lines.lines().count(), lines.contains("[token provider]")),
        (4, true),
        "{lines}"
    );
    let checked = run(&["config", "check"]);
    assert!(
        checked.contains("hooks: [z-last]")
            && checked.contains("hook a-first is linked but not configured")
    );

    // What is wrong on the command line is another code
    for args in [
        &["fly"][..],
        &["--nonsense"],
        &["config"],
        &["migrate", "now"],
    ] {
        assert_eq!(deployment.run(args).status.code(), Some(2), "{args:?}");
    }
    // And what does not work is a third
    deployment
        .set("backend.process.command", json!(["/does/not/exist"]))
        .set("database.url", "sqlite:///proc/x/y.db");
    let file = deployment.write_config().to_string_lossy().into_owned();
    for command in ["serve", "migrate", "doctor"] {
        let output = deployment.run(&[command, "--config", &file]);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{command}: {}",
            text(&output)
        );
        assert!(
            text(&output).contains("database"),
            "{command}: {}",
            text(&output)
        );
    }
}
