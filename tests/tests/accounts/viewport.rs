//! `/canvas/viewport`.

use molecule_tests::support::{assert_unavailable, strict};
use molecule_tests::{ADMIN, TestApp, on_both_engines};
use serde_json::{Value, json};

async fn put(app: &TestApp, body: Value) {
    let reply = app.request("PUT", "/canvas/viewport").json(body);
    let reply = reply.bearer(ADMIN).send().await;
    assert_eq!(
        (reply.status, reply.json()),
        (200, json!({ "status": "saved" }))
    );
}

/// x, y and zoom.
async fn get(app: &TestApp) -> [f64; 3] {
    let reply = app.get("/canvas/viewport").send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    ["x", "y", "zoom"].map(|name| reply.json()[name].as_f64().expect("a number"))
}

on_both_engines! {
    async fn a_viewport_begins_at_the_origin_and_partial_changes_are_merged(engine: Engine) {
        let app = strict(engine).start().await;
        assert_eq!(get(&app).await, [0.0, 0.0, 1.0]);
        put(&app, json!({})).await;
        assert_eq!(get(&app).await, [0.0, 0.0, 1.0]);
        put(&app, json!({ "x": -12.5 })).await;
        assert_eq!(get(&app).await, [-12.5, 0.0, 1.0]);
        put(&app, json!({ "y": 7, "zoom": 0.25 })).await;
        assert_eq!(get(&app).await, [-12.5, 7.0, 0.25]);
        put(&app, json!({ "x": null, "y": 0, "zoom": null, "other": "ignored" })).await;
        assert_eq!(get(&app).await, [-12.5, 0.0, 0.25]);
        put(&app, json!({ "x": 1e300, "zoom": 5e-324 })).await;
        assert_eq!(get(&app).await, [1e300, 0.0, 5e-324]);
        let (database, dir) = app.shutdown().await;
        let app = strict(engine).start_on(database, dir).await;
        assert_eq!(get(&app).await, [1e300, 0.0, 5e-324]);
        assert_eq!(app.database.count("SELECT count(*) FROM canvas_viewport").await, 1);
    }

    async fn what_is_no_viewport_is_refused_and_changes_nothing(engine: Engine) {
        let app = strict(engine).start().await;
        put(&app, json!({ "x": 1, "y": 2, "zoom": 3 })).await;
        for body in [
            r#"{"zoom":0}"#, r#"{"zoom":-0.0}"#, r#"{"zoom":-1}"#, r#"{"zoom":1e999}"#, r#"{"x":1e999}"#,
            r#"{"y":-1e999}"#, r#"{"x":NaN}"#, r#"{"x":"1"}"#, r#"{"x":[1]}"#, r#"{"x":1"#, "", "[]",
            "[1,2,3]", "null", "\0", r#"{"x":true}"#,
        ] {
            let reply = app.request("PUT", "/canvas/viewport").body(body).bearer(ADMIN);
            reply.send().await.assert_error(400, "invalid viewport data");
        }
        let large = format!(r#"{{"x":1,"pad":"{}"}}"#, "x".repeat(1 << 20));
        let reply = app.request("PUT", "/canvas/viewport").body(large).bearer(ADMIN);
        reply.send().await.assert_error(413, "request body too large");
        assert_eq!(get(&app).await, [1.0, 2.0, 3.0]);
    }

    async fn a_viewport_that_cannot_be_read_is_the_first_one_and_saving_fails_aloud(engine: Engine) {
        let app = strict(engine).start().await;
        put(&app, json!({ "x": 1 })).await;
        app.database.execute("ALTER TABLE canvas_viewport RENAME TO away").await;
        assert_eq!(get(&app).await, [0.0, 0.0, 1.0]);
        let request = || app.request("PUT", "/canvas/viewport").json(json!({ "x": 2 }));
        request().bearer(ADMIN).send().await.assert_error(500, "failed to save viewport");
        app.database.execute("ALTER TABLE org_api_tokens RENAME TO away_too").await;
        assert_unavailable(&request().bearer("garbage").send().await);
        app.database.execute("ALTER TABLE away RENAME TO canvas_viewport").await;
        assert_eq!(get(&app).await, [1.0, 0.0, 1.0]);
    }
}
