//! `GET /admin/workspaces/{id}/test-token`.

use molecule_tests::support::{Agent, set_status, strict};
use molecule_tests::{ADMIN, TestApp, on_both_engines};
use serde_json::json;

const UNKNOWN: &str = "7aa08951-00d1-4c3e-9d6a-0123456789ab";

fn path(id: &str) -> String {
    format!("/admin/workspaces/{id}/test-token")
}

on_both_engines! {
    async fn the_route_is_not_there_unless_wanted(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        for id in [agent.id.as_str(), UNKNOWN, "x"] {
            for bearer in [ADMIN, "garbage"] {
                let reply = app.get(&path(id)).bearer(bearer).send().await;
                reply.assert_error(404, "not found");
            }
        }
        let count = "SELECT count(*) FROM workspace_auth_tokens";
        assert_eq!(app.database.count(count).await, 1);
    }

    async fn the_administrator_gets_a_working_token_where_it_is_wanted(engine: Engine) {
        let wanted = strict(engine).config(|config| config.auth.test_tokens = true);
        let development = TestApp::builder(engine).admin_token(ADMIN);
        for builder in [wanted, development] {
            let app = builder.start().await;
            let agent = Agent::start(&app, json!({ "name": "one" })).await;
            app.get(&path(&agent.id)).send().await.assert_error(401, "admin auth required");
            for bad in ["garbage", agent.token.as_str()] {
                let reply = app.get(&path(&agent.id)).bearer(bad).send().await;
                reply.assert_error(401, "admin auth required");
            }
            for header in [format!("Bearer {ADMIN}"), ADMIN.to_owned()] {
                let reply = app.get(&path(&agent.id)).header("authorization", &header).send().await;
                assert_eq!(reply.status, 200, "{}", reply.text);
                assert_eq!(reply.header("cache-control"), Some("no-store"));
                assert_eq!(reply.json()["workspace_id"], json!(agent.id));
                let token = reply.json()["auth_token"].as_str().expect("a token").to_owned();
                let agent = Agent { id: agent.id.clone(), token };
                assert_eq!(agent.beat(&app, json!({})).send().await.status, 200);
            }
            set_status(&app, engine, &agent.id, "removed").await;
            for id in [agent.id.as_str(), UNKNOWN, "not-a-uuid"] {
                let reply = app.get(&path(id)).bearer(ADMIN).send().await;
                reply.assert_error(404, "workspace not found");
            }
        }
    }

    async fn without_an_administrator_only_development_hands_them_to_everyone(engine: Engine) {
        let app = TestApp::builder(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        assert_eq!(app.get(&path(&agent.id)).send().await.status, 200);

        let app = TestApp::builder(engine)
            .strict()
            .config(|config| {
                config.auth.legacy_workspace_admin = true;
                config.auth.test_tokens = true;
            })
            .start()
            .await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        app.get(&path(&agent.id)).send().await.assert_error(401, "admin auth required");
        let reply = app.get(&path(&agent.id)).bearer("garbage").send().await;
        reply.assert_error(401, "invalid admin auth token");
        assert_eq!(app.get(&path(&agent.id)).bearer(&agent.token).send().await.status, 200);
    }
}
