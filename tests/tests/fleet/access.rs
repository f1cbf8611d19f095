//! `POST /registry/check-access`.

use molecule_tests::{ADMIN, Engine, TestApp, on_both_engines};
use serde_json::{Value, json};

use crate::support::{Agent, strict};
use crate::{UNKNOWN, adopt, remove, renew_tree, with_strange_fields};

async fn allowed(app: &TestApp, caller: &str, target: &str) -> Value {
    let body = json!({ "caller_id": caller, "target_id": target });
    let reply = app
        .post("/registry/check-access", body)
        .bearer(ADMIN)
        .send()
        .await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

async fn child(app: &TestApp, name: &str, parent: &str) -> String {
    app.create(json!({ "name": name, "parent_id": parent, "external": true }))
        .await
}

async fn root(app: &TestApp, name: &str) -> String {
    app.create(json!({ "name": name, "external": true })).await
}

on_both_engines! {
    async fn relatives_may_talk_and_cousins_may_not(engine: Engine) {
        let app = strict(engine).start().await;
        let (a, b) = (root(&app, "a").await, root(&app, "b").await);
        let (a1, a2) = (child(&app, "a1", &a).await, child(&app, "a2", &a).await);
        let a11 = child(&app, "a11", &a1).await;
        let b1 = child(&app, "b1", &b).await;
        let (yes, no) = (json!({ "allowed": true }), json!({ "allowed": false }));
        let table = [
            (&a, &b, &yes), (&a, &a1, &yes), (&a1, &a2, &yes), (&a, &a11, &yes), (&a1, &a11, &yes),
            (&a11, &a2, &no), (&a1, &b1, &no), (&a1, &b, &no), (&a11, &b, &no),
        ];
        for (one, other, expected) in table {
            assert_eq!(allowed(&app, one, other).await, *expected, "{one} {other}");
            assert_eq!(allowed(&app, other, one).await, *expected, "{other} {one}");
            assert_eq!(allowed(&app, one, one).await, yes);
        }
        // A removed one is unknown from then on, to its siblings too.
        remove(&app, &a2).await;
        assert_eq!(allowed(&app, &a1, &a2).await, no);
        // A new one counts at once.
        let a3 = child(&app, "a3", &a).await;
        assert_eq!(allowed(&app, &a1, &a3).await, yes);
    }

    async fn unknown_ids_talk_to_themselves_only(engine: Engine) {
        let app = strict(engine).start().await;
        let a = root(&app, "a").await;
        let table = [
            (UNKNOWN, UNKNOWN, true),
            (&UNKNOWN.to_uppercase(), UNKNOWN, true),
            (UNKNOWN, &a, false),
            (&a, UNKNOWN, false),
            ("one", "one", true),
            ("one", "two", false),
            ("one", &a, false),
            ("\u{202e}\u{1}", "\u{202e}\u{1}", true),
            ("' OR 1=1 --", &a, false),
        ];
        for (caller, target, expected) in table {
            assert_eq!(allowed(&app, caller, target).await, json!({ "allowed": expected }), "{caller} {target}");
        }
    }

    async fn parents_in_a_circle_end_and_deep_descendants_are_found(engine: Engine) {
        let app = strict(engine).start().await;
        // Given three workspaces that are each other's ancestors, and a chain
        let (a, stranger) = (root(&app, "a").await, root(&app, "stranger").await);
        let b = child(&app, "b", &a).await;
        let c = child(&app, "c", &b).await;
        let mut chain = vec![root(&app, "top").await];
        for depth in 1..=34 {
            let above = chain.last().expect("the one above").clone();
            chain.push(child(&app, &format!("level {depth}"), &above).await);
        }
        adopt(&app, engine, &a, &c).await;
        renew_tree(&app).await;
        // Then the question has an answer
        for (one, other) in [(&a, &b), (&b, &c), (&c, &a)] {
            assert_eq!(allowed(&app, one, other).await, json!({ "allowed": true }));
            assert_eq!(allowed(&app, one, &stranger).await, json!({ "allowed": false }));
        }
        assert_eq!(allowed(&app, &chain[0], &chain[33]).await, json!({ "allowed": true }));
        assert_eq!(allowed(&app, &chain[33], &chain[0]).await, json!({ "allowed": true }));
        assert_eq!(allowed(&app, &chain[0], &chain[34]).await, json!({ "allowed": false }));
    }

    async fn only_somebody_known_may_ask(engine: Engine) {
        let app = strict(engine).start().await;
        let (one, two) = (
            Agent::start(&app, json!({ "name": "one" })).await,
            Agent::start(&app, json!({ "name": "two" })).await,
        );
        let gone = Agent::start(&app, json!({ "name": "gone" })).await;
        remove(&app, &gone.id).await;
        let body = json!({ "caller_id": one.id, "target_id": UNKNOWN });
        let ask = || app.post("/registry/check-access", body.clone());
        ask().send().await.assert_error(401, "missing workspace auth token");
        for bearer in ["garbage", &gone.token] {
            ask().bearer(bearer).send().await.assert_error(401, "invalid workspace auth token");
        }
        for bearer in [ADMIN, &one.token, &two.token] {
            assert_eq!(ask().bearer(bearer).send().await.json(), json!({ "allowed": false }));
        }
        // A body that says nothing is refused after the caller is known.
        app.post("/registry/check-access", json!({})).send().await
            .assert_error(401, "missing workspace auth token");
    }

    async fn every_bad_body_is_refused_with_a_reason(engine: Engine) {
        let app = strict(engine).start().await;
        let table = [
            (json!({}), "caller_id is required"),
            (json!({ "caller_id": "", "target_id": "x" }), "caller_id is required"),
            (json!({ "caller_id": "x" }), "target_id is required"),
            (json!({ "caller_id": "x", "target_id": "" }), "target_id is required"),
        ];
        for (body, detail) in table {
            let reply = app.post("/registry/check-access", body.clone()).bearer(ADMIN).send().await;
            reply.assert_error(400, "invalid request body");
            assert_eq!(reply.json()["detail"], detail, "{body}");
        }
        for body in ["", "[]", "{", r#"{"caller_id":1,"target_id":2}"#] {
            app.request("POST", "/registry/check-access").body(body).bearer(ADMIN).send().await
                .assert_error(400, "invalid request body");
        }
        let large = json!({ "caller_id": "x".repeat(1024 * 1024), "target_id": "y" });
        app.post("/registry/check-access", large).bearer(ADMIN).send().await
            .assert_error(413, "request body too large");
        let strange = with_strange_fields(json!({ "caller_id": "x", "target_id": "x" }));
        let reply = app.post("/registry/check-access", strange).bearer(ADMIN).send().await;
        assert_eq!(reply.json(), json!({ "allowed": true }));
    }

    async fn a_tree_that_cannot_be_read_is_no_answer(engine: Engine) {
        let app = strict(engine).start().await;
        let (a, b) = (root(&app, "a").await, root(&app, "b").await);
        app.database.execute("ALTER TABLE workspaces RENAME COLUMN parent_id TO away").await;
        let body = json!({ "caller_id": a, "target_id": b });
        app.post("/registry/check-access", body).bearer(ADMIN).send().await
            .assert_error(500, "lookup failed");
        app.database.execute("ALTER TABLE workspaces RENAME COLUMN away TO parent_id").await;
        assert_eq!(allowed(&app, &a, &b).await, json!({ "allowed": true }));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_development_everybody_may_ask() {
    let app = TestApp::builder(Engine::Sqlite).start().await;
    let body = json!({ "caller_id": UNKNOWN, "target_id": UNKNOWN });
    for request in [
        app.post("/registry/check-access", body.clone()),
        app.post("/registry/check-access", body.clone())
            .bearer("garbage"),
    ] {
        let reply = request.send().await;
        assert_eq!(
            (reply.status, reply.text.as_str()),
            (200, r#"{"allowed":true}"#)
        );
    }
}
