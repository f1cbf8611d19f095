//! What happens to a session under way: tokens revoked, clocks set, a Vault sealed.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use common::{ROLE_ID, SECRET_ID, TOKEN, World, approle, eventually};
use molecule_hooks::testing::vault::VaultStandIn;
use molecule_hooks::testing::{FakeClock, Reply};
use serde_json::{Value, json};

const HOUR: Duration = Duration::from_secs(3600);

async fn vault() -> VaultStandIn {
    let vault = VaultStandIn::start().await.unwrap();
    vault.set_approle(ROLE_ID, SECRET_ID);
    vault.put("molecule/common", json!({ "API_KEY": "k-1" }));
    vault
}

fn refused(errors: Value) -> Reply {
    Reply::json(403, json!({ "errors": errors }))
}

/// Boots a workspace, which must get its secrets.
async fn assert_boots(world: &World) {
    let (result, env) = world.boot().await;
    result.unwrap();
    assert_eq!(env.get("API_KEY"), Some("k-1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_many_boots_notice_a_revoked_token_they_log_in_once() {
    let world = Arc::new(World::with(vault().await, approle));
    assert_boots(&world).await;
    world.vault.revoke_tokens();
    let mut boots = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let world = Arc::clone(&world);
        boots.spawn(async move { assert_boots(&world).await });
    }
    while let Some(booted) = boots.join_next().await {
        booted.unwrap();
    }
    assert_eq!(world.vault.logins(), 2);
}

#[tokio::test]
async fn a_vault_that_says_bad_token_causes_one_new_login() {
    for (answers, requests) in [
        // At once
        (vec![json!(["permission denied", "bad token"])], 4),
        // An older one only when it is asked about the token
        (vec![json!(["permission denied"]), json!(["bad token"])], 5),
    ] {
        let world = World::with(vault().await, approle);
        assert_boots(&world).await;
        let before = world.vault.upstream().request_count();
        for errors in answers {
            world.vault.upstream().reply(refused(errors));
        }
        assert_boots(&world).await;
        assert_eq!(world.vault.logins(), 2);
        // Nothing is asked for twice: the two paths, what was refused, a login
        let asked = world.vault.upstream().request_count() - before;
        assert_eq!(asked, requests);
        assert_boots(&world).await;
        assert_eq!(world.vault.logins(), 2);
    }
}

#[tokio::test]
async fn a_new_token_that_is_refused_too_stops_the_boot_instead_of_logging_in_for_ever() {
    let world = World::with(vault().await, approle);
    assert_boots(&world).await;
    // Given a Vault that takes no token for reading, and every login
    world.vault.upstream().reply(refused(json!(["bad token"])));
    let granted = json!({ "auth": {
        "client_token": "hvs.unknown", "lease_duration": 3600, "renewable": true,
    } });
    world.vault.upstream().reply(Reply::json(200, granted));

    let error = world.boot().await.0.unwrap_err();

    assert!(!error.is_transient());
    let text = error.to_string();
    assert!(
        text.starts_with("vault: read \"molecule/common\": status 403"),
        "{text}"
    );
    assert_eq!(world.vault.logins(), 1, "beyond the scripted one");
}

#[tokio::test]
async fn a_look_up_that_says_little_is_enough() {
    for data in [
        json!({ "ttl": 3600 }),
        json!({ "id": TOKEN, "policies": ["root"] }),
        json!({ "ttl": 0, "renewable": false, "expire_time": null }),
    ] {
        let vault = vault().await;
        vault.add_token(TOKEN, None);
        let world = World::with(vault, |_| json!({ "token": TOKEN }));
        let looked_up = Reply::json(200, json!({ "data": data }));
        world.vault.upstream().reply(looked_up);
        assert_boots(&world).await;
        assert_boots(&world).await;
        let requests = world.vault.upstream().requests();
        let looks = requests.iter().filter(|r| r.path.ends_with("lookup-self"));
        assert_eq!(looks.count(), 1, "{data}");
    }
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_costs_one_look_and_no_boot() {
    for given in [false, true] {
        let vault = vault().await;
        vault.add_token(TOKEN, Some(HOUR));
        let clock = FakeClock::new();
        let world = World::with_clock(vault, clock.clock(), |files| match given {
            true => json!({ "token": TOKEN }),
            false => approle(files),
        });
        assert_boots(&world).await;
        let logins = world.vault.logins();

        clock.advance(24 * HOUR);

        for _ in 0..3 {
            assert_boots(&world).await;
        }
        // A given token is looked up again, it cannot be replaced
        assert_eq!(world.vault.logins() - logins, u64::from(!given));
    }
}

#[tokio::test]
async fn a_clock_set_back_does_not_cost_a_given_token() {
    // Given a token for an hour, which nothing brings back once it has ended
    let vault = vault().await;
    vault.add_token(TOKEN, Some(HOUR));
    let clock = FakeClock::new();
    let world = World::with_clock(vault, clock.clock(), |_| json!({ "token": TOKEN }));
    assert_boots(&world).await;

    // When the clock is set back and most of that hour passes
    clock.set(clock.now() - TimeDelta::hours(1));
    tokio::time::pause();
    for _ in 0..342 {
        tokio::time::advance(Duration::from_secs(10)).await;
    }
    tokio::time::resume();

    // Then it was renewed in time all the same
    eventually("it renews", || world.vault.renewals() >= 1).await;
    assert_boots(&world).await;
}

#[tokio::test]
async fn a_vault_that_is_sealed_at_first_is_used_as_soon_as_it_is_open() {
    let clock = FakeClock::new();
    let world = World::with_clock(vault().await, clock.clock(), approle);
    world.vault.set_sealed(true);
    // Workspaces boot without its secrets, and it is asked once in five seconds
    for _ in 0..3 {
        let (result, env) = world.boot().await;
        result.unwrap();
        assert_eq!(env.get("API_KEY"), Some("stored-by-hand"));
    }
    assert_eq!(world.vault.upstream().request_count(), 1);

    world.vault.set_sealed(false);
    clock.advance(Duration::from_secs(7));

    assert_boots(&world).await;
    assert_eq!(world.vault.logins(), 1);
}

#[tokio::test]
async fn a_renewal_under_way_does_not_log_in_besides_the_boot_that_did() {
    // Given a renewal in the background whose refusal takes its time
    let vault = vault().await;
    vault.set_life(Duration::from_secs(2), None);
    let world = World::with(vault, approle);
    assert_boots(&world).await;
    let late = Duration::from_secs(1);
    let dead = refused(json!(["permission denied", "invalid token"]));
    world.vault.upstream().reply(dead.after(late));
    let before = world.vault.upstream().request_count();
    eventually("it renews", || {
        world.vault.upstream().request_count() > before
    })
    .await;
    let renewing_since = Instant::now();
    world.vault.set_life(HOUR, None);

    // When the token is revoked meanwhile and a boot replaces it
    world.vault.revoke_tokens();
    assert_boots(&world).await;
    let has_ended = || renewing_since.elapsed() > late * 3 / 2;
    eventually("the renewal ends", has_ended).await;
    assert_eq!(world.vault.logins(), 2);

    // Then the next one that is revoked is replaced as well
    world.vault.revoke_tokens();
    assert_boots(&world).await;
    assert_eq!(world.vault.logins(), 3);
}
