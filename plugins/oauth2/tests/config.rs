//! Start-up: what is accepted, what is refused, and in which words.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod common;

use common::{build, refusal};
use molecule_hooks::{HooksConfig, Registry};
use serde_json::{Value, json};

fn section(more: Value) -> Value {
    let mut all = json!({
        "token_url": "https://login.invalid/token",
        "client_id": "molecule",
        "client_secret": "s3cret",
    });
    for (key, value) in more.as_object().unwrap() {
        all[key] = value.clone();
    }
    all
}

#[test]
fn without_a_token_endpoint_the_hook_is_off() {
    for config in [
        HooksConfig::new(),
        HooksConfig::new().with_section("oauth2", json!({ "token_url": " " })),
        HooksConfig::new().with_section("oauth2", json!({ "client_id": "molecule" })),
    ] {
        let registry = Registry::from_linked(&config).unwrap();
        assert_eq!(registry.skipped(), ["oauth2"]);
    }
}

#[test]
fn the_secret_may_come_from_a_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "s3cret\n").unwrap();
    let mut all = section(json!({ "client_secret_file": file.path() }));
    all.as_object_mut().unwrap().remove("client_secret");
    build(&HooksConfig::new().with_section("oauth2", all)).unwrap();
}

#[test]
fn everything_wrong_is_reported_together() {
    let problem = refusal(json!({
        "token_url": "https://login.invalid/token#tenant",
        "auth_method": "private_key_jwt",
        "scopes": ["read write"],
        "extra_parameters": { "grant_type": "password", "": "x" },
        "variable": "WORKSPACE_ID",
        "service": "Two Words",
        "assumed_life_secs": 1,
        "timeout_secs": 31,
    }));
    for part in [
        "token_url must not have a #",
        "client_id is required",
        "client_secret is required",
        "auth_method must be client_secret_basic or client_secret_post",
        "scopes must be a list of single scopes",
        "extra_parameters must not hold grant_type",
        "extra_parameters must not hold an empty name",
        "variable must be the name of a variable",
        "service must be a word",
        "assumed_life_secs must be between 30 and 86400",
        "timeout_secs must be between 1 and 30",
    ] {
        assert!(problem.contains(part), "{part} is missing in {problem}");
    }
}

#[test]
fn a_variable_of_the_image_is_refused() {
    for name in ["PATH", "LD_PRELOAD", "PARENT_ID"] {
        let problem = refusal(section(json!({ "variable": name })));
        assert!(
            problem.contains("variable must be the name of"),
            "{problem}"
        );
    }
}

#[test]
fn a_secret_in_the_wrong_place_is_not_printed() {
    for (key, value) in [
        (
            "token_url",
            json!("https://me:planted7f3a91c2@login.invalid"),
        ),
        ("auth_method", json!("planted7f3a91c2")),
        ("scopes", json!(["planted7f3a91c2 x"])),
        ("variable", json!("planted7f3a91c2-")),
        ("service", json!("planted7f3a91c2 x")),
        ("ca_file", json!("/no/such/file")),
    ] {
        let problem = refusal(section(json!({ key: value })));
        assert!(!problem.contains("planted"), "{key}: {problem}");
    }
}
