//! The binary as an operator meets it.

use std::process::{Command, Output};

const SERVER: &str = env!("CARGO_BIN_EXE_{{project-name}}");

/// Runs the server's command line with this environment and nothing else.
fn run(arguments: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new(SERVER)
        .args(arguments)
        .env_clear()
        .envs(env.iter().copied())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the binary runs")
}

fn json(arguments: &[&str]) -> serde_json::Value {
    let output = run(arguments, &[]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn the_hooks_of_this_server_are_linked() {
    let answer = json(&["hooks", "--json"]);
    let hooks = answer["hooks"].as_array().expect("a list of hooks");
    let names: Vec<_> = hooks.iter().map(|hook| &hook["name"]).collect();
    assert_eq!(names, ["github-app-auth"]);
}

#[test]
fn the_configuration_is_right_once_the_secrets_are_there() {
    let secrets = [
        ("ADMIN_TOKEN", "a-token-of-this-test"),
        ("SECRETS_ENCRYPTION_KEY", "0123456789abcdef0123456789abcdef"),
    ];
    let output = run(&["config", "check"], &secrets);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn without_them_it_is_refused_with_the_code_for_a_wrong_configuration() {
    let output = run(&["config", "check"], &[]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("ADMIN_TOKEN") && said.contains("SECRETS_ENCRYPTION_KEY"),
        "{said}"
    );
}
