//! The custom server, a stand-in for GitHub and a real container, end to end.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use chrono::{DateTime, Utc};
use github_stand_in::{Behaviour, GithubStandIn, Options, generate_key_pair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use crate::custom_server::{custom_server, example, with_secrets};
use crate::support::{
    DEADLINE, Running, docker, docker_objects, echo_image, eventually, remove_docker_objects,
    skips_docker,
};

/// Short, so that a rotation can be waited for.
const TOKEN_TTL: Duration = Duration::from_secs(8);

/// The custom server on the example's own `molecule.yaml`, with one workspace.
struct Deployment {
    server: Running,
    base: String,
    http: reqwest::Client,
    workspace: String,
    _home: TempDir,
}

struct Token {
    text: String,
    expires_at: DateTime<Utc>,
}

impl Deployment {
    /// Needs the image that `molecule.yaml` names.
    async fn start(github: &GithubStandIn, private_key: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let key_file = home.path().join("app.pem");
        fs::write(&key_file, private_key).unwrap();
        let mut command = custom_server(&[]);
        with_secrets(&mut command)
            .current_dir(example())
            .env("MOLECULE_DATA_DIR", home.path().join("data"))
            .env("PORT", "0")
            .env("GITHUB_API_URL", github.url())
            .env("GITHUB_APP_ID", "1")
            .env("GITHUB_APP_INSTALLATION_ID", "1")
            .env("GITHUB_APP_PRIVATE_KEY_FILE", key_file);
        if let Some(host) = std::env::var_os("DOCKER_HOST") {
            command.env("DOCKER_HOST", host);
        }
        let mut server = Running::start(&mut command);
        let address = server.wait_for("listening address=").await;
        let port = address.trim().rsplit(':').next().unwrap().to_owned();
        let mut deployment = Self {
            server,
            base: format!("http://127.0.0.1:{port}"),
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(DEADLINE)
                .build()
                .unwrap(),
            workspace: String::new(),
            _home: home,
        };
        let body = json!({ "name": "Alice", "role": "tester" });
        let created = deployment
            .call(reqwest::Method::POST, "/workspaces", Some(body))
            .await;
        deployment.workspace = created["id"].as_str().unwrap().to_owned();
        deployment
    }

    async fn call(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Value {
        let url = format!("{}{path}", self.base);
        let mut request = self
            .http
            .request(method, url)
            .bearer_auth("a-token-of-this-test");
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(
            status.is_success(),
            "{path}: {status} {text}\n{}",
            self.server.said()
        );
        serde_json::from_str(&text).unwrap()
    }

    async fn wait_until_online(&self) {
        let path = format!("/workspaces/{}", self.workspace);
        eventually("the workspace comes online", || async {
            let workspace = self.call(reqwest::Method::GET, &path, None).await;
            assert_ne!(workspace["status"], "failed", "{}", self.server.said());
            (workspace["status"] == "online").then_some(())
        })
        .await;
    }

    async fn token(&self) -> Token {
        let path = format!("/workspaces/{}/github-installation-token", self.workspace);
        let answer = self.call(reqwest::Method::GET, &path, None).await;
        Token {
            text: answer["token"].as_str().unwrap().to_owned(),
            expires_at: answer["expires_at"].as_str().unwrap().parse().unwrap(),
        }
    }

    /// `NAME=value` lines of the container, as the daemon knows them.
    async fn environment(&self) -> Vec<String> {
        let container = format!("ws-{}", self.workspace);
        let printed = docker(&["inspect", "--format", "{{json .Config.Env}}", &container]).await;
        serde_json::from_str(&printed).unwrap()
    }

    /// What git would be told inside the container.
    async fn git_credential(&self) -> String {
        let container = format!("ws-{}", self.workspace);
        let mut git = Command::new("docker")
            .args(["exec", "--interactive", &container])
            .args(["/echo-agent", "git-credential", "get"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = git.stdin.take().unwrap();
        stdin
            .write_all(b"protocol=https\nhost=github.com\n\n")
            .await
            .unwrap();
        drop(stdin);
        let output = timeout(DEADLINE, git.wait_with_output())
            .await
            .unwrap()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Deployment {
    /// For a test that failed; otherwise there is nothing left to remove.
    fn drop(&mut self) {
        if !self.workspace.is_empty() {
            remove_docker_objects(&self.workspace);
        }
    }
}

/// The value of `name` in lines of `name=value`.
fn value<'a>(lines: impl IntoIterator<Item = &'a str>, name: &str) -> &'a str {
    lines
        .into_iter()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("{name} is not set"))
}

#[tokio::test]
async fn a_container_boots_with_a_github_token_and_gets_newer_ones_while_it_runs() {
    if skips_docker() {
        return;
    }
    // given a GitHub whose tokens live for seconds, and a server with both hooks
    assert_eq!(echo_image().await, "molecule/echo-agent:local");
    let keys = generate_key_pair().unwrap();
    let mut options = Options::default();
    options.behaviour = Behaviour::ok(TOKEN_TTL);
    let github = GithubStandIn::start_with(&keys.public_key, options)
        .await
        .unwrap();
    let mut deployment = Deployment::start(&github, &keys.private_key).await;
    deployment.wait_until_online().await;

    // then both hooks wrote the environment of the container
    let environment = deployment.environment().await;
    let variable = |name: &str| value(environment.iter().map(String::as_str), name);
    let boot_token = variable("GITHUB_TOKEN");
    assert!(boot_token.starts_with("ghs_"));
    assert_eq!(variable("GH_TOKEN"), boot_token);
    assert_eq!(variable("MOLECULE_AGENT_ROLE"), "Tester");
    assert_eq!(variable("MOLECULE_OWNER"), "octocat");

    // and after a rotation the workspace gets a newer token, without a restart
    let first = deployment.token().await;
    let second = eventually("the token rotates", || async {
        let next = deployment.token().await;
        (next.text != first.text).then_some(next)
    })
    .await;
    assert!(second.expires_at > first.expires_at);
    assert!(second.text.starts_with("ghs_"));
    assert_ne!(second.text, boot_token);
    assert!(github.calls() >= 2);

    // and git inside the container is told a live one, not the one from its boot
    let credential = deployment.git_credential().await;
    assert_eq!(value(credential.lines(), "username"), "x-access-token");
    assert!(value(credential.lines(), "password").starts_with("ghs_"));
    assert_ne!(value(credential.lines(), "password"), boot_token);
    let expiry: i64 = value(credential.lines(), "password_expiry_utc")
        .parse()
        .unwrap();
    assert!(expiry >= first.expires_at.timestamp());

    // and no token is in the log
    assert!(
        !deployment.server.said().contains("ghs_"),
        "{}",
        deployment.server.said()
    );

    // and deleting the workspace leaves nothing of it
    let path = format!("/workspaces/{}?confirm=true", deployment.workspace);
    deployment.call(reqwest::Method::DELETE, &path, None).await;
    assert_eq!(docker_objects(&deployment.workspace).await, "");
    assert_eq!(
        deployment.server.terminate(Duration::from_secs(10)).await,
        Some(0)
    );
}
