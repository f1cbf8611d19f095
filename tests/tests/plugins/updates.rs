//! Applying updates of tracked plugins.

use std::time::Duration;

use molecule_tests::fake_plugins::{PluginCall, PluginFault};
use molecule_tests::support::{Agent, sql_id, strict};
use molecule_tests::{ADMIN, Engine, Reply, TestApp, TestAppBuilder, eventually, on_both_engines};
use serde_json::{Value, json};

use crate::ground::hold;
use crate::shelf::{Planted, Shelf, Trouble, plant, sha};

const QUICK: Duration = Duration::from_millis(150);
const MANIFEST: &str = "version: '1'\n";

fn server(engine: Engine, shelf: &Shelf) -> TestAppBuilder {
    strict(engine)
        .registry(shelf.registry())
        .config(|config| config.workspaces.restarts_per_minute = 1000)
        .cadence(|cadence| cadence.plugin_drift = Some(QUICK))
}

/// A plugin whose revisions differ in more than a skill.
fn shelve(shelf: &Shelf, name: &str, digits: &str) {
    for digit in digits.chars() {
        let rule = format!("rule of {digit}");
        let files = [("plugin.yaml", MANIFEST), ("rules/rule.md", &rule)];
        shelf.put(&format!("acme/{name}"), &sha(digit), &files);
    }
    let first = digits.chars().next().expect("a revision");
    shelf.set(&format!("acme/{name}"), "tag:v1", &sha(first));
}

async fn install(app: &TestApp, id: &str, body: Value) -> Value {
    let path = format!("/workspaces/{id}/plugins");
    let reply = app.post(&path, body).bearer(ADMIN).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

/// Installs a plugin that follows its tag.
async fn install_tracked(app: &TestApp, id: &str, name: &str, mode: &str) {
    let source = format!("shelf://acme/{name}#tag:v1");
    let body = json!({
        "source": source, "track": "tag:v1", "update_mode": mode, "restart": false,
    });
    install(app, id, body).await;
}

/// Installs a plugin at a tag, following another.
async fn install_tracked_at(app: &TestApp, id: &str, at: &str, track: &str) {
    let source = format!("shelf://acme/careful#{at}");
    let body = json!({ "source": source, "track": track, "restart": false });
    install(app, id, body).await;
}

fn in_a_minute() -> String {
    (chrono::Utc::now() + chrono::TimeDelta::seconds(50)).to_rfc3339()
}

async fn pending(app: &TestApp) -> Vec<Value> {
    let path = "/admin/plugin-updates-pending";
    let reply = app.get(path).bearer(ADMIN).send().await;
    reply.json().as_array().expect("a list").clone()
}

/// The pending update, once there is one.
async fn update(app: &TestApp) -> Value {
    eventually("an update is pending", || async {
        pending(app).await.len() == 1
    })
    .await;
    pending(app).await.remove(0)
}

async fn apply(app: &TestApp, update: &Value) -> Reply {
    let id = update["id"].as_str().expect("an id");
    let path = format!("/admin/plugin-updates/{id}/apply");
    app.request("POST", &path).bearer(ADMIN).send().await
}

async fn installed_sha(app: &TestApp, engine: Engine, id: &str) -> String {
    let id = sql_id(engine, id);
    let sql = format!("SELECT installed_sha FROM workspace_plugins WHERE workspace_id = {id}");
    app.database.text(&sql).await
}

async fn status_of(app: &TestApp, status: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM plugin_update_queue WHERE status = '{status}'");
    app.database.count(&sql).await
}

/// The rule that lies in the workspace.
fn rule(app: &TestApp, id: &str) -> Option<String> {
    app.backend.plugins.file(id, "careful", "rules/rule.md")
}

/// A workspace with a plugin whose upstream moved to revision 2.
async fn drifted(app: &TestApp, shelf: &Shelf) -> (Agent, Value) {
    shelve(shelf, "careful", "123");
    let agent = Agent::online(app, json!({ "name": "one" })).await;
    install_tracked(app, &agent.id, "careful", "notify").await;
    shelf.set("acme/careful", "tag:v1", &sha('2'));
    let update = update(app).await;
    (agent, update)
}

on_both_engines! {
    async fn an_update_brings_exactly_what_was_queued_and_restarts_once(engine: Engine) {
        // given an update that is pending, and an upstream that moved on since
        let shelf = Shelf::default();
        let app = server(engine, &shelf).start().await;
        let (agent, update) = drifted(&app, &shelf).await;
        assert_eq!(rule(&app, &agent.id).as_deref(), Some("rule of 1"), "nothing changed yet");
        // (switched off: what is queued shall stay what it is)
        let path = format!("/workspaces/{}/plugins/careful", agent.id);
        let reply = app.request("PATCH", &path).json(json!({ "update_mode": "off" })).bearer(ADMIN).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        shelf.set("acme/careful", "tag:v1", &sha('3'));

        // when it is applied
        let starts = app.backend.starts_of(&agent.id).len();
        let reply = apply(&app, &update).await;

        // then the workspace has what was queued, and restarts once to see it
        let expected = json!({
            "status": "applied", "workspace_id": agent.id, "plugin_name": "careful",
            "installed_sha": sha('2'), "restarting": true,
        });
        assert_eq!((reply.status, reply.json()), (200, expected));
        assert_eq!(rule(&app, &agent.id).as_deref(), Some("rule of 2"));
        assert_eq!(installed_sha(&app, engine, &agent.id).await, sha('2'));
        eventually("the agent restarts", || async {
            app.backend.starts_of(&agent.id).len() == starts + 1
        })
        .await;
        // it follows what it followed, from a source that cannot move
        let row = "SELECT count(*) FROM workspace_plugins WHERE tracked_ref = 'tag:v1'
                   AND update_mode = 'off' AND source_raw = 'shelf://acme/careful#sha:";
        let row = format!("{row}{}'", sha('2'));
        assert_eq!(app.database.count(&row).await, 1);
        assert_eq!(status_of(&app, "applied").await, 1);

        // and applying it again changes nothing
        let reply = apply(&app, &update).await;
        let expected = json!({
            "status": "already_applied", "workspace_id": agent.id, "plugin_name": "careful",
            "message": "drift update was already applied",
        });
        assert_eq!((reply.status, reply.json()), (200, expected));
        assert_eq!(app.backend.starts_of(&agent.id).len(), starts + 1);
        // nor can it be dismissed
        let path = format!("/admin/plugin-updates/{}/dismiss", update["id"].as_str().expect("an id"));
        let reply = app.request("POST", &path).bearer(ADMIN).send().await;
        assert_eq!(reply.status, 409, "{}", reply.text);
    }

    async fn an_applied_update_of_another_tag_than_was_installed_does_not_come_back(engine: Engine) {
        // given a plugin installed at one tag that follows the newest
        let shelf = Shelf::default();
        shelve(&shelf, "careful", "12");
        shelf.set("acme/careful", "tag:latest", &sha('2'));
        let app = server(engine, &shelf).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let source = "shelf://acme/careful#tag:v1";
        let body = json!({ "source": source, "track": "tag:latest", "restart": false });
        install(&app, &agent.id, body).await;

        // when its update is applied
        let update = update(&app).await;
        let reply = apply(&app, &update).await;
        assert_eq!(reply.status, 200, "{}", reply.text);

        // then it has the newest, and nothing is pending however often somebody looks
        assert_eq!(rule(&app, &agent.id).as_deref(), Some("rule of 2"));
        let before = shelf.lookups_of("acme/careful");
        eventually("more rounds", || async {
            shelf.lookups_of("acme/careful") > before + 4
        })
        .await;
        assert!(pending(&app).await.is_empty());
        let rows = "SELECT count(*) FROM plugin_update_queue";
        assert_eq!(app.database.count(rows).await, 1, "the record of it");
    }

    async fn of_two_who_apply_at_once_one_does_it(engine: Engine) {
        let shelf = Shelf::default();
        let app = server(engine, &shelf).start().await;
        let (agent, update) = drifted(&app, &shelf).await;
        app.backend.plugins.set_fault(PluginFault::DeliverSlow(Duration::from_secs(1)));
        let delivered = app.backend.plugins.calls(PluginCall::Deliver);

        let (one, other) = tokio::join!(apply(&app, &update), apply(&app, &update));

        let (first, second) = if one.status == 200 { (one, other) } else { (other, one) };
        assert_eq!(first.json()["status"], "applied", "{}", first.text);
        let expected = json!({
            "error": "plugin operation already in progress", "plugin": "careful",
            "queue_id": update["id"],
        });
        assert_eq!((second.status, second.json()), (409, expected));
        assert_eq!(app.backend.plugins.calls(PluginCall::Deliver), delivered + 1);
        assert_eq!(rule(&app, &agent.id).as_deref(), Some("rule of 2"));
    }

    async fn an_update_brings_back_nothing_that_was_removed_or_replaced_meanwhile(engine: Engine) {
        let gone = "workspace_plugins row not found — plugin may have been uninstalled";
        let changed = "plugin was changed since this update was queued";
        let moved = format!("UPDATE workspace_plugins SET installed_sha = '{}'", sha('5'));
        for (meanwhile, status, error) in [
            ("DELETE FROM workspace_plugins", 404, gone),
            ("UPDATE workspace_plugins SET tracked_ref = 'tag:v2'", 404, gone),
            (&moved, 409, changed),
            ("UPDATE workspace_plugins SET source_raw = 'shelf://other/careful#tag:v1'", 409, changed),
        ] {
            // given an update that was fetched, and waits for what another server does
            let shelf = Shelf::default();
            let app = server(engine, &shelf).start().await;
            let (agent, update) = drifted(&app, &shelf).await;
            hold(&app, &agent.id, "careful", &in_a_minute()).await;
            let doing = async {
                eventually("it is fetched", || async {
                    shelf.fetches().last().is_some_and(|fetch| fetch.ends_with(&sha('2')))
                })
                .await;
                // when that one changes the plugin
                app.database.execute(meanwhile).await;
                app.database.execute("DELETE FROM plugin_operations").await;
            };
            let (reply, ()) = tokio::join!(apply(&app, &update), doing);

            // then nothing of it is undone
            let expected = json!({
                "error": error, "workspace_id": agent.id, "plugin_name": "careful",
            });
            assert_eq!((reply.status, reply.json()), (status, expected), "{meanwhile}");
            assert_eq!(rule(&app, &agent.id).as_deref(), Some("rule of 1"), "{meanwhile}");
            let rows = "SELECT count(*) FROM workspace_plugins WHERE installed_sha LIKE '2%'";
            assert_eq!(app.database.count(rows).await, 0, "{meanwhile}");
            app.shutdown().await;
        }
    }

    async fn what_a_plugin_is_told_to_follow_while_it_is_updated_stays(engine: Engine) {
        let shelf = Shelf::default();
        let app = server(engine, &shelf).start().await;
        let (agent, update) = drifted(&app, &shelf).await;
        app.backend.plugins.set_fault(PluginFault::DeliverSlow(Duration::from_secs(1)));
        let following = async {
            eventually("it delivers", || async { app.backend.plugins.delivering() == 1 }).await;
            let path = format!("/workspaces/{}/plugins/careful", agent.id);
            let body = json!({ "track": "ref:main", "update_mode": "off" });
            app.request("PATCH", &path).json(body).bearer(ADMIN).send().await
        };

        let (applied, followed) = tokio::join!(apply(&app, &update), following);

        assert_eq!((applied.status, followed.status), (200, 200), "{}", applied.text);
        let row = format!(
            "SELECT count(*) FROM workspace_plugins WHERE tracked_ref = 'ref:main'
             AND update_mode = 'off' AND installed_sha = '{}'",
            sha('2')
        );
        assert_eq!(app.database.count(&row).await, 1);
    }

    async fn what_is_installed_anew_takes_the_update_of_what_was_there_with_it(engine: Engine) {
        // given an update, and the same plugin installed at a third revision, once and for all
        let shelf = Shelf::default();
        let app = server(engine, &shelf).start().await;
        let (agent, _) = drifted(&app, &shelf).await;
        shelf.set("acme/careful", "tag:v3", &sha('3'));
        let body = json!({ "source": "shelf://acme/careful#tag:v3", "restart": false });
        install(&app, &agent.id, body).await;
        assert!(pending(&app).await.is_empty());

        // when it follows another tag that means what was pending for the first one
        shelf.set("acme/careful", "tag:old", &sha('1'));
        shelf.set("acme/careful", "tag:latest", &sha('2'));
        install_tracked_at(&app, &agent.id, "tag:old", "tag:v1").await;
        let first = update(&app).await;
        assert_eq!(first["tracked_ref"], "tag:v1");
        install_tracked_at(&app, &agent.id, "tag:old", "tag:latest").await;
        eventually("the other tag is pending", || async {
            pending(&app).await.first().is_some_and(|entry| entry["tracked_ref"] == "tag:latest")
        })
        .await;

        // then that can be applied
        let update = update(&app).await;
        let reply = apply(&app, &update).await;
        assert_eq!(reply.json()["status"], "applied", "{}", reply.text);
        assert_eq!(rule(&app, &agent.id).as_deref(), Some("rule of 2"));
    }

    async fn a_client_that_leaves_does_not_end_an_update(engine: Engine) {
        let shelf = Shelf::default();
        let app = server(engine, &shelf).start().await;
        let (agent, update) = drifted(&app, &shelf).await;
        app.backend.plugins.set_fault(PluginFault::DeliverSlow(Duration::from_secs(1)));
        let left = tokio::select! {
            reply = apply(&app, &update) => Some(reply),
            () = eventually("it delivers", || async { app.backend.plugins.delivering() == 1 }) => None,
        };
        assert!(left.is_none());
        let closed = "SELECT count(*) FROM plugin_update_queue
                      WHERE status = 'applied' AND applying_until IS NULL";
        eventually("the update is closed", || async { app.database.count(closed).await == 1 }).await;
        assert_eq!(rule(&app, &agent.id).as_deref(), Some("rule of 2"));
    }

    async fn for_who_does_not_run_nothing_is_fetched_and_for_who_is_gone_nothing_listed(engine: Engine) {
        let shelf = Shelf::default();
        let app = server(engine, &shelf).start().await;
        let (agent, update) = drifted(&app, &shelf).await;
        let path = format!("/workspaces/{}/pause", agent.id);
        assert_eq!(app.post(&path, json!({})).bearer(ADMIN).send().await.status, 200);
        let fetches = shelf.fetches().len();
        let reply = apply(&app, &update).await;
        let text = "plugin deliver failed: workspace container not running";
        let expected = json!({ "error": text, "queue_id": update["id"] });
        assert_eq!((reply.status, reply.json()), (503, expected));
        assert_eq!(shelf.fetches().len(), fetches);
        // nor by itself, however often somebody looks
        app.database.execute("UPDATE workspace_plugins SET update_mode = 'auto'").await;
        let before = shelf.lookups_of("acme/careful");
        eventually("more rounds", || async { shelf.lookups_of("acme/careful") > before + 3 }).await;
        assert_eq!(shelf.fetches().len(), fetches);
        assert_eq!(pending(&app).await.len(), 1);
        let path = format!("/workspaces/{}", agent.id);
        assert_eq!(app.delete(&path).bearer(ADMIN).send().await.status, 200);
        assert!(pending(&app).await.is_empty());
    }

    async fn what_cannot_be_fetched_stays_pending_and_is_applied_later(engine: Engine) {
        // given an update to a revision that nobody gives out
        let shelf = Shelf::default();
        let app = server(engine, &shelf).start().await;
        let (agent, _) = drifted(&app, &shelf).await;
        shelf.set("acme/careful", "tag:v1", &sha('7'));
        eventually("the entry says the newest", || async {
            pending(&app).await[0]["latest_sha"] == sha('7')
        })
        .await;
        let update = update(&app).await;

        let reply = apply(&app, &update).await;

        let text = "plugin install failed: failed to fetch plugin from shelf";
        let expected = json!({ "error": text, "queue_id": update["id"] });
        assert_eq!((reply.status, reply.json()), (404, expected));
        let listed = pending(&app).await;
        assert_eq!(listed[0]["last_error"], text);
        assert_eq!(installed_sha(&app, engine, &agent.id).await, sha('1'));

        // when it is there
        shelve(&shelf, "careful", "7");
        let reply = apply(&app, &update).await;

        assert_eq!(reply.json()["status"], "applied", "{}", reply.text);
        assert_eq!(rule(&app, &agent.id).as_deref(), Some("rule of 7"));
        assert!(pending(&app).await.is_empty());
    }

    async fn what_cannot_be_delivered_stays_pending_and_nothing_is_advanced(engine: Engine) {
        let shelf = Shelf::default();
        let app = server(engine, &shelf).start().await;
        let (agent, update) = drifted(&app, &shelf).await;
        let starts = app.backend.starts_of(&agent.id).len();

        app.backend.plugins.set_fault(PluginFault::DeliverFails("exchange"));
        let reply = apply(&app, &update).await;

        let text = "plugin deliver failed: failed to copy plugin to container";
        let expected = json!({ "error": text, "queue_id": update["id"] });
        assert_eq!((reply.status, reply.json()), (500, expected));
        assert_eq!(pending(&app).await[0]["last_error"], text);
        assert_eq!(installed_sha(&app, engine, &agent.id).await, sha('1'));
        assert_eq!(app.backend.starts_of(&agent.id).len(), starts, "no restart");

        // a workspace that does not run says so
        app.backend.plugins.set_fault(PluginFault::DeliverFindsNothing);
        let reply = apply(&app, &update).await;
        let text = "plugin deliver failed: workspace container not running";
        let expected = json!({ "error": text, "queue_id": update["id"] });
        assert_eq!((reply.status, reply.json()), (503, expected));

        let reply = apply(&app, &update).await;
        assert_eq!(reply.json()["status"], "applied", "{}", reply.text);
        assert_eq!(installed_sha(&app, engine, &agent.id).await, sha('2'));
    }

    async fn what_an_organisation_does_not_allow_any_more_is_not_applied(engine: Engine) {
        let shelf = Shelf::default();
        let app = server(engine, &shelf).start().await;
        let (agent, update) = drifted(&app, &shelf).await;
        let path = format!("/orgs/{}/plugins/allowlist", agent.id);
        let body = json!({ "plugins": ["another"], "enabled_by": "somebody" });
        let reply = app.request("PUT", &path).json(body).bearer(ADMIN).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);

        let reply = apply(&app, &update).await;

        let text = "plugin deliver failed: plugin \"careful\" is not in the org allowlist";
        let expected = json!({ "error": text, "queue_id": update["id"] });
        assert_eq!((reply.status, reply.json()), (403, expected));
        assert_eq!(rule(&app, &agent.id).as_deref(), Some("rule of 1"));
    }

    async fn a_server_that_died_while_it_applied_leaves_an_update_that_can_be_applied(engine: Engine) {
        // given an update that somebody applies at this moment
        let shelf = Shelf::default();
        let app = server(engine, &shelf).start().await;
        let (agent, update) = drifted(&app, &shelf).await;
        let until = |time: &str| {
            format!("UPDATE plugin_update_queue SET applying_until = '{time}'")
        };
        app.database.execute(&until("2999-01-01T00:00:00+00:00")).await;
        for decision in ["apply", "dismiss"] {
            let path = format!("/admin/plugin-updates/{}/{decision}", update["id"].as_str().expect("an id"));
            let reply = app.request("POST", &path).bearer(ADMIN).send().await;
            assert_eq!(reply.status, 409, "{}", reply.text);
            assert_eq!(reply.json()["error"], "plugin operation already in progress");
        }

        // when that one is gone for as long as a lease lasts
        app.database.execute(&until("2026-01-01T00:00:00+00:00")).await;
        let reply = apply(&app, &update).await;
        assert_eq!(reply.json()["status"], "applied", "{}", reply.text);

        // (a round would see that there is nothing to update any more; it hangs instead)
        shelf.trouble("acme/careful", Some(Trouble::Hangs));
        eventually("a round hangs", || async { shelf.hanging() == 1 }).await;

        // and when one dies after the delivery, the next finds the tree and closes the entry
        let sql = "UPDATE plugin_update_queue SET status = 'pending', decided_at = NULL,
                   applying_until = '2026-01-01T00:00:00+00:00'";
        let delivered = app.backend.plugins.calls(PluginCall::Deliver);
        app.database.execute(sql).await;
        let reply = apply(&app, &update).await;
        let status = reply.json()["status"].clone();
        assert!(status == "applied" || status == "already_applied", "{}", reply.text);
        assert_eq!(app.backend.plugins.calls(PluginCall::Deliver), delivered);
        assert_eq!(rule(&app, &agent.id).as_deref(), Some("rule of 2"));
        assert!(pending(&app).await.is_empty());
    }

    async fn what_wants_it_is_updated_by_itself_a_few_at_a_time(engine: Engine) {
        // given plugins that update by themselves, and one that cannot
        let shelf = Shelf::default();
        let app = server(engine, &shelf).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let names: Vec<String> = (0..6).map(|number| format!("p{number}")).collect();
        shelve(&shelf, "broken", "1");
        install_tracked(&app, &agent.id, "broken", "auto").await;
        for name in &names {
            shelve(&shelf, name, "12");
            install_tracked(&app, &agent.id, name, "auto").await;
        }
        for _ in 0..6 {
            let slow = PluginFault::DeliverSlow(Duration::from_millis(100));
            app.backend.plugins.set_fault(slow);
        }

        // when their upstreams move
        shelf.set("acme/broken", "tag:v1", &sha('9'));
        for name in &names {
            shelf.set(&format!("acme/{name}"), "tag:v1", &sha('2'));
        }

        // then they have the new revision, and the queue says how they came to it
        eventually("all are updated", || async {
            status_of(&app, "applied").await == 6
        })
        .await;
        for name in &names {
            let rule = app.backend.plugins.file(&agent.id, name, "rules/rule.md");
            assert_eq!(rule.as_deref(), Some("rule of 2"), "{name}");
        }
        assert!(app.backend.plugins.most_delivering() <= 2);

        // and the one that cannot waits for somebody
        let waiting = pending(&app).await;
        let expected = "plugin install failed: failed to fetch plugin from shelf";
        assert_eq!((waiting.len(), &waiting[0]["last_error"]), (1, &json!(expected)));
        assert_eq!(waiting[0]["plugin_name"], "broken");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_skill_that_changed_alone_restarts_nobody() {
    let shelf = Shelf::default();
    for digit in ['1', '2'] {
        let skill = format!("skill of {digit}");
        let files = [("plugin.yaml", MANIFEST), ("skills/look/SKILL.md", &skill)];
        shelf.put("acme/careful", &sha(digit), &files);
    }
    shelf.set("acme/careful", "tag:v1", &sha('1'));
    let app = server(Engine::Sqlite, &shelf).start().await;
    let agent = Agent::online(&app, json!({ "name": "one" })).await;
    install_tracked(&app, &agent.id, "careful", "notify").await;
    shelf.set("acme/careful", "tag:v1", &sha('2'));
    let update = update(&app).await;

    let reply = apply(&app, &update).await;

    assert_eq!(reply.json()["restarting"], false, "{}", reply.text);
    let file = app
        .backend
        .plugins
        .file(&agent.id, "careful", "skills/look/SKILL.md");
    assert_eq!(file.as_deref(), Some("skill of 2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_round_tries_everything_that_updates_by_itself() {
    // given more updates than are listed at once, of revisions that nobody gives out
    let shelf = Shelf::default();
    let app = server(Engine::Sqlite, &shelf).start().await;
    let agent = Agent::online(&app, json!({ "name": "one" })).await;
    let backend = app.backend.clone();
    let (database, dir) = app.shutdown().await;
    let once = || {
        server(Engine::Sqlite, &shelf)
            .backend(backend.clone())
            .cadence(|cadence| cadence.plugin_drift = Some(Duration::from_secs(3600)))
    };
    let app = once().start_on(database, dir).await;
    let mut rows = Vec::new();
    for number in 0..120 {
        let row = Planted::new(&agent.id, &format!("p{number}"));
        shelf.set(&format!("acme/p{number}"), "tag:v1", &sha('2'));
        rows.push(Planted {
            mode: "auto",
            ..row
        });
    }
    plant(&app, Engine::Sqlite, &rows).await;

    // when somebody looks once
    let (database, dir) = app.shutdown().await;
    let app = once().start_on(database, dir).await;

    let tried = "SELECT count(*) FROM plugin_update_queue WHERE last_error IS NOT NULL";
    eventually("all were tried", || async {
        app.database.count(tried).await == 120
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_text_names_neither_an_update_nor_a_plugin() {
    let shelf = Shelf::default();
    let app = server(Engine::Sqlite, &shelf).start().await;
    let agent = Agent::online(&app, json!({ "name": "one" })).await;
    for decision in ["apply", "dismiss"] {
        let path = format!("/admin/plugin-updates/%FF/{decision}");
        let reply = app.request("POST", &path).bearer(ADMIN).send().await;
        let expected = json!({ "error": "queue entry %FF not found" });
        assert_eq!((reply.status, reply.json()), (404, expected));
    }
    // A name is looked at before the body.
    let path = format!("/workspaces/{}/plugins/a..b", agent.id);
    for body in [json!({}), json!({ "track": 1 })] {
        let reply = app
            .request("PATCH", &path)
            .json(body)
            .bearer(ADMIN)
            .send()
            .await;
        let expected = json!({ "error": "invalid plugin name" });
        assert_eq!((reply.status, reply.json()), (400, expected));
    }
}
