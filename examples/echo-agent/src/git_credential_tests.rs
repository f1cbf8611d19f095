use super::*;
use std::os::unix::fs::PermissionsExt as _;

const NOW: i64 = 1_776_466_200;

fn credential(expires_at: Option<i64>) -> Credential {
    Credential {
        token: "ghs_abc".to_owned(),
        expires_at,
    }
}

#[test]
fn requests_are_read_up_to_the_empty_line() {
    let request = Request::parse(b"protocol=https\nhost=github.com\r\npassword=a=b\n\nhost=evil\n");
    assert_eq!(request.protocol.as_deref(), Some("https"));
    assert_eq!(request.host.as_deref(), Some("github.com"));
    assert_eq!(request.password.as_deref(), Some("a=b"));
    assert_eq!(
        Request::parse(b"\xff\xfe=\n=\nnothing\0\n"),
        Request::default()
    );
}

#[test]
fn only_https_to_known_hosts_is_served() {
    let env = Env::fixed(&[("GIT_CREDENTIAL_HOST", "git.example:8443, ,Other.example")]);
    for (protocol, host, expected) in [
        ("https", "github.com", true),
        ("https", "GitHub.com", true),
        ("https", "git.example:8443", true),
        ("https", "other.example", true),
        ("http", "github.com", false),
        ("ssh", "github.com", false),
        ("https", "github.com.evil.example", false),
        ("https", "notgithub.com", false),
        ("https", "git.example", false),
        ("https", "", false),
    ] {
        let request = Request::parse(format!("protocol={protocol}\nhost={host}\n").as_bytes());
        assert_eq!(request.is_for(&env), expected, "{protocol} {host}");
    }
    assert!(!Request::parse(b"protocol=https\n").is_for(&env));
}

#[test]
fn answers_give_a_live_token_or_nothing() {
    let parsed = |body: &str| parse_answer(body.as_bytes(), NOW);
    assert_eq!(
        parsed(r#"{"token":"ghs_abc","expires_at":"2026-04-17T23:50:00Z"}"#),
        Some(credential(Some(NOW + 3600)))
    );
    assert_eq!(parsed(r#"{"token":"ghs_abc"}"#), Some(credential(None)));
    for body in [
        "",
        "{}",
        "[]",
        r#"{"token":""}"#,
        r#"{"token":7}"#,
        r#"{"token":"a\nhost=evil"}"#,
        r#"{"token":"ghs_abc","expires_at":"2026-04-17T22:50:00Z"}"#,
    ] {
        assert_eq!(parsed(body), None, "{body}");
    }
}

#[test]
fn the_cache_lasts_fifty_minutes_and_never_past_expiry() {
    let dir = tempfile::tempdir().unwrap();
    let read = |owner: &str, now: i64| read_cache(dir.path(), owner, now);

    write_cache(dir.path(), "w", &credential(Some(NOW + 3600)), NOW);
    assert_eq!(read("w", NOW), Some(credential(Some(NOW + 3600))));
    assert!(read("w", NOW + CACHE_SECS - 1).is_some());
    assert!(read("w", NOW + CACHE_SECS).is_none());
    assert!(read("w", NOW - 1).is_none(), "the clock went back");
    assert!(read("other", NOW).is_none(), "another workspace");

    write_cache(dir.path(), "w", &credential(Some(NOW + 60)), NOW);
    assert!(read("w", NOW + 59).is_some());
    assert!(read("w", NOW + 60).is_none());
}

#[test]
fn a_token_without_expiry_is_not_cached() {
    let dir = tempfile::tempdir().unwrap();
    write_cache(dir.path(), "w", &credential(None), NOW);
    assert!(!dir.path().join(CACHE_FILE).exists());
}

#[test]
fn a_cache_others_can_read_or_that_is_broken_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(CACHE_FILE);
    write_cache(dir.path(), "w", &credential(Some(NOW + 3600)), NOW);
    let good = fs::read(&path).unwrap();

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(read_cache(dir.path(), "w", NOW).is_none());

    for text in [
        "",
        "{",
        "[]",
        r#"{"token":"a\nb","workspace_id":"w","expires_at":9999999999,"fetched_at":1}"#,
    ] {
        credentials::write(dir.path(), CACHE_FILE, text).unwrap();
        assert!(read_cache(dir.path(), "w", NOW).is_none(), "{text}");
    }

    fs::remove_file(&path).unwrap();
    let elsewhere = dir.path().join("elsewhere");
    fs::write(&elsewhere, good).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    assert!(
        read_cache(dir.path(), "w", NOW).is_none(),
        "a link is not followed"
    );
}
