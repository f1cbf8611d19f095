//! The routes of global secrets, under both names.

use molecule_tests::support::{Agent, assert_time, fields, strict};
use molecule_tests::{ADMIN, on_both_engines};
use serde_json::json;

use crate::requests::{admin, set};

on_both_engines! {
    async fn a_global_secret_is_written_listed_and_deleted_under_both_names(engine: Engine) {
        let app = strict(engine).start().await;
        for (path, other) in [("/settings/secrets", "/admin/secrets"), ("/admin/secrets", "/settings/secrets")] {
            assert_eq!(admin(&app, "GET", path).await.json(), json!([]));
            let reply = set(&app, path, "K", "the-value").await;
            let saved = json!({ "status": "saved", "key": "K", "scope": "global" });
            assert_eq!((reply.status, reply.json()), (200, saved));
            let reply = admin(&app, "GET", other).await;
            assert!(!reply.text.contains("the-value"), "{}", reply.text);
            let list = reply.json();
            assert_eq!(list.as_array().map(Vec::len), Some(1));
            let item = &list[0];
            assert_eq!(fields(item), ["created_at", "has_value", "key", "scope", "updated_at"].into());
            assert_eq!((&item["key"], &item["has_value"], &item["scope"]), (&json!("K"), &json!(true), &json!("global")));
            assert_time(&item["created_at"]);
            let reply = admin(&app, "DELETE", &format!("{other}/K")).await;
            let deleted = json!({ "status": "deleted", "key": "K", "scope": "global" });
            assert_eq!((reply.status, reply.json()), (200, deleted));
            admin(&app, "DELETE", &format!("{path}/K")).await.assert_error(404, "secret not found");
            for key in ["%00", "%FF", "a%2Fb"] {
                admin(&app, "DELETE", &format!("{path}/{key}")).await.assert_error(404, "secret not found");
            }
        }
        let body = json!({ "key": "K", "value": "again" });
        let reply = app.request("PUT", "/settings/secrets").json(body).bearer(ADMIN).send().await;
        assert_eq!((reply.status, &reply.json()["scope"]), (200, &json!("global")));
        app.shutdown().await;
    }

    async fn agents_may_not_touch_global_secrets(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        let body = json!({ "key": "K", "value": "v" });
        for (method, path) in [
            ("GET", "/settings/secrets"), ("POST", "/settings/secrets"), ("PUT", "/settings/secrets"),
            ("DELETE", "/settings/secrets/K"), ("GET", "/settings/secrets/K/dependents"),
            ("GET", "/admin/secrets"), ("POST", "/admin/secrets"), ("DELETE", "/admin/secrets/K"),
            ("POST", "/secrets/validate"),
        ] {
            let request = || match method {
                "POST" | "PUT" => app.request(method, path).json(body.clone()),
                _ => app.request(method, path),
            };
            request().send().await.assert_error(401, "admin auth required");
            request().bearer(&agent.token).send().await.assert_error(401, "invalid admin auth token");
        }
        assert_eq!(admin(&app, "GET", "/settings/secrets").await.json(), json!([]));
        app.shutdown().await;
    }

    async fn there_are_at_most_256_global_secrets(engine: Engine) {
        let app = strict(engine).start().await;
        for number in 0..256 {
            assert_eq!(set(&app, "/settings/secrets", &format!("KEY_{number}"), "v").await.status, 200);
        }
        let reply = set(&app, "/settings/secrets", "ONE_MORE", "v").await;
        reply.assert_error(400, "invalid request body");
        assert!(reply.json()["detail"].as_str().is_some_and(|text| text.contains("256")), "{}", reply.text);
        // One that is there may change
        assert_eq!(set(&app, "/settings/secrets", "KEY_0", "w").await.status, 200);
        assert_eq!(admin(&app, "DELETE", "/settings/secrets/KEY_1").await.status, 200);
        assert_eq!(set(&app, "/settings/secrets", "ONE_MORE", "v").await.status, 200);
        app.shutdown().await;
    }
}
