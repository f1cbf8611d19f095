//! `examples/custom-server`: the command line every deployment has.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::{Running, binary, repository, run, stderr, stdout};

/// The binary with nothing of this test's environment but the path.
pub(crate) fn custom_server(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("custom-server"));
    command.args(arguments).env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// The folder of the example, where its `molecule.yaml` is found.
pub(crate) fn example() -> std::path::PathBuf {
    repository().join("examples/custom-server")
}

/// Gives a command secrets that satisfy production.
pub(crate) fn with_secrets(command: &mut Command) -> &mut Command {
    command
        .env("ADMIN_TOKEN", "a-token-of-this-test")
        .env("SECRETS_ENCRYPTION_KEY", "00".repeat(32))
}

/// A folder with a `molecule.yaml`.
fn folder_with(yaml: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("molecule.yaml"), yaml).unwrap();
    folder
}

/// A configuration that needs no secret and no Docker.
fn development(hooks: &str) -> TempDir {
    folder_with(&format!(
        "environment: development\nserver: {{ address: 127.0.0.1, port: 0 }}\nbackend: {{ kind: none }}\n{hooks}"
    ))
}

async fn check(folder: &Path) -> (Option<i32>, String) {
    let output = run(custom_server(&["config", "check"]).current_dir(folder)).await;
    (output.status.code(), stderr(&output))
}

#[tokio::test]
async fn hooks_lists_what_is_linked_with_versions() {
    let output = run(&mut custom_server(&["hooks"])).await;
    assert_eq!(output.status.code(), Some(0));
    let lines: Vec<Vec<String>> = stdout(&output)
        .lines()
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect();
    let names: Vec<&str> = lines.iter().map(|words| words[0].as_str()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    for name in ["gh-identity", "github-app-auth"] {
        assert!(names.contains(&name), "{names:?}");
    }
    for words in &lines {
        assert_eq!(words[1], env!("CARGO_PKG_VERSION"), "{words:?}");
    }
}

#[tokio::test]
async fn hooks_as_json_says_what_each_can_be_told() {
    let output = run(&mut custom_server(&["hooks", "--json"])).await;
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let hooks = answer["hooks"].as_array().unwrap();
    let hook = |name: &str| hooks.iter().find(|hook| hook["name"] == name).unwrap();
    assert_eq!(hook("gh-identity")["token_provider"], false);
    let app = hook("github-app-auth");
    assert_eq!(app["token_provider"], true);
    assert_eq!(app["version"], env!("CARGO_PKG_VERSION"));
    let fields = app["config"].as_array().unwrap();
    let id = fields
        .iter()
        .find(|field| field["name"] == "app_id")
        .unwrap();
    assert_eq!(id["env"], "GITHUB_APP_ID");
}

#[tokio::test]
async fn what_the_binary_is_made_of_is_the_same_wherever_it_is_asked() {
    // given what the build script wrote down
    let output = run(&mut custom_server(&["build-info", "--json"])).await;
    let info: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(info["package"], "custom-server");
    assert!(
        info["rustc"].as_str().unwrap().starts_with("rustc 1."),
        "{info}"
    );
    let lock = info["lock_sha256"].as_str().unwrap();
    let crates = info["hook_crates"].as_array().unwrap();
    let names: Vec<&Value> = crates.iter().map(|found| &found["name"]).collect();
    assert_eq!(
        names,
        ["molecule-hook-gh-identity", "molecule-hook-github-app-auth"]
    );
    // The sources may be without a repository; with one, it is this one.
    if let Some(revision) = info["git"]["revision"].as_str() {
        assert!(
            revision.len() >= 7 && info["git"]["dirty"].is_boolean(),
            "{info}"
        );
    }

    // when a server of it runs
    let folder = development("log: { format: json }\n");
    let mut command = custom_server(&["serve"]);
    let mut server = Running::start(command.current_dir(folder.path()));
    let address = server.wait_for("\"address\":\"").await;
    let address = address.split('"').next().unwrap();
    let reply = reqwest::get(format!("http://{address}/admin/build-info"))
        .await
        .unwrap();

    // then it answers the same, and the list of hooks says nothing else of them
    assert_eq!(reply.status(), 200);
    let text = reply.text().await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), info);
    let output = run(&mut custom_server(&["hooks", "--json"])).await;
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let listed = listed["hooks"].as_array().unwrap();
    for (told, more) in info["hooks"].as_array().unwrap().iter().zip(listed) {
        for (field, value) in told.as_object().unwrap() {
            assert_eq!(&more[field], value, "{field}");
        }
    }
    assert_eq!(info["hooks"].as_array().unwrap().len(), listed.len());
    let said = server.said();
    let mut lines = said.lines();
    let line = lines.find(|line| line.contains("\"this binary\"")).unwrap();
    for part in [lock, "gh-identity ", "github-app-auth "] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert_eq!(server.terminate(Duration::from_secs(60)).await, Some(0));
}

#[tokio::test]
async fn the_configuration_of_the_example_asks_for_two_secrets_and_no_more() {
    // when it is checked as it is shipped
    let (code, said) = check(&example()).await;

    // then it is a production configuration without its secrets
    assert_eq!(code, Some(78));
    assert!(said.contains("2 problem(s)"), "{said}");
    for field in ["auth.admin_token", "secrets.encryption_key"] {
        assert!(said.contains(field), "{said}");
    }

    // and with them it is complete
    let mut command = custom_server(&["config", "check"]);
    let output = run(with_secrets(&mut command).current_dir(example())).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("configuration ok (production)"));
}

#[tokio::test]
async fn the_printed_example_is_itself_a_configuration() {
    let printed = run(&mut custom_server(&["config", "example"])).await;
    let text = stdout(&printed);
    assert!(text.contains("# github-app-auth:") && text.contains("# gh-identity:"));
    let folder = folder_with(&text);
    let mut command = custom_server(&["config", "check"]);
    let output = run(with_secrets(&mut command).current_dir(folder.path())).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[tokio::test]
async fn config_check_lists_every_problem_of_the_settings() {
    // given one mistake of every kind
    let folder = folder_with(
        "server:\n  prot: 8080\n  request_timeout_secs: 0\nbackend:\n  docker:\n    memory_mb: 5\n",
    );

    // when
    let mut command = custom_server(&["config", "check"]);
    let output = run(command.current_dir(folder.path()).env("PORT", "eighty")).await;

    // then each is named, those in the environment as well
    assert_eq!(output.status.code(), Some(78));
    let said = stderr(&output);
    for field in [
        "server.prot",
        "server.request_timeout_secs",
        "backend.docker.memory_mb",
        "PORT",
        "auth.admin_token",
        "secrets.encryption_key",
    ] {
        assert!(
            said.contains(&format!("\n  - {field}: ")),
            "no {field} in: {said}"
        );
    }
    assert!(said.contains("6 problem(s)"), "{said}");
}

#[tokio::test]
async fn config_check_lists_every_problem_of_the_hooks() {
    let folder = development(
        "hooks:\n  order: [nonsense]\n  timeouts_secs: { absent: 3 }\n  config:\n    \
         gh-identity: 5\n    github-app-auth: { app_id: abc }\n",
    );
    let (code, said) = check(folder.path()).await;
    assert_eq!(code, Some(78));
    for text in [
        r#"hooks.order names the hook "nonsense""#,
        "hooks.timeouts_secs.absent: ",
        r#"hook "gh-identity": the section must be a mapping"#,
        r#"hook "github-app-auth": GITHUB_APP_ID is required and must be numeric"#,
        "GITHUB_APP_PRIVATE_KEY_FILE",
    ] {
        assert!(said.contains(text), "no {text:?} in: {said}");
    }
}

#[tokio::test]
async fn a_section_for_a_hook_that_is_not_linked_prints_the_two_lines_to_add() {
    let folder = development("hooks:\n  config:\n    my-vault: { url: x }\n");
    let (code, said) = check(folder.path()).await;
    assert_eq!(code, Some(78));
    for line in [
        "molecule-hook-my-vault = ",
        "use molecule_hook_my_vault as _;",
    ] {
        assert!(said.contains(line), "no {line:?} in: {said}");
    }
    assert!(
        said.contains("gh-identity") && said.contains("github-app-auth"),
        "{said}"
    );
}

#[tokio::test]
async fn start_up_refuses_a_broken_hook_and_touches_nothing() {
    // given an App id without its key
    let folder =
        development("hooks:\n  config:\n    github-app-auth: { app_id: 1, installation_id: 2 }\n");

    // when the server is to start
    let output = run(custom_server(&[]).current_dir(folder.path())).await;

    // then it says so and leaves no database behind
    assert_eq!(output.status.code(), Some(78));
    let said = stderr(&output);
    assert!(said.contains("GITHUB_APP_PRIVATE_KEY_FILE"), "{said}");
    assert!(!folder.path().join("data").exists());
}

#[tokio::test]
async fn doctor_finds_nothing_wrong_with_a_good_configuration() {
    let folder = development("");
    let output = run(custom_server(&["doctor"]).current_dir(folder.path())).await;
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for part in ["configuration", "hooks", "database", "backend", "disk"] {
        assert!(
            said.contains(&format!("ok    {part}: ")),
            "no {part} in: {said}"
        );
    }
}

#[tokio::test]
async fn doctor_names_what_is_wrong_and_what_to_do() {
    // given a configuration that is wrong
    let folder = development("hooks:\n  config:\n    my-vault: {}\n");
    let output = run(custom_server(&["doctor"]).current_dir(folder.path())).await;
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("FAIL  configuration: ") && said.contains("hint: "),
        "{said}"
    );

    // and one that is right, on a machine that lacks what it names
    let folder = development("");
    let nobody = format!("unix://{}", folder.path().join("nobody.sock").display());
    let mut command = custom_server(&["doctor"]);
    command.current_dir(folder.path());
    command
        .env("MOLECULE_BACKEND", "docker")
        .env("DOCKER_HOST", nobody);
    let output = run(&mut command).await;
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("ok    database: "), "{said}");
    assert!(
        said.contains("FAIL  backend: ") && said.contains("hint: "),
        "{said}"
    );
}

#[tokio::test]
async fn a_wrong_command_line_is_told_apart_from_a_wrong_configuration() {
    let output = run(&mut custom_server(&["frobnicate"])).await;
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test]
async fn sigterm_ends_the_server_gracefully_although_clients_are_connected() {
    // given a server with a client that has nothing more to say
    let folder = development("");
    let mut server = Running::start(custom_server(&["serve"]).current_dir(folder.path()));
    let address = server.wait_for("listening address=").await;
    let mut client = TcpStream::connect(address.trim()).await.unwrap();
    let request = format!("GET /health HTTP/1.1\r\nHost: {address}\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    client.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");

    // when it is told to end
    let code = server.terminate(Duration::from_secs(10)).await;

    // then it does, in order
    assert_eq!(code, Some(0), "{}", server.said());
    let said = server.said();
    assert!(
        said.contains("received SIGTERM") && said.contains("stopped"),
        "{said}"
    );
}
