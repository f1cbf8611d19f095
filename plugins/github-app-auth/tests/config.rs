//! Start-up: what is accepted, what is refused, and in which words.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod common;

use common::{build, configured, fixture};
use molecule_hooks::{HooksConfig, Registry};
use serde_json::json;

const URL: &str = "http://127.0.0.1:9";

/// The problems that start-up reports.
fn refusal(config: &HooksConfig) -> String {
    let error = build(config).expect_err("start-up must refuse");
    assert_eq!(error.problems.len(), 1, "{error}");
    error.problems[0].clone()
}

fn with_key_text(text: &str) -> (tempfile::TempDir, HooksConfig) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.pem");
    std::fs::write(&path, text).unwrap();
    let config = configured(URL, "test-only-pkcs8.pem")
        .with_env("GITHUB_APP_PRIVATE_KEY_FILE", path.to_str().unwrap());
    (directory, config)
}

#[test]
fn without_an_app_id_the_hook_is_off() {
    for config in [
        HooksConfig::new(),
        HooksConfig::new().with_env("GITHUB_APP_ID", ""),
        HooksConfig::new().with_section("github-app-auth", json!({"app_id": "", "api_url": "::"})),
        HooksConfig::new().with_section("github-app-auth", json!({"installation_id": 7})),
    ] {
        let registry = Registry::from_linked(&config).unwrap();
        assert!(registry.is_empty());
        assert_eq!(registry.skipped(), ["github-app-auth"]);
    }
}

#[test]
fn ids_may_be_numbers_or_text_in_the_file() {
    for (app, installation) in [
        (json!(1), json!(2)),
        (json!("1"), json!("2")),
        (json!(" 1 "), json!(2)),
    ] {
        let section = json!({
            "app_id": app,
            "installation_id": installation,
            "private_key_file": fixture("test-only-pkcs1.pem"),
        });
        let config = HooksConfig::new().with_section("github-app-auth", section);
        let hook = build(&config).unwrap();
        assert_eq!(hook.name(), "github-app-auth");
        assert!(hook.token_provider().is_some());
    }
}

#[test]
fn a_bad_id_is_named_with_its_value() {
    for bad in ["abc", "0", "12x", "-5", "1.5"] {
        let config = configured(URL, "test-only-pkcs8.pem").with_env("GITHUB_APP_ID", bad);
        let expected = format!("GITHUB_APP_ID is required and must be numeric (got \"{bad}\")");
        assert!(refusal(&config).ends_with(&expected), "{bad}");
    }
    let config =
        configured(URL, "test-only-pkcs8.pem").with_env("GITHUB_APP_INSTALLATION_ID", "nope");
    assert!(
        refusal(&config)
            .ends_with("GITHUB_APP_INSTALLATION_ID is required and must be numeric (got \"nope\")")
    );
}

#[test]
fn every_problem_is_reported_at_once() {
    let section = json!({"app_id": "x", "api_url": "ftp://somewhere", "timeout_secs": 0});
    let config = HooksConfig::new().with_section("github-app-auth", section);
    let problem = refusal(&config);
    for part in [
        "GITHUB_APP_ID is required and must be numeric (got \"x\")",
        "GITHUB_APP_INSTALLATION_ID is required and must be numeric (got \"\")",
        "GITHUB_APP_PRIVATE_KEY_FILE is required (path to the App's RSA private key PEM)",
        "GITHUB_API_URL must start with",
        "timeout_secs must be between 1 and 30 (got 0)",
    ] {
        assert!(problem.contains(part), "{part} is missing in {problem}");
    }
}

#[test]
fn unknown_keys_and_wrong_types_are_refused() {
    let config =
        HooksConfig::new().with_section("github-app-auth", json!({"app_id": 1, "key": "x"}));
    assert!(refusal(&config).contains("unknown key \"key\""));
    let config = HooksConfig::new().with_section("github-app-auth", json!({"app_id": [1]}));
    assert!(refusal(&config).contains("app_id: expected a number"));
}

#[test]
fn an_api_url_with_a_password_is_refused_and_not_shown() {
    for url in [
        "https://me:hunter22@host",
        "not a url hunter22",
        "https://h/?k=hunter22",
    ] {
        let problem = refusal(&configured(url, "test-only-pkcs8.pem"));
        assert!(problem.contains("GITHUB_API_URL"), "{problem}");
        assert!(!problem.contains("hunter22"), "{problem}");
    }
}

#[test]
fn an_unreadable_key_file_is_named() {
    let missing = configured(URL, "no-such-file.pem");
    let path = fixture("no-such-file.pem");
    assert!(refusal(&missing).contains(&format!("read private key \"{path}\": ")));
    let directory = tempfile::tempdir().unwrap();
    let config = configured(URL, "x").with_env(
        "GITHUB_APP_PRIVATE_KEY_FILE",
        directory.path().to_str().unwrap(),
    );
    assert!(refusal(&config).contains("not a regular file"));
}

#[test]
fn every_usual_spelling_of_an_rsa_key_is_accepted() {
    for name in ["test-only-pkcs1.pem", "test-only-pkcs8.pem"] {
        let text = std::fs::read_to_string(fixture(name)).unwrap();
        for spelling in [
            text.clone(),
            text.replace('\n', "\r\n"),
            text.replace('\n', "\\n"),
            format!("\n\n{text}\n"),
        ] {
            let (_directory, config) = with_key_text(&spelling);
            assert!(build(&config).is_ok(), "{name}");
        }
    }
}

#[test]
fn keys_that_cannot_sign_are_refused_in_plain_words() {
    for (name, expected) in [
        ("test-only-ec-sec1.pem", "parse private key: not an RSA"),
        ("test-only-ec-pkcs8.pem", "parse private key: not an RSA"),
        (
            "test-only-encrypted.pem",
            "parse private key: it is encrypted",
        ),
        ("test-only-1024-bits.pem", "parse private key: "),
        ("test-only-public.pem", "parse private key: "),
    ] {
        let problem = refusal(&configured(URL, name));
        let expected = format!("init github-app-auth: githubapp: {expected}");
        assert!(problem.contains(&expected), "{name}: {problem}");
    }
    for text in ["", "hello", "MIIEvQIBADANBgkq"] {
        let (_directory, config) = with_key_text(text);
        let problem = refusal(&config);
        assert!(problem.ends_with("githubapp: no PEM block found"));
    }
    let (_directory, config) =
        with_key_text("-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----\n");
    assert!(refusal(&config).contains("githubapp: parse private key: not an RSA"));
}

#[test]
fn a_key_in_the_wrong_place_is_not_printed() {
    let pem = std::fs::read_to_string(fixture("test-only-pkcs8.pem")).unwrap();
    let body: Vec<&str> = pem.lines().filter(|line| !line.contains("-----")).collect();
    for (name, value) in [
        ("GITHUB_APP_PRIVATE_KEY_FILE", pem.as_str()),
        (
            "GITHUB_APP_PRIVATE_KEY_FILE",
            &pem.replace('\n', "\\n") as &str,
        ),
        ("GITHUB_APP_ID", pem.as_str()),
        ("GITHUB_APP_INSTALLATION_ID", pem.as_str()),
        ("GITHUB_API_URL", pem.as_str()),
    ] {
        let config = configured(URL, "test-only-pkcs8.pem").with_env(name, value);
        let problem = refusal(&config);
        assert!(problem.contains(name), "{problem}");
        assert!(
            body.iter().all(|line| !problem.contains(&line[..12])),
            "{name}: {problem}"
        );
    }
}
