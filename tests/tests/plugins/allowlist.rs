//! `/orgs/{id}/plugins/allowlist`, and what it keeps out.

use molecule_tests::support::{Agent, assert_time, fields};
use molecule_tests::{ADMIN, Reply, TestApp, on_both_engines};
use serde_json::{Value, json};

use crate::ground::{install, installed, put_usual, rows, server};

const UNKNOWN: &str = "7aa08951-00d1-4c3e-9d6a-0123456789ab";

fn path(org: &str) -> String {
    format!("/orgs/{org}/plugins/allowlist")
}

async fn put_list(app: &TestApp, org: &str, body: Value) -> Reply {
    let request = app.request("PUT", &path(org)).json(body);
    request.bearer(ADMIN).send().await
}

async fn allow(app: &TestApp, org: &str, plugins: &[&str]) {
    let body = json!({ "plugins": plugins, "enabled_by": "ops" });
    let reply = put_list(app, org, body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

async fn get_list(app: &TestApp, org: &str) -> Value {
    let reply = app.get(&path(org)).bearer(ADMIN).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

/// A token of an organisation, or of none.
async fn org_token(app: &TestApp, org: Option<&str>) -> String {
    let body = match org {
        Some(org) => json!({ "name": "t", "org_id": org }),
        None => json!({ "name": "t" }),
    };
    let reply = app.post("/org/tokens", body).bearer(ADMIN).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()["auth_token"]
        .as_str()
        .expect("a token")
        .to_owned()
}

on_both_engines! {
    async fn a_list_is_replaced_whole_and_shown_by_name(engine: Engine) {
        let app = server(engine).start().await;
        let org = app.create(json!({ "name": "org" })).await;
        let empty = json!({ "org_id": org, "plugins": [], "allow_all": true });
        assert_eq!(get_list(&app, &org).await, empty);
        let body = json!({ "plugins": ["b", "a", "b", "A.z"], "enabled_by": " ops " });
        let reply = put_list(&app, &org, body).await;
        let wanted = json!({ "org_id": org, "plugins": ["A.z", "a", "b"], "allow_all": false });
        assert_eq!((reply.status, reply.json()), (200, wanted));
        let listed = get_list(&app, &org).await;
        assert_eq!(listed["allow_all"], false);
        let names: Vec<&Value> =
            listed["plugins"].as_array().expect("a list").iter().map(|p| &p["plugin_name"]).collect();
        assert_eq!(names, ["A.z", "a", "b"]);
        let first = &listed["plugins"][0];
        assert_eq!(fields(first), ["plugin_name", "enabled_by", "enabled_at"].into());
        assert_eq!(first["enabled_by"], "ops");
        assert_time(&first["enabled_at"]);
        allow(&app, &org, &["c"]).await;
        assert_eq!(get_list(&app, &org).await["plugins"][0]["plugin_name"], "c");
        allow(&app, &org, &[]).await;
        assert_eq!(get_list(&app, &org).await, empty);
    }

    async fn requests_are_refused_in_the_order_of_the_contract(engine: Engine) {
        let app = server(engine).start().await;
        let org = app.create(json!({ "name": "org" })).await;
        let token = org_token(&app, None).await;
        let put = |org: &str, body: Value| {
            app.request("PUT", &path(org)).json(body).bearer(&token)
        };
        let reply = app.request("PUT", &path(UNKNOWN)).body("{").bearer(&token).send().await;
        reply.assert_error(400, "invalid request body");
        let reply = put(UNKNOWN, json!({ "plugins": "x", "enabled_by": "ops" })).send().await;
        reply.assert_error(400, "invalid request body");
        for by in [json!({}), json!({ "enabled_by": null }), json!({ "enabled_by": " ", "plugins": ["../x"] })] {
            put(UNKNOWN, by).send().await.assert_error(400, "enabled_by is required");
        }
        for name in ["", "..", "a/b", "a b", "$(id)", "it's", ".hidden", "a\n", "é"] {
            let reply = put(UNKNOWN, json!({ "plugins": ["ok", name], "enabled_by": "ops" })).send().await;
            reply.assert_error(400, "invalid plugin name");
            assert_eq!(reply.json()["plugin_name"], name);
            assert!(reply.json()["detail"].is_string());
        }
        let many: Vec<String> = (0..1001).map(|n| format!("p{n}")).collect();
        let reply = put(&org, json!({ "plugins": many, "enabled_by": "ops" })).send().await;
        reply.assert_error(400, "invalid request body");
        let fine = || json!({ "plugins": ["a"], "enabled_by": "ops" });
        for unknown in [UNKNOWN, "no-uuid"] {
            put(unknown, fine()).send().await.assert_error(404, "org not found");
            app.get(&path(unknown)).bearer(&token).send().await.assert_error(404, "org not found");
        }
        put(&org, fine()).send().await.assert_error(403, "org access denied");
        app.get(&path(&org)).bearer(&token).send().await.assert_error(403, "org access denied");
        assert_eq!(app.get(&path(&org)).send().await.status, 401);
        assert_eq!(get_list(&app, &org).await["allow_all"], true);
    }

    async fn a_token_of_an_organisation_sees_its_own_list_only(engine: Engine) {
        let app = server(engine).start().await;
        let org = app.create(json!({ "name": "org" })).await;
        let other = app.create(json!({ "name": "other" })).await;
        let token = org_token(&app, Some(&org)).await;
        let body = json!({ "plugins": ["a"], "enabled_by": "ops" });
        for (asked, status) in [(&org, 200), (&other, 403)] {
            let reply = app.get(&path(asked)).bearer(&token).send().await;
            assert_eq!(reply.status, status, "{}", reply.text);
            let reply = app.request("PUT", &path(asked)).json(body.clone()).bearer(&token).send().await;
            assert_eq!(reply.status, status, "{}", reply.text);
        }
    }

    async fn the_list_of_the_root_counts_at_every_depth(engine: Engine) {
        let app = server(engine).start().await;
        for plugin in ["good", "bad"] {
            put_usual(&app, plugin, "1.0");
        }
        let root = Agent::online(&app, json!({ "name": "root" })).await;
        let child = Agent::online(&app, json!({ "name": "child", "parent_id": root.id })).await;
        let grandchild = Agent::online(&app, json!({ "name": "grandchild", "parent_id": child.id })).await;
        let stranger = Agent::online(&app, json!({ "name": "stranger" })).await;
        allow(&app, &root.id, &["good"]).await;
        // Not the one at the top: it counts for nobody.
        allow(&app, &child.id, &["bad"]).await;
        for agent in [&root, &child, &grandchild] {
            let reply = install(&app, &agent.id, json!({ "source": "bad" })).await;
            reply.assert_error(403, "plugin \"bad\" is not in the org allowlist");
            // Whoever asks.
            let path = format!("/workspaces/{}/plugins", agent.id);
            let body = json!({ "source": "bad" });
            assert_eq!(app.post(&path, body).bearer(&agent.token).send().await.status, 403);
            installed(&app, &agent.id, "good").await;
        }
        installed(&app, &stranger.id, "bad").await;
        assert_eq!(rows(&app, &grandchild.id, "workspace_plugins").await, 1);
        allow(&app, &root.id, &[]).await;
        installed(&app, &grandchild.id, "bad").await;
    }

    async fn a_list_that_cannot_be_read_lets_through_or_keeps_out_as_configured(engine: Engine) {
        for closed in [false, true] {
            let app = server(engine)
                .config(|config| config.plugins.allowlist_fail_closed = closed)
                .start()
                .await;
            put_usual(&app, "careful", "1.0");
            let agent = Agent::online(&app, json!({ "name": "one" })).await;
            app.database.execute("DROP TABLE org_plugin_allowlist").await;
            let reply = install(&app, &agent.id, json!({ "source": "careful", "restart": false })).await;
            match closed {
                false => assert_eq!(reply.status, 200, "{}", reply.text),
                true => molecule_tests::support::assert_unavailable(&reply),
            }
            let reply = app.get(&path(&agent.id)).bearer(ADMIN).send().await;
            reply.assert_error(500, "failed to fetch allowlist");
            let reply = put_list(&app, &agent.id, json!({ "plugins": [], "enabled_by": "ops" })).await;
            reply.assert_error(500, "failed to update allowlist");
        }
    }

    async fn two_that_replace_one_list_at_once_never_mix(engine: Engine) {
        let app = server(engine).start().await;
        let org = app.create(json!({ "name": "org" })).await;
        let puts = (0..8).map(|n| {
            let (one, two) = (format!("one-{n}"), format!("two-{n}"));
            let body = json!({ "plugins": [one, two], "enabled_by": "ops" });
            put_list(&app, &org, body)
        });
        for reply in futures_util::future::join_all(puts).await {
            assert_eq!(reply.status, 200, "{}", reply.text);
        }
        let listed = get_list(&app, &org).await;
        let names: Vec<&str> = listed["plugins"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|plugin| plugin["plugin_name"].as_str())
            .collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(names[0][4..], names[1][4..]);
    }
}
