//! The rules every hook keeps.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

use molecule_hook_vault as _;
use molecule_hooks::testing::vault::VaultStandIn;
use molecule_hooks::testing::{HookContract, assert_hook_contract};
use serde_json::json;

#[tokio::test]
async fn the_hook_keeps_its_contract() {
    let vault = VaultStandIn::start().await.unwrap();
    vault.add_token("hvs.givenByTheOperator", None);
    vault.put(
        "molecule/common",
        json!({ "API_KEY": "k-1234567890", "PORT": 8080 }),
    );
    let section = json!({
        "url": vault.url(),
        "token": "hvs.givenByTheOperator",
        "paths": ["molecule/common", "molecule/roles/{role}"],
    });
    assert_hook_contract(
        HookContract::new("vault")
            .section(section)
            .verdict_file(concat!(env!("CARGO_MANIFEST_DIR"), "/contract.json")),
    )
    .await;
}
