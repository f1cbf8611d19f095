//! The credential helper as git runs it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::stand_in::{ID, NOBODY, StandIn, command};

const GITHUB: &str = "protocol=https\nhost=github.com\n\n";
const TOKEN_PATH: &str = "/github-installation-token";

struct Output {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

fn run(mut command: Command, operation: &str, input: &str) -> Output {
    let mut child = command
        .args(["git-credential", operation])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the helper starts");
    let mut stdin = child.stdin.take().expect("a piped stdin");
    // `store` does not read its input.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("the helper ends");
    Output {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

fn helper(dir: &Path, platform: &StandIn, operation: &str, input: &str) -> Output {
    run(command(dir, &platform.url), operation, input)
}

/// A platform that mints `ghs_1`, `ghs_2`, … with the given expiry.
fn minting(expires_at: &'static str) -> StandIn {
    let count = AtomicUsize::new(0);
    StandIn::start(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        (
            200,
            format!(r#"{{"token":"ghs_{number}","expires_at":"{expires_at}"}}"#),
        )
    })
}

fn config_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join(".auth_token"), "tok").expect("a writable folder");
    dir
}

#[test]
fn get_prints_the_live_token_with_its_expiry_and_caches_it() {
    let dir = config_dir();
    let platform = minting("2100-03-01T00:00:00Z");

    let first = helper(dir.path(), &platform, "get", GITHUB);
    let expected = "username=x-access-token\npassword=ghs_1\npassword_expiry_utc=4107542400\n";
    assert_eq!((first.code, first.stdout.as_str()), (Some(0), expected));
    assert_eq!(first.stderr, "");

    let second = helper(dir.path(), &platform, "get", GITHUB);
    assert_eq!(second.stdout, expected);

    let seen = platform.seen("GET ");
    assert_eq!(seen.len(), 1, "the second answer came from the cache");
    assert_eq!(
        seen[0].line,
        format!("GET /workspaces/{ID}{TOKEN_PATH} HTTP/1.1")
    );
    assert_eq!(seen[0].bearer.as_deref(), Some("tok"));
    for entry in fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != ".auth_token" {
            assert_eq!(
                entry.metadata().unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
    }
}

#[test]
fn erase_makes_the_next_get_fetch_a_fresh_token() {
    let dir = config_dir();
    let platform = minting("2100-03-01T00:00:00Z");
    let get = || helper(dir.path(), &platform, "get", GITHUB).stdout;
    let erase = |password: &str| {
        let input =
            format!("protocol=https\nhost=github.com\nusername=x-access-token\n{password}\n");
        assert_eq!(helper(dir.path(), &platform, "erase", &input).code, Some(0));
    };

    assert!(get().contains("password=ghs_1\n"));
    erase("password=ghs_0\n");
    assert!(
        get().contains("password=ghs_1\n"),
        "another password erases nothing"
    );
    erase("password=ghs_1\n");
    assert!(get().contains("password=ghs_2\n"));
    erase("");
    assert!(
        get().contains("password=ghs_3\n"),
        "no password erases what there is"
    );
    let other = "protocol=https\nhost=example.com\npassword=ghs_3\n";
    helper(dir.path(), &platform, "erase", other);
    assert!(
        get().contains("password=ghs_3\n"),
        "another host erases nothing"
    );
    assert_eq!(helper(dir.path(), &platform, "store", GITHUB).code, Some(0));
    assert!(get().contains("password=ghs_3\n"));
    let erase_twice = helper(dir.path(), &platform, "erase", "");
    assert_eq!(erase_twice.code, Some(0));
    assert_eq!(
        helper(dir.path(), &platform, "erase", "").code,
        Some(0),
        "nothing left to erase"
    );
}

#[test]
fn an_expired_answer_is_not_a_credential() {
    let dir = config_dir();
    let platform = minting("2001-01-01T00:00:00Z");
    let output = helper(dir.path(), &platform, "get", GITHUB);
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""));
    assert!(!output.stderr.contains("ghs_"), "{}", output.stderr);
}

#[test]
fn other_hosts_get_nothing_and_the_platform_is_not_asked() {
    let dir = config_dir();
    let platform = minting("2100-03-01T00:00:00Z");
    for input in [
        "protocol=https\nhost=example.com\n\n",
        "protocol=http\nhost=github.com\n\n",
        "protocol=https\nhost=github.com.example.com\n\n",
        "",
        "\nprotocol=https\nhost=github.com\n",
    ] {
        let output = helper(dir.path(), &platform, "get", input);
        assert_eq!(
            (output.code, output.stdout.as_str()),
            (Some(0), ""),
            "{input:?}"
        );
    }
    let unknown = helper(dir.path(), &platform, "capability", "");
    assert_eq!((unknown.code, unknown.stdout.as_str()), (Some(0), ""));
    assert!(platform.seen("").is_empty());
}

#[test]
fn a_configured_host_is_served_too() {
    let dir = config_dir();
    let platform = minting("2100-03-01T00:00:00Z");
    let mut command = command(dir.path(), &platform.url);
    command.env("GIT_CREDENTIAL_HOST", "git.example:8443");
    let output = run(command, "get", "protocol=https\nhost=git.example:8443\n\n");
    assert!(output.stdout.contains("password=ghs_1\n"));
}

#[test]
fn without_a_workspace_the_admin_route_is_asked() {
    let dir = config_dir();
    let platform = minting("2100-03-01T00:00:00Z");
    let mut command = command(dir.path(), &platform.url);
    command.env_remove("WORKSPACE_ID");
    run(command, "get", GITHUB);
    assert_eq!(
        platform.seen("GET ")[0].line,
        format!("GET /admin{TOKEN_PATH} HTTP/1.1")
    );
}

#[test]
fn the_environment_token_is_the_last_resort() {
    let dir = config_dir();
    let refusing = StandIn::start(|_| (500, r#"{"error":"token refresh failed"}"#.to_owned()));
    for url in [refusing.url.as_str(), NOBODY, ""] {
        let mut command = command(dir.path(), url);
        command.env("GITHUB_TOKEN", "ghs_env");
        let output = run(command, "get", GITHUB);
        assert_eq!(
            output.stdout, "username=x-access-token\npassword=ghs_env\n",
            "{url}"
        );
    }
    let output = run(command(dir.path(), NOBODY), "get", GITHUB);
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""));
    assert!(output.stderr.contains("GITHUB_TOKEN"), "{}", output.stderr);
}

#[test]
fn a_token_cannot_add_lines_to_the_answer() {
    let dir = config_dir();
    let platform = StandIn::start(|_| {
        (
            200,
            r#"{"token":"a\nhost=evil","expires_at":"2100-03-01T00:00:00Z"}"#.to_owned(),
        )
    });
    let output = helper(dir.path(), &platform, "get", GITHUB);
    assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""));
}

#[test]
fn git_itself_accepts_the_answer() {
    let dir = config_dir();
    let platform = minting("2100-03-01T00:00:00Z");
    let helper = format!(
        "!env -i WORKSPACE_ID={ID} WORKSPACE_CONFIG_PATH='{}' PLATFORM_URL={} '{}' git-credential",
        dir.path().display(),
        platform.url,
        env!("CARGO_BIN_EXE_echo-agent"),
    );
    let mut git = Command::new("git");
    git.args(["-c", "credential.helper=", "-c"])
        .arg(format!("credential.helper={helper}"))
        .args(["credential", "fill"])
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let Ok(mut child) = git.spawn() else {
        return; // no git on this machine
    };
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(GITHUB.as_bytes()).unwrap();
    drop(stdin);
    let answer = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert!(
        answer.contains("username=x-access-token\npassword=ghs_1\n"),
        "{answer}"
    );
}
