//! `POST /ws/ticket`. What a ticket opens is tested with the WebSocket.

use molecule_tests::support::{Agent, assert_unavailable, fields, sql_bytes, strict};
use molecule_tests::{ADMIN, TestApp, eventually, on_both_engines};
use serde_json::json;
use sha2::{Digest, Sha256};

const UNKNOWN: &str = "7aa08951-00d1-4c3e-9d6a-0123456789ab";
const COUNT: &str = "SELECT count(*) FROM websocket_tickets";

on_both_engines! {
    async fn a_ticket_is_for_everything_or_for_one_workspace(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        let own = || app.post("/ws/ticket", json!({ "workspace_id": agent.id }));
        for request in [
            app.request("POST", "/ws/ticket").bearer(ADMIN),
            app.post("/ws/ticket", json!({})).bearer(ADMIN),
            app.post("/ws/ticket", json!({ "workspace_id": null })).bearer(ADMIN),
            own().bearer(ADMIN),
            own().bearer(&agent.token),
        ] {
            let reply = request.send().await;
            assert_eq!(reply.status, 200, "{}", reply.text);
            assert_eq!(reply.header("cache-control"), Some("no-store"));
            assert_eq!(fields(&reply.json()), ["ticket", "expires_in"].into());
            assert_eq!(reply.json()["expires_in"], 60);
            let ticket = reply.json()["ticket"].as_str().expect("a ticket").to_owned();
            assert_eq!(ticket.len(), 43);
            assert!(!app.database.dump().await.contains(&ticket));
            let hash = sql_bytes(engine, &Sha256::digest(ticket.as_bytes()));
            let stored = format!("{COUNT} WHERE ticket_hash = {hash}");
            assert_eq!(app.database.count(&stored).await, 1);
        }
        assert_eq!(app.database.count(&format!("{COUNT} WHERE workspace_id IS NULL")).await, 3);

        // A workspace's token opens its own view and no more.
        let reply = app.post("/ws/ticket", json!({})).bearer(&agent.token).send().await;
        reply.assert_error(401, "invalid admin auth token");
        let other = Agent::start(&app, json!({ "name": "two" })).await;
        own().bearer(&other.token).send().await.assert_error(401, "invalid workspace auth token");
        own().send().await.assert_error(401, "missing workspace auth token");
    }

    async fn bad_bodies_get_no_ticket(engine: Engine) {
        let app = strict(engine).start().await;
        for body in ["{", "[]", "null", r#"{"workspace_id":7}"#, "\0"] {
            let request = app.request("POST", "/ws/ticket").body(body).bearer(ADMIN);
            request.send().await.assert_error(400, "invalid request body");
        }
        for id in ["x", "", "\u{202e}", &"x".repeat(100_000)] {
            let reply = app.post("/ws/ticket", json!({ "workspace_id": id })).bearer(ADMIN);
            reply.send().await.assert_error(400, "invalid workspace ID");
        }
        let unknown = app.post("/ws/ticket", json!({ "workspace_id": UNKNOWN })).bearer(ADMIN);
        unknown.send().await.assert_error(404, "workspace not found");
        assert_eq!(app.database.count(COUNT).await, 0);
    }

    async fn tickets_that_nobody_used_are_swept(engine: Engine) {
        let app = strict(engine).start().await;
        assert_eq!(app.post("/ws/ticket", json!({})).bearer(ADMIN).send().await.status, 200);
        let past = "UPDATE websocket_tickets SET expires_at = '2020-01-01T00:00:00+00:00'";
        app.database.execute(past).await;
        let (database, dir) = app.shutdown().await;
        let app = strict(engine).start_on(database, dir).await;
        eventually("the ticket is gone", async || app.database.count(COUNT).await == 0).await;
        assert_eq!(app.post("/ws/ticket", json!({})).bearer(ADMIN).send().await.status, 200);
        assert_eq!(app.database.count(COUNT).await, 1);
    }

    async fn development_hands_tickets_to_everyone(engine: Engine) {
        let app = TestApp::builder(engine).start().await;
        assert_eq!(app.post("/ws/ticket", json!({})).send().await.status, 200);
        let unknown = app.post("/ws/ticket", json!({ "workspace_id": UNKNOWN })).send().await;
        unknown.assert_error(404, "workspace not found");
        app.database.execute("ALTER TABLE websocket_tickets RENAME TO away").await;
        let reply = app.post("/ws/ticket", json!({})).send().await;
        reply.assert_error(500, "failed to create ticket");
        let strict = strict(engine).start().await;
        strict.database.execute("ALTER TABLE org_api_tokens RENAME TO away").await;
        let reply = strict.post("/ws/ticket", json!({})).bearer("garbage").send().await;
        assert_unavailable(&reply);
    }
}
