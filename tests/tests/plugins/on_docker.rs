//! Installs and removals in containers of a real daemon.
//!
//! Without a Docker daemon these tests fail and say how to start one;
//! `MOLECULE_TEST_SKIP_DOCKER=1` leaves them out.

use std::process::Command;

use molecule_tests::support::registration;
use molecule_tests::{ADMIN, TestApp};
use serde_json::{Value, json};

use crate::ground::{column, install, list, put, uninstall};
use crate::world::{Workspace, World, docker, wait};

/// What a command in the container prints.
fn run(workspace: &Workspace, command: &[&str]) -> String {
    docker(&[&["exec", &workspace.container, "/bin/busybox"], command].concat())
}

fn runs_well(workspace: &Workspace, command: &[&str]) -> bool {
    let arguments = [&["exec", &workspace.container, "/bin/busybox"], command].concat();
    let output = Command::new("docker").args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

async fn register(app: &TestApp, workspace: &Workspace) {
    let request = app.post("/registry/register", registration(&workspace.id));
    let reply = request.bearer(&workspace.token()).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

fn put_version(app: &TestApp, rule: &str, skill: &str) {
    put(
        app,
        "careful",
        &[
            ("plugin.yaml", "version: '1.0'\nskills: [one]\n"),
            ("skills/one/SKILL.md", skill),
            ("rules/a.md", rule),
        ],
    );
}

async fn installed(app: &TestApp, id: &str, restart: bool) -> Value {
    let body = json!({ "source": "careful", "restart": restart });
    let reply = install(app, id, body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_comes_changes_survives_a_restart_and_goes() {
    let Some(mut world) = World::new().await else {
        return;
    };
    let workspace = world.workspace(json!({})).await;
    let (app, id) = (world.app(), workspace.id.clone());
    register(app, &workspace).await;
    put_version(app, "one", "a");
    let answer = installed(app, &id, false).await;
    assert_eq!(answer["restart_detail"], "the plugin was not there before");
    let rule = "/configs/plugins/careful/rules/a.md";
    assert_eq!(run(&workspace, &["cat", rule]), "one");
    for path in [
        "/configs/plugins/careful",
        rule,
        "/configs/plugins/careful/.complete",
    ] {
        assert_eq!(
            run(&workspace, &["stat", "-c", "%u:%g", path]),
            "1000:1000",
            "{path}"
        );
    }
    let marker = run(&workspace, &["cat", "/configs/plugins/careful/.complete"]);
    let marker: Value = serde_json::from_str(&marker).expect("a marker");
    assert_eq!(marker["tree_sha256"], answer["tree_sha256"]);
    let listed = list(app, &id).await;
    assert_eq!(
        (&listed[0]["name"], &listed[0]["complete"]),
        (&json!("careful"), &json!(true))
    );
    assert_eq!(listed[0]["version"], "1.0");
    assert_eq!(installed(app, &id, true).await["unchanged"], true);

    // Its skill alone changes.
    put_version(app, "one", "b");
    let answer = installed(app, &id, true).await;
    assert_eq!(answer["restart_reason"], "skill-content-only");
    assert_eq!(answer["restarting"], false);
    let skill = "/configs/plugins/careful/skills/one/SKILL.md";
    assert_eq!(run(&workspace, &["cat", skill]), "b");

    // A rule changes: another container, which has it from its start.
    let before = column(app, &id, "careful", "delivered_to").await;
    put_version(app, "two", "b");
    assert_eq!(installed(app, &id, true).await["restarting"], true);
    let container = || docker(&["inspect", "-f", "{{.Id}}", &workspace.container]);
    wait("another container runs", || {
        runs_well(&workspace, &["true"]) && container() != before
    })
    .await;
    wait("it has the new rule", || {
        runs_well(&workspace, &["grep", "-q", "two", rule])
    })
    .await;
    molecule_tests::eventually("the start is complete", async || {
        let path = format!("/workspaces/{id}");
        app.get(&path).send().await.json()["url"] != ""
    })
    .await;
    register(app, &workspace).await;
    assert_eq!(installed(app, &id, true).await["unchanged"], true);

    let reply = uninstall(app, &id, "careful").await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert!(!runs_well(
        &workspace,
        &["test", "-e", "/configs/plugins/careful"]
    ));
    assert_eq!(list(app, &id).await, json!([]));
    let left = run(&workspace, &["find", "/configs/plugins", "-mindepth", "2"]);
    assert_eq!(left, "", "a trace was left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_that_ended_gets_no_plugin_and_one_that_returns_does() {
    let Some(mut world) = World::new().await else {
        return;
    };
    let workspace = world.workspace(json!({})).await;
    let (app, id) = (world.app(), workspace.id.clone());
    put_version(app, "one", "a");
    let path = format!("/workspaces/{id}/pause");
    let reply = app.post(&path, json!({})).bearer(ADMIN).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let body = json!({ "source": "careful", "restart": false });
    let reply = install(app, &id, body.clone()).await;
    reply.assert_error(503, "workspace container not running");
    assert_eq!(list(app, &id).await, json!([]));
    let path = format!("/workspaces/{id}/resume");
    assert_eq!(
        app.post(&path, json!({})).bearer(ADMIN).send().await.status,
        200
    );
    wait("the container runs", || runs_well(&workspace, &["true"])).await;
    let reply = install(app, &id, body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
}

/// Two installs at once of two plugins, and a delete in the middle of a third.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn installs_at_once_end_whole_and_a_delete_ends_with_nothing() {
    let Some(mut world) = World::new().await else {
        return;
    };
    let workspace = world.workspace(json!({})).await;
    let (app, id) = (world.app(), workspace.id.clone());
    let text = "x".repeat(100_000);
    let many: Vec<(String, &str)> = (0..50).map(|n| (format!("f/{n}"), text.as_str())).collect();
    let many: Vec<(&str, &str)> = many
        .iter()
        .map(|(path, text)| (path.as_str(), *text))
        .collect();
    for name in ["one", "two", "three"] {
        put(app, name, &many);
    }
    let body = |name: &str| json!({ "source": name, "restart": false });
    let again = |name: &str| json!({ "source": name, "restart": false, "force": true });
    let (a, b, c) = tokio::join!(
        install(app, &id, body("one")),
        install(app, &id, body("two")),
        install(app, &id, again("one")),
    );
    for reply in [a, b, c] {
        assert_eq!(reply.status, 200, "{}", reply.text);
    }
    for name in ["one", "two"] {
        let folder = format!("/configs/plugins/{name}");
        let found = run(&workspace, &["find", &folder, "-type", "f"]);
        assert_eq!(found.lines().count(), 51, "{name}");
    }
    let deleting = async {
        let path = format!("/workspaces/{id}");
        app.delete(&path).bearer(ADMIN).send().await
    };
    let (installed, deleted) = tokio::join!(install(app, &id, body("three")), deleting);
    assert_eq!(deleted.status, 200, "{}", deleted.text);
    assert!(matches!(installed.status, 200 | 503), "{}", installed.text);
    assert!(!runs_well(&workspace, &["true"]));
}
