//! A datastore that does not answer is never a no and never an open door.

use molecule_tests::support::{Agent, assert_unavailable, registration, strict};
use molecule_tests::{ADMIN, TestApp, on_both_engines};
use serde_json::json;

async fn rename(app: &TestApp, from: &str, to: &str) {
    let sql = format!("ALTER TABLE {from} RENAME TO {to}");
    app.database.execute(&sql).await;
}

on_both_engines! {
    async fn every_gate_says_503_while_tokens_cannot_be_read(engine: Engine) {
        for table in ["workspace_auth_tokens", "org_api_tokens"] {
            let app = strict(engine).start().await;
            let agent = Agent::start(&app, json!({ "name": "one" })).await;
            let tokens = format!("/workspaces/{}/tokens", agent.id);
            rename(&app, table, "away").await;
            for bearer in [agent.token.as_str(), "garbage"] {
                for request in [
                    app.get(&tokens),
                    app.request("POST", &tokens),
                    app.delete(&format!("{tokens}/x")),
                    app.get("/org/tokens"),
                    app.post("/org/tokens", json!({})),
                    app.request("PATCH", "/org/tokens/x").json(json!({})),
                    app.delete("/org/tokens/x"),
                    app.get("/workspaces"),
                    app.request("POST", "/canvas/session"),
                    app.request("PUT", "/canvas/viewport").json(json!({})),
                    app.post("/ws/ticket", json!({})),
                    app.post("/ws/ticket", json!({ "workspace_id": agent.id })),
                    app.post("/registry/register", registration(&agent.id)),
                    app.post("/registry/heartbeat", json!({ "workspace_id": agent.id })),
                ] {
                    assert_unavailable(&request.bearer(bearer).send().await);
                }
            }
            // The administrator needs no table to be known.
            assert_eq!(app.get("/admin/liveness").bearer(ADMIN).send().await.status, 200);
            rename(&app, "away", table).await;
            // And nothing of it is remembered.
            let reply = app.get(&tokens).bearer("garbage").send().await;
            reply.assert_error(401, "invalid workspace auth token");
            assert_eq!(app.get(&tokens).bearer(&agent.token).send().await.status, 200);
        }
    }

    async fn a_known_token_works_while_the_datastore_is_away(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        rename(&app, "workspace_auth_tokens", "away").await;
        assert_eq!(agent.beat(&app, json!({})).send().await.status, 200);
        let reply = app.get("/org/tokens").bearer(&agent.token).send().await;
        reply.assert_error(401, "invalid admin auth token");
    }
}
