//! Everything that a server relies on.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

use molecule_hook_gh_identity as _;
use molecule_hooks::testing::{HookContract, assert_hook_contract};
use serde_json::json;

#[tokio::test]
async fn it_keeps_the_contract() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "roles: {Pmm-Lead: {owner: alice}}").unwrap();
    let contract = HookContract::new("gh-identity")
        .section(json!({ "config_file": file.path() }))
        .workspace_env("MOLECULE_AGENT_ROLE", "pmm-lead")
        .workspace_env("MOLECULE_OWNER", "nobody")
        .verdict_file(concat!(env!("CARGO_MANIFEST_DIR"), "/contract.json"));
    assert_hook_contract(contract).await;
}
