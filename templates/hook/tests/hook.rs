//! What this hook is for, through the registry, as a server uses it.

use molecule_hooks::{EnvMap, HooksConfig, Registry, WorkspaceContext};
use serde_json::{Value, json};

// Links the hook; without this line there is none.
use molecule_hook_{{crate_name}} as _;

const NAME: &str = "{{project-name}}";
const ENDPOINT: &str = "{{crate_name | upcase}}_ENDPOINT";
{%- if token_provider %}
const TOKEN: &str = "{{crate_name | upcase}}_TOKEN";
{%- endif %}

fn registry(section: Value) -> Result<Registry, molecule_hooks::RegistryError> {
    Registry::from_linked(&HooksConfig::new().with_section(NAME, section))
}

async fn environment(registry: &Registry) -> EnvMap {
    let mut env = EnvMap::new();
    let workspace = WorkspaceContext::new("7aa08951-00d0-4000-8000-000000000001");
    let outcome = registry.run(&workspace, &mut env).await;
    outcome.expect("the chain runs");
    env
}
{%- unless token_provider %}

#[tokio::test]
async fn a_workspace_is_told_where_the_service_is() {
    let registry = registry(json!({ "endpoint": "https://a.example.com" })).expect("a chain");
    let env = environment(&registry).await;
    assert_eq!(env.get(ENDPOINT), Some("https://a.example.com"));
}
{%- endunless %}
{%- if token_provider %}

#[tokio::test]
async fn a_workspace_is_told_where_the_service_is_and_gets_the_token_of_the_moment() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("token");
    let registry = registry(json!({ "endpoint": "https://a.example.com", "token_file": file }));
    let registry = registry.expect("a chain");

    // given no token yet: the workspace boots without it
    let env = environment(&registry).await;
    assert_eq!(env.get(ENDPOINT), Some("https://a.example.com"));
    assert_eq!(env.get(TOKEN), None);

    // when there is one, and then another
    for token in ["first", "second"] {
        std::fs::write(&file, format!("{token}\n")).expect("the token file is written");
        let env = environment(&registry).await;
        assert_eq!(env.get(TOKEN), Some(token));
        assert!(env.is_secret(TOKEN));
    }
}
{%- endif %}

#[test]
fn without_an_endpoint_the_hook_is_skipped() {
    let registry = registry(json!({})).expect("a chain");
    assert_eq!(registry.skipped(), [NAME]);
}

#[test]
fn an_endpoint_that_is_no_url_is_refused() {
    let error = registry(json!({ "endpoint": "service" })).expect_err("no chain");
    let said = error.to_string();
    assert!(said.contains("endpoint must start with"), "{said}");
}
