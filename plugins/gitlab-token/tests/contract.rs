//! The rules every hook keeps.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

use std::time::Duration;

use molecule_hook_gitlab_token as _;
use molecule_hooks::testing::gitlab::GitlabStandIn;
use molecule_hooks::testing::{HookContract, assert_hook_contract};
use serde_json::json;

#[tokio::test]
async fn the_hook_keeps_its_contract() {
    let gitlab = GitlabStandIn::start("glpat-of-the-maintainer")
        .await
        .unwrap();
    gitlab.add_project("team/app");
    let section = json!({
        "url": gitlab.url(),
        "token": "glpat-of-the-maintainer",
        "project": "team/app",
    });
    assert_hook_contract(
        HookContract::new("gitlab-token")
            .section(section)
            .token_lifetime(Duration::from_secs(8 * 3600))
            .verdict_file(concat!(env!("CARGO_MANIFEST_DIR"), "/contract.json")),
    )
    .await;
}
