//! `POST /registry/update-card`.

use molecule_tests::{ADMIN, Reply, TestApp, on_both_engines};
use serde_json::{Value, json};

use crate::support::{Agent, changes, recorded, set_status, strict};
use crate::{UNKNOWN, remove, with_strange_fields};

async fn update(app: &TestApp, agent: &Agent, card: Value) -> Reply {
    let body = json!({ "workspace_id": agent.id, "agent_card": card });
    app.post("/registry/update-card", body)
        .bearer(&agent.token)
        .send()
        .await
}

async fn stored(app: &TestApp, id: &str) -> Value {
    let path = format!("/workspaces/{id}");
    app.get(&path).send().await.json()["agent_card"].clone()
}

on_both_engines! {
    async fn a_new_card_is_stored_and_told_and_the_same_one_is_not(engine: Engine) {
        // Given an agent that is online
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let mut events = app.events();
        let cards = [
            json!({ "name": "new", "skills": [1, 2.5, null] }),
            json!({ "name": "newer" }),
            json!(null),
            json!([]),
            json!("text \u{202e}\u{200f}\t\u{1} ä"),
            json!(7),
        ];
        for card in &cards {
            // When it describes itself anew, twice
            for _ in 0..2 {
                let reply = update(&app, &agent, card.clone()).await;
                assert_eq!((reply.status, reply.text.as_str()), (200, r#"{"status":"updated"}"#));
            }
            // Then everybody can read it and heard of it once
            assert_eq!(stored(&app, &agent.id).await, *card);
            let told = ("AGENT_CARD_UPDATED", json!({ "agent_card": card }));
            assert_eq!(changes(&mut events, &agent.id), [told]);
        }
        assert_eq!(recorded(&app, "AGENT_CARD_UPDATED").await, cards.len() as i64);
        // And fields in another order are the same card
        let body = format!(
            r#"{{"agent_card":{{"b":1,"a":2}},"workspace_id":"{}"}}"#, agent.id
        );
        for body in [body.clone(), body.replace(r#""b":1,"a":2"#, r#""a":2,"b":1"#)] {
            let reply = app.request("POST", "/registry/update-card").body(body).bearer(&agent.token).send().await;
            assert_eq!(reply.status, 200);
        }
        assert_eq!(recorded(&app, "AGENT_CARD_UPDATED").await, cards.len() as i64 + 1);
    }

    async fn a_card_changes_no_status(engine: Engine) {
        let app = strict(engine).start().await;
        for state in ["provisioning", "paused", "hibernated", "hibernating", "failed", "offline"] {
            let agent = Agent::start(&app, json!({ "name": state })).await;
            set_status(&app, engine, &agent.id, state).await;
            assert_eq!(update(&app, &agent, json!({ "name": state })).await.status, 200);
            let detail = app.get(&format!("/workspaces/{}", agent.id)).send().await.json();
            assert_eq!((&detail["status"], &detail["agent_card"]["name"]), (&json!(state), &json!(state)));
        }
        assert_eq!(recorded(&app, "WORKSPACE_ONLINE").await, 0);
    }

    async fn strangers_and_the_removed_leave_nothing(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let other = Agent::online(&app, json!({ "name": "other" })).await;
        let gone = Agent::online(&app, json!({ "name": "gone" })).await;
        remove(&app, &gone.id).await;
        let before = app.database.dump().await;
        let send = |id: &str, bearer: Option<&str>| {
            let body = json!({ "workspace_id": id, "agent_card": { "name": "forged" } });
            let request = app.post("/registry/update-card", body);
            match bearer {
                Some(bearer) => request.bearer(bearer),
                None => request,
            }
            .send()
        };
        let missing = "missing workspace auth token";
        let invalid = "invalid workspace auth token";
        send(&agent.id, None).await.assert_error(401, missing);
        for bearer in ["garbage", &other.token, &gone.token, ADMIN] {
            send(&agent.id, Some(bearer)).await.assert_error(401, invalid);
        }
        for bearer in [None, Some(gone.token.as_str()), Some(ADMIN)] {
            send(&gone.id, bearer).await.assert_error(404, "workspace not found");
            send(UNKNOWN, bearer).await.assert_error(404, "workspace not found");
        }
        assert_eq!(app.database.dump().await, before);
    }

    async fn every_bad_body_is_refused_with_a_reason(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let before = app.database.dump().await;
        let id = agent.id.as_str();
        let table = [
            (json!({}), "workspace_id must be a UUID"),
            (json!({ "workspace_id": "", "agent_card": {} }), "workspace_id must be a UUID"),
            (json!({ "workspace_id": "one", "agent_card": {} }), "workspace_id must be a UUID"),
            (json!({ "workspace_id": format!("{id}\u{202e}"), "agent_card": {} }), "workspace_id must be a UUID"),
            (json!({ "workspace_id": id }), "agent_card is required"),
            (json!({ "workspace_id": id, "agent_card": "a\0b" }), "agent_card must not contain NUL characters"),
            (json!({ "workspace_id": id, "agent_card": { "a\0b": 1 } }), "agent_card must not contain NUL characters"),
            (json!({ "workspace_id": id, "agent_card": [[{ "a": ["\0"] }]] }), "agent_card must not contain NUL characters"),
        ];
        for (body, detail) in table {
            let reply = app.post("/registry/update-card", body.clone()).bearer(&agent.token).send().await;
            reply.assert_error(400, "invalid request body");
            assert_eq!(reply.json()["detail"], detail, "{body}");
        }
        let deep = format!(r#"{{"workspace_id":"{id}","agent_card":{}1{}}}"#, "[".repeat(500), "]".repeat(500));
        for body in ["", "[]", "null", "{", r#"{"workspace_id":7,"agent_card":{}}"#, &deep] {
            app.request("POST", "/registry/update-card").body(body).bearer(&agent.token).send().await
                .assert_error(400, "invalid request body");
        }
        let large = update(&app, &agent, json!("x".repeat(1024 * 1024))).await;
        large.assert_error(413, "request body too large");
        assert_eq!(app.database.dump().await, before);
        // What nobody knows is ignored.
        let body = with_strange_fields(json!({ "workspace_id": id.to_uppercase(), "agent_card": { "a": 1 } }));
        let reply = app.post("/registry/update-card", body).bearer(&agent.token).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(stored(&app, id).await, json!({ "a": 1 }));
    }

    async fn a_secret_in_a_card_is_masked_before_it_is_compared(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(
            &app,
            json!({ "name": "one", "secrets": { "API_KEY": "hunter2-very-secret" } }),
        )
        .await;
        for _ in 0..2 {
            let reply = update(&app, &agent, json!({ "about": "my key is hunter2-very-secret" })).await;
            assert_eq!(reply.status, 200);
        }
        assert_eq!(stored(&app, &agent.id).await, json!({ "about": "my key is [REDACTED]" }));
        assert_eq!(recorded(&app, "AGENT_CARD_UPDATED").await, 1);
        assert!(!app.database.dump().await.contains("hunter2"));
    }

    async fn a_card_and_its_event_are_written_together_or_not_at_all(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let before = stored(&app, &agent.id).await;
        app.database.execute("ALTER TABLE structure_events RENAME TO away").await;
        update(&app, &agent, json!({ "name": "lost" })).await.assert_error(500, "failed to update card");
        assert_eq!(stored(&app, &agent.id).await, before);
        app.database.execute("ALTER TABLE away RENAME TO structure_events").await;
        assert_eq!(update(&app, &agent, json!({ "name": "kept" })).await.status, 200);
        assert_eq!(stored(&app, &agent.id).await, json!({ "name": "kept" }));
    }
}
