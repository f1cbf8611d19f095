//! `GET /workspaces/:id/credentials` and `…/credentials/:provider`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use molecule_hooks::testing::FakeClock;
use molecule_hooks::{HookError, Token, TokenRequest, TokenScope};
use molecule_tests::hooks::{FnHook, FnTokens};
use molecule_tests::{ADMIN, Engine, Reply, TestApp, on_both_engines};
use serde_json::{Value, json};

use crate::support::{Agent, strict};

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("a time")
}

/// A provider of numbered tokens that name it and whom they are for.
fn provider(
    name: &'static str,
    service: &'static str,
    scope: TokenScope,
    calls: &Arc<AtomicUsize>,
) -> FnTokens {
    let calls = Arc::clone(calls);
    FnTokens::new(scope, move |request: TokenRequest| {
        let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            let whom = request
                .workspace
                .map_or("all".to_owned(), |workspace| workspace.name);
            Ok(Token::new(
                format!("{name}_{call}_{whom}"),
                Utc::now() + TimeDelta::hours(1),
            ))
        }
    })
    .serving(name, service)
}

fn failing(name: &'static str, service: &'static str) -> FnTokens {
    FnTokens::new(TokenScope::Shared, |_| async {
        Err(HookError::transient("https://internal.example is down"))
    })
    .serving(name, service)
}

async fn list(app: &TestApp, agent: &Agent) -> Reply {
    app.get(&format!("/workspaces/{}/credentials", agent.id))
        .bearer(&agent.token)
        .send()
        .await
}

async fn ask(app: &TestApp, agent: &Agent, provider: &str) -> Reply {
    app.get(&format!("/workspaces/{}/credentials/{provider}", agent.id))
        .bearer(&agent.token)
        .send()
        .await
}

fn token(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()["token"].clone()
}

on_both_engines! {
    async fn every_provider_is_listed_and_answers_under_its_name(engine: Engine) {
        // Given three providers, GitHub's not the first, and a hook without tokens
        let clock = FakeClock::at(at("2026-04-17T22:00:00Z"));
        let fixed = |token: &'static str, scope| {
            FnTokens::new(scope, move |_| async move {
                Ok(Token::new(token, at("2026-04-17T22:50:00.987654Z")))
            })
        };
        let app = strict(engine)
            .hook(fixed("hvs.one", TokenScope::PerWorkspace).serving("vault", "vault"))
            .hook(FnHook::new("plain", |_, _| Ok(())))
            .hook(fixed("ghs_abc", TokenScope::Shared))
            .hook(fixed("glpat-x", TokenScope::Shared).serving("gitlab-token", "gitlab"))
            .clock(clock.clock())
            .start()
            .await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;

        // Then the list has them in the order of the chain, compact and uncached
        let listed = list(&app, &agent).await;
        assert_eq!(
            (listed.status, listed.text.as_str()),
            (200, concat!(
                r#"{"credentials":[{"provider":"vault","service":"vault","scope":"workspace"},"#,
                r#"{"provider":"tokens","service":"github","scope":"shared"},"#,
                r#"{"provider":"gitlab-token","service":"gitlab","scope":"shared"}]}"#,
            ))
        );
        assert_eq!(listed.header("cache-control"), Some("no-store"));
        assert_eq!(listed.header("content-type"), Some("application/json; charset=utf-8"));

        // And each gives its own token
        for (name, service, token) in [
            ("vault", "vault", "hvs.one"),
            ("tokens", "github", "ghs_abc"),
            ("gitlab-token", "gitlab", "glpat-x"),
        ] {
            let reply = ask(&app, &agent, name).await;
            let text = format!(
                r#"{{"token":"{token}","expires_at":"2026-04-17T22:50:00Z","provider":"{name}","service":"{service}"}}"#
            );
            assert_eq!((reply.status, reply.text.as_str()), (200, text.as_str()));
            assert_eq!(reply.header("cache-control"), Some("no-store"));
            assert!(!app.database.dump().await.contains(token));
        }

        // And GitHub's endpoints stay those of the provider for GitHub, byte for byte
        let text = r#"{"token":"ghs_abc","expires_at":"2026-04-17T22:50:00Z"}"#;
        let of_agent = app.get(&agent.token_path()).bearer(&agent.token).send().await;
        let of_admin = app.get("/admin/github-installation-token").bearer(ADMIN).send().await;
        assert_eq!((of_agent.text.as_str(), of_admin.text.as_str()), (text, text));
        // An administrator may look too
        let path = format!("/workspaces/{}/credentials", agent.id.to_uppercase());
        assert_eq!(app.get(&path).bearer(ADMIN).send().await.text, listed.text);
        app.shutdown().await;
    }

    async fn without_providers_the_list_is_empty_and_every_name_unknown(engine: Engine) {
        let app = strict(engine)
            .hook(FnHook::new("plain", |_, _| Ok(())))
            .start()
            .await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        assert_eq!(list(&app, &agent).await.text, r#"{"credentials":[]}"#);
        let long = "x".repeat(2000);
        for name in ["plain", "vault", "VAULT", "%00", "..%2F..%2Fetc", "%F0%9F%94%91", &long] {
            ask(&app, &agent, name)
                .await
                .assert_error(404, "no token provider of that name");
        }
        app.shutdown().await;
    }

    async fn the_workspace_must_be_the_callers_and_exist(engine: Engine) {
        let calls = Arc::default();
        let app = strict(engine)
            .hook(provider("vault", "vault", TokenScope::PerWorkspace, &calls))
            .start()
            .await;
        let one = Agent::start(&app, json!({ "name": "one" })).await;
        let two = Agent::start(&app, json!({ "name": "two" })).await;
        for tail in ["credentials", "credentials/vault", "credentials/unknown"] {
            let path = format!("/workspaces/{}/{tail}", one.id);
            assert_eq!(app.get(&path).send().await.status, 401, "{tail}");
            assert_eq!(app.get(&path).bearer("nobody").send().await.status, 401, "{tail}");
            // As the endpoint for GitHub answers the same caller
            let neighbour = app.get(&one.token_path()).bearer(&two.token).send().await;
            let reply = app.get(&path).bearer(&two.token).send().await;
            assert_eq!((reply.status, reply.text), (neighbour.status, neighbour.text), "{tail}");
        }
        for id in ["7aa08951-00d1-4c3e-9d6a-0123456789ab", "nope"] {
            for tail in ["credentials", "credentials/vault"] {
                app.get(&format!("/workspaces/{id}/{tail}"))
                    .bearer(ADMIN)
                    .send()
                    .await
                    .assert_error(404, "workspace not found");
            }
        }
        assert_eq!(calls.load(Ordering::SeqCst), 0, "a stranger made it mint");
        // What was cached goes with the workspace
        assert_eq!(ask(&app, &one, "vault").await.status, 200);
        let path = format!("/workspaces/{}", one.id);
        assert_eq!(app.delete(&path).bearer(ADMIN).send().await.status, 200);
        app.get(&format!("{path}/credentials/vault"))
            .bearer(ADMIN)
            .send()
            .await
            .assert_error(404, "workspace not found");
        app.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn providers_share_neither_tokens_nor_trouble() {
    // Given two that work, one that does not
    let (vault, gitlab) = (Arc::default(), Arc::default());
    let app = strict(Engine::Sqlite)
        .hook(failing("oauth2", "crm"))
        .hook(provider("vault", "vault", TokenScope::PerWorkspace, &vault))
        .hook(provider(
            "gitlab-token",
            "gitlab",
            TokenScope::Shared,
            &gitlab,
        ))
        .start()
        .await;
    let one = Agent::start(&app, json!({ "name": "one" })).await;
    let two = Agent::start(&app, json!({ "name": "two" })).await;

    for _ in 0..2 {
        // The failing one says the documented words and nothing of its upstream
        let reply = ask(&app, &one, "oauth2").await;
        assert_eq!(
            (reply.status, reply.text),
            (500, json!({ "error": "token refresh failed" }).to_string())
        );
        assert_eq!(token(&ask(&app, &one, "vault").await), "vault_1_one");
        assert_eq!(token(&ask(&app, &two, "vault").await), "vault_2_two");
        assert_eq!(
            token(&ask(&app, &one, "gitlab-token").await),
            "gitlab-token_1_all"
        );
        assert_eq!(
            token(&ask(&app, &two, "gitlab-token").await),
            "gitlab-token_1_all"
        );
    }
    assert_eq!(
        (vault.load(Ordering::SeqCst), gitlab.load(Ordering::SeqCst)),
        (2, 1)
    );

    // None of them is GitHub's
    app.get(&one.token_path())
        .bearer(&one.token)
        .send()
        .await
        .assert_error(404, "no token provider registered");

    // And each is counted under its name
    let metrics = app.get("/metrics").send().await.text;
    for line in [
        r#"molecule_token_requests_total{hook="vault",outcome="ok"} 4"#,
        r#"molecule_token_refreshes_total{hook="vault",outcome="ok"} 2"#,
        r#"molecule_token_requests_total{hook="gitlab-token",outcome="ok"} 4"#,
        r#"molecule_token_refreshes_total{hook="gitlab-token",outcome="ok"} 1"#,
        r#"molecule_token_requests_total{hook="oauth2",outcome="error"} 2"#,
        r#"molecule_token_refreshes_total{hook="oauth2",outcome="error"} 1"#,
        r#"molecule_token_refresh_duration_seconds_count{hook="vault"} 2"#,
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}:\n{metrics}"
        );
    }
    app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_for_github_and_of_two_with_one_name_the_first_counts() {
    let (first, second, twin) = (Arc::default(), Arc::default(), Arc::default());
    let app = strict(Engine::Sqlite)
        .hook(provider("first", "github", TokenScope::Shared, &first))
        .hook(provider("second", "github", TokenScope::Shared, &second))
        .hook(provider("first", "gitlab", TokenScope::Shared, &twin))
        .start()
        .await;
    let agent = Agent::start(&app, json!({ "name": "one" })).await;
    assert_eq!(
        list(&app, &agent).await.json()["credentials"],
        json!([
            { "provider": "first", "service": "github", "scope": "shared" },
            { "provider": "second", "service": "github", "scope": "shared" },
        ])
    );
    let github = app
        .get(&agent.token_path())
        .bearer(&agent.token)
        .send()
        .await;
    assert_eq!(token(&github), "first_1_all");
    assert_eq!(token(&ask(&app, &agent, "first").await), "first_1_all");
    assert_eq!(token(&ask(&app, &agent, "second").await), "second_1_all");
    assert_eq!(twin.load(Ordering::SeqCst), 0);
    app.shutdown().await;
}
