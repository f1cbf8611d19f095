//! The routes of a workspace's own secrets.

use molecule_tests::support::{Agent, assert_time, fields, strict};
use molecule_tests::{ADMIN, Engine, TestApp, on_both_engines};
use serde_json::{Value, json};

use crate::requests::{NOBODY, admin, assert_saved, set, with_secrets, workspace};

/// Every route below a workspace, with a body that is right.
fn routes(id: &str) -> Vec<(&'static str, String, Option<Value>)> {
    let secret = json!({ "key": "KEY", "value": "v" });
    let at = |rest: &str| format!("/workspaces/{id}/{rest}");
    vec![
        ("GET", at("secrets"), None),
        ("POST", at("secrets"), Some(secret.clone())),
        ("PUT", at("secrets"), Some(secret)),
        ("DELETE", at("secrets/KEY"), None),
        ("GET", at("secrets/values"), None),
        ("DELETE", at("secrets/values"), None),
        ("GET", at("secrets/KEY/dependents"), None),
        ("GET", at("model"), None),
        ("PUT", at("model"), Some(json!({ "model": "a/b" }))),
    ]
}

on_both_engines! {
    async fn a_secret_is_written_listed_overwritten_and_deleted(engine: Engine) {
        let app = strict(engine).start().await;
        let (id, path) = workspace(&app, "one").await;
        // Nothing yet
        assert_eq!(admin(&app, "GET", &path).await.json(), json!([]));
        // Written with POST, overwritten with PUT
        let reply = set(&app, &path, "API_KEY", "first-value").await;
        assert_eq!((reply.status, reply.json()), (200, json!({ "status": "saved", "key": "API_KEY" })));
        let first = admin(&app, "GET", &path).await.json();
        let body = json!({ "key": "API_KEY", "value": "second-value" });
        let reply = app.request("PUT", &path).json(body).bearer(ADMIN).send().await;
        assert_eq!((reply.status, reply.json()), (200, json!({ "status": "saved", "key": "API_KEY" })));
        // Listed without the value
        let reply = admin(&app, "GET", &path).await;
        assert!(!reply.text.contains("-value"), "{}", reply.text);
        let list = reply.json();
        let item = &list[0];
        assert_eq!(fields(item), ["created_at", "has_value", "key", "scope", "updated_at"].into());
        assert_eq!((&item["key"], &item["has_value"], &item["scope"]), (&json!("API_KEY"), &json!(true), &json!("workspace")));
        assert_time(&item["created_at"]);
        assert_time(&item["updated_at"]);
        assert_eq!(item["created_at"], first[0]["created_at"]);
        assert_ne!(item["updated_at"], first[0]["updated_at"]);
        // Deleted once
        let path = format!("/workspaces/{id}/secrets/API_KEY");
        let reply = admin(&app, "DELETE", &path).await;
        assert_eq!((reply.status, reply.json()), (200, json!({ "status": "deleted", "key": "API_KEY" })));
        admin(&app, "DELETE", &path).await.assert_error(404, "secret not found");
        app.shutdown().await;
    }

    async fn the_list_has_own_keys_by_name_and_then_the_inherited_ones(engine: Engine) {
        let app = strict(engine).start().await;
        for key in ["SHARED", "_UNDER", "b_lower", "ZED", "Mixed"] {
            assert_saved(&set(&app, "/settings/secrets", key, "global").await, key);
        }
        let own = json!({ "SHARED": "mine", "b": "1", "B": "2", "_A": "3", "A_1": "4" });
        let (_, path) = with_secrets(&app, "one", own).await;
        let list = admin(&app, "GET", &path).await.json();
        let shown: Vec<(&str, &str)> = list.as_array().expect("a list").iter()
            .map(|item| (item["key"].as_str().expect("a key"), item["scope"].as_str().expect("a scope")))
            .collect();
        // In the order of the bytes, whatever language the database speaks
        assert_eq!(shown, [
            ("A_1", "workspace"), ("B", "workspace"), ("SHARED", "workspace"), ("_A", "workspace"), ("b", "workspace"),
            ("Mixed", "global"), ("ZED", "global"), ("_UNDER", "global"), ("b_lower", "global"),
        ]);
        app.shutdown().await;
    }

    async fn an_id_that_is_no_lower_case_uuid_is_refused_by_every_route(engine: Engine) {
        let app = strict(engine).start().await;
        let id = Agent::start(&app, json!({ "name": "one" })).await.id;
        let before = app.database.dump().await;
        for bad in ["x", &id.to_uppercase(), &id.replace('-', ""), &format!("%7B{id}%7D"), "%00", "%FF", "null"] {
            if bad == id {
                continue;
            }
            for (method, path, body) in routes(bad) {
                let request = app.request(method, &path).bearer(ADMIN);
                let reply = match body {
                    Some(body) => request.json(body),
                    None => request,
                }.send().await;
                // Bytes that are no text do not even reach the administrator's check.
                match (bad, reply.status) {
                    ("%FF", 401) => {}
                    _ => reply.assert_error(400, "invalid workspace ID"),
                }
            }
        }
        assert_eq!(app.database.dump().await, before);
        app.shutdown().await;
    }

    async fn an_unknown_or_removed_workspace_is_not_found_by_any_route(engine: Engine) {
        let app = strict(engine).start().await;
        let (removed, _) = with_secrets(&app, "gone", json!({ "KEY": "v", "values": "w" })).await;
        assert_eq!(admin(&app, "DELETE", &format!("/workspaces/{removed}")).await.status, 200);
        for id in [NOBODY, &removed] {
            for (method, path, body) in routes(id) {
                let request = app.request(method, &path).bearer(ADMIN);
                let reply = match body {
                    Some(body) => request.json(body),
                    None => request,
                }.send().await;
                assert_eq!((reply.status, reply.error()), (404, "workspace not found".to_owned()), "{method} {path}");
            }
        }
        app.shutdown().await;
    }

    async fn only_the_workspace_itself_and_administrators_get_in(engine: Engine) {
        let app = strict(engine).start().await;
        let (own, other) = (
            Agent::start(&app, json!({ "name": "own" })).await,
            Agent::start(&app, json!({ "name": "other" })).await,
        );
        for (method, path, body) in routes(&own.id) {
            for bearer in [None, Some(&other.token), Some(&"nonsense".to_owned())] {
                let mut request = app.request(method, &path);
                if let Some(body) = &body {
                    request = request.json(body.clone());
                }
                if let Some(bearer) = bearer {
                    request = request.bearer(bearer);
                }
                let reply = request.send().await;
                let text = match bearer {
                    None => "missing workspace auth token",
                    Some(_) => "invalid workspace auth token",
                };
                assert_eq!((reply.status, reply.error().as_str()), (401, text), "{method} {path}");
            }
        }
        let list = format!("/workspaces/{}/secrets", own.id);
        let reply = app.get(&list).bearer(&own.token).send().await;
        assert_eq!((reply.status, reply.json()), (200, json!([])));
        app.shutdown().await;
    }

    async fn a_key_that_nobody_could_have_stored_is_not_found(engine: Engine) {
        let app = strict(engine).start().await;
        let (id, path) = with_secrets(&app, "one", json!({ "values": "v", "dependents": "v" })).await;
        let long = "x".repeat(4000);
        for key in ["NO", "no%20key", "%00", "a%00b", "%E2%80%AEKEY", "KEY%0A", "..%2F", "'%20OR%201=1", long.as_str()] {
            let path = format!("/workspaces/{id}/secrets/{key}");
            admin(&app, "DELETE", &path).await.assert_error(404, "secret not found");
        }
        // Keys that are called like routes are keys all the same
        for key in ["values", "dependents"] {
            let reply = admin(&app, "DELETE", &format!("{path}/{key}")).await;
            assert_eq!((reply.status, reply.json()), (200, json!({ "status": "deleted", "key": key })));
            admin(&app, "DELETE", &format!("{path}/{key}")).await.assert_error(404, "secret not found");
        }
        app.shutdown().await;
    }

    async fn a_database_that_refuses_is_told_by_the_documented_texts(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        let path = format!("/workspaces/{}/secrets", agent.id);
        let model = format!("/workspaces/{}/model", agent.id);
        app.database.execute("ALTER TABLE workspace_secrets RENAME TO elsewhere").await;
        admin(&app, "GET", &path).await.assert_error(500, "query failed");
        admin(&app, "GET", &model).await.assert_error(500, "query failed");
        app.get(&format!("{path}/values")).bearer(&agent.token).send().await.assert_error(500, "query failed");
        set(&app, &path, "KEY", "value").await.assert_error(500, "failed to save secret");
        admin(&app, "DELETE", &format!("{path}/KEY")).await.assert_error(500, "failed to delete secret");
        for (body, text) in [("a/b", "failed to save model"), ("", "failed to clear model")] {
            let body = json!({ "model": body });
            let reply = app.request("PUT", &model).json(body).bearer(ADMIN).send().await;
            reply.assert_error(500, text);
        }
        app.database.execute("ALTER TABLE elsewhere RENAME TO workspace_secrets").await;
        // Nothing of global secrets is left out silently either
        app.database.execute("ALTER TABLE global_secrets RENAME TO elsewhere").await;
        admin(&app, "GET", &path).await.assert_error(500, "query failed");
        app.get(&format!("{path}/values")).bearer(&agent.token).send().await.assert_error(500, "query failed");
        for path in ["/settings/secrets", "/admin/secrets"] {
            admin(&app, "GET", path).await.assert_error(500, "query failed");
            set(&app, path, "KEY", "value").await.assert_error(500, "failed to save");
            admin(&app, "DELETE", &format!("{path}/KEY")).await.assert_error(500, "failed to delete");
        }
        app.database.execute("ALTER TABLE elsewhere RENAME TO global_secrets").await;
        app.shutdown().await;
    }

    async fn what_is_stored_is_encrypted_and_bound_to_its_place(engine: Engine) {
        const VALUE: &str = "a-value-that-must-not-be-readable";
        let app = strict(engine).start().await;
        let (one, one_path) = workspace(&app, "one").await;
        let two = Agent::start(&app, json!({ "name": "two" })).await;
        assert_saved(&set(&app, &one_path, "KEY", VALUE).await, "KEY");
        assert_saved(&set(&app, "/settings/secrets", "OTHER", VALUE).await, "OTHER");
        assert!(!app.database.dump().await.contains(VALUE));
        // A row moved to another workspace does not open there
        let (from, to) = [(&one, &two.id)].map(|(a, b)| (
            molecule_tests::support::sql_id(engine, a), molecule_tests::support::sql_id(engine, b),
        ))[0].clone();
        let sql = format!("UPDATE workspace_secrets SET workspace_id = {to} WHERE workspace_id = {from}");
        app.database.execute(&sql).await;
        let reply = app.get(&format!("/workspaces/{}/secrets/values", two.id)).bearer(&two.token).send().await;
        assert_eq!((reply.status, &reply.json()["failed_keys"]), (500, &json!(["workspace:KEY"])), "{}", reply.text);
        app.shutdown().await;
    }
}

/// The document tells of every route, with the statuses that the tests above saw.
#[tokio::test]
async fn the_document_describes_the_routes() {
    let app = TestApp::builder(Engine::Sqlite).start().await;
    let document = app.get("/openapi.json").send().await.json();
    for (method, path, _) in routes("{id}") {
        let path = path.replace("/KEY", "/{key}");
        let responses = &document["paths"][&path][method.to_lowercase()]["responses"];
        for status in ["200", "400", "401", "404", "500", "503"] {
            assert!(responses[status].is_object(), "{method} {path}: {status}");
        }
    }
    let validate = &document["paths"]["/secrets/validate"]["post"];
    assert!(validate["responses"]["200"].is_object());
    app.shutdown().await;
}
