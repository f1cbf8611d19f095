//! The look for newer revisions of tracked plugins.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use molecule_tests::support::{assert_time, fields, sql_id, strict};
use molecule_tests::{ADMIN, Engine, TestApp, TestAppBuilder, eventually, on_both_engines};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::shelf::{Planted, Shelf, Trouble, plant, sha};

/// Rounds follow each other closely.
const QUICK: Duration = Duration::from_millis(150);
/// One round, at the start, and none after it.
const ONCE: Duration = Duration::from_secs(3600);

fn server(engine: Engine, shelf: &Shelf, interval: Duration) -> TestAppBuilder {
    strict(engine)
        .registry(shelf.registry())
        .cadence(|cadence| cadence.plugin_drift = Some(interval))
}

async fn pending(app: &TestApp) -> Vec<Value> {
    let path = "/admin/plugin-updates-pending";
    let reply = app.get(path).bearer(ADMIN).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json().as_array().expect("a list").clone()
}

async fn wait_for_pending(app: &TestApp, count: usize) -> Vec<Value> {
    eventually("the updates are pending", || async {
        pending(app).await.len() == count
    })
    .await;
    pending(app).await
}

/// Waits until so many more rounds began and ended that look at this upstream.
async fn rounds(shelf: &Shelf, upstream: &str, count: usize) {
    let before = shelf.lookups_of(upstream);
    eventually("more rounds", || async {
        shelf.lookups_of(upstream) > before + count
    })
    .await;
}

async fn decide(app: &TestApp, entry: &Value, decision: &str) -> Value {
    let id = entry["id"].as_str().expect("an id");
    let path = format!("/admin/plugin-updates/{id}/{decision}");
    let reply = app.request("POST", &path).bearer(ADMIN).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

on_both_engines! {
    async fn what_moved_upstream_is_pending_and_changes_nothing(engine: Engine) {
        // given two plugins that follow tags
        let shelf = Shelf::default();
        shelf.set("acme/careful", "tag:v1", &sha('2'));
        shelf.set("acme/still", "tag:v1", &sha('1'));
        let app = server(engine, &shelf, QUICK).start().await;
        let id = app.create(json!({ "name": "one" })).await;
        assert_eq!(pending(&app).await, Vec::<Value>::new(), "an empty list, not null");

        // when one of the tags is somewhere else than the workspace
        plant(&app, engine, &[Planted::new(&id, "careful"), Planted::new(&id, "still")]).await;

        // then that one is listed with everything that an administrator needs
        let listed = wait_for_pending(&app, 1).await;
        let expected = json!({
            "id": listed[0]["id"], "created_at": listed[0]["created_at"],
            "workspace_id": id, "plugin_name": "careful", "tracked_ref": "tag:v1",
            "current_sha": sha('1'), "latest_sha": sha('2'), "status": "pending",
        });
        assert_eq!(listed[0], expected);
        assert_time(&listed[0]["created_at"]);

        // and it stays the one entry, however often somebody looks
        rounds(&shelf, "acme/careful", 3).await;
        assert_eq!(pending(&app).await, listed);
        let moved = "SELECT count(*) FROM workspace_plugins WHERE installed_sha LIKE '2%'";
        assert_eq!(app.database.count(moved).await, 0, "detection changes no workspace");
        assert_eq!(app.backend.starts_of(&id).len(), 1, "and restarts nothing");
    }

    async fn ten_thousand_rows_over_fifty_repositories_cost_fifty_look_ups(engine: Engine) {
        // given
        let shelf = Shelf::default();
        let app = server(engine, &shelf, ONCE).start().await;
        let mut ids = Vec::new();
        for number in 0..4 {
            ids.push(app.create(json!({ "name": format!("w{number}") })).await);
        }
        for repository in 0..50 {
            shelf.set(&format!("acme/r{repository}"), "tag:v1", &sha('1'));
            shelf.set(&format!("acme/r{repository}"), "tag:latest", &sha('1'));
        }
        shelf.set("acme/r7", "tag:latest", &sha('3'));
        let mut planted = Vec::new();
        for number in 0..10_000 {
            let workspace = &ids[number % ids.len()];
            planted.push(Planted {
                source: format!("shelf://acme/r{}#v{}", number % 50, number % 3),
                track: if number % 2 == 0 { "tag:v1" } else { "tag:latest" },
                ..Planted::new(workspace, &format!("p{number}"))
            });
        }
        plant(&app, engine, &planted).await;
        assert_eq!(shelf.lookups(), 0, "the round of the start saw no rows");

        // when a server starts, and looks once
        let (database, dir) = app.shutdown().await;
        let app = server(engine, &shelf, ONCE).start_on(database, dir).await;

        // then every repository is asked once, for all that its rows follow
        let unseen = "SELECT count(*) FROM workspace_plugins WHERE checked_at IS NULL";
        let deadline = Instant::now() + Duration::from_secs(60);
        while app.database.count(unseen).await > 0 {
            assert!(Instant::now() < deadline, "the round never ended");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(shelf.lookups(), 50);
        for repository in 0..50 {
            assert_eq!(shelf.lookups_of(&format!("acme/r{repository}")), 1, "{repository}");
        }
        let drifted = wait_for_pending(&app, 200).await;
        assert!(drifted.iter().all(|entry| entry["latest_sha"] == sha('3')));
        let metrics = app.get("/metrics").send().await.text;
        for line in ["molecule_plugin_drift_rows 10000", "molecule_plugin_drift_oldest_check_seconds"] {
            assert!(metrics.contains(line), "{line}");
        }
    }

    async fn what_moves_further_replaces_what_was_pending(engine: Engine) {
        let shelf = Shelf::default();
        shelf.set("acme/careful", "tag:v1", &sha('2'));
        let app = server(engine, &shelf, QUICK).start().await;
        let id = app.create(json!({ "name": "one" })).await;
        plant(&app, engine, &[Planted::new(&id, "careful")]).await;
        let first = wait_for_pending(&app, 1).await;

        shelf.set("acme/careful", "tag:v1", &sha('3'));

        eventually("the entry says the newest", || async {
            pending(&app).await[0]["latest_sha"] == sha('3')
        })
        .await;
        let now = pending(&app).await;
        assert_eq!((now.len(), &now[0]["id"]), (1, &first[0]["id"]));
    }

    async fn an_upstream_that_moves_back_takes_its_update_back(engine: Engine) {
        let shelf = Shelf::default();
        shelf.set("acme/careful", "tag:v1", &sha('2'));
        let app = server(engine, &shelf, QUICK).start().await;
        let id = app.create(json!({ "name": "one" })).await;
        plant(&app, engine, &[Planted::new(&id, "careful")]).await;
        wait_for_pending(&app, 1).await;

        shelf.set("acme/careful", "tag:v1", &sha('1'));

        wait_for_pending(&app, 0).await;
        assert_eq!(app.database.count("SELECT count(*) FROM plugin_update_queue").await, 0);
    }

    async fn what_was_installed_by_hand_is_not_pending_any_more(engine: Engine) {
        let shelf = Shelf::default();
        shelf.set("acme/careful", "tag:v1", &sha('2'));
        let app = server(engine, &shelf, QUICK).start().await;
        let id = app.create(json!({ "name": "one" })).await;
        plant(&app, engine, &[Planted::new(&id, "careful")]).await;
        wait_for_pending(&app, 1).await;

        let sql = format!("UPDATE workspace_plugins SET installed_sha = '{}'", sha('2'));
        app.database.execute(&sql).await;

        wait_for_pending(&app, 0).await;
        let applied = "SELECT count(*) FROM plugin_update_queue WHERE status = 'applied'";
        assert_eq!(app.database.count(applied).await, 1);
    }

    async fn a_dismissed_revision_stays_away_until_its_upstream_moves(engine: Engine) {
        // given an update that nobody wants
        let shelf = Shelf::default();
        shelf.set("acme/careful", "tag:v1", &sha('2'));
        let app = server(engine, &shelf, QUICK).start().await;
        let id = app.create(json!({ "name": "one" })).await;
        plant(&app, engine, &[Planted::new(&id, "careful")]).await;
        let entry = wait_for_pending(&app, 1).await.remove(0);
        let expected = json!({ "status": "dismissed", "workspace_id": id, "plugin_name": "careful" });
        assert_eq!(decide(&app, &entry, "dismiss").await, expected);

        // then it does not come back by itself
        rounds(&shelf, "acme/careful", 3).await;
        assert!(pending(&app).await.is_empty());

        // but a newer one does
        shelf.set("acme/careful", "tag:v1", &sha('3'));
        wait_for_pending(&app, 1).await;

        // and the dismissed one as well, once upstream was somewhere else in between
        shelf.set("acme/careful", "tag:v1", &sha('2'));
        eventually("the entry is back", || async {
            pending(&app).await[0]["latest_sha"] == sha('2')
        })
        .await;
    }

    async fn what_cannot_move_is_never_asked_for(engine: Engine) {
        let shelf = Shelf::default();
        for name in ["none", "commit", "off", "unknown", "removed"] {
            shelf.set(&format!("acme/{name}"), "tag:v1", &sha('2'));
        }
        shelf.set("acme/probe", "tag:v1", &sha('1'));
        let app = server(engine, &shelf, QUICK).start().await;
        let id = app.create(json!({ "name": "one" })).await;
        let gone = app.create(json!({ "name": "two" })).await;
        let reply = app.delete(&format!("/workspaces/{gone}")).bearer(ADMIN).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let commit = format!("sha:{}", sha('1'));
        plant(&app, engine, &[
            Planted { track: "none", ..Planted::new(&id, "none") },
            Planted { track: &commit, ..Planted::new(&id, "commit") },
            Planted { mode: "off", ..Planted::new(&id, "off") },
            Planted { installed: None, ..Planted::new(&id, "unknown") },
            Planted::new(&gone, "removed"),
            // Nothing that anybody could ask.
            Planted { source: "local://home".to_owned(), ..Planted::new(&id, "home") },
            Planted { source: "nobody://x".to_owned(), ..Planted::new(&id, "nobody") },
            Planted { source: "shelf://".to_owned(), ..Planted::new(&id, "empty") },
            Planted { track: "gibberish", ..Planted::new(&id, "gibberish") },
            Planted::new(&id, "probe"),
        ])
        .await;

        rounds(&shelf, "acme/probe", 3).await;

        let asked = ["none", "commit", "off", "unknown", "removed", "empty", "gibberish"]
            .map(|name| shelf.lookups_of(&format!("acme/{name}")));
        assert_eq!(asked, [0; 7]);
        assert!(pending(&app).await.is_empty());
    }

    async fn a_tracked_revision_that_is_gone_leaves_the_others_alone(engine: Engine) {
        let shelf = Shelf::default();
        shelf.set("acme/r", "tag:v1", &sha('2'));
        shelf.set("acme/r", "branch", &sha('3'));
        shelf.set("acme/r", "tag:gone", &sha('4'));
        shelf.forget("acme/r", "tag:gone");
        let app = server(engine, &shelf, QUICK).start().await;
        let id = app.create(json!({ "name": "one" })).await;
        let source = "shelf://acme/r#v1";
        let of = |name: &str, track| Planted {
            source: source.to_owned(),
            track,
            ..Planted::new(&id, name)
        };
        plant(&app, engine, &[of("a", "tag:v1"), of("b", "ref:branch"), of("c", "tag:gone")]).await;

        let listed = wait_for_pending(&app, 2).await;

        let found: BTreeSet<_> = listed
            .iter()
            .map(|entry| (entry["plugin_name"].to_string(), entry["latest_sha"].to_string()))
            .collect();
        let expected = BTreeSet::from([
            ("\"a\"".to_owned(), format!("{:?}", sha('2'))),
            ("\"b\"".to_owned(), format!("{:?}", sha('3'))),
        ]);
        assert_eq!(found, expected);
    }

    async fn an_upstream_in_trouble_rests_and_holds_up_nobody(engine: Engine) {
        // given upstreams that fail in every way there is, and one that works
        let shelf = Shelf::default();
        for (name, trouble) in [
            ("fails", Trouble::Fails),
            ("panics", Trouble::Panics),
            ("short", Trouble::AnswersTooLittle),
        ] {
            shelf.trouble(&format!("acme/{name}"), Some(trouble));
        }
        shelf.set("acme/works", "tag:v1", &sha('2'));
        let app = server(engine, &shelf, QUICK).start().await;
        let id = app.create(json!({ "name": "one" })).await;
        let rows = ["fails", "panics", "short", "works"].map(|name| Planted::new(&id, name));
        plant(&app, engine, &rows).await;

        // then the one that works is looked after all the time, and the others less and less
        wait_for_pending(&app, 1).await;
        let before = shelf.lookups_of("acme/works");
        eventually("twenty rounds", || async {
            shelf.lookups_of("acme/works") >= before + 20
        })
        .await;
        for name in ["fails", "panics", "short"] {
            let asked = shelf.lookups_of(&format!("acme/{name}"));
            assert!((1..15).contains(&asked), "{name}: {asked} of {}", before + 20);
            let sql = format!(
                "SELECT count(*) FROM workspace_plugins WHERE plugin_name = '{name}'
                 AND check_failures > 0"
            );
            assert_eq!(app.database.count(&sql).await, 1, "{name}");
        }

        // and when one works again, its failures are forgotten
        shelf.trouble("acme/fails", None);
        shelf.set("acme/fails", "tag:v1", &sha('5'));
        wait_for_pending(&app, 2).await;
        let sql = "SELECT count(*) FROM workspace_plugins WHERE plugin_name = 'fails'
                   AND check_failures > 0";
        eventually("the failures are forgotten", || async {
            app.database.count(sql).await == 0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_hangs_keeps_neither_others_nor_the_shutdown_waiting() {
    // given one of three upstreams that never answers
    let shelf = Shelf::default();
    shelf.trouble("acme/hangs", Some(Trouble::Hangs));
    for name in ["one", "two"] {
        shelf.set(&format!("acme/{name}"), "tag:v1", &sha('2'));
    }
    let app = server(Engine::Sqlite, &shelf, QUICK).start().await;
    let id = app.create(json!({ "name": "one" })).await;
    let rows = ["hangs", "one", "two"].map(|name| Planted::new(&id, name));
    plant(&app, Engine::Sqlite, &rows).await;

    // then the others are settled meanwhile
    wait_for_pending(&app, 2).await;
    assert_eq!(shelf.lookups_of("acme/hangs"), 1);

    // and the end of the server ends the look-up
    let began = Instant::now();
    app.shutdown().await;
    assert!(
        began.elapsed() < Duration::from_secs(9),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_upstreams_are_asked_at_once() {
    let shelf = Shelf::default();
    shelf.set_slowness(Duration::from_millis(20));
    let app = server(Engine::Sqlite, &shelf, QUICK)
        .config(|config| config.plugins.drift_concurrency = 3)
        .start()
        .await;
    let id = app.create(json!({ "name": "one" })).await;
    let rows: Vec<_> = (0..30)
        .map(|number| Planted::new(&id, &format!("p{number}")))
        .collect();
    plant(&app, Engine::Sqlite, &rows).await;

    eventually("all were asked", || async { shelf.lookups() >= 30 }).await;

    assert_eq!(shelf.most_looking(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_asked_least_recently_is_asked_first() {
    // given three upstreams of which one was never asked and one a long time ago
    let shelf = Shelf::default();
    let app = server(Engine::Sqlite, &shelf, ONCE)
        .config(|config| config.plugins.drift_concurrency = 1)
        .start()
        .await;
    let id = app.create(json!({ "name": "one" })).await;
    let rows = ["recent", "never", "old"].map(|name| Planted::new(&id, name));
    plant(&app, Engine::Sqlite, &rows).await;
    for (name, time) in [
        ("recent", "2026-01-02T00:00:00+00:00"),
        ("old", "2026-01-01T00:00:00+00:00"),
    ] {
        let sql = format!(
            "UPDATE workspace_plugins SET checked_at = '{time}' WHERE plugin_name = '{name}'"
        );
        app.database.execute(&sql).await;
    }
    // when the second of them hangs
    shelf.trouble("acme/old", Some(Trouble::Hangs));
    let (database, dir) = app.shutdown().await;
    let app = server(Engine::Sqlite, &shelf, ONCE)
        .config(|config| config.plugins.drift_concurrency = 1)
        .start_on(database, dir)
        .await;

    // then the first was asked before, and the third was not
    eventually("the second is asked", || async {
        shelf.lookups_of("acme/old") == 1
    })
    .await;
    let asked = ["never", "old", "recent"].map(|name| shelf.lookups_of(&format!("acme/{name}")));
    assert_eq!(asked, [1, 1, 0]);
    app.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_looks_where_that_is_switched_off() {
    let shelf = Shelf::default();
    shelf.set("acme/careful", "tag:v1", &sha('2'));
    let app = server(Engine::Sqlite, &shelf, QUICK)
        .config(|config| config.plugins.drift_interval_secs = 0)
        .start()
        .await;
    let id = app.create(json!({ "name": "one" })).await;
    plant(&app, Engine::Sqlite, &[Planted::new(&id, "careful")]).await;
    // A loop that is there reports itself; this one is not.
    let health = app.get("/health").bearer(ADMIN).send().await.text;
    assert!(!health.contains("plugin-drift"), "{health}");
    let live = app.get("/admin/liveness").bearer(ADMIN).send().await.text;
    assert!(!live.contains("plugin-drift"), "{live}");
    assert_eq!(shelf.lookups(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_servers_one_looks() {
    if !molecule_tests::database::postgres_is_wanted() {
        return;
    }
    let (shelf, other_shelf) = (Shelf::default(), Shelf::default());
    for shelf in [&shelf, &other_shelf] {
        shelf.set("acme/careful", "tag:v1", &sha('1'));
    }
    let app = server(Engine::Postgres, &shelf, QUICK).start().await;
    let id = app.create(json!({ "name": "one" })).await;
    plant(&app, Engine::Postgres, &[Planted::new(&id, "careful")]).await;
    rounds(&shelf, "acme/careful", 2).await;
    let dir = tempfile::tempdir().expect("a folder");
    let other = server(Engine::Postgres, &other_shelf, QUICK)
        .start_on(app.database.share(), dir)
        .await;

    rounds(&shelf, "acme/careful", 5).await;

    assert_eq!(other_shelf.lookups(), 0, "the first one leads");
    // and the other goes on when the first one ends
    let _database = app.shutdown().await;
    rounds(&other_shelf, "acme/careful", 2).await;
    other.shutdown().await;
}

on_both_engines! {
    async fn decisions_about_what_does_not_exist_are_refused(engine: Engine) {
        let app = server(engine, &Shelf::default(), ONCE).start().await;
        let unknown = Uuid::new_v4().to_string();
        for id in [unknown.as_str(), "42", "not-a-uuid", "%27%20OR%201"] {
            for decision in ["apply", "dismiss"] {
                let path = format!("/admin/plugin-updates/{id}/{decision}");
                let reply = app.request("POST", &path).bearer(ADMIN).send().await;
                assert_eq!(reply.status, 404, "{path}: {}", reply.text);
                let shown = id.replace("%27%20", "' ").replace("%20", " ");
                let text = format!("queue entry {shown} not found");
                assert_eq!(reply.json(), json!({ "error": text }), "{path}");
                // and nobody but administrators may
                let reply = app.request("POST", &path).send().await;
                assert_eq!(reply.status, 401);
            }
        }
        let reply = app.get("/admin/plugin-updates-pending").send().await;
        assert_eq!(reply.status, 401);
    }

    async fn dismissing_twice_is_no_error_and_applying_what_was_dismissed_is(engine: Engine) {
        let shelf = Shelf::default();
        shelf.set("acme/careful", "tag:v1", &sha('2'));
        let app = server(engine, &shelf, QUICK).start().await;
        let id = app.create(json!({ "name": "one" })).await;
        plant(&app, engine, &[Planted::new(&id, "careful")]).await;
        let entry = wait_for_pending(&app, 1).await.remove(0);

        let first = decide(&app, &entry, "dismiss").await;
        let second = decide(&app, &entry, "dismiss").await;

        assert_eq!(first["status"], "dismissed");
        let expected = json!({
            "status": "already_dismissed", "workspace_id": id, "plugin_name": "careful",
            "message": "drift update was already dismissed",
        });
        assert_eq!(second, expected);
        let path = format!("/admin/plugin-updates/{}/apply", entry["id"].as_str().expect("an id"));
        let reply = app.request("POST", &path).bearer(ADMIN).send().await;
        let expected = json!({
            "error": "queue entry was dismissed", "workspace_id": id, "plugin_name": "careful",
        });
        assert_eq!((reply.status, reply.json()), (409, expected));
    }

    async fn an_update_of_what_is_not_tracked_any_more_cannot_be_applied(engine: Engine) {
        let shelf = Shelf::default();
        shelf.set("acme/careful", "tag:v1", &sha('2'));
        let app = server(engine, &shelf, QUICK).start().await;
        let id = app.create(json!({ "name": "one" })).await;
        plant(&app, engine, &[Planted::new(&id, "careful")]).await;
        let entry = wait_for_pending(&app, 1).await.remove(0);
        app.database.execute("DELETE FROM workspace_plugins").await;

        let path = format!("/admin/plugin-updates/{}/apply", entry["id"].as_str().expect("an id"));
        let reply = app.request("POST", &path).bearer(ADMIN).send().await;

        let expected = json!({
            "error": "workspace_plugins row not found — plugin may have been uninstalled",
            "workspace_id": id, "plugin_name": "careful",
        });
        assert_eq!((reply.status, reply.json()), (404, expected));
        assert_eq!(decide(&app, &entry, "dismiss").await["status"], "dismissed");
    }

    async fn what_a_plugin_follows_can_be_changed(engine: Engine) {
        // given an update that is pending because of what the plugin follows
        let shelf = Shelf::default();
        shelf.set("acme/careful", "tag:v1", &sha('2'));
        shelf.set("acme/careful", "main", &sha('3'));
        let app = server(engine, &shelf, QUICK).start().await;
        let id = app.create(json!({ "name": "one" })).await;
        plant(&app, engine, &[Planted::new(&id, "careful")]).await;
        wait_for_pending(&app, 1).await;
        let path = format!("/workspaces/{id}/plugins/careful");
        let patch = async |body: Value| {
            app.request("PATCH", &path).json(body).bearer(ADMIN).send().await
        };

        // when it follows a branch instead, then what waited waits no more
        let reply = patch(json!({ "track": " ref:main " })).await;
        let expected = json!({
            "status": "updated", "plugin": "careful", "source": "shelf://acme/careful#tag:v1",
            "track": "ref:main", "update_mode": "notify", "installed_sha": sha('1'),
        });
        assert_eq!((reply.status, reply.json()), (200, expected));
        eventually("the branch is pending", || async {
            let listed = pending(&app).await;
            listed.len() == 1 && listed[0]["latest_sha"] == sha('3')
        })
        .await;

        // when nobody shall look, nobody does
        let reply = patch(json!({ "update_mode": "off" })).await;
        assert_eq!(reply.json()["update_mode"], "off");
        assert_eq!(reply.json()["track"], "ref:main", "what is absent stays");
        assert_eq!(pending(&app).await.len(), 1, "it can still be decided");
        let reply = patch(json!({ "track": "none" })).await;
        assert_eq!(reply.json()["track"], "none");
        assert!(pending(&app).await.is_empty());
        let nothing = patch(json!({})).await;
        assert_eq!(nothing.json()["track"], "none");
        let known = ["status", "plugin", "source", "track", "update_mode", "installed_sha"];
        assert_eq!(fields(&nothing.json()), BTreeSet::from(known));
    }

    async fn nonsense_is_not_followed(engine: Engine) {
        let app = server(engine, &Shelf::default(), ONCE).start().await;
        let id = app.create(json!({ "name": "one" })).await;
        plant(&app, engine, &[Planted::new(&id, "careful")]).await;
        let patch = async |name: &str, body: Value| {
            let path = format!("/workspaces/{id}/plugins/{name}");
            let reply = app.request("PATCH", &path).json(body).bearer(ADMIN).send().await;
            (reply.status, reply.json()["error"].clone())
        };
        for track in ["latest", "tag:", "tag:--upload-pack=x", "tag:a b", "tag:$(id)", "ref:-x"] {
            let text = format!(
                "invalid track value \"{track}\": expected 'none' | 'tag:vX.Y.Z' | 'tag:latest' | 'sha:<full>'"
            );
            assert_eq!(patch("careful", json!({ "track": track })).await, (400, json!(text)));
        }
        let text = "invalid update_mode value \"always\": expected 'off' | 'notify' | 'auto'";
        let mode = json!({ "update_mode": "always" });
        assert_eq!(patch("careful", mode).await, (400, json!(text)));
        let body = json!("invalid request body");
        assert_eq!(patch("careful", json!({ "track": 1 })).await, (400, body.clone()));
        assert_eq!(patch("careful", json!([])).await, (400, body));
        let name = json!("invalid plugin name");
        for bad in ["a..b", "a%20b", "%24(id)", "a'b", ".hidden"] {
            assert_eq!(patch(bad, json!({})).await, (400, name.clone()), "{bad}");
        }
        let untracked = json!("plugin is not tracked");
        assert_eq!(patch("other", json!({ "track": "none" })).await, (404, untracked));
        // and nothing of it was written
        let sql = format!(
            "SELECT count(*) FROM workspace_plugins WHERE workspace_id = {} AND tracked_ref = 'tag:v1'
             AND update_mode = 'notify'",
            sql_id(engine, &id)
        );
        assert_eq!(app.database.count(&sql).await, 1);
        let path = format!("/workspaces/{id}/plugins/careful");
        let reply = app.request("PATCH", &path).json(json!({})).send().await;
        assert_eq!(reply.status, 401);
    }
}
