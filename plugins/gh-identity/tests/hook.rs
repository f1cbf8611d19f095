//! The hook as the server builds and calls it.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use molecule_hook_gh_identity as _;
use molecule_hooks::{EnvMap, HooksConfig, Registry, RegistryError, WorkspaceContext};
use serde_json::json;
use sha2::{Digest as _, Sha256};

const ID: &str = "7aa08951-00d0-4000-8000-000000000001";

fn with_file(text: &str) -> (tempfile::NamedTempFile, HooksConfig) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let path = file.path().to_str().unwrap();
    let config = HooksConfig::new().with_env("MOLECULE_GH_IDENTITY_CONFIG_FILE", path);
    (file, config)
}

async fn boot(config: &HooksConfig, role: Option<&str>) -> EnvMap {
    let mut env = EnvMap::new();
    if let Some(role) = role {
        env.set("MOLECULE_AGENT_ROLE", role).unwrap();
    }
    let registry = Registry::from_linked(config).unwrap();
    assert_eq!(registry.names(), ["gh-identity"]);
    registry
        .run(&WorkspaceContext::new(ID), &mut env)
        .await
        .unwrap();
    env
}

fn problem(config: &HooksConfig) -> String {
    let RegistryError { problems, .. } = Registry::from_linked(config).expect_err("must refuse");
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems[0].clone()
}

#[tokio::test]
async fn a_role_gets_all_six_variables() {
    let (_file, config) = with_file("roles:\n  Pmm-Lead: {owner: alice}\n");
    let env = boot(&config, Some(" pmm-lead ")).await;
    assert_eq!(env.get("MOLECULE_AGENT_ROLE"), Some("Pmm-Lead"));
    assert_eq!(env.get("MOLECULE_OWNER"), Some("alice"));
    assert_eq!(env.get("MOLECULE_WORKSPACE_ID"), Some(ID));
    assert_eq!(
        env.get("MOLECULE_ATTRIBUTION_BADGE"),
        Some("🤖 [Agent: Pmm-Lead · ws-7aa08951]")
    );
    let script = STANDARD
        .decode(env.get("MOLECULE_GH_WRAPPER_B64").unwrap())
        .unwrap();
    assert_eq!(script, include_bytes!("../src/gh-wrapper.sh"));
    let digest = Sha256::digest(&script);
    let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(env.get("MOLECULE_GH_WRAPPER_SHA"), Some(&hex[..12]));
    assert_eq!(env.len(), 6);
}

#[tokio::test]
async fn without_a_role_nothing_happens() {
    let (_file, config) = with_file("roles: {default: {owner: bot}}");
    for role in [None, Some(""), Some("  \t ")] {
        let env = boot(&config, role).await;
        assert_eq!(env.get("MOLECULE_AGENT_ROLE"), role);
        assert_eq!(env.len(), usize::from(role.is_some()));
    }
}

#[tokio::test]
async fn without_a_config_file_the_owner_is_empty() {
    let missing = HooksConfig::new().with_env("MOLECULE_GH_IDENTITY_CONFIG_FILE", "/no/such/file");
    let empty = HooksConfig::new().with_section("gh-identity", json!({"config_file": ""}));
    for config in [HooksConfig::new(), missing, empty] {
        let env = boot(&config, Some("qa")).await;
        assert_eq!(env.get("MOLECULE_OWNER"), Some(""));
        assert_eq!(env.get("MOLECULE_AGENT_ROLE"), Some("Qa"));
    }
}

#[tokio::test]
async fn owners_are_found_in_any_case_and_fall_back_to_the_default() {
    let (_file, config) = with_file(
        "roles: {PMM-lead: {owner: alice}, Qa: {owner: ''}, default: {owner: shared-bot}}",
    );
    for (role, owner) in [
        ("pmm-lead", "alice"),
        ("PMM-LEAD", "alice"),
        ("qa", "shared-bot"),
        ("other", "shared-bot"),
    ] {
        let env = boot(&config, Some(role)).await;
        assert_eq!(env.get("MOLECULE_OWNER"), Some(owner), "{role}");
    }
}

#[tokio::test]
async fn a_short_id_and_a_long_character_are_no_trouble() {
    let registry = Registry::from_linked(&HooksConfig::new()).unwrap();
    for (id, badge) in [
        ("7aa", "🤖 [Agent: Ärztin · ws-7aa]"),
        ("ééééééééé", "🤖 [Agent: Ärztin · ws-éééééééé]"),
    ] {
        let mut env = EnvMap::new();
        env.set("MOLECULE_AGENT_ROLE", "ärztin").unwrap();
        registry
            .run(&WorkspaceContext::new(id), &mut env)
            .await
            .unwrap();
        assert_eq!(env.get("MOLECULE_ATTRIBUTION_BADGE"), Some(badge));
    }
}

#[test]
fn a_malformed_file_stops_the_start_and_names_every_problem() {
    for (text, parts) in [
        ("rolls: {}", vec!["unknown field `rolls`"]),
        (
            "roles: {A: {owner: a, team: b}}",
            vec!["unknown field `team`"],
        ),
        (
            "roles: {a: {owner: x}, A: {owner: y}, b: {}, B: {}}",
            vec!["\"A\" and \"a\"", "\"B\" and \"b\""],
        ),
        ("roles: {A: {owner: x}, A: {owner: y}}", vec!["duplicate"]),
        ("\t- [", vec![""]),
    ] {
        let (file, config) = with_file(text);
        let problem = problem(&config);
        let start = format!("gh-identity: parse config {:?}: ", file.path());
        assert!(problem.contains(&start), "{problem}");
        for part in parts {
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }
}

#[test]
fn an_unreadable_file_stops_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let config = HooksConfig::new().with_env("MOLECULE_GH_IDENTITY_CONFIG_FILE", path);
    let start = format!("gh-identity: read config {path:?}: ");
    assert!(problem(&config).contains(&start));

    let (_file, config) = with_file(&"[".repeat(300_000));
    assert!(problem(&config).contains("larger than 262144 bytes"));

    let (file, config) = with_file("");
    std::fs::write(file.path(), b"roles: {\xff: {}}").unwrap();
    assert!(problem(&config).contains("gh-identity: read config"));
}
