//! `cargo run -p quickstart`.

use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::support::{
    Running, binary, docker_objects, echo_image, remove_docker_objects, run, skips_docker, stderr,
    stdout,
};

fn quickstart(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("quickstart"));
    command.args(arguments).env_remove("RUST_LOG");
    command
}

/// What follows the label on its line of the transcript.
fn line<'a>(transcript: &'a str, label: &str) -> &'a str {
    let marker = format!("✓ {label} ");
    transcript
        .lines()
        .find_map(|line| line.strip_prefix(&marker))
        .unwrap_or_else(|| panic!("no {label:?} in:\n{transcript}"))
        .trim_start()
}

/// Checks the lines that every transcript has; the workspace's id and the URL of
/// its agent.
fn check_transcript(transcript: &str) -> (String, String) {
    let hooks = line(transcript, "hooks");
    assert!(
        hooks.contains("env-mutator 0.") && hooks.contains("token-provider 0."),
        "{hooks}"
    );
    let variables: Vec<Vec<&str>> = transcript
        .lines()
        .filter_map(|line| line.strip_prefix("✓ variable"))
        .map(|line| line.split_whitespace().collect())
        .collect();
    for (variable, hook, bytes) in [
        ("DEMO_TOKEN", "token-provider", "(23 bytes)"),
        ("GREETING", "env-mutator", "(17 bytes)"),
    ] {
        let words = variables.iter().find(|words| words[0] == variable).unwrap();
        assert_eq!(words[1..5], ["set", "by", "hook", hook]);
        assert!(words.join(" ").contains(bytes), "{words:?}");
    }
    assert!(line(transcript, "A2A").contains(r#"heard "echo: hello, agent""#));

    let token = line(transcript, "token");
    let rotated = line(transcript, "rotation");
    assert!(
        token.starts_with("demo-") && token.contains("same for two callers"),
        "{token}"
    );
    assert!(rotated.starts_with("demo-"), "{rotated}");
    let short = |text: &str| text.split(' ').next().unwrap().to_owned();
    assert_ne!(short(token), short(rotated));
    assert!(
        short(token).len() < 16,
        "{token} shows too much of the token"
    );

    let agent = line(transcript, "agent");
    let url = agent.split_once(" at ").unwrap().1.to_owned();
    let id = line(transcript, "workspace")
        .split(',')
        .next()
        .unwrap()
        .to_owned();
    (id, url)
}

async fn is_listening(url: &str) -> bool {
    let address = url.strip_prefix("http://").unwrap();
    TcpStream::connect(address).await.is_ok()
}

fn folder_of(transcript: &str) -> &Path {
    let server = line(transcript, "server");
    Path::new(server.split_once("SQLite in ").unwrap().1)
}

#[tokio::test]
async fn the_transcript_on_a_child_process_is_complete_and_nothing_is_left() {
    // when the quickstart runs to the end of its transcript
    let output = run(&mut quickstart(&["--exit", "--port", "0"])).await;

    // then everything in it worked, and the log had nothing to add
    let transcript = stdout(&output);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{transcript}{}",
        stderr(&output)
    );
    assert_eq!(stderr(&output), "");
    let (_, agent) = check_transcript(&transcript);
    assert!(line(&transcript, "workspace").contains("a child process"));

    // and neither the agent nor the database is there any more
    assert!(!is_listening(&agent).await);
    assert!(!folder_of(&transcript).exists());
}

#[tokio::test]
async fn the_transcript_on_docker_is_complete_and_nothing_is_left() {
    if skips_docker() {
        return;
    }
    // given the image, so that its build does not count
    let image = echo_image().await;

    // when
    let output = run(&mut quickstart(&["--docker", "--exit", "--port", "0"])).await;

    // then
    let transcript = stdout(&output);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{transcript}{}",
        stderr(&output)
    );
    let (id, _) = check_transcript(&transcript);
    assert!(line(&transcript, "workspace").contains("a container"));
    assert!(line(&transcript, "image").starts_with(&image));

    // and neither container nor volume nor database is left
    let left = docker_objects(&id).await;
    remove_docker_objects(&id);
    assert_eq!(left, "");
    assert!(!folder_of(&transcript).exists());
}

#[tokio::test]
async fn it_serves_until_a_signal_and_then_cleans_up() {
    // given a quickstart that has said everything
    let mut quickstart = Running::start(&mut quickstart(&["--port", "0"]));
    quickstart.wait_for("Ctrl-C deletes").await;
    let transcript = quickstart.said();
    let (id, agent) = check_transcript(&transcript);

    // when somebody does what it suggests
    let base = line(&transcript, "server")
        .split(',')
        .next()
        .unwrap()
        .to_owned();
    let admin_token = quickstart.wait_for("export ADMIN_TOKEN=").await;
    let list = |bearer: String| {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        http.get(format!("{base}/workspaces"))
            .bearer_auth(bearer)
            .send()
    };

    // then the printed token opens the door, and it is not open without
    let answer = list(admin_token).await.unwrap();
    assert!(answer.text().await.unwrap().contains(&id));
    assert_eq!(list("guess".to_owned()).await.unwrap().status(), 401);

    // and a polite signal takes everything away
    assert_eq!(quickstart.terminate(Duration::from_secs(20)).await, Some(0));
    assert!(!is_listening(&agent).await);
    assert!(!folder_of(&transcript).exists());
}

#[tokio::test]
async fn a_folder_of_the_users_is_kept_and_serves_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("made/when/missing");
    let path = folder.to_str().unwrap();
    for _ in 0..2 {
        let output = run(&mut quickstart(&[
            "--exit",
            "--port",
            "0",
            "--data-dir",
            path,
        ]))
        .await;
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(folder.join("molecule.db").is_file());
    }
}

#[tokio::test]
async fn a_port_that_is_taken_ends_it_with_one_and_a_reason() {
    // given
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();

    // when
    let output = run(&mut quickstart(&[
        "--exit",
        "--port",
        &address.port().to_string(),
    ]))
    .await;

    // then
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.starts_with(&format!("✗ cannot listen on {address}: ")),
        "{said}"
    );
}

#[tokio::test]
async fn without_a_docker_daemon_it_says_what_is_missing() {
    // given a daemon that is not there
    let folder = tempfile::tempdir().unwrap();
    let nobody = format!("unix://{}", folder.path().join("nobody.sock").display());

    // when
    let output = run(quickstart(&["--docker", "--exit"]).env("DOCKER_HOST", nobody)).await;

    // then
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.starts_with("✗ the image of the echo agent cannot be built"),
        "{said}"
    );
    assert!(
        said.contains("Docker daemon") || said.contains("docker command"),
        "{said}"
    );
}

#[tokio::test]
async fn the_same_binary_is_the_agent() {
    let output = run(&mut quickstart(&["agent", "--help"])).await;
    assert!(
        stdout(&output).starts_with("usage: echo-agent"),
        "{}",
        stdout(&output)
    );
    assert_eq!(output.status.code(), Some(0));
}
