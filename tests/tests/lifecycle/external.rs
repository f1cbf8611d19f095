//! New credentials for external workspaces, and how their agents connect.

use molecule_tests::support::{
    Agent, changes, create, fields, recorded, registration, seen, strict,
};
use molecule_tests::{ADMIN, Reply, Request, TestApp, on_both_engines};
use serde_json::{Value, json};

fn rotation(app: &TestApp, id: &str) -> Request {
    app.request("POST", &format!("/workspaces/{id}/external/rotate"))
}

async fn rotate(app: &TestApp, id: &str, bearer: &str) -> Reply {
    rotation(app, id).bearer(bearer).send().await
}

async fn connection(app: &TestApp, id: &str, bearer: &str) -> Reply {
    let request = app.get(&format!("/workspaces/{id}/external/connection"));
    request.bearer(bearer).send().await
}

fn token(reply: &Value) -> String {
    let token = reply["connection"]["auth_token"].as_str();
    token.expect("a token").to_owned()
}

async fn beat(app: &TestApp, id: &str, bearer: &str) -> u16 {
    let body = json!({ "workspace_id": id });
    let request = app.post("/registry/heartbeat", body).bearer(bearer);
    request.send().await.status
}

/// An external workspace without a URL: its id and its token.
pub(crate) async fn far(app: &TestApp, name: &str) -> (String, String) {
    let reply = create(app, json!({ "name": name, "external": true })).await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    let made = reply.json();
    (made["id"].as_str().expect("an id").to_owned(), token(&made))
}

on_both_engines! {
    async fn a_rotation_kills_the_old_token_at_once_and_gives_a_new_one(engine: Engine) {
        // Given an agent whose token is known to be good
        let app = strict(engine).start().await;
        let (id, old) = far(&app, "far").await;
        assert_eq!(beat(&app, &id, &old).await, 200);
        let mut events = app.events();

        // When it asks for new credentials itself
        let reply = rotate(&app, &id, &old).await;

        // Then it gets all it needs, once
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        let new = token(&reply.json());
        assert_ne!(new, old);
        let made = reply.json();
        assert_eq!(fields(&made), ["connection"].into());
        assert_eq!(made["connection"].as_object().map(serde_json::Map::len), Some(12));
        assert_eq!(made["connection"]["platform_url"], app.url);
        for (field, value) in made["connection"].as_object().expect("fields") {
            let text = value.as_str().expect("text");
            assert!(!text.contains(&old), "{field}");
            assert!(!field.contains("snippet") || text.contains(&new), "{field}");
        }
        // And the old one is dead from here on
        assert_eq!((beat(&app, &id, &old).await, beat(&app, &id, &new).await), (401, 200));
        rotate(&app, &id, &old).await.assert_error(401, "invalid workspace auth token");
        let event = ("EXTERNAL_CREDENTIALS_ROTATED", json!({ "workspace_id": id }));
        assert_eq!(changes(&mut events, &id), [event]);
        assert_eq!(recorded(&app, "EXTERNAL_CREDENTIALS_ROTATED").await, 1);
        let rows = app.database.dump().await;
        assert!(!rows.contains(&old) && !rows.contains(&new));
    }

    async fn a_lost_reply_to_the_first_registration_is_no_dead_end(engine: Engine) {
        // Given an agent whose enrolment secret bought a token that it never saw
        let app = strict(engine).start().await;
        let body = json!({ "name": "far", "external": true, "url": "https://agent.example" });
        let made = create(&app, body).await.json();
        let id = made["id"].as_str().expect("an id").to_owned();
        let secret = made["enrolment_secret"].as_str().expect("a secret").to_owned();
        let register = |bearer: &str| app.post("/registry/register", registration(&id)).bearer(bearer);
        let lost = register(&secret).send().await;
        assert_eq!(lost.status, 200, "{}", lost.text);
        assert_eq!(register(&secret).send().await.status, 401);

        // When the administrator rotates
        let reply = rotate(&app, &id, ADMIN).await;

        // Then the agent is back, and nobody else
        let new = token(&reply.json());
        assert_eq!(register(&new).send().await.text, r#"{"status":"registered"}"#);
        let lost = lost.json()["auth_token"].as_str().expect("a token").to_owned();
        assert_eq!(beat(&app, &id, &lost).await, 401);

        // Also for one that never registered at all: its enrolment secret is void.
        let body = json!({ "name": "never", "external": true, "url": "https://agent.example" });
        let made = create(&app, body).await.json();
        let id = made["id"].as_str().expect("an id").to_owned();
        let secret = made["enrolment_secret"].as_str().expect("a secret").to_owned();
        let new = token(&rotate(&app, &id, ADMIN).await.json());
        assert_eq!((beat(&app, &id, &secret).await, beat(&app, &id, &new).await), (401, 200));
    }

    async fn of_many_rotations_at_once_the_last_one_counts(engine: Engine) {
        let app = strict(engine).start().await;
        let (id, old) = far(&app, "far").await;
        let replies = futures_util::future::join_all((0..8).map(|_| rotate(&app, &id, ADMIN))).await;
        let mut live = 0;
        for reply in &replies {
            assert_eq!(reply.status, 200, "{}", reply.text);
            live += usize::from(beat(&app, &id, &token(&reply.json())).await == 200);
        }
        assert_eq!((live, beat(&app, &id, &old).await), (1, 401));
        let sql = "SELECT count(*) FROM workspace_auth_tokens WHERE revoked_at IS NULL";
        assert_eq!(app.database.count(sql).await, 1);
    }

    async fn only_external_workspaces_that_are_there_have_a_connection(engine: Engine) {
        let app = strict(engine).start().await;
        let hosted = Agent::online(&app, json!({ "name": "near", "runtime": "codex" })).await;
        let (gone, _) = far(&app, "gone").await;
        let path = format!("/workspaces/{gone}");
        assert_eq!(app.delete(&path).bearer(ADMIN).send().await.status, 200);
        let before = app.database.dump().await;
        let mut events = app.events();

        let reply = rotate(&app, &hosted.id, ADMIN).await;
        reply.assert_error(400, "rotate is only valid for runtime=external workspaces");
        assert_eq!(fields(&reply.json()), ["error", "hint", "runtime"].into());
        assert_eq!(reply.json()["runtime"], "codex");
        let reply = connection(&app, &hosted.id, ADMIN).await;
        reply.assert_error(400, "connection payload is only valid for runtime=external workspaces");
        assert_eq!(fields(&reply.json()), ["error", "hint", "runtime"].into());
        for id in [gone.as_str(), "7aa08951-00d1-4c3e-9d6a-0123456789ab"] {
            rotate(&app, id, ADMIN).await.assert_error(404, "workspace not found");
            connection(&app, id, ADMIN).await.assert_error(404, "workspace not found");
        }
        rotate(&app, "nope", ADMIN).await.assert_error(400, "invalid workspace ID");
        connection(&app, "nope", ADMIN).await.assert_error(400, "invalid workspace ID");
        assert_eq!(app.database.dump().await, before);
        assert_eq!(seen(&mut events, &hosted.id), []);
        // The agent's own token still works.
        assert_eq!(hosted.beat(&app, json!({})).send().await.status, 200);
    }

    async fn a_stranger_rotates_nothing(engine: Engine) {
        let app = strict(engine).start().await;
        let (id, own) = far(&app, "far").await;
        let (other, foreign) = far(&app, "other").await;
        rotate(&app, &id, &foreign).await.assert_error(401, "invalid workspace auth token");
        connection(&app, &id, &foreign).await.assert_error(401, "invalid workspace auth token");
        rotation(&app, &id).send().await.assert_error(401, "missing workspace auth token");
        assert_eq!((beat(&app, &id, &own).await, beat(&app, &other, &foreign).await), (200, 200));
    }

    async fn the_connection_can_be_looked_up_without_its_token(engine: Engine) {
        let app = strict(engine).start().await;
        let (id, own) = far(&app, "far").await;
        let before = app.database.dump().await;
        for bearer in [own.as_str(), ADMIN] {
            let reply = connection(&app, &id, bearer).await;
            assert_eq!(reply.status, 200, "{}", reply.text);
            let shown = &reply.json()["connection"];
            assert_eq!((&shown["auth_token"], &shown["workspace_id"]), (&json!(""), &json!(id)));
            assert_eq!(shown.as_object().map(serde_json::Map::len), Some(12));
            assert!(!reply.text.contains(&own));
        }
        assert_eq!(app.database.dump().await.matches("revoked_at").count(), before.matches("revoked_at").count());
        assert_eq!(beat(&app, &id, &own).await, 200);
    }

    async fn no_header_gets_a_word_into_a_script(engine: Engine) {
        let app = strict(engine).start().await;
        let (id, own) = far(&app, "far").await;
        let hostile = [
            "$(touch x)", "a'b", "a\"b", "a`id`", "a;id", "a|id", "a&id", "a b", "a\\b", "u:p@a",
            "a/../b", "a?b=c", "a#b", "ä.example", "", ",", "a:0", "a:99999", "[::1", "%24%28id%29",
        ];
        for host in hostile {
            let path = format!("/workspaces/{id}/external/connection");
            let request = app.get(&path).bearer(&own).header("x-forwarded-host", host);
            let reply = request.header("x-forwarded-proto", "javascript").send().await;
            assert_eq!(reply.json()["connection"]["platform_url"], app.url, "{host}");
        }
        for (host, expected) in [
            ("molecule.example", "https://molecule.example"),
            ("m.example:8443, proxy.internal", "https://m.example:8443"),
            ("[2001:db8::1]:80", "https://[2001:db8::1]:80"),
        ] {
            let path = format!("/workspaces/{id}/external/connection");
            let request = app.get(&path).bearer(&own).header("x-forwarded-host", host);
            let reply = request.header("x-forwarded-proto", "https").send().await;
            assert_eq!(reply.json()["connection"]["platform_url"], expected);
        }
    }
}
