//! The exchange with an issuer, and its failures.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod common;

use std::time::Duration;

use chrono::TimeDelta;
use common::{CLIENT_ID, CLIENT_SECRET, World};
use molecule_hooks::testing::oauth2::OauthIssuer;
use molecule_hooks::testing::{Fault, Reply};
use molecule_hooks::{HookErrorKind, TokenScope};
use serde_json::json;

#[tokio::test]
async fn both_ways_to_authenticate_get_a_token() {
    for method in ["client_secret_basic", "client_secret_post"] {
        let world = World::with(json!({ "auth_method": method })).await;

        let token = world.token().await.unwrap();

        assert_eq!(world.issuer.issued(), [token.secret.expose()]);
        assert_eq!(token.expires_at, world.clock.now() + TimeDelta::hours(1));
        let form = world.issuer.last_form();
        assert_eq!(form["grant_type"], "client_credentials");
        let request = world.issuer.upstream().requests().remove(0);
        let in_header = request.header("authorization").is_some();
        let in_form = form
            .get("client_secret")
            .is_some_and(|s| s == CLIENT_SECRET);
        assert_eq!(
            (in_header, in_form),
            (method.ends_with("basic"), method.ends_with("post"))
        );
        assert_eq!(form.contains_key("client_id"), in_form);
        assert_eq!(request.header("accept"), Some("application/json"));
        assert!(!request.path.contains('?'), "nothing goes into the URL");
    }
}

#[tokio::test]
async fn scopes_audience_and_more_are_sent() {
    let world = World::with(json!({
        "scopes": ["read", "write:all"],
        "audience": "https://api.example.org/v1?x=1",
        "extra_parameters": { "resource": "urn:a b&c", "tenant": "t" },
    }))
    .await;
    world
        .issuer
        .require_audience("https://api.example.org/v1?x=1");
    world.token().await.unwrap();
    let form = world.issuer.last_form();
    assert_eq!(form["scope"], "read write:all");
    assert_eq!(form["resource"], "urn:a b&c");
    assert_eq!(form["tenant"], "t");
}

#[tokio::test]
async fn an_endpoint_may_have_a_query() {
    let issuer = OauthIssuer::start().await.unwrap();
    let token_url = format!("{}?tenant=a%20b", issuer.token_url());
    let world = World::with(json!({ "token_url": token_url })).await;
    let granted = json!({ "access_token": "t-123456", "token_type": "bearer" });
    issuer.upstream().reply(Reply::json(200, granted));
    world.token().await.unwrap();
    let path = issuer.upstream().requests().remove(0).path;
    assert!(path.ends_with("?tenant=a%20b"), "{path}");
}

#[tokio::test]
async fn the_life_of_a_token_is_what_the_issuer_says() {
    for (expires_in, secs) in [
        (json!(60), 60),
        (json!("120"), 120),
        (json!(59.9), 59),
        (json!(1e300), 366 * 86_400),
        (json!(null), 300),
    ] {
        let world = World::new().await;
        let mut body = json!({ "access_token": "t-123456", "token_type": "bearer" });
        if !expires_in.is_null() {
            body["expires_in"] = expires_in.clone();
        }
        world.issuer.upstream().reply(Reply::json(200, body));
        let token = world.token().await.unwrap();
        let life = token.expires_at - world.clock.now();
        assert_eq!(life, TimeDelta::seconds(secs), "{expires_in}");
    }
    let world = World::with(json!({ "assumed_life_secs": 900 })).await;
    world.issuer.set_life(None);
    let token = world.token().await.unwrap();
    assert_eq!(token.expires_at - world.clock.now(), TimeDelta::minutes(15));
}

#[tokio::test]
async fn refusals_are_permanent_and_name_the_code_only() {
    let ask = "ask for a token: status";
    let world = World::with(json!({ "scopes": ["admin"] })).await;
    let error = world.token().await.unwrap_err();
    assert_eq!(error.kind(), HookErrorKind::Permanent);
    assert_eq!(error.to_string(), format!("{ask} 400: invalid_scope"));

    let world = World::new().await;
    world.issuer.add_client(CLIENT_ID, "another secret", &[]);
    let error = world.token().await.unwrap_err();
    assert_eq!(error.kind(), HookErrorKind::Permanent);
    assert_eq!(error.to_string(), format!("{ask} 401: invalid_client"));

    for (body, shown) in [
        (json!({ "error": "planted7f3a91c2 secret" }), "Bad Request"),
        (
            json!({ "error": "invalid_grant", "error_description": "planted7f3a91c2" }),
            "invalid_grant",
        ),
        (json!("planted7f3a91c2"), "Bad Request"),
        (json!({ "error": ["planted7f3a91c2"] }), "Bad Request"),
    ] {
        let world = World::new().await;
        world.issuer.upstream().reply(Reply::json(400, body));
        let error = world.token().await.unwrap_err();
        assert_eq!(error.to_string(), format!("{ask} 400: {shown}"));
        assert!(!format!("{error:?}").contains("planted"));
    }
}

#[tokio::test]
async fn trouble_is_transient() {
    for fault in [
        Fault::Fails(500),
        Fault::Fails(503),
        Fault::Dead,
        Fault::Silent,
        Fault::Slow(Duration::from_secs(60)),
        Fault::Drips(Duration::from_secs(1)),
        Fault::Truncated,
        Fault::Garbled,
    ] {
        let world = World::with(json!({ "timeout_secs": 1 })).await;
        world.issuer.break_down(fault);
        let error = world.token().await.unwrap_err();
        assert!(error.is_transient(), "{fault:?}: {error}");
        assert!(!error.chain().contains("127.0.0.1"), "{error:?}");
        assert!(!format!("{error:?}").contains(CLIENT_SECRET));
    }
    let world = World::new().await;
    world
        .issuer
        .break_down(Fault::RateLimited(Duration::from_secs(30)));
    let error = world.token().await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(30)));

    for code in ["temporarily_unavailable", "slow_down"] {
        for status in [400, 503] {
            let world = World::new().await;
            let later = Reply::json(status, json!({ "error": code }));
            world
                .issuer
                .upstream()
                .reply(later.header("Retry-After", "45"));
            let error = world.token().await.unwrap_err();
            assert!(error.is_transient(), "{status} {code}");
            assert_eq!(error.retry_after(), Some(Duration::from_secs(45)));
        }
    }
}

#[tokio::test]
async fn nonsense_is_permanent_and_not_quoted() {
    for body in [
        json!({}),
        json!({ "access_token": "", "token_type": "bearer" }),
        json!({ "access_token": 7, "token_type": "bearer" }),
        json!({ "access_token": "planted7f3a91c2", "token_type": "mac", "expires_in": 60 }),
        json!({ "access_token": "planted7f3a91c2", "token_type": "bearer", "expires_in": "planted7f3a91c2" }),
        json!({ "access_token": "planted7f3a91c2", "token_type": "bearer", "expires_in": -1 }),
        json!({ "access_token": "planted7f3a91c2", "token_type": "bearer", "expires_in": 0 }),
        json!(["planted7f3a91c2"]),
    ] {
        let world = World::new().await;
        world
            .issuer
            .upstream()
            .reply(Reply::json(200, body.clone()));
        let error = world.token().await.unwrap_err();
        assert_eq!(error.kind(), HookErrorKind::Permanent, "{body}");
        assert!(
            !format!("{error} {error:?}").contains("planted"),
            "{error:?}"
        );
    }
    for fault in [Fault::Wrong, Fault::Oversized] {
        let world = World::new().await;
        world.issuer.break_down(fault);
        let error = world.token().await.unwrap_err();
        assert_eq!(error.kind(), HookErrorKind::Permanent, "{fault:?}: {error}");
    }
}

#[tokio::test]
async fn a_boot_sets_the_variable_and_shares_the_token() {
    let world = World::new().await;
    let (result, env) = world.boot().await;
    result.unwrap();
    let served = world.token().await.unwrap();
    assert_eq!(env.get("API_TOKEN"), Some(served.secret.expose()));
    assert_eq!(env.expires_at("API_TOKEN"), Some(served.expires_at));
    assert!(env.is_secret("API_TOKEN"));
    assert_eq!(world.issuer.issued().len(), 1);
    let provider = world.hook.token_provider().unwrap();
    assert_eq!(
        (provider.scope(), provider.service()),
        (TokenScope::Shared, "oauth2")
    );
}

#[tokio::test]
async fn without_a_variable_a_boot_asks_nobody() {
    let world = World::with(json!({ "variable": "", "service": "company-api" })).await;
    let (result, env) = world.boot().await;
    result.unwrap();
    assert_eq!(env.get("API_TOKEN"), Some("stored-by-hand"));
    assert_eq!(world.issuer.upstream().request_count(), 0);
    assert_eq!(
        world.hook.token_provider().unwrap().service(),
        "company-api"
    );
}

#[tokio::test]
async fn a_token_is_replaced_after_its_end() {
    let world = World::new().await;
    let first = world.token().await.unwrap();
    world.clock.advance(Duration::from_secs(3700));
    let second = world.token().await.unwrap();
    assert_ne!(first.secret, second.secret);
    assert!(second.expires_at > world.clock.now());
}

#[tokio::test]
async fn a_token_without_a_stated_end_is_replaced_when_its_assumed_life_has_passed() {
    let world = World::with(json!({ "assumed_life_secs": 900 })).await;
    world.issuer.set_life(None);
    let first = world.token().await.unwrap();
    // Nobody asks again before the last quarter of its life, at most five minutes
    world.clock.advance(Duration::from_secs(900 - 226));
    assert_eq!(world.token().await.unwrap().secret, first.secret);
    assert_eq!(world.issuer.issued().len(), 1);

    world.clock.advance(Duration::from_secs(226));

    let second = world.token().await.unwrap();
    assert_ne!(second.secret, first.secret);
    let (_, env) = world.boot().await;
    assert_eq!(env.get("API_TOKEN"), Some(second.secret.expose()));
    assert_eq!(
        env.expires_at("API_TOKEN"),
        Some(world.clock.now() + TimeDelta::minutes(15))
    );
}

#[tokio::test]
async fn a_clock_that_jumps_costs_at_most_one_token() {
    let world = World::new().await;
    let first = world.token().await.unwrap();
    // Back by an hour: the token is still good
    world.clock.set(world.clock.now() - TimeDelta::hours(1));
    assert_eq!(world.token().await.unwrap().secret, first.secret);
    assert_eq!(world.issuer.issued().len(), 1);
    // Ahead by a day: for all that is known it has ended
    world.clock.advance(Duration::from_secs(86_400));
    let second = world.token().await.unwrap();
    assert_ne!(second.secret, first.secret);
    assert_eq!(second.expires_at, world.clock.now() + TimeDelta::hours(1));
    // And back again: the new one is good, and nobody is asked once more
    world.clock.set(world.clock.now() - TimeDelta::days(1));
    let (result, env) = world.boot().await;
    result.unwrap();
    assert_eq!(env.get("API_TOKEN"), Some(second.secret.expose()));
    assert_eq!(world.issuer.issued().len(), 2);
}

#[tokio::test]
async fn trouble_lets_a_workspace_boot_and_misconfiguration_does_not() {
    let world = World::new().await;
    world.issuer.break_down(Fault::Fails(503));
    let (result, env) = world.boot().await;
    result.unwrap();
    assert_eq!(env.get("API_TOKEN"), Some("stored-by-hand"));

    let world = World::with(json!({ "scopes": ["admin"] })).await;
    let (result, env) = world.boot().await;
    let error = result.unwrap_err();
    assert_eq!(
        error.to_string(),
        "oauth2: ask for a token: status 400: invalid_scope"
    );
    assert_eq!(env.get("API_TOKEN"), Some("stored-by-hand"));
}
