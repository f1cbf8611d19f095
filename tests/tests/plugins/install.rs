//! `POST /workspaces/{id}/plugins`.

use std::time::Duration;

use molecule_tests::fake_plugins::{PluginCall, PluginFault};
use molecule_tests::support::{Agent, fields, recorded, seen, set_status};
use molecule_tests::{ADMIN, Engine, eventually, on_both_engines};
use serde_json::{Value, json};

use crate::ground::{agent, column, install, installed, put, put_usual, rows, server, set};
use crate::shelf::{Shelf, sha};

const UNKNOWN: &str = "7aa08951-00d1-4c3e-9d6a-0123456789ab";

on_both_engines! {
    async fn a_plugin_is_delivered_marked_recorded_and_the_agent_restarted(engine: Engine) {
        let app = server(engine).start().await;
        put_usual(&app, "careful", "1.0");
        let agent = agent(&app).await;
        let mut events = app.events();
        let path = format!("/workspaces/{}/plugins", agent.id);
        let body = json!({ "source": "careful", "track": "none" });
        // Its own token is enough.
        let reply = app.post(&path, body).bearer(&agent.token).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let answer = reply.json();
        let names = [
            "status", "plugin", "source", "installed_sha", "tree_sha256", "restarting", "unchanged",
            "restart_reason", "restart_detail",
        ];
        assert_eq!(fields(&answer), names.into());
        let digest = answer["tree_sha256"].as_str().expect("a digest");
        assert_eq!(digest.len(), 64);
        for (field, value) in [
            ("status", json!("installed")),
            ("plugin", json!("careful")),
            ("source", json!("local://careful")),
            ("installed_sha", Value::Null),
            ("restarting", json!(true)),
            ("unchanged", json!(false)),
            ("restart_reason", json!("cold")),
            ("restart_detail", json!("the plugin was not there before")),
        ] {
            assert_eq!(answer[field], value, "{field}");
        }
        let plugins = &app.backend.plugins;
        assert_eq!(plugins.file(&agent.id, "careful", "rules/a.md").as_deref(), Some("1.0"));
        let marker = plugins.marker(&agent.id, "careful");
        assert_eq!(marker["tree_sha256"], digest);
        assert_eq!((&marker["version"], &marker["name"]), (&json!(1), &json!("careful")));
        assert_eq!((&marker["source"], &marker["sha"]), (&json!("local://careful"), &Value::Null));

        for (name, value) in [
            ("source_raw", "local://careful"),
            ("tracked_ref", "none"),
            ("installed_sha", "-"),
            ("update_mode", "notify"),
            ("tree_sha256", digest),
            ("delivered_to", &format!("fake-{}", agent.id)),
            ("delivery_error", "-"),
        ] {
            assert_eq!(column(&app, &agent.id, "careful", name).await, value, "{name}");
        }
        assert_eq!(rows(&app, &agent.id, "plugin_operations").await, 0);
        eventually("the agent restarts", async || app.backend.starts_of(&agent.id).len() == 2).await;
        let told = seen(&mut events, &agent.id);
        let told = told.iter().find(|(event, _)| *event == "WORKSPACE_PLUGIN_INSTALLED");
        let (_, payload) = told.expect("an event");
        assert_eq!((&payload["plugin"], &payload["restarting"]), (&json!("careful"), &json!(true)));
        assert_eq!(recorded(&app, "WORKSPACE_PLUGIN_INSTALLED").await, 1);
    }

    async fn an_exact_revision_and_what_it_follows_are_recorded_and_replaced(engine: Engine) {
        let shelf = Shelf::default();
        shelf.set("acme/tool", "tag:v1", &sha('1'));
        shelf.put("acme/tool", &sha('1'), &[("plugin.yaml", "version: '1'")]);
        let app = server(engine).registry(shelf.registry()).start().await;
        let agent = agent(&app).await;
        let body = json!({
            "source": " shelf://acme/tool#tag:v1 ", "track": " tag:latest ", "update_mode": "auto", "restart": false,
        });
        let reply = install(&app, &agent.id, body).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(reply.json()["installed_sha"], sha('1'));
        assert_eq!(reply.json()["restarting"], false);
        let first = column(&app, &agent.id, "tool", "installed_at").await;
        for (name, value) in [
            ("source_raw", "shelf://acme/tool#tag:v1"),
            ("tracked_ref", "tag:latest"),
            ("installed_sha", &sha('1')),
            ("update_mode", "auto"),
        ] {
            assert_eq!(column(&app, &agent.id, "tool", name).await, value, "{name}");
        }
        assert_eq!(app.backend.plugins.marker(&agent.id, "tool")["sha"], sha('1'));

        // The same tree, which now follows nothing: written down, not delivered.
        let body = json!({ "source": "shelf://acme/tool#sha:1111111111111111111111111111111111111111" });
        let reply = install(&app, &agent.id, body).await;
        assert_eq!((reply.status, &reply.json()["unchanged"]), (200, &json!(true)));
        assert_eq!(column(&app, &agent.id, "tool", "tracked_ref").await, "none");
        assert_eq!(column(&app, &agent.id, "tool", "update_mode").await, "notify");
        assert_eq!(column(&app, &agent.id, "tool", "installed_at").await, first);
        assert_eq!(app.backend.plugins.calls(PluginCall::Deliver), 1);
        assert_eq!(rows(&app, &agent.id, "workspace_plugins").await, 1);
    }

    async fn a_tree_that_is_there_costs_no_look_at_the_daemon(engine: Engine) {
        let app = server(engine).start().await;
        put_usual(&app, "careful", "1.0");
        let agent = agent(&app).await;
        installed(&app, &agent.id, "careful").await;
        let (calls, looks) = (app.backend.plugins.all_calls(), app.backend.looks());
        for _ in 0..3 {
            let reply = install(&app, &agent.id, json!({ "source": "local://careful" })).await;
            let answer = reply.json();
            assert_eq!((reply.status, &answer["status"]), (200, &json!("installed")));
            assert_eq!((&answer["unchanged"], &answer["restarting"]), (&json!(true), &json!(false)));
            assert_eq!(answer["restart_reason"], "unchanged");
        }
        assert_eq!((app.backend.plugins.all_calls(), app.backend.looks()), (calls, looks));
        assert_eq!(app.backend.starts_of(&agent.id).len(), 1, "no restart");

        // Whoever insists gets it again.
        let body = json!({ "source": "careful", "force": true, "restart": false });
        let reply = install(&app, &agent.id, body).await;
        assert_eq!((reply.status, &reply.json()["unchanged"]), (200, &json!(false)));
        assert_eq!(app.backend.plugins.calls(PluginCall::Deliver), 2);
    }

    async fn another_instance_is_looked_at_before_it_is_believed(engine: Engine) {
        let app = server(engine).start().await;
        put_usual(&app, "careful", "1.0");
        let agent = agent(&app).await;
        installed(&app, &agent.id, "careful").await;
        let plugins = &app.backend.plugins;

        // Its volume outlived it.
        set(&app, &agent.id, "instance_id = 'another'").await;
        let answer = installed(&app, &agent.id, "careful").await;
        assert_eq!(answer["unchanged"], true);
        assert_eq!(plugins.calls(PluginCall::Deliver), 1);
        assert_eq!((plugins.calls(PluginCall::Files), plugins.calls(PluginCall::List)), (2, 1));
        assert_eq!(column(&app, &agent.id, "careful", "delivered_to").await, "another");
        let calls = plugins.all_calls();
        assert_eq!(installed(&app, &agent.id, "careful").await["unchanged"], true);
        assert_eq!(plugins.all_calls(), calls, "now it is known");

        // Somebody changed a file in it.
        set(&app, &agent.id, "instance_id = 'a third'").await;
        let marker = plugins.marker(&agent.id, "careful").to_string();
        let files = [("plugin.yaml", "x"), ("skills/one/SKILL.md", "do one"), ("rules/a.md", "1.0")];
        plugins.plant(&agent.id, "careful", &files, Some(&marker));
        let answer = installed(&app, &agent.id, "careful").await;
        assert_eq!((&answer["unchanged"], &answer["restart_reason"]), (&json!(false), &json!("cold")));

        // It is gone.
        set(&app, &agent.id, "instance_id = 'a fourth'").await;
        plugins.lose(&agent.id, "careful");
        let answer = installed(&app, &agent.id, "careful").await;
        assert_eq!(answer["restart_detail"], "the plugin was not there before");
        assert_eq!(plugins.names(&agent.id), ["careful"]);

        // The files are right and nothing says that they are whole.
        set(&app, &agent.id, "instance_id = 'a fifth'").await;
        let manifest = plugins.file(&agent.id, "careful", "plugin.yaml").expect("a manifest");
        let files = [("plugin.yaml", &*manifest), ("skills/one/SKILL.md", "do one"), ("rules/a.md", "1.0")];
        plugins.plant(&agent.id, "careful", &files, None);
        assert_eq!(installed(&app, &agent.id, "careful").await["unchanged"], false);
        assert_ne!(plugins.marker(&agent.id, "careful"), Value::Null);
    }

    async fn a_delivery_that_did_not_end_is_never_taken_for_granted(engine: Engine) {
        let app = server(engine).start().await;
        put_usual(&app, "careful", "1.0");
        let agent = agent(&app).await;
        installed(&app, &agent.id, "careful").await;
        put_usual(&app, "careful", "2.0");
        app.backend.plugins.set_fault(PluginFault::DeliverPanics);
        let reply = install(&app, &agent.id, json!({ "source": "careful" })).await;
        reply.assert_error(500, "plugin deliver failed");
        // The row still has the digest of 1.0, and 2.0 lies in the workspace.
        assert_eq!(column(&app, &agent.id, "careful", "delivered_to").await, "-");
        put_usual(&app, "careful", "1.0");
        let answer = installed(&app, &agent.id, "careful").await;
        assert_eq!(answer["unchanged"], false);
        let rule = app.backend.plugins.file(&agent.id, "careful", "rules/a.md");
        assert_eq!(rule.as_deref(), Some("1.0"));
    }

    async fn changed_skills_need_no_restart_and_everything_else_does(engine: Engine) {
        let app = server(engine).start().await;
        let agent = agent(&app).await;
        let plugin = |skill: &str, rule: &str| {
            put(&app, "p", &[("skills/a/SKILL.md", skill), ("rules/a.md", rule)]);
        };
        plugin("1", "1");
        assert_eq!(installed(&app, &agent.id, "p").await["restart_reason"], "cold");
        plugin("2", "1");
        let reply = install(&app, &agent.id, json!({ "source": "p" })).await;
        let answer = reply.json();
        assert_eq!(answer["restart_reason"], "skill-content-only");
        assert_eq!((&answer["restarting"], &answer["unchanged"]), (&json!(false), &json!(false)));
        assert_eq!(app.backend.plugins.file(&agent.id, "p", "skills/a/SKILL.md").as_deref(), Some("2"));
        plugin("2", "2");
        assert_eq!(installed(&app, &agent.id, "p").await["restart_reason"], "cold");
        plugin("3", "2");
        app.backend.plugins.set_fault(PluginFault::FilesFail);
        let answer = installed(&app, &agent.id, "p").await;
        assert_eq!(answer["restart_detail"], "the installed files could not be read");
        assert_eq!(app.backend.starts_of(&agent.id).len(), 1);
        plugin("3", "3");
        let reply = install(&app, &agent.id, json!({ "source": "p" })).await;
        assert_eq!(reply.json()["restarting"], true);
        eventually("it restarts", async || app.backend.starts_of(&agent.id).len() == 2).await;
    }

    async fn nobody_is_restarted_below_a_paused_workspace(engine: Engine) {
        let app = server(engine).start().await;
        put_usual(&app, "careful", "1.0");
        let parent = app.create(json!({ "name": "parent" })).await;
        let child = Agent::online(
            &app, json!({ "name": "child", "parent_id": parent })).await;
        set_status(&app, engine, &parent, "paused").await;
        let reply = install(&app, &child.id, json!({ "source": "careful" })).await;
        let answer = reply.json();
        assert_eq!((reply.status, &answer["restarting"]), (200, &json!(false)));
        assert_eq!(answer["restart_reason"], "cold");
    }

    async fn a_plugin_stays_installed_when_it_cannot_be_recorded(engine: Engine) {
        let app = server(engine).start().await;
        put_usual(&app, "careful", "1.0");
        let agent = agent(&app).await;
        let refuse = match engine {
            Engine::Sqlite => {
                "CREATE TRIGGER no BEFORE INSERT ON workspace_plugins
                 BEGIN SELECT RAISE(ABORT, 'no'); END"
            }
            Engine::Postgres => {
                "ALTER TABLE workspace_plugins ADD CONSTRAINT no CHECK (plugin_name = '')"
            }
        };
        app.database.execute(refuse).await;
        let answer = installed(&app, &agent.id, "careful").await;
        assert_eq!(answer["status"], "installed");
        assert_eq!(rows(&app, &agent.id, "workspace_plugins").await, 0);
        assert_eq!(recorded(&app, "WORKSPACE_PLUGIN_INSTALLED").await, 0);
        assert_eq!(app.backend.plugins.names(&agent.id), ["careful"]);
    }

    async fn a_failed_delivery_keeps_the_old_tree_and_tells_nothing_of_its_cause(engine: Engine) {
        let app = server(engine).start().await;
        put_usual(&app, "careful", "1.0");
        let agent = agent(&app).await;
        installed(&app, &agent.id, "careful").await;
        put_usual(&app, "careful", "2.0");
        let digest = column(&app, &agent.id, "careful", "tree_sha256").await;
        let plugins = &app.backend.plugins;
        for fault in [PluginFault::DeliverFails("stage"), PluginFault::DeliverLoses] {
            plugins.set_fault(fault);
            let reply = install(&app, &agent.id, json!({ "source": "careful" })).await;
            reply.assert_error(500, "failed to copy plugin to container");
            assert_eq!(reply.json(), json!({ "error": "failed to copy plugin to container" }));
            assert_eq!(column(&app, &agent.id, "careful", "tree_sha256").await, digest);
            assert_eq!(rows(&app, &agent.id, "plugin_operations").await, 0);
        }
        plugins.set_fault(PluginFault::DeliverFindsNothing);
        let reply = install(&app, &agent.id, json!({ "source": "careful" })).await;
        reply.assert_error(503, "workspace container not running");
        assert_eq!(app.backend.starts_of(&agent.id).len(), 1, "no restart");
        assert_eq!(recorded(&app, "WORKSPACE_PLUGIN_INSTALLED").await, 1);
        let answer = installed(&app, &agent.id, "careful").await;
        assert_eq!(answer["unchanged"], false);
    }

    async fn there_must_be_something_to_deliver_to(engine: Engine) {
        let app = server(engine).start().await;
        put_usual(&app, "careful", "1.0");
        let agent = agent(&app).await;
        let body = || json!({ "source": "careful" });
        let not_running = "workspace container not running";
        app.backend.set_unknown(true);
        install(&app, &agent.id, body()).await.assert_error(503, not_running);
        app.backend.set_unknown(false);
        app.backend.kill(&agent.id);
        install(&app, &agent.id, body()).await.assert_error(503, not_running);
        install(&app, UNKNOWN, body()).await.assert_error(503, not_running);
        app.delete(&format!("/workspaces/{}", agent.id)).bearer(ADMIN).send().await;
        install(&app, &agent.id, body()).await.assert_error(503, not_running);
        assert_eq!(app.backend.plugins.calls(PluginCall::Deliver), 0);
    }
}

/// Rows 1 to 15 of the table, in the order in which they are looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_refused_in_the_order_of_the_contract() {
    let app = server(Engine::Sqlite)
        .config(|config| config.plugins.install_body_max_bytes = 2000)
        .start()
        .await;
    put_usual(&app, "careful", "1.0");
    put(&app, "bare", &[("README.md", "no manifest")]);
    put(
        &app,
        "lies",
        &[("a", "a"), ("manifest.json", r#"{"sha256":"00"}"#)],
    );
    let agent = agent(&app).await;
    let far = app.create(json!({ "name": "far", "external": true })).await;

    let path = format!("/workspaces/{far}/plugins");
    let reply = app
        .request("POST", &path)
        .bearer(ADMIN)
        .body("no JSON")
        .send()
        .await;
    reply.assert_error(
        422,
        "plugin install via push is not supported for external runtimes",
    );
    assert_eq!(
        reply.json()["hint"],
        "external workspaces pull plugins via GET /workspaces/:id/plugins/:name/download"
    );

    let path = format!("/workspaces/{}/plugins", agent.id);
    let large = format!(r#"{{"source":"careful","more":"{}"}}"#, "x".repeat(2000));
    for body in [
        "",
        "{",
        "[]",
        "null",
        "5",
        r#"{"source":5}"#,
        r#"{"restart":"x"}"#,
        &large,
    ] {
        let reply = app
            .request("POST", &path)
            .bearer(ADMIN)
            .body(body)
            .send()
            .await;
        reply.assert_error(400, "invalid request body");
    }
    let missing = r#"'source' is required (e.g. "local://my-plugin" or "github://owner/repo")"#;
    for (body, status, error) in [
        (json!({}), 400, missing),
        (json!({ "source": null }), 400, missing),
        (json!({ "source": "" }), 400, missing),
        (json!({ "source": "  " }), 400, "invalid plugin source"),
        (
            json!({ "source": "local://" }),
            400,
            "invalid plugin source",
        ),
        (
            json!({ "source": "careful", "track": "tag:" }),
            400,
            "invalid track value \"tag:\": expected 'none' | 'tag:vX.Y.Z' | 'tag:latest' | 'sha:<full>'",
        ),
        (
            json!({ "source": "careful", "track": "latest" }),
            400,
            "invalid track value \"latest\": expected 'none' | 'tag:vX.Y.Z' | 'tag:latest' | 'sha:<full>'",
        ),
        (
            json!({ "source": "careful", "update_mode": "always" }),
            400,
            "invalid update_mode value \"always\": expected 'off' | 'notify' | 'auto'",
        ),
        (json!({ "source": "Careful" }), 400, "invalid plugin name"),
        (json!({ "source": "../etc" }), 400, "invalid plugin name"),
        (json!({ "source": "a'; id;'" }), 400, "invalid plugin name"),
        (
            json!({ "source": "nothing-here" }),
            404,
            "failed to fetch plugin from local",
        ),
        (
            json!({ "source": "lies" }),
            422,
            "plugin manifest integrity check failed",
        ),
        (
            json!({ "source": "bare", "sha256": "00" }),
            422,
            "sha256 check failed: plugin.yaml not found in staged plugin",
        ),
    ] {
        let reply = install(&app, &agent.id, body).await;
        reply.assert_error(status, error);
    }
    let reply = install(&app, &agent.id, json!({ "source": "ftp://x" })).await;
    reply.assert_error(400, "failed to resolve plugin source");
    assert_eq!(
        reply.json()["available_schemes"],
        json!(["github", "local"])
    );
    let reply = install(&app, &agent.id, json!({ "source": "github://acme/tool" })).await;
    assert_eq!(
        (reply.status, &reply.json()["source"]),
        (422, &json!("github://acme/tool"))
    );
    let reply = install(
        &app,
        &agent.id,
        json!({ "source": "careful", "sha256": "00" }),
    )
    .await;
    assert_eq!(reply.status, 422);
    assert!(
        reply
            .error()
            .starts_with("sha256 mismatch: expected 00, got "),
        "{}",
        reply.text
    );

    let reply = install(&app, "no-uuid", json!({ "source": "careful" })).await;
    reply.assert_error(400, "invalid workspace ID");
    assert_eq!(app.backend.plugins.all_calls(), 0);
    assert_eq!(rows(&app, &agent.id, "workspace_plugins").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_other_workspaces_install_nothing() {
    let app = server(Engine::Sqlite).start().await;
    put_usual(&app, "careful", "1.0");
    let one = agent(&app).await;
    let other = Agent::online(&app, json!({ "name": "other" })).await;
    let path = format!("/workspaces/{}/plugins", one.id);
    let body = || json!({ "source": "careful" });
    assert_eq!(app.post(&path, body()).send().await.status, 401);
    assert_eq!(
        app.post(&path, body())
            .bearer(&other.token)
            .send()
            .await
            .status,
        401
    );
    let path = format!("{path}/careful");
    assert_eq!(
        app.delete(&path).bearer(&other.token).send().await.status,
        401
    );
    assert_eq!(app.backend.plugins.all_calls(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_without_plugins_has_nothing_to_deliver_to() {
    let app = server(Engine::Sqlite)
        .edit_backend(|backend| backend.plugins.switch_off())
        .start()
        .await;
    put_usual(&app, "careful", "1.0");
    let agent = agent(&app).await;
    let reply = install(&app, &agent.id, json!({ "source": "careful" })).await;
    reply.assert_error(503, "workspace container not running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_delivery_is_not_cut_by_the_deadline_of_other_requests() {
    let app = server(Engine::Sqlite)
        .config(|config| config.server.request_timeout_secs = 1)
        .start()
        .await;
    put_usual(&app, "careful", "1.0");
    let agent = agent(&app).await;
    let slow = PluginFault::DeliverSlow(Duration::from_millis(2500));
    app.backend.plugins.set_fault(slow);
    installed(&app, &agent.id, "careful").await;
    assert_eq!(app.backend.plugins.cancelled(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_install_ends_with_its_own_deadline_wherever_it_hangs() {
    let shelf = Shelf::default();
    let app = server(Engine::Sqlite)
        .registry(shelf.registry())
        .config(|config| config.plugins.install_timeout_secs = 2)
        .start()
        .await;
    put_usual(&app, "careful", "1.0");
    let agent = agent(&app).await;
    shelf.set_fetching_hangs(true);
    let reply = install(&app, &agent.id, json!({ "source": "shelf://acme/tool#v1" })).await;
    reply.assert_error(504, "failed to fetch plugin from shelf");
    assert_eq!(reply.json()["source"], "shelf://acme/tool#v1");

    app.backend.plugins.set_fault(PluginFault::DeliverHangs);
    let reply = install(&app, &agent.id, json!({ "source": "careful" })).await;
    reply.assert_error(500, "failed to copy plugin to container");
    assert_eq!(app.backend.plugins.cancelled(), 1, "it was told");
    assert_eq!(rows(&app, &agent.id, "plugin_operations").await, 0);
    installed(&app, &agent.id, "careful").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_does_not_end_a_delivery() {
    let app = server(Engine::Sqlite).start().await;
    put_usual(&app, "careful", "1.0");
    let agent = agent(&app).await;
    let slow = PluginFault::DeliverSlow(Duration::from_millis(700));
    app.backend.plugins.set_fault(slow);
    let installing = install(&app, &agent.id, json!({ "source": "careful" }));
    let left = tokio::select! {
        reply = installing => Some(reply),
        () = async {
            eventually("it delivers", async || app.backend.plugins.delivering() == 1).await;
        } => None,
    };
    assert!(left.is_none());
    eventually("it is delivered and recorded", async || {
        rows(&app, &agent.id, "workspace_plugins").await == 1
    })
    .await;
    assert_eq!(app.backend.plugins.names(&agent.id), ["careful"]);
    assert_eq!(app.backend.plugins.cancelled(), 0);
    eventually("and the agent restarts", async || {
        app.backend.starts_of(&agent.id).len() == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_database_nothing_is_delivered() {
    let app = server(Engine::Sqlite).start().await;
    put_usual(&app, "careful", "1.0");
    let agent = agent(&app).await;
    app.database.execute("DROP TABLE plugin_operations").await;
    let reply = install(&app, &agent.id, json!({ "source": "careful" })).await;
    reply.assert_error(500, "plugin deliver failed");
    assert_eq!(app.backend.plugins.calls(PluginCall::Deliver), 0);
    let reply = install(&app, &agent.id, json!({ "source": "careful" })).await;
    assert!(!reply.text.contains("plugin_operations"), "{}", reply.text);
}
