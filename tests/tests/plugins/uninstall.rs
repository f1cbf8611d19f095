//! `DELETE /workspaces/{id}/plugins/{name}`.

use molecule_tests::fake_plugins::{PluginCall, PluginFault};
use molecule_tests::support::{raw, recorded, seen, sql_id};
use molecule_tests::{ADMIN, Engine, eventually, on_both_engines};
use serde_json::json;

use crate::ground::{agent, column, install, installed, put, put_usual, rows, server, uninstall};

on_both_engines! {
    async fn a_removal_leaves_no_trace_and_restarts_the_agent(engine: Engine) {
        let app = server(engine).start().await;
        put(&app, "careful", &[(
            "plugin.yaml",
            "skills: [one, two-b, '../..', 'a b', '$(id)', '', \"it's\", .hidden]",
        )]);
        let agent = agent(&app).await;
        installed(&app, &agent.id, "careful").await;
        let queue = format!(
            "INSERT INTO plugin_update_queue (id, workspace_id, plugin_name, tracked_ref, current_sha, latest_sha,
                 status, created_at)
             VALUES ({}, {}, 'careful', 'tag:v1', 'a', 'b', 'pending', '2026-01-01T00:00:00+00:00')",
            sql_id(engine, "7aa08951-00d1-4c3e-9d6a-0123456789ab"),
            sql_id(engine, &agent.id),
        );
        app.database.execute(&queue).await;
        let mut events = app.events();
        let path = format!("/workspaces/{}/plugins/careful", agent.id);
        let reply = app.delete(&path).bearer(&agent.token).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let wanted = json!({ "status": "uninstalled", "plugin": "careful", "restarting": true });
        assert_eq!(reply.json(), wanted);
        assert!(app.backend.plugins.names(&agent.id).is_empty());
        let removals = app.backend.plugins.removals();
        let skills: Vec<&str> = removals[0].skills.iter().map(|skill| skill.as_str()).collect();
        assert_eq!(skills, ["one", "two-b"]);
        for table in ["workspace_plugins", "plugin_update_queue", "plugin_operations"] {
            assert_eq!(rows(&app, &agent.id, table).await, 0, "{table}");
        }
        let told = seen(&mut events, &agent.id);
        let (_, payload) = told
            .iter()
            .find(|(event, _)| *event == "WORKSPACE_PLUGIN_UNINSTALLED")
            .expect("an event");
        assert_eq!(payload["plugin"], "careful");
        eventually("the agent restarts", async || app.backend.starts_of(&agent.id).len() == 2).await;
        assert_eq!(app.backend.starts_of(&agent.id).len(), 2);
    }

    async fn what_is_not_there_is_removed_as_well(engine: Engine) {
        let app = server(engine).start().await;
        let agent = agent(&app).await;
        let path = format!("/workspaces/{}/plugins/nothing", agent.id);
        let reply = app.delete(&path).bearer(ADMIN).send().await;
        assert_eq!((reply.status, &reply.json()["restarting"]), (200, &json!(false)));
        assert_eq!(recorded(&app, "WORKSPACE_PLUGIN_UNINSTALLED").await, 0);
        assert_eq!(app.backend.starts_of(&agent.id).len(), 1);
    }

    async fn a_removal_that_fails_keeps_the_row_and_doubts_it(engine: Engine) {
        let app = server(engine).start().await;
        put_usual(&app, "careful", "1.0");
        let agent = agent(&app).await;
        installed(&app, &agent.id, "careful").await;
        app.backend.plugins.set_fault(PluginFault::RemoveFails);
        let reply = uninstall(&app, &agent.id, "careful").await;
        reply.assert_error(500, "failed to remove plugin");
        assert_eq!(reply.json(), json!({ "error": "failed to remove plugin" }));
        assert_eq!(column(&app, &agent.id, "careful", "delivered_to").await, "-");
        // Skills that nobody can read stay; the folder goes.
        app.backend.plugins.set_fault(PluginFault::ListFails);
        assert_eq!(uninstall(&app, &agent.id, "careful").await.status, 200);
        assert!(app.backend.plugins.removals()[0].skills.is_empty());
        assert_eq!(rows(&app, &agent.id, "workspace_plugins").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removals_are_refused_in_the_order_of_the_contract() {
    let app = server(Engine::Sqlite).start().await;
    let agent = agent(&app).await;
    let far = app.create(json!({ "name": "far", "external": true })).await;
    for name in ["careful", "..%2F.."] {
        let reply = uninstall(&app, &far, name).await;
        reply.assert_error(
            422,
            "plugin uninstall via docker exec is not supported for external runtimes",
        );
        assert_eq!(
            reply.json()["hint"],
            "external workspaces manage their own plugin directory; remove it locally"
        );
    }
    for name in [
        ".staging", "a..b", "a%20b", "%24(id)", "a%27b", "%22", "a%0Ab", "-rf", "a%00", "a%2Fb",
        "a%5Cb",
    ] {
        let reply = uninstall(&app, &agent.id, name).await;
        reply.assert_error(400, "invalid plugin name");
    }
    // Clients that follow the standard never send these.
    for name in ["%2E", "%2e%2E", "%2E%2E%2F"] {
        let head = format!(
            "DELETE /workspaces/{}/plugins/{name} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN}\r\n\
             connection: close\r\n\r\n",
            agent.id
        );
        let answer = raw(&app, head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{name}: {answer}");
    }
    app.backend.kill(&agent.id);
    let reply = uninstall(&app, &agent.id, "careful").await;
    reply.assert_error(503, "workspace container not running");
    assert_eq!(app.backend.plugins.calls(PluginCall::Remove), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plugins_that_are_called_like_routes_can_be_removed() {
    let app = server(Engine::Sqlite).start().await;
    let agent = agent(&app).await;
    for (name, path) in [
        ("available", "%61vailable"),
        ("compatibility", "%63ompatibility"),
    ] {
        put_usual(&app, name, "1.0");
        install(&app, &agent.id, json!({ "source": name, "restart": false })).await;
        let reply = uninstall(&app, &agent.id, path).await;
        assert_eq!((reply.status, &reply.json()["plugin"]), (200, &json!(name)));
    }
    assert!(app.backend.plugins.names(&agent.id).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stays_recorded_is_not_said_to_be_removed() {
    let app = server(Engine::Sqlite).start().await;
    put_usual(&app, "careful", "1.0");
    let agent = agent(&app).await;
    installed(&app, &agent.id, "careful").await;
    let refuse = "CREATE TRIGGER no BEFORE DELETE ON workspace_plugins
                  BEGIN SELECT RAISE(ABORT, 'no'); END";
    app.database.execute(refuse).await;
    let reply = uninstall(&app, &agent.id, "careful").await;
    reply.assert_error(500, "failed to remove plugin");
    app.database.execute("DROP TRIGGER no").await;
    assert_eq!(uninstall(&app, &agent.id, "careful").await.status, 200);
    assert_eq!(rows(&app, &agent.id, "workspace_plugins").await, 0);
}
