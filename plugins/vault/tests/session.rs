//! Logging in, staying logged in, and logging in again.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod common;

use std::time::Duration;

use common::{JWT, ROLE_ID, SECRET_ID, TOKEN, World, eventually, write};
use molecule_hooks::HookErrorKind;
use molecule_hooks::testing::Fault;
use molecule_hooks::testing::vault::VaultStandIn;
use serde_json::json;

const SHORT: Duration = Duration::from_secs(4);

#[tokio::test]
async fn approle_logs_in_once_with_the_documented_request() {
    let world = World::with_approle().await;
    world
        .vault
        .put("molecule/common", json!({ "API_KEY": "k-1" }));
    for _ in 0..3 {
        let (result, env) = world.boot().await;
        result.unwrap();
        assert_eq!(env.get("API_KEY"), Some("k-1"));
    }
    assert_eq!(world.vault.logins(), 1);
    let login = world.vault.upstream().requests().remove(0);
    assert_eq!(
        (login.method.as_str(), login.path.as_str()),
        ("POST", "/v1/auth/approle/login")
    );
    assert_eq!(login.header("x-vault-token"), None);
    assert_eq!(
        login.json(),
        Some(json!({ "role_id": ROLE_ID, "secret_id": SECRET_ID }))
    );
}

#[tokio::test]
async fn kubernetes_logs_in_with_the_service_account_token() {
    let vault = VaultStandIn::start().await.unwrap();
    vault.set_kubernetes("molecule", JWT);
    let world = World::with(vault, |files| {
        json!({
            "auth": "kubernetes",
            "kubernetes_role": "molecule",
            "jwt_file": write(files, "token", &format!("{JWT}\n")),
        })
    });
    world.boot().await.0.unwrap();
    let login = world.vault.upstream().requests().remove(0);
    assert_eq!(login.path, "/v1/auth/kubernetes/login");
    assert_eq!(
        login.json(),
        Some(json!({ "role": "molecule", "jwt": JWT }))
    );
}

#[tokio::test]
async fn a_login_may_be_mounted_elsewhere() {
    let vault = VaultStandIn::start().await.unwrap();
    let world = World::with(vault, |files| {
        let mut section = common::approle(files);
        section["auth_mount"] = json!("team/approle-ci");
        section
    });
    world.boot().await.0.unwrap_err();
    let login = world.vault.upstream().requests().remove(0);
    assert_eq!(login.path, "/v1/auth/team/approle-ci/login");
}

#[tokio::test]
async fn wrong_credentials_stop_the_boot_and_are_not_shown() {
    for vault_knows in ["another-secret-id", ""] {
        let world = World::with_approle().await;
        world.vault.set_approle(ROLE_ID, vault_knows);
        let error = world.boot().await.0.unwrap_err();
        assert_eq!(error.kind(), HookErrorKind::Permanent);
        assert_eq!(
            error.to_string(),
            "vault: log in: status 400: invalid role or secret ID"
        );
        assert!(!format!("{error:?}").contains(SECRET_ID));
    }
}

#[tokio::test]
async fn a_secret_id_that_was_exchanged_is_read_at_the_next_login() {
    let world = World::with_approle().await;
    world.boot().await.0.unwrap();
    world.vault.set_approle(ROLE_ID, "the-next-secret-id");
    write(&world.files, "secret-id", "the-next-secret-id\n");
    world.vault.revoke_tokens();
    world.boot().await.0.unwrap();
    assert_eq!(world.vault.logins(), 2);
}

#[tokio::test]
async fn a_file_that_vanished_is_trouble_without_its_path() {
    let vault = VaultStandIn::start().await.unwrap();
    vault.set_approle(ROLE_ID, SECRET_ID);
    let world = World::with(vault, |files| {
        let mut section = common::approle(files);
        section["required"] = json!(true);
        section
    });
    std::fs::remove_file(world.files.path().join("secret-id")).unwrap();
    let error = world.boot().await.0.unwrap_err();
    assert!(error.is_transient());
    assert_eq!(
        error.to_string(),
        "vault: the file of secret_id_file cannot be used"
    );
}

#[tokio::test]
async fn a_lease_is_renewed_in_the_background_while_nobody_asks() {
    let vault = VaultStandIn::start().await.unwrap();
    vault.set_approle(ROLE_ID, SECRET_ID);
    vault.set_life(SHORT, None);
    let world = World::with(vault, common::approle);
    world.boot().await.0.unwrap();

    eventually("it renews twice", || world.vault.renewals() >= 2).await;

    let renewal = world
        .vault
        .upstream()
        .requests()
        .into_iter()
        .find(|request| request.path == "/v1/auth/token/renew-self")
        .unwrap();
    assert_eq!(renewal.method, "POST");
    assert!(renewal.header("x-vault-token").unwrap().starts_with("hvs."));
}

#[tokio::test]
async fn a_given_token_is_renewed_too() {
    let vault = VaultStandIn::start().await.unwrap();
    // Once it has ended nothing brings it back, so it gets some time.
    vault.add_token(TOKEN, Some(Duration::from_secs(12)));
    let world = World::with(vault, |_| json!({ "token": TOKEN }));
    world.boot().await.0.unwrap();
    eventually("it renews", || world.vault.renewals() >= 1).await;
    world.boot().await.0.unwrap();
}

#[tokio::test]
async fn a_lease_at_its_longest_life_or_not_renewable_means_a_new_login() {
    for longest in [Some(SHORT), None] {
        let vault = VaultStandIn::start().await.unwrap();
        vault.set_approle(ROLE_ID, SECRET_ID);
        vault.set_life(SHORT, longest);
        vault.set_renewable(longest.is_some());
        let world = World::with(vault, common::approle);
        world.boot().await.0.unwrap();
        eventually("it logs in again", || world.vault.logins() >= 2).await;
        world.boot().await.0.unwrap();
    }
}

#[tokio::test]
async fn a_revoked_token_is_replaced_within_the_boot_that_notices() {
    let world = World::with_approle().await;
    world
        .vault
        .put("molecule/common", json!({ "API_KEY": "k-1" }));
    world.boot().await.0.unwrap();
    world.vault.revoke_tokens();
    let (result, env) = world.boot().await;
    result.unwrap();
    assert_eq!(env.get("API_KEY"), Some("k-1"));
    assert_eq!(world.vault.logins(), 2);
}

#[tokio::test]
async fn a_missing_permission_does_not_mean_a_new_login() {
    let world = World::with_approle().await;
    world.vault.forbid("molecule/common");
    for _ in 0..3 {
        world.boot().await.0.unwrap_err();
    }
    assert_eq!(world.vault.logins(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_boots_at_once_share_one_login() {
    let world = std::sync::Arc::new(World::with_approle().await);
    let boots: Vec<_> = (0..30)
        .map(|_| {
            let world = std::sync::Arc::clone(&world);
            tokio::spawn(async move { world.boot().await.0 })
        })
        .collect();
    for boot in boots {
        boot.await.unwrap().unwrap();
    }
    assert_eq!(world.vault.logins(), 1);
}

#[tokio::test]
async fn after_an_outage_it_goes_on_by_itself() {
    let vault = VaultStandIn::start().await.unwrap();
    vault.set_approle(ROLE_ID, SECRET_ID);
    vault.set_life(Duration::from_secs(8), None);
    let world = World::with(vault, common::approle);
    world.boot().await.0.unwrap();
    world.vault.break_down(Fault::Fails(503));
    let before = world.vault.upstream().request_count();
    eventually("it tries to renew", || {
        world.vault.upstream().request_count() > before
    })
    .await;
    world.vault.mend();
    let (renewals, logins) = (world.vault.renewals(), world.vault.logins());
    eventually("it renews or logs in", || {
        world.vault.renewals() > renewals || world.vault.logins() > logins
    })
    .await;
}

#[tokio::test]
async fn a_dropped_hook_renews_nothing() {
    let vault = VaultStandIn::start().await.unwrap();
    vault.set_approle(ROLE_ID, SECRET_ID);
    vault.set_life(SHORT, None);
    let World { vault, hook, files } = World::with(vault, common::approle);
    let mut env = molecule_hooks::EnvMap::new();
    let workspace = molecule_hooks::WorkspaceContext::new("7aa08951");
    hook.apply(&workspace, &mut env).await.unwrap();
    assert_eq!(vault.logins(), 1);
    let running = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let with_hook = running();
    drop((hook, files));
    eventually("its task ends", || running() < with_hook).await;
}
