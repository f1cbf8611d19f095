//! Everything that a server relies on.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod common;

use std::time::Duration;

use github_stand_in::{Behaviour, GithubStandIn};
use molecule_hooks::testing::{HookContract, assert_hook_contract};
use serde_json::json;

/// A line from the middle of the key, which no text may repeat.
fn part_of_the_key() -> String {
    let key = std::fs::read_to_string(common::fixture("test-only-pkcs8.pem")).unwrap();
    key.lines().nth(5).unwrap().to_owned()
}

fn contract(github: &GithubStandIn) -> HookContract {
    HookContract::new("github-app-auth")
        .section(json!({ "app_id": 4242, "installation_id": 77, "api_url": github.url() }))
        .env(
            "GITHUB_APP_PRIVATE_KEY_FILE",
            &common::fixture("test-only-pkcs8.pem"),
        )
        .workspace_secret("GITHUB_TOKEN", "stored-by-hand")
        .secret(part_of_the_key())
        .token_lifetime(Duration::from_secs(3600))
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let github = GithubStandIn::start(common::PUBLIC_KEY).await.unwrap();
    let verdict = concat!(env!("CARGO_MANIFEST_DIR"), "/contract.json");
    assert_hook_contract(contract(&github).verdict_file(verdict)).await;
}

/// Without GitHub there is no token, and that is all that may be wrong.
#[tokio::test]
async fn it_keeps_what_it_can_of_the_contract_while_github_is_down() {
    let github = GithubStandIn::start(common::PUBLIC_KEY).await.unwrap();
    github.set_behaviour(Behaviour::refuse(503, "down"));
    let broken = contract(&github).check().await.unwrap_err();
    let ids: Vec<&str> = broken.iter().map(|violation| violation.id).collect();
    assert_eq!(ids, ["token-failed"]);
}
