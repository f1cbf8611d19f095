//! What a booting workspace gets.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod common;

use common::{TOKEN, World};
use molecule_hooks::HookErrorKind;
use molecule_hooks::testing::vault::VaultStandIn;
use molecule_hooks::testing::{Fault, Reply};
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn a_boot_gets_the_secrets_of_everybody_and_of_its_role() {
    let world = World::new().await;
    world.vault.put(
        "molecule/common",
        json!({ "API_KEY": "k-1", "PORT": 8080, "DEBUG": true }),
    );
    world
        .vault
        .put("molecule/roles/pmm-lead", json!({ "API_KEY": "k-2" }));
    world
        .vault
        .put("molecule/roles/other", json!({ "OTHER": "x" }));

    let (result, env) = world.boot().await;

    result.unwrap();
    assert_eq!(env.get("API_KEY"), Some("k-2"), "the later path wins");
    assert_eq!(env.get("PORT"), Some("8080"));
    assert_eq!(env.get("DEBUG"), Some("true"));
    assert_eq!(env.len(), 3);
    assert!(env.names().all(|name| env.is_secret(name)));
    let requests = world.vault.upstream().requests();
    let reads: Vec<&str> = requests
        .iter()
        .map(|request| request.path.as_str())
        .collect();
    assert_eq!(
        reads,
        [
            "/v1/auth/token/lookup-self",
            "/v1/secret/data/molecule/common",
            "/v1/secret/data/molecule/roles/pmm-lead"
        ]
    );
    assert_eq!(requests[1].header("x-vault-token"), Some(TOKEN));
    assert_eq!(requests[1].header("x-vault-request"), Some("true"));
    assert_eq!(requests[1].header("x-vault-namespace"), None);
}

#[tokio::test]
async fn a_new_version_is_seen_by_the_next_boot() {
    let world = World::new().await;
    for value in ["k-1", "k-2"] {
        world
            .vault
            .put("molecule/common", json!({ "API_KEY": value }));
        let (_, env) = world.boot().await;
        assert_eq!(env.get("API_KEY"), Some(value));
    }
    world.vault.delete("molecule/common");
    let (result, env) = world.boot().await;
    result.unwrap();
    assert_eq!(env.get("API_KEY"), Some("stored-by-hand"));
}

#[tokio::test]
async fn a_role_that_is_no_word_reads_nothing_of_roles() {
    let world = World::new().await;
    for role in ["", "Leads the product team", "..", "a/b", "%2e%2e"] {
        let before = world.vault.upstream().request_count();
        let (result, _) = world.boot_as(role).await;
        result.unwrap();
        let asked: Vec<String> = world.vault.upstream().requests()[before..]
            .iter()
            .map(|request| request.path.clone())
            .filter(|path| path.contains("/roles/"))
            .collect();
        assert!(asked.is_empty(), "{role}: {asked:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_a_variable_is_left_out() {
    let world = World::new().await;
    world.vault.put(
        "molecule/common",
        json!({
            "GOOD": "yes",
            "with-hyphen": "x",
            "WORKSPACE_ID": "x",
            "PATH": "/tmp",
            "LD_PRELOAD": "x.so",
            "PARENT_ID": "x",
            "NESTED": { "a": 1 },
            "NOTHING": null,
            "NUL": "a\u{0}b",
            "LONG": "x".repeat(70_000),
        }),
    );
    let (result, env) = world.boot().await;
    result.unwrap();
    assert_eq!(env.names().collect::<Vec<_>>(), ["API_KEY", "GOOD"]);
}

#[tokio::test]
async fn mount_namespace_and_prefix_are_used() {
    let vault = VaultStandIn::start().await.unwrap();
    vault.add_token(TOKEN, None);
    vault.require_namespace("team-a/stage");
    vault.put("molecule/common", json!({ "KEY": "k-1" }));
    let world = World::with(
        vault,
        |_| json!({ "token": TOKEN, "namespace": "team-a/stage/", "prefix": "APP_" }),
    );
    let (result, env) = world.boot().await;
    result.unwrap();
    assert_eq!(env.get("APP_KEY"), Some("k-1"));
    let requests = world.vault.upstream().requests();
    assert!(
        requests
            .iter()
            .all(|request| request.header("x-vault-namespace") == Some("team-a/stage"))
    );

    let vault = VaultStandIn::start().await.unwrap();
    vault.add_token(TOKEN, None);
    let world = World::with(vault, |_| json!({ "token": TOKEN, "mount": "team/kv" }));
    let answered = json!({ "data": { "data": { "API_KEY": "k-9" }, "metadata": {} } });
    world.boot().await.0.unwrap_err();
    for _ in 0..2 {
        let answer = Reply::json(200, answered.clone());
        world.vault.upstream().reply(answer);
    }
    assert_eq!(world.boot().await.1.get("API_KEY"), Some("k-9"));
    let path = world.vault.upstream().requests()[1].path.clone();
    assert_eq!(path, "/v1/team/kv/data/molecule/common");
}

#[tokio::test]
async fn a_mount_or_namespace_that_is_not_there_is_no_missing_secret() {
    for more in [
        json!({ "mount": "team/kv" }),
        json!({ "mount": "team/kv", "required": true }),
    ] {
        let vault = VaultStandIn::start().await.unwrap();
        vault.add_token(TOKEN, None);
        let world = World::with(vault, |_| {
            let mut section = more.clone();
            section["token"] = json!(TOKEN);
            section
        });
        let error = world.boot().await.0.unwrap_err();
        assert_eq!(error.kind(), HookErrorKind::Permanent);
        assert_eq!(
            error.to_string(),
            "vault: read \"molecule/common\": status 404: nothing is mounted there; check mount and namespace"
        );
    }
}

#[tokio::test]
async fn a_standby_that_is_behind_says_when_to_come_back() {
    let vault = VaultStandIn::start().await.unwrap();
    vault.add_token(TOKEN, None);
    let world = World::with(vault, |_| json!({ "token": TOKEN, "required": true }));
    world.boot().await.0.unwrap();
    let behind = Reply::json(
        412,
        json!({ "errors": ["required index state not present"] }),
    );
    world
        .vault
        .upstream()
        .reply(behind.header("Retry-After", "7"));
    let error = world.boot().await.0.unwrap_err();
    assert!(error.is_transient());
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
}

#[tokio::test]
async fn trouble_lets_the_workspace_boot_unless_secrets_are_required() {
    for fault in [
        Fault::Fails(500),
        Fault::Fails(503),
        Fault::RateLimited(Duration::from_secs(30)),
        Fault::Dead,
        Fault::Silent,
        Fault::Slow(Duration::from_secs(60)),
        Fault::Garbled,
        Fault::Truncated,
        Fault::Drips(Duration::from_secs(1)),
    ] {
        for required in [false, true] {
            let vault = VaultStandIn::start().await.unwrap();
            vault.add_token(TOKEN, None);
            vault.put("molecule/common", json!({ "API_KEY": "k-1" }));
            let world = World::with(
                vault,
                |_| json!({ "token": TOKEN, "required": required, "timeout_secs": 1 }),
            );
            world.vault.break_down(fault);
            let (result, env) = world.boot().await;
            assert_eq!(env.get("API_KEY"), Some("stored-by-hand"), "{fault:?}");
            match required {
                false => result.unwrap(),
                true => assert!(result.unwrap_err().is_transient(), "{fault:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_secret_read_half_way_changes_nothing() {
    let world = World::new().await;
    world
        .vault
        .put("molecule/common", json!({ "API_KEY": "k-1" }));
    world.boot().await.0.unwrap();
    // The first path is answered, the second one is not.
    let answered = json!({ "data": { "data": { "API_KEY": "k-9" }, "metadata": {} } });
    world
        .vault
        .upstream()
        .reply(Reply::json(200, answered))
        .reply(Reply::status(502));
    let (result, env) = world.boot().await;
    result.unwrap();
    assert_eq!(env.get("API_KEY"), Some("stored-by-hand"));
}

#[tokio::test]
async fn misconfiguration_stops_the_boot_and_says_what_is_wrong() {
    let world = World::new().await;
    world.vault.forbid("molecule/roles/pmm-lead");
    let (result, _) = world.boot().await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), HookErrorKind::Permanent);
    assert_eq!(
        error.to_string(),
        "vault: read \"molecule/roles/{role}\": status 403: 1 error occurred: * permission denied"
    );

    let world = World::new().await;
    world.vault.revoke_tokens();
    let error = world.boot().await.0.unwrap_err();
    assert_eq!(error.kind(), HookErrorKind::Permanent);
    assert_eq!(
        error.to_string(),
        "vault: vault does not take the configured token; it ended or was revoked"
    );
}

#[tokio::test]
async fn a_sealed_vault_is_trouble_that_passes() {
    let world = World::new().await;
    world
        .vault
        .put("molecule/common", json!({ "API_KEY": "k-1" }));
    world.boot().await.0.unwrap();
    world.vault.set_sealed(true);
    let (result, env) = world.boot().await;
    result.unwrap();
    assert_eq!(env.get("API_KEY"), Some("stored-by-hand"));
    world.vault.set_sealed(false);
    assert_eq!(world.boot().await.1.get("API_KEY"), Some("k-1"));
}

#[tokio::test]
async fn nonsense_is_not_quoted() {
    for (status, body) in [
        (200, "<html>planted7f3a91c2</html>"),
        (200, r#"{"data":"planted7f3a91c2"}"#),
        (200, r#"{"data":{"data":["planted7f3a91c2"]}}"#),
        (200, r#"{"data":{"data":{"A":"planted7f3a91c2"#),
    ] {
        let world = World::new().await;
        world.boot().await.0.unwrap();
        world.vault.upstream().reply(Reply::text(status, body));
        let error = world.boot().await.0.unwrap_err();
        assert_eq!(error.kind(), HookErrorKind::Permanent);
        let shown = format!("{error} {error:?} {}", error.chain());
        assert!(!shown.contains("planted"), "{shown}");
        assert!(shown.contains("read \"molecule/common\""), "{shown}");
    }
}

#[tokio::test]
async fn an_endless_secret_is_cut_at_the_cap() {
    let world = World::new().await;
    world.boot().await.0.unwrap();
    world.vault.upstream().reply(Reply::streaming(u64::MAX));
    let error = world.boot().await.0.unwrap_err();
    assert!(error.to_string().contains("longer than"), "{error}");
}
