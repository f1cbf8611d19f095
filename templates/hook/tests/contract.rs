//! The rules that a server relies on, and what was found about them.

use molecule_hooks::testing::{HookContract, assert_hook_contract};
use serde_json::json;

// Links the hook; without this line there is none.
use molecule_hook_{{crate_name}} as _;

const NAME: &str = "{{project-name}}";

#[tokio::test]
async fn the_hook_keeps_its_contract() {
{%- if token_provider %}
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("token");
    std::fs::write(&file, "a-token-nobody-may-see\n").expect("the token file is written");
    let section = json!({ "endpoint": "https://service.example.com", "token_file": file });
    let contract = HookContract::new(NAME)
        .section(section)
        .secret("a-token-nobody-may-see")
        .verdict_file(concat!(env!("CARGO_MANIFEST_DIR"), "/contract.json"));
{%- endif %}
{%- unless token_provider %}
    let section = json!({ "endpoint": "https://service.example.com" });
    let contract = HookContract::new(NAME)
        .section(section)
        .verdict_file(concat!(env!("CARGO_MANIFEST_DIR"), "/contract.json"));
{%- endunless %}
    assert_hook_contract(contract).await;
}
