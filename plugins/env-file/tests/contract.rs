//! The rules every hook keeps.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod common;

use common::Files;
use molecule_hooks::testing::{HookContract, assert_hook_contract};
use serde_json::json;

#[tokio::test]
async fn the_hook_keeps_its_contract() {
    let files = Files::new();
    files.write("common.env", "A_KEY=the-key-of-everybody\n");
    files.write("roles/contract-test/env", "ROLE_KEY=the-key-of-the-role\n");
    let section = json!({
        "common_file": files.path("common.env"),
        "roles_dir": files.path("roles"),
        "workspaces_dir": files.path("workspaces"),
    });
    assert_hook_contract(
        HookContract::new("env-file")
            .section(section)
            .verdict_file(concat!(env!("CARGO_MANIFEST_DIR"), "/contract.json")),
    )
    .await;
}
