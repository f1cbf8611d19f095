//! Start-up: what is accepted, what is refused, and in which words.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod common;

use common::{build, refusal, write};
use molecule_hooks::{HooksConfig, Registry};
use serde_json::{Value, json};

fn section(more: Value) -> Value {
    let mut all = json!({ "url": "https://vault.invalid:8200", "paths": ["a"], "token": "hvs.x" });
    for (key, value) in more.as_object().unwrap() {
        all[key] = value.clone();
    }
    all
}

#[test]
fn without_an_address_the_hook_is_off() {
    for config in [
        HooksConfig::new(),
        HooksConfig::new().with_env("VAULT_TOKEN", "hvs.x"),
        HooksConfig::new().with_section("vault", json!({ "url": "", "paths": ["{"] })),
    ] {
        let registry = Registry::from_linked(&config).unwrap();
        assert_eq!(registry.skipped(), ["vault"]);
    }
}

#[test]
fn the_usual_variables_of_vault_are_understood() {
    let config = HooksConfig::new()
        .with_section("vault", json!({ "paths": ["a"] }))
        .with_env("VAULT_ADDR", "https://vault.invalid:8200")
        .with_env("VAULT_TOKEN", "hvs.x")
        .with_env("VAULT_NAMESPACE", "team-a");
    assert_eq!(Registry::from_linked(&config).unwrap().names(), ["vault"]);
}

#[test]
fn everything_wrong_is_reported_together() {
    let problem = refusal(json!({
        "url": "vault.invalid",
        "paths": ["a/../b"],
        "mount": "/secret/",
        "prefix": "1-",
        "namespace": "a b",
        "auth": "password",
        "auth_mount": "..",
        "timeout_secs": 0,
    }));
    for part in [
        "url (VAULT_ADDR) is not a URL",
        "paths[0] must be segments",
        "mount must be",
        "prefix must be",
        "namespace must be",
        "auth must be token, approle or kubernetes",
        "auth_mount must be",
        "timeout_secs must be between 1 and 30 (got 0)",
    ] {
        assert!(problem.contains(part), "{part} is missing in {problem}");
    }
}

#[test]
fn every_method_says_what_it_needs() {
    let url = json!({ "url": "https://vault.invalid", "paths": ["a"] });
    let needs = |method: &str| {
        let mut section = url.clone();
        section["auth"] = json!(method);
        refusal(section)
    };
    assert!(needs("token").contains("token is required"));
    let approle = needs("approle");
    assert!(
        approle.contains("role_id is required") && approle.contains("secret_id_file is required")
    );
    assert!(needs("kubernetes").contains("kubernetes_role is required"));
    let without_paths = json!({ "url": "https://vault.invalid", "token": "hvs.x" });
    assert!(refusal(without_paths).contains("paths must name 1 to 16 secrets"));
    let many: Vec<String> = (0..17).map(|n| format!("p{n}")).collect();
    assert!(refusal(section(json!({ "paths": many }))).contains("1 to 16"));
}

#[test]
fn files_must_be_usable_at_start_up() {
    let files = tempfile::tempdir().unwrap();
    let with = |path: &str| {
        section(json!({ "auth": "approle", "role_id": "role-id", "secret_id_file": path }))
    };
    let good = write(&files, "secret-id", " secret-id \n");
    build(with(good.to_str().unwrap())).unwrap();
    let empty = write(&files, "empty", "\n");
    for (path, why) in [
        ("/no/such/file", "cannot be read"),
        (empty.to_str().unwrap(), "is empty"),
        (files.path().to_str().unwrap(), "not a regular file"),
    ] {
        let problem = refusal(with(path));
        assert!(problem.contains("secret_id_file: "), "{problem}");
        assert!(problem.contains(why), "{problem}");
    }
    let problem = refusal(section(json!({ "ca_file": "/no/such/ca.pem" })));
    assert!(
        problem.contains("the CA file \"/no/such/ca.pem\" cannot be read"),
        "{problem}"
    );
}

#[test]
fn a_token_in_the_wrong_place_is_not_printed() {
    for (key, value) in [
        ("url", json!("https://me:planted7f3a91c2@vault.invalid")),
        ("token", json!("planted7f3a91c2\nsecond line")),
        ("paths", json!(["planted7f3a91c2 and more"])),
        ("mount", json!("planted7f3a91c2 and more")),
        ("prefix", json!("planted7f3a91c2-")),
        ("auth", json!("planted7f3a91c2")),
    ] {
        let problem = refusal(section(json!({ key: value })));
        assert!(!problem.contains("planted"), "{key}: {problem}");
        assert!(problem.contains(key), "{key}: {problem}");
    }
}
