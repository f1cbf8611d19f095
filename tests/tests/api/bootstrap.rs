//! How tokens come, what is kept of them, and how they end.

use molecule_core::config::Environment;
use molecule_core::{Config, Registry, Server};
use molecule_tests::database::TestDatabase;
use molecule_tests::{ADMIN, Engine, TestApp, eventually, on_both_engines};
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::support::{Agent, any_token, assert_unavailable, registration, sql_bytes, strict};

const REVOKE_ALL: &str = "UPDATE workspace_auth_tokens SET revoked_at = created_at";

fn legacy(engine: Engine) -> molecule_tests::TestAppBuilder {
    TestApp::builder(engine)
        .strict()
        .config(|config| config.auth.legacy_workspace_admin = true)
}

/// Makes every query of a table fail.
async fn take_away(app: &TestApp, table: &str) {
    app.database
        .execute(&format!("ALTER TABLE {table} RENAME TO {table}_away"))
        .await;
}

async fn bring_back(app: &TestApp, table: &str) {
    app.database
        .execute(&format!("ALTER TABLE {table}_away RENAME TO {table}"))
        .await;
}

#[tokio::test]
async fn a_strict_server_without_an_administrator_does_not_start() {
    for environment in [Environment::Staging, Environment::Production] {
        let mut config = Config {
            environment,
            ..Config::default()
        };
        config.server.port = 0;
        config.secrets.encryption_key = Some(molecule_tests::KEY.into());
        let refused = Server::builder(config, Registry::new()).start().await.err();
        let text = refused.expect("a refusal").to_string();
        assert!(
            text.contains("auth.admin_token: is required outside development"),
            "{text}"
        );
    }
}

on_both_engines! {
    async fn a_token_has_43_url_safe_characters_and_only_its_hash_and_prefix_are_stored(
        engine: Engine,
    ) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        let token = &agent.token;
        assert_eq!(token.len(), 43);
        assert!(
            token
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'),
            "{token}"
        );
        assert!(!app.database.dump().await.contains(token.as_str()));
        let hash = sql_bytes(engine, &Sha256::digest(token.as_bytes()));
        let stored = format!(
            "SELECT count(*) FROM workspace_auth_tokens WHERE token_hash = {hash} AND prefix = '{}' \
             AND revoked_at IS NULL AND last_used_at IS NULL",
            &token[..8]
        );
        assert_eq!(app.database.count(&stored).await, 1);
    }

    async fn using_a_token_is_noted(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        assert_eq!(agent.beat(&app, json!({})).send().await.status, 200);
        let used = "SELECT count(*) FROM workspace_auth_tokens WHERE last_used_at IS NOT NULL";
        eventually("the use is written", async || {
            app.database.count(used).await == 1
        })
        .await;
    }

    async fn revoking_every_token_opens_nothing(engine: Engine) {
        let app = legacy(engine).hook(any_token()).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        app.database.execute(REVOKE_ALL).await;
        app.get("/workspaces")
            .send()
            .await
            .assert_error(401, "admin auth required");
        app.get("/workspaces")
            .bearer(&agent.token)
            .send()
            .await
            .assert_error(401, "invalid admin auth token");
        app.get(&agent.token_path())
            .bearer(&agent.token)
            .send()
            .await
            .assert_error(401, "invalid workspace auth token");
        agent
            .register(&app)
            .send()
            .await
            .assert_error(401, "invalid workspace auth token");
        app.post("/registry/register", registration(&agent.id))
            .send()
            .await
            .assert_error(401, "missing workspace auth token");

        // Nor does a restart, nor deleting the rows.
        app.database
            .execute("DELETE FROM workspace_auth_tokens")
            .await;
        let (database, dir) = app.shutdown().await;
        let app = legacy(engine).start_on(database, dir).await;
        app.get("/workspaces")
            .send()
            .await
            .assert_error(401, "admin auth required");
        app.post("/registry/heartbeat", json!({ "workspace_id": agent.id }))
            .send()
            .await
            .assert_error(401, "missing workspace auth token");
    }

    async fn in_development_a_workspace_without_a_live_token_gets_a_new_one(engine: Engine) {
        let app = TestApp::builder(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        app.database.execute(REVOKE_ALL).await;
        let reply = app
            .post("/registry/register", registration(&agent.id))
            .send()
            .await;
        let token = reply.json()["auth_token"]
            .as_str()
            .expect("a token")
            .to_owned();
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        // With it the gate is closed again.
        app.post("/registry/register", registration(&agent.id))
            .send()
            .await
            .assert_error(401, "missing workspace auth token");
        let again = app
            .post("/registry/register", registration(&agent.id))
            .bearer(&token)
            .send()
            .await;
        assert_eq!(
            (again.status, again.text.as_str()),
            (200, r#"{"status":"registered"}"#)
        );
    }

    async fn the_token_of_a_removed_workspace_is_dead_at_once(engine: Engine) {
        let app = strict(engine).hook(any_token()).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        assert_eq!(
            app.get(&agent.token_path())
                .bearer(&agent.token)
                .send()
                .await
                .status,
            200
        );
        let path = format!("/workspaces/{}", agent.id);
        assert_eq!(app.delete(&path).bearer(ADMIN).send().await.status, 200);
        app.get(&agent.token_path())
            .bearer(&agent.token)
            .send()
            .await
            .assert_error(401, "invalid workspace auth token");
        agent
            .register(&app)
            .send()
            .await
            .assert_error(404, "workspace not found");
        agent
            .beat(&app, json!({}))
            .send()
            .await
            .assert_error(404, "workspace not found");
    }

    async fn every_auth_path_says_503_when_the_datastore_does_not_answer(engine: Engine) {
        let app = strict(engine).hook(any_token()).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        for table in ["workspace_auth_tokens", "workspaces"] {
            take_away(&app, table).await;
            for token in [agent.token.as_str(), "garbage"] {
                let requests = [
                    app.get(&agent.token_path()),
                    // It might be an org token.
                    app.get("/workspaces"),
                    app.post("/registry/register", registration(&agent.id)),
                    app.post("/registry/heartbeat", json!({ "workspace_id": agent.id })),
                ];
                for request in requests {
                    assert_unavailable(&request.bearer(token).send().await);
                }
            }
            // What needs no look-up still works, and says no.
            app.get(&agent.token_path())
                .send()
                .await
                .assert_error(401, "missing workspace auth token");
            app.get("/workspaces")
                .send()
                .await
                .assert_error(401, "admin auth required");
            assert_eq!(
                app.get("/admin/liveness").bearer(ADMIN).send().await.status,
                200
            );
            bring_back(&app, table).await;
        }
        assert_eq!(agent.register(&app).send().await.status, 200);
    }

    async fn an_unknown_bootstrap_state_is_not_an_open_door(engine: Engine) {
        let app = legacy(engine).start().await;
        take_away(&app, "platform_state").await;
        for request in [
            app.get("/workspaces"),
            app.get("/workspaces").bearer("garbage"),
        ] {
            assert_unavailable(&request.send().await);
        }
    }

    async fn an_external_workspace_with_a_url_is_enrolled_by_the_administrator(engine: Engine) {
        let app = strict(engine).start().await;
        let id = app
            .create(json!({ "name": "far", "external": true, "url": "https://agent.example" }))
            .await;
        let register = || app.post("/registry/register", registration(&id));
        register()
            .send()
            .await
            .assert_error(401, "missing workspace auth token");
        register()
            .bearer("garbage")
            .send()
            .await
            .assert_error(401, "invalid workspace auth token");
        let reply = register().bearer(ADMIN).send().await;
        assert_eq!(
            reply.json()["auth_token"].as_str().map(str::len),
            Some(43),
            "{}",
            reply.text
        );
        register()
            .bearer(ADMIN)
            .send()
            .await
            .assert_error(401, "invalid workspace auth token");
    }

    async fn twenty_callers_with_one_enrolment_secret_get_one_token(engine: Engine) {
        let app = strict(engine)
            .config(|config| config.backend.kind = molecule_core::config::BackendChoice::None)
            .real_backend()
            .start()
            .await;
        let reply = app
            .post("/workspaces", json!({ "name": "one" }))
            .bearer(ADMIN)
            .send()
            .await;
        let created = reply.json();
        let (id, secret) = (
            created["id"].as_str().expect("an id"),
            created["enrolment_secret"].as_str().expect("a secret"),
        );
        let calls = (0..20).map(|_| {
            app.post("/registry/register", registration(id))
                .bearer(secret)
                .send()
        });
        let replies = futures_util::future::join_all(calls).await;
        let tokens = replies
            .iter()
            .filter(|reply| reply.json()["auth_token"].is_string())
            .count();
        assert_eq!(tokens, 1);
        assert_eq!(
            replies.iter().filter(|reply| reply.status == 401).count(),
            19
        );
        let live = "SELECT count(*) FROM workspace_auth_tokens WHERE revoked_at IS NULL";
        assert_eq!(app.database.count(live).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_gone_is_a_503_everywhere() {
    if !molecule_tests::database::postgres_is_wanted() {
        return;
    }
    let database = TestDatabase::create(Engine::Postgres).await;
    let url = database.url().to_owned();
    let app = strict(Engine::Postgres)
        .config(|config| config.database.timeout_secs = 2)
        .start_on(database, tempfile::tempdir().expect("a folder"))
        .await;
    let agent = Agent::start(&app, json!({ "name": "one" })).await;
    let (server, name) = url.rsplit_once('/').expect("a database");
    let mut admin = PgConnection::connect(&format!("{server}/postgres"))
        .await
        .expect("connect");
    let drop = AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"));
    admin.execute(drop).await.expect("drop");

    assert_unavailable(&agent.register(&app).send().await);
    assert_unavailable(&app.get("/workspaces").bearer(ADMIN).send().await);
    assert_unavailable(&app.get(&format!("/workspaces/{}", agent.id)).send().await);
    assert_unavailable(
        &app.post("/workspaces", json!({ "name": "two" }))
            .bearer(ADMIN)
            .send()
            .await,
    );
    let ready = app.get("/readyz").send().await;
    assert_eq!(ready.status, 503);
    assert_eq!(
        ready.json(),
        json!({ "status": "unavailable", "database": "unavailable", "backend": "process" })
    );
    assert_eq!(app.get("/health").send().await.status, 200);
}
