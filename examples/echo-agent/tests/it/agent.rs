//! Registration, heartbeats and tokens.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::stand_in::{Agent, ID, NOBODY, StandIn, command, http, poll};

const REGISTER: &str = "POST /registry/register ";
const HEARTBEAT: &str = "POST /registry/heartbeat ";

fn ok(body: &str) -> (u16, String) {
    (200, body.to_owned())
}

fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).expect("a writable folder");
}

#[test]
fn a_provisioned_agent_registers_with_its_bearer_and_then_beats() {
    // given a provisioned config folder
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        "config.yaml",
        "name: \"Research \\\"lead\\\"\"\nruntime: \"langgraph\"\n",
    );
    write(dir.path(), ".auth_token", "tok-one\n");
    let platform = StandIn::start(|_| ok(r#"{"status":"ok"}"#));

    // when the agent starts
    let agent = Agent::start(dir.path(), &platform.url, &[]);

    // then it registers once, as the card says
    let register = platform.wait_for(REGISTER, 1).remove(0);
    assert_eq!(register.bearer.as_deref(), Some("tok-one"));
    assert_eq!(register.body["id"], ID);
    let url = format!("http://localhost:{}", agent.port());
    assert_eq!(register.body["url"], url);
    assert_eq!(register.body["agent_card"]["name"], "Research \"lead\"");
    assert_eq!(register.body["agent_card"]["url"], url);

    // and beats with every field the platform knows
    let beat = platform.wait_for(HEARTBEAT, 2).remove(1);
    assert_eq!(beat.bearer.as_deref(), Some("tok-one"));
    assert_eq!(beat.body["workspace_id"], ID);
    assert_eq!(beat.body["error_rate"], 0.0);
    assert_eq!(beat.body["sample_error"], "");
    assert_eq!(beat.body["active_tasks"], 0);
    assert_eq!(beat.body["current_task"], "");
    assert!(beat.body["uptime_seconds"].is_u64());
    assert_eq!(platform.seen(REGISTER).len(), 1);
    assert!(!agent.log().contains("tok-one"), "{}", agent.log());
}

#[test]
fn the_agent_listens_before_it_registers() {
    // given a platform that calls back while it answers the registration
    let dir = tempfile::tempdir().unwrap();
    let platform = StandIn::start(|seen| {
        let answered = seen.body["url"].as_str().is_some_and(|url| {
            let port = url.rsplit(':').next().and_then(|port| port.parse().ok());
            port.is_some_and(|port| http(port, "GET /health", "", "").0 == 200)
        });
        let status = if seen.line.starts_with(REGISTER) && !answered {
            500
        } else {
            200
        };
        (status, "{}".to_owned())
    });

    // when the agent starts, then its first registration succeeds
    let _agent = Agent::start(dir.path(), &platform.url, &[]);
    platform.wait_for(HEARTBEAT, 1);
    assert_eq!(platform.seen(REGISTER).len(), 1);
}

#[test]
fn a_minted_token_is_persisted_privately_and_used() {
    // given a workspace without a token
    let dir = tempfile::tempdir().unwrap();
    let platform = StandIn::start(|_| {
        ok(r#"{"status":"registered","auth_token":"minted","platform_inbound_secret":"inbound"}"#)
    });

    // when the platform mints one at registration
    let agent = Agent::start(dir.path(), &platform.url, &[]);

    // then the agent used none before, uses it after, and keeps both files private
    assert_eq!(platform.wait_for(REGISTER, 1)[0].bearer, None);
    assert_eq!(
        platform.wait_for(HEARTBEAT, 1)[0].bearer.as_deref(),
        Some("minted")
    );
    for (name, text) in [
        (".auth_token", "minted"),
        (".platform_inbound_secret", "inbound"),
    ] {
        let path = dir.path().join(name);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let log = agent.log();
    assert!(
        !log.contains("minted") && !log.contains("inbound\n"),
        "{log}"
    );
}

#[test]
fn a_refused_heartbeat_reads_the_token_file_again() {
    // given an agent whose token was rotated behind its back
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), ".auth_token", "old");
    let platform = StandIn::start(|seen| match seen.bearer.as_deref() {
        Some("old") if seen.line.starts_with(HEARTBEAT) => (
            401,
            r#"{"error":"invalid workspace auth token"}"#.to_owned(),
        ),
        _ => ok("{}"),
    });
    let _agent = Agent::start(dir.path(), &platform.url, &[]);

    // when heartbeats are refused, it presents the same token once per beat
    let refused = platform.wait_for(HEARTBEAT, 2);
    assert!(
        refused
            .iter()
            .all(|beat| beat.bearer.as_deref() == Some("old"))
    );

    // then the new file is picked up without a restart
    write(dir.path(), ".auth_token", "new");
    poll("a heartbeat with the new token", || {
        let beats = platform.seen(HEARTBEAT);
        beats
            .iter()
            .any(|beat| beat.bearer.as_deref() == Some("new"))
            .then_some(())
    });
}

#[test]
fn registration_is_retried_until_the_platform_is_well() {
    // given a platform that first fails in several ways
    let dir = tempfile::tempdir().unwrap();
    let calls = AtomicUsize::new(0);
    let platform = StandIn::start(move |seen| {
        if !seen.line.starts_with(REGISTER) {
            return ok("{}");
        }
        match calls.fetch_add(1, Ordering::SeqCst) {
            0 => (500, "{}".to_owned()),
            1 => (503, r#"{"code":"platform_unavailable"}"#.to_owned()),
            2 => (404, r#"{"error":"workspace not found"}"#.to_owned()),
            3 => (401, "{}".to_owned()),
            _ => ok("not even JSON"),
        }
    });

    // when the agent starts, then it gets there
    let mut agent = Agent::start(dir.path(), &platform.url, &[]);
    assert_eq!(platform.wait_for(REGISTER, 5).len(), 5);
    platform.wait_for(HEARTBEAT, 1);
    assert!(agent.is_running());
}

#[test]
fn an_absent_platform_does_not_end_the_agent() {
    let dir = tempfile::tempdir().unwrap();

    let mut agent = Agent::start(dir.path(), NOBODY, &[]);

    poll("two failed tries", || {
        (agent.log().matches("not registered").count() >= 2).then_some(())
    });
    assert!(agent.is_running());
    assert_eq!(http(agent.port(), "GET /health", "", "").0, 200);
}

#[test]
fn an_unknown_workspace_keeps_trying() {
    let dir = tempfile::tempdir().unwrap();
    let platform = StandIn::start(|seen| {
        let status = if seen.line.starts_with(HEARTBEAT) {
            404
        } else {
            200
        };
        (status, "{}".to_owned())
    });
    let mut agent = Agent::start(dir.path(), &platform.url, &[]);
    platform.wait_for(HEARTBEAT, 2);
    assert!(agent.is_running());
}

#[test]
fn an_unwritable_folder_keeps_the_token_in_memory() {
    // given a config folder that does not exist, so nothing can be stored
    let dir = tempfile::tempdir().unwrap();
    let platform = StandIn::start(|_| ok(r#"{"auth_token":"minted"}"#));

    let agent = Agent::start(&dir.path().join("absent"), &platform.url, &[]);

    let beats = platform.wait_for(HEARTBEAT, 1);
    assert_eq!(beats[0].bearer.as_deref(), Some("minted"));
    assert!(
        agent.log().contains("cannot store .auth_token"),
        "{}",
        agent.log()
    );
}

#[test]
fn agent_url_is_registered_as_given() {
    let dir = tempfile::tempdir().unwrap();
    let platform = StandIn::start(|_| ok("{}"));
    let _agent = Agent::start(
        dir.path(),
        &platform.url,
        &[("AGENT_URL", "http://agent.example:81")],
    );
    let register = platform.wait_for(REGISTER, 1).remove(0);
    assert_eq!(register.body["url"], "http://agent.example:81");
}

#[test]
fn a_wrong_environment_or_command_line_exits_with_two() {
    let dir = tempfile::tempdir().unwrap();
    for (name, value) in [
        ("WORKSPACE_ID", ""),
        ("PLATFORM_URL", "https://x"),
        ("PORT", "x"),
    ] {
        let output = command(dir.path(), "http://127.0.0.1:1")
            .env(name, value)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(name));
    }
    for args in [
        ["frobnicate"].as_slice(),
        &["git-credential"],
        &["serve", "now"],
    ] {
        let output = command(dir.path(), "http://127.0.0.1:1")
            .args(args)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("usage:"));
    }
    let help = command(dir.path(), "").arg("--help").output().unwrap();
    assert!(help.status.success() && help.stdout.starts_with(b"usage:"));
}
