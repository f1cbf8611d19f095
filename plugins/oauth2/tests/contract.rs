//! The rules every hook keeps.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

use std::time::Duration;

use molecule_hook_oauth2 as _;
use molecule_hooks::testing::oauth2::OauthIssuer;
use molecule_hooks::testing::{HookContract, assert_hook_contract};
use serde_json::json;

#[tokio::test]
async fn the_hook_keeps_its_contract() {
    let issuer = OauthIssuer::start().await.unwrap();
    issuer.add_client("molecule", "the-secret-of-the-client", &["read"]);
    let section = json!({
        "token_url": issuer.token_url(),
        "client_id": "molecule",
        "client_secret": "the-secret-of-the-client",
        "scopes": ["read"],
        "variable": "API_TOKEN",
    });
    assert_hook_contract(
        HookContract::new("oauth2")
            .section(section)
            .token_lifetime(Duration::from_secs(3600))
            .verdict_file(concat!(env!("CARGO_MANIFEST_DIR"), "/contract.json")),
    )
    .await;
}
