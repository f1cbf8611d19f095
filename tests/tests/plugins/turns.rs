//! Operations on plugins wait for each other, and nobody waits for them for long.

use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use molecule_tests::fake_plugins::{PluginCall, PluginFault};
use molecule_tests::{ADMIN, Engine, TestApp, TestDatabase, eventually, on_both_engines};
use serde_json::json;

use crate::ground::{agent, hold, install, installed, put_usual, rows, server, set, uninstall};

fn in_secs(secs: i64) -> String {
    (Utc::now() + TimeDelta::seconds(secs)).to_rfc3339()
}

async fn delivers(app: &TestApp) {
    eventually("it delivers", async || {
        app.backend.plugins.delivering() == 1
    })
    .await;
}

on_both_engines! {
    async fn many_installs_of_one_plugin_happen_one_after_the_other(engine: Engine) {
        let app = server(engine).start().await;
        put_usual(&app, "careful", "1.0");
        let agent = agent(&app).await;
        let body = || json!({ "source": "careful", "force": true, "restart": false });
        for _ in 0..5 {
            app.backend.plugins.set_fault(PluginFault::DeliverSlow(Duration::from_millis(30)));
        }
        let installs = (0..5).map(|_| install(&app, &agent.id, body()));
        for reply in futures_util::future::join_all(installs).await {
            assert_eq!(reply.status, 200, "{}", reply.text);
        }
        assert_eq!(app.backend.plugins.most_delivering(), 1);
        assert_eq!(app.backend.plugins.calls(PluginCall::Deliver), 5);
        assert_eq!(rows(&app, &agent.id, "plugin_operations").await, 0);
    }

    async fn what_another_server_holds_is_a_409_after_the_deadline(engine: Engine) {
        let app = server(engine)
            .config(|config| config.plugins.install_timeout_secs = 1)
            .start()
            .await;
        put_usual(&app, "careful", "1.0");
        put_usual(&app, "other", "1.0");
        let agent = agent(&app).await;
        hold(&app, &agent.id, "careful", &in_secs(25)).await;
        for reply in [
            install(&app, &agent.id, json!({ "source": "careful" })).await,
            uninstall(&app, &agent.id, "careful").await,
        ] {
            let wanted = json!({ "error": "plugin operation already in progress", "plugin": "careful" });
            assert_eq!((reply.status, reply.json()), (409, wanted));
        }
        // Others are not concerned.
        installed(&app, &agent.id, "other").await;
        assert_eq!(app.backend.plugins.names(&agent.id), ["other"]);
    }

    async fn what_a_dead_server_left_is_taken_over(engine: Engine) {
        let app = server(engine).start().await;
        let agent = agent(&app).await;
        // Expired, or further ahead than anybody writes.
        for (plugin, until) in [("past", in_secs(-1)), ("future", in_secs(3600))] {
            put_usual(&app, plugin, "1.0");
            hold(&app, &agent.id, plugin, &until).await;
            installed(&app, &agent.id, plugin).await;
        }
        // Not yet, but soon.
        put_usual(&app, "soon", "1.0");
        hold(&app, &agent.id, "soon", &in_secs(2)).await;
        installed(&app, &agent.id, "soon").await;
        assert_eq!(rows(&app, &agent.id, "plugin_operations").await, 0);
    }

    async fn a_delete_ends_a_delivery_that_hangs(engine: Engine) {
        let app = server(engine).start().await;
        put_usual(&app, "careful", "1.0");
        let agent = agent(&app).await;
        app.backend.plugins.set_fault(PluginFault::DeliverHangs);
        let installing = install(&app, &agent.id, json!({ "source": "careful" }));
        let deleting = async {
            delivers(&app).await;
            app.delete(&format!("/workspaces/{}", agent.id)).bearer(ADMIN).send().await
        };
        let (installed, deleted) = tokio::join!(installing, deleting);
        assert_eq!(deleted.status, 200, "{}", deleted.text);
        installed.assert_error(503, "workspace container not running");
        assert_eq!(app.backend.plugins.cancelled(), 1);
        assert!(!app.backend.runs(&agent.id));
        assert_eq!(rows(&app, &agent.id, "plugin_operations").await, 0);
    }

    async fn a_pause_ends_a_delivery_that_hangs_and_waiting_ones_find_nothing(engine: Engine) {
        let app = server(engine).start().await;
        put_usual(&app, "careful", "1.0");
        put_usual(&app, "other", "1.0");
        let agent = agent(&app).await;
        app.backend.plugins.set_fault(PluginFault::DeliverHangs);
        let first = install(&app, &agent.id, json!({ "source": "careful" }));
        let waiting = async {
            delivers(&app).await;
            // The same plugin, and another one of the same workspace.
            let same = install(&app, &agent.id, json!({ "source": "careful" }));
            let other = install(&app, &agent.id, json!({ "source": "other" }));
            let pausing = async {
                let path = format!("/workspaces/{}/pause", agent.id);
                app.post(&path, json!({})).bearer(ADMIN).send().await
            };
            tokio::join!(same, other, pausing)
        };
        let (first, (same, other, paused)) = tokio::join!(first, waiting);
        assert_eq!((paused.status, &paused.json()["stop_failures"]), (200, &json!(0)));
        for reply in [first, same, other] {
            assert!(matches!(reply.status, 200 | 503), "{}", reply.text);
        }
        eventually("nothing runs", async || !app.backend.runs(&agent.id)).await;
        let path = format!("/workspaces/{}/resume", agent.id);
        assert_eq!(app.post(&path, json!({})).bearer(ADMIN).send().await.status, 200);
    }

    async fn a_restart_by_hand_lets_a_delivery_end(engine: Engine) {
        let app = server(engine).start().await;
        put_usual(&app, "careful", "1.0");
        let agent = agent(&app).await;
        app.backend.plugins.set_fault(PluginFault::DeliverSlow(Duration::from_millis(700)));
        let installing = install(&app, &agent.id, json!({ "source": "careful", "restart": false }));
        let restarting = async {
            delivers(&app).await;
            let path = format!("/workspaces/{}/restart", agent.id);
            app.post(&path, json!({})).bearer(ADMIN).send().await
        };
        let (installed, restarted) = tokio::join!(installing, restarting);
        assert_eq!((installed.status, restarted.status), (200, 200), "{}", installed.text);
        assert_eq!(app.backend.plugins.cancelled(), 0);
        eventually("it restarts", async || app.backend.starts_of(&agent.id).len() == 2).await;
    }

    async fn an_install_waits_for_a_boot_and_lands_behind_it(engine: Engine) {
        let app = server(engine).start().await;
        put_usual(&app, "careful", "1.0");
        let agent = agent(&app).await;
        let slow = molecule_tests::fake_backend::Fault::StartSlow(Duration::from_millis(700));
        app.backend.set_fault(slow);
        let path = format!("/workspaces/{}/restart", agent.id);
        assert_eq!(app.post(&path, json!({})).bearer(ADMIN).send().await.status, 200);
        let reply = install(&app, &agent.id, json!({ "source": "careful" })).await;
        assert_eq!((reply.status, &reply.json()["restarting"]), (200, &json!(true)));
        // The boot did not see it, so another one follows.
        eventually("it restarts", async || app.backend.starts_of(&agent.id).len() == 3).await;
    }

    async fn a_boot_of_another_server_is_waited_for(engine: Engine) {
        let app = server(engine).start().await;
        put_usual(&app, "careful", "1.0");
        let agent = agent(&app).await;
        let lease = format!("provision_lease_until = '{}'", in_secs(25));
        set(&app, &agent.id, &lease).await;
        let installing = install(&app, &agent.id, json!({ "source": "careful", "restart": false }));
        let booted = async {
            eventually("it waits", async || {
                rows(&app, &agent.id, "plugin_operations").await == 1
            })
            .await;
            assert_eq!(app.backend.plugins.all_calls(), 0);
            set(&app, &agent.id, "provision_lease_until = NULL").await;
        };
        let (installed, ()) = tokio::join!(installing, booted);
        assert_eq!(installed.status, 200, "{}", installed.text);
        assert_eq!(app.backend.plugins.names(&agent.id), ["careful"]);
    }

    async fn removals_in_a_row_cost_one_restart(engine: Engine) {
        let app = server(engine).start().await;
        let agent = agent(&app).await;
        for plugin in ["one", "two", "three"] {
            put_usual(&app, plugin, "1.0");
            installed(&app, &agent.id, plugin).await;
        }
        for plugin in ["one", "two", "three"] {
            let path = format!("/workspaces/{}/plugins/{plugin}", agent.id);
            let reply = app.delete(&path).bearer(ADMIN).send().await;
            assert_eq!((reply.status, &reply.json()["restarting"]), (200, &json!(true)));
        }
        eventually("it restarts", async || app.backend.starts_of(&agent.id).len() >= 2).await;
        eventually("nothing is left to do", async || {
            let sql = "SELECT count(*) FROM workspaces WHERE restart_requested_at IS NOT NULL
                       OR provision_lease_until IS NOT NULL";
            app.database.count(sql).await == 0
        })
        .await;
        assert!(app.backend.starts_of(&agent.id).len() <= 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_never_work_on_one_plugin_at_once() {
    if !molecule_tests::database::postgres_is_wanted() {
        return;
    }
    let database = TestDatabase::create(Engine::Postgres).await;
    let one = server(Engine::Postgres)
        .start_on(database.share(), tempfile::tempdir().expect("a folder"))
        .await;
    let two = server(Engine::Postgres)
        .backend(one.backend.clone())
        .start_on(database.share(), tempfile::tempdir().expect("a folder"))
        .await;
    for app in [&one, &two] {
        put_usual(app, "careful", "1.0");
    }
    let agent = agent(&one).await;
    let body = || json!({ "source": "careful", "force": true, "restart": false });
    for _ in 0..6 {
        let slow = PluginFault::DeliverSlow(Duration::from_millis(150));
        one.backend.plugins.set_fault(slow);
    }
    let installs = (0..6).map(|n| {
        let app = if n % 2 == 0 { &one } else { &two };
        install(app, &agent.id, body())
    });
    for reply in futures_util::future::join_all(installs).await {
        assert_eq!(reply.status, 200, "{}", reply.text);
    }
    assert_eq!(one.backend.plugins.most_delivering(), 1);
    assert_eq!(one.backend.plugins.calls(PluginCall::Deliver), 6);
}

/// The one in front neither ends nor listens; those behind it do not wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_that_does_not_listen_is_given_up() {
    let app = server(Engine::Sqlite)
        .config(|config| config.plugins.install_timeout_secs = 1)
        .start()
        .await;
    put_usual(&app, "careful", "1.0");
    let agent = agent(&app).await;
    app.backend.plugins.set_fault(PluginFault::DeliverIsDeaf);
    let first = install(&app, &agent.id, json!({ "source": "careful" }));
    let second = async {
        delivers(&app).await;
        install(&app, &agent.id, json!({ "source": "careful" })).await
    };
    let (first, second) = tokio::join!(first, second);
    first.assert_error(500, "plugin deliver failed");
    second.assert_error(409, "plugin operation already in progress");
    assert_eq!(app.backend.plugins.delivering(), 0);
    installed(&app, &agent.id, "careful").await;
}

/// What a server that was killed held on its own file is free again at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_server_waits_for_nobody_on_its_own_file() {
    let app = server(Engine::Sqlite).start().await;
    let agent = agent(&app).await;
    hold(&app, &agent.id, "careful", &in_secs(29)).await;
    let backend = app.backend.clone();
    let (database, dir) = app.shutdown().await;
    let app = server(Engine::Sqlite)
        .backend(backend)
        .start_on(database, dir)
        .await;
    assert_eq!(rows(&app, &agent.id, "plugin_operations").await, 0);
    put_usual(&app, "careful", "1.0");
    installed(&app, &agent.id, "careful").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_ends_a_delivery() {
    let app = server(Engine::Sqlite).start().await;
    put_usual(&app, "careful", "1.0");
    let agent = agent(&app).await;
    app.backend.plugins.set_fault(PluginFault::DeliverHangs);
    let backend = app.backend.clone();
    let path = format!("/workspaces/{}/plugins", agent.id);
    let request = app
        .post(&path, json!({ "source": "careful" }))
        .bearer(ADMIN);
    let installing = tokio::spawn(request.send());
    delivers(&app).await;
    app.shutdown().await;
    eventually("it was told", async || backend.plugins.cancelled() == 1).await;
    installing.abort();
}

/// Whoever works in a workspace for long does not keep it from restarting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_requested_restart_asks_a_delivery_that_hangs_to_leave() {
    let app = server(Engine::Sqlite).start().await;
    put_usual(&app, "careful", "1.0");
    let agent = agent(&app).await;
    app.backend.plugins.set_fault(PluginFault::DeliverHangs);
    let body = json!({ "source": "careful", "restart": false });
    // Longer than a client of these tests waits for its answer.
    let left = tokio::select! {
        reply = install(&app, &agent.id, body) => Some(reply),
        () = delivers(&app) => None,
    };
    assert!(left.is_none());
    let at = "restart_requested_at = '2026-01-01T00:00:00+00:00'";
    set(&app, &agent.id, at).await;
    // That takes as long as the patience with visitors, and a round of the runner.
    let deadline = Instant::now() + Duration::from_secs(60);
    while app.backend.plugins.cancelled() == 0 {
        assert!(Instant::now() < deadline, "it never left");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eventually("it restarts", async || {
        app.backend.starts_of(&agent.id).len() == 2
    })
    .await;
}

/// What is only to be written down of a tree that is there is written by one at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_there_follows_something_else_only_in_its_turn() {
    let app = server(Engine::Sqlite)
        .config(|config| config.plugins.install_timeout_secs = 1)
        .start()
        .await;
    put_usual(&app, "careful", "1.0");
    let agent = agent(&app).await;
    installed(&app, &agent.id, "careful").await;
    hold(&app, &agent.id, "careful", &in_secs(25)).await;
    let body = json!({ "source": "careful", "update_mode": "off", "restart": false });
    let reply = install(&app, &agent.id, body.clone()).await;
    reply.assert_error(409, "plugin operation already in progress");
    // What is written already needs no turn.
    assert_eq!(
        installed(&app, &agent.id, "careful").await["unchanged"],
        true
    );
    app.database.execute("DELETE FROM plugin_operations").await;
    let looks = app.backend.plugins.all_calls();
    let reply = install(&app, &agent.id, body).await;
    assert_eq!(
        (reply.status, &reply.json()["unchanged"]),
        (200, &json!(true))
    );
    assert_eq!(
        app.backend.plugins.all_calls(),
        looks,
        "nor does it ask the daemon"
    );
}
