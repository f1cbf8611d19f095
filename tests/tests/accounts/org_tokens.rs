//! `/org/tokens`.

use molecule_tests::support::{Agent, assert_time, fields, sql_bytes, sql_id, strict};
use molecule_tests::{ADMIN, Reply, Request, TestApp, eventually, on_both_engines};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::control_plane::{ControlPlane, GOOD};
use crate::time::MovableClock;

const UNKNOWN: &str = "7aa08951-00d1-4c3e-9d6a-0123456789ab";

async fn mint(app: &TestApp, body: Value) -> Reply {
    app.post("/org/tokens", body).bearer(ADMIN).send().await
}

/// A token's text and id.
async fn minted(app: &TestApp, body: Value) -> (String, String) {
    let reply = mint(app, body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let (token, id) = (&reply.json()["auth_token"], &reply.json()["id"]);
    (
        token.as_str().expect("a token").to_owned(),
        id.as_str().expect("an id").to_owned(),
    )
}

async fn list(app: &TestApp) -> Value {
    let reply = app.get("/org/tokens").bearer(ADMIN).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

fn patch(app: &TestApp, id: &str, body: Value) -> Request {
    app.request("PATCH", &format!("/org/tokens/{id}"))
        .json(body)
}

on_both_engines! {
    async fn a_minted_token_is_shown_once_listed_by_its_prefix_and_stored_as_a_hash(
        engine: Engine,
    ) {
        let app = strict(engine).start().await;
        let reply = mint(&app, json!({ "name": "ci" })).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        let new = reply.json();
        let names = ["id", "prefix", "name", "auth_token", "warning"];
        assert_eq!(fields(&new), names.into());
        assert_eq!(new["warning"], "copy this token now; it will not be shown again");
        let token = new["auth_token"].as_str().expect("a token");
        assert_eq!(token.len(), 43);
        assert_eq!(new["prefix"], token[..8]);

        let listed = list(&app).await;
        let item = &listed["tokens"][0];
        let names = ["id", "prefix", "name", "created_by", "created_at"];
        assert_eq!((fields(item), &listed["count"]), (names.into(), &json!(1)));
        assert_eq!(
            (&item["id"], &item["name"], &item["created_by"]),
            (&new["id"], &json!("ci"), &json!("admin-token"))
        );
        assert_time(&item["created_at"]);
        let hash = sql_bytes(engine, &Sha256::digest(token.as_bytes()));
        let stored = format!("SELECT count(*) FROM org_api_tokens WHERE token_hash = {hash}");
        assert_eq!(app.database.count(&stored).await, 1);
        assert!(!app.database.dump().await.contains(token));

        // Its first use shows, once it is written.
        assert_eq!(app.get("/workspaces").bearer(token).send().await.status, 200);
        eventually("the use is listed", async || {
            list(&app).await["tokens"][0]["last_used_at"].is_string()
        })
        .await;
        assert_time(&list(&app).await["tokens"][0]["last_used_at"]);
    }

    async fn tokens_are_listed_newest_first_and_revoking_one_counts_at_once(engine: Engine) {
        let app = strict(engine).start().await;
        let (first, id) = minted(&app, json!({ "name": "first" })).await;
        let (second, _) = minted(&app, json!({ "name": "second" })).await;
        let names = |list: &Value| -> Vec<String> {
            let tokens = list["tokens"].as_array().expect("tokens").iter();
            tokens.map(|token| token["name"].as_str().unwrap_or_default().to_owned()).collect()
        };
        assert_eq!(names(&list(&app).await), ["second", "first"]);
        // It is in memory now.
        for _ in 0..2 {
            assert_eq!(app.get("/org/tokens").bearer(&first).send().await.status, 200);
        }
        let path = format!("/org/tokens/{id}");
        let reply = app.delete(&path).bearer(&first).send().await;
        assert_eq!((reply.status, reply.json()), (200, json!({ "revoked": id })));
        let refused = app.get("/org/tokens").bearer(&first).send().await;
        refused.assert_error(401, "invalid admin auth token");
        assert_eq!(app.get("/org/tokens").bearer(&second).send().await.status, 200);
        assert_eq!(names(&list(&app).await), ["second"]);
        for id in [id.as_str(), UNKNOWN, "not-a-uuid", "%FF"] {
            let path = format!("/org/tokens/{id}");
            let reply = app.delete(&path).bearer(ADMIN).send().await;
            let text = reply.text.clone();
            // A path that is no UTF-8 is refused before it is looked up.
            if id != "%FF" {
                reply.assert_error(404, "token not found or already revoked");
            }
            assert!((400..500).contains(&reply.status), "{id}: {} {text}", reply.status);
        }
    }

    async fn a_bad_name_is_refused_and_a_bad_body_counts_as_none(engine: Engine) {
        let app = TestApp::builder(engine).start().await;
        let refused = [
            ("a".repeat(101), "name too long (max 100 chars)"),
            ("ä".repeat(51), "name too long (max 100 chars)"),
            ("x".repeat(1000 * 1000), "name too long (max 100 chars)"),
            ("line\nbreak".to_owned(), "name must not contain control characters"),
            ("nul\0".to_owned(), "name must not contain control characters"),
            ("\u{1b}[31m".to_owned(), "name must not contain control characters"),
            ("ic\u{202e}x".to_owned(), "name must not contain control characters"),
            ("\u{200f}ci".to_owned(), "name must not contain control characters"),
        ];
        for (name, text) in refused {
            mint(&app, json!({ "name": name })).await.assert_error(400, text);
        }
        let too_large = app.post("/org/tokens", json!({ "name": "x".repeat(1 << 20) }));
        too_large.send().await.assert_error(413, "request body too large");
        assert_eq!(list(&app).await["count"], 0);

        let accepted = ["a".repeat(100), "ä".repeat(50), "日本 '; DROP TABLE x; --".to_owned()];
        for name in accepted {
            let reply = mint(&app, json!({ "name": name })).await;
            assert_eq!((reply.status, &reply.json()["name"]), (200, &json!(name)));
        }
        for body in ["", "{", "[]", "null", "\"x\"", r#"{"name":7}"#, r#"{"name":""}"#, "\u{0}"] {
            let reply = app.request("POST", "/org/tokens").body(body).send().await;
            assert_eq!(reply.status, 200, "{body}: {}", reply.text);
            assert!(reply.json().get("name").is_none(), "{body}");
        }
    }

    async fn ten_an_hour_and_caller_are_minted(engine: Engine) {
        let clock = MovableClock::default();
        let app = strict(engine).clock(clock.clock()).start().await;
        let (other, _) = minted(&app, json!({})).await;
        for left in (0..9).rev() {
            let reply = mint(&app, json!({})).await;
            assert_eq!(reply.status, 200, "{}", reply.text);
            assert_eq!(reply.header("x-ratelimit-limit"), Some("10"));
            assert_eq!(reply.header("x-ratelimit-remaining"), Some(&*left.to_string()));
        }
        let reply = mint(&app, json!({})).await;
        reply.assert_error(429, "rate limit exceeded");
        assert_eq!(reply.header("x-ratelimit-remaining"), Some("0"));
        let wait = reply.header("retry-after").expect("Retry-After");
        assert_eq!(reply.json()["retry_after"].to_string(), wait);
        assert_eq!(reply.header("x-ratelimit-reset"), Some(wait));
        let wait: i64 = wait.parse().expect("seconds");
        assert!((3500..=3600).contains(&wait), "{wait}");
        // A forged address is no new caller; another credential is.
        let forged = app.post("/org/tokens", json!({})).header("x-forwarded-for", "1.2.3.4");
        assert_eq!(forged.bearer(ADMIN).send().await.status, 429);
        let reply = app.post("/org/tokens", json!({})).bearer(&other).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        // What it mints is no new caller.
        assert_eq!(reply.header("x-ratelimit-remaining"), Some("9"));
        let child = reply.json()["auth_token"].as_str().expect("a token").to_owned();
        let reply = app.post("/org/tokens", json!({})).bearer(&child).send().await;
        assert_eq!(reply.header("x-ratelimit-remaining"), Some("8"));
        // Strangers do not use anything up.
        assert_eq!(app.post("/org/tokens", json!({})).send().await.status, 401);
        clock.advance_secs(wait + 1);
        assert_eq!(mint(&app, json!({})).await.status, 200);

        let open = TestApp::builder(engine).start().await;
        for _ in 0..12 {
            let reply = open.post("/org/tokens", json!({})).send().await;
            assert_eq!(reply.status, 200);
            assert_eq!(reply.header("x-ratelimit-limit"), Some("unlimited"));
            assert_eq!(reply.header("x-ratelimit-remaining"), None);
        }
    }

    async fn a_token_remembers_who_made_it(engine: Engine) {
        let control_plane = ControlPlane::start().await;
        let app = strict(engine)
            .config(|config| control_plane.configure(config))
            .start()
            .await;
        let (token, _) = minted(&app, json!({ "name": "admin" })).await;
        let by_token = app.post("/org/tokens", json!({ "name": "token" })).bearer(&token);
        assert_eq!(by_token.send().await.status, 200);
        let by_session = app.post("/org/tokens", json!({ "name": "session" }));
        assert_eq!(by_session.header("cookie", GOOD).send().await.status, 200);
        // Any cookie beside a bearer does not make a session of it.
        let by_both = app.post("/org/tokens", json!({ "name": "both" })).bearer(ADMIN);
        assert_eq!(by_both.header("cookie", "theme=dark").send().await.status, 200);
        let listed = list(&app).await;
        let actors: Vec<_> = listed["tokens"].as_array().expect("tokens").iter()
            .map(|token| (token["name"].as_str().unwrap_or_default(), token["created_by"].as_str().unwrap_or_default().to_owned()))
            .collect();
        assert_eq!(actors, [
            ("both", "admin-token".to_owned()),
            ("session", "session".to_owned()),
            ("token", format!("org-token:{}", &token[..8])),
            ("admin", "admin-token".to_owned()),
        ]);
    }

    async fn a_token_is_bound_to_an_organisation_that_exists(engine: Engine) {
        let app = strict(engine).start().await;
        let org = Agent::start(&app, json!({ "name": "org" })).await.id;
        let reply = mint(&app, json!({ "name": "bound", "org_id": org })).await;
        assert_eq!((reply.status, &reply.json()["org_id"]), (200, &json!(org)));
        let bound = reply.json()["auth_token"].as_str().expect("a token").to_owned();

        // What it mints is bound as it is, and to nothing else.
        let reply = app.post("/org/tokens", json!({})).bearer(&bound).send().await;
        assert_eq!((reply.status, &reply.json()["org_id"]), (200, &json!(org)));
        let other = Agent::start(&app, json!({ "name": "other" })).await.id;
        let reply = app.post("/org/tokens", json!({ "org_id": other })).bearer(&bound).send().await;
        reply.assert_error(403, "org access denied");

        for bad in [json!("x"), json!(7), json!([org]), json!(" ")] {
            mint(&app, json!({ "org_id": bad })).await.assert_error(400, "invalid org_id");
        }
        mint(&app, json!({ "org_id": UNKNOWN })).await.assert_error(404, "org not found");
        let removed = format!("UPDATE workspaces SET status = 'removed' WHERE id = {}", sql_id(engine, &other));
        app.database.execute(&removed).await;
        mint(&app, json!({ "org_id": other })).await.assert_error(404, "org not found");
        assert_eq!(list(&app).await["count"], 2);
    }

    async fn the_organisation_of_a_token_can_be_changed(engine: Engine) {
        let app = strict(engine).start().await;
        let org = Agent::start(&app, json!({ "name": "org" })).await.id;
        let (token, id) = minted(&app, json!({ "name": "ci" })).await;
        // It knows itself before and after.
        assert_eq!(app.get("/org/tokens").bearer(&token).send().await.status, 200);
        let reply = patch(&app, &id, json!({ "org_id": org })).bearer(&token).send().await;
        reply.assert_error(403, "org access denied");
        let reply = patch(&app, &id, json!({ "org_id": org })).bearer(ADMIN).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!((&reply.json()["id"], &reply.json()["org_id"]), (&json!(id), &json!(org)));
        assert!(!reply.text.contains(&token));
        let reply = app.post("/org/tokens", json!({})).bearer(&token).send().await;
        assert_eq!(reply.json()["org_id"], json!(org), "the change counts at once");
        let reply = patch(&app, &id, json!({ "org_id": null })).bearer(ADMIN).send().await;
        assert!(reply.status == 200 && reply.json().get("org_id").is_none(), "{}", reply.text);

        // One that is bound takes no other out of its organisation, nor into its own.
        let other = Agent::start(&app, json!({ "name": "other" })).await.id;
        let (_, foreign) = minted(&app, json!({ "org_id": other })).await;
        let (bound, own) = minted(&app, json!({ "org_id": org })).await;
        for taken in [&foreign, &id] {
            let reply = patch(&app, taken, json!({ "org_id": org })).bearer(&bound).send().await;
            reply.assert_error(403, "org access denied");
        }
        let reply = patch(&app, &own, json!({ "org_id": org })).bearer(&bound).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let reply = patch(&app, UNKNOWN, json!({ "org_id": org })).bearer(&bound).send().await;
        reply.assert_error(404, "token not found or already revoked");

        let bad = |body| patch(&app, &id, body).bearer(ADMIN).send();
        bad(json!({})).await.assert_error(400, "invalid request body");
        bad(json!({ "org_id": "x" })).await.assert_error(400, "invalid org_id");
        bad(json!({ "org_id": UNKNOWN })).await.assert_error(404, "org not found");
        for unknown in [UNKNOWN, "x"] {
            let reply = patch(&app, unknown, json!({ "org_id": null })).bearer(ADMIN).send().await;
            reply.assert_error(404, "token not found or already revoked");
        }
        patch(&app, &id, json!({ "org_id": null })).send().await
            .assert_error(401, "admin auth required");
    }
}
