//! `POST /admin/workspace-images/refresh`, and the watcher.

use std::time::Duration;

use molecule_tests::fake_images::{Registry, digest};
use molecule_tests::support::{Agent, strict};
use molecule_tests::{ADMIN, Engine, Reply, TestApp, TestAppBuilder, eventually, on_both_engines};
use serde_json::{Value, json};

use crate::fleet::{
    admin, assert_row, count, later, of_runtime, request_restart, restart, started_times,
    with_images,
};

const REFRESH: &str = "/admin/workspace-images/refresh";
const KNOWN: [&str; 9] = [
    "autogen",
    "claude-code",
    "codex",
    "crewai",
    "deepagents",
    "gemini-cli",
    "hermes",
    "langgraph",
    "openclaw",
];

async fn refresh(app: &TestApp, query: &str) -> Reply {
    admin(app, "POST", &format!("{REFRESH}{query}")).await
}

/// What a refresh answers that pulled these and restarts the container of that one.
fn done(pulled: &[&str], failed: &[&str], recreated: &[&Agent]) -> (u16, Value) {
    let mut names: Vec<_> = recreated
        .iter()
        .map(|agent| format!("ws-{}", agent.id))
        .collect();
    names.sort();
    (
        200,
        json!({ "pulled": pulled, "failed": failed, "recreated": names }),
    )
}

fn sorted(reply: &Reply) -> (u16, Value) {
    let mut body = reply.json();
    if let Some(names) = body["recreated"].as_array_mut() {
        names.sort_by_key(ToString::to_string);
    }
    (reply.status, body)
}

on_both_engines! {
    async fn who_uses_an_older_image_is_restarted_with_the_new_one(engine: Engine) {
        let app = with_images(engine).start().await;
        let old = Agent::online(&app, of_runtime("codex")).await;
        let other = Agent::online(&app, of_runtime("hermes")).await;
        let asleep = Agent::online(&app, json!({ "name": "asleep", "runtime": "codex" })).await;
        assert_eq!(admin(&app, "POST", &format!("/workspaces/{}/pause", asleep.id)).await.status, 200);
        app.backend.images.publish("codex", digest('1'));

        let reply = refresh(&app, "?runtime=codex").await;

        assert_eq!(sorted(&reply), done(&["codex"], &[], &[&old]));
        let again = started_times(&app, &old.id, 2).await;
        assert_eq!(again.register(&app).send().await.status, 200);
        assert_row(&app, &old.id, &format!("runtime_image_digest = '{}'", digest('1'))).await;
        assert_eq!(app.backend.starts_of(&other.id).len(), 1);
        assert_eq!(app.backend.starts_of(&asleep.id).len(), 1);

        // They run what there is: nobody needs to be disturbed again.
        let reply = refresh(&app, "").await;
        assert_eq!(sorted(&reply), done(&KNOWN, &[], &[]));
        assert_eq!(app.backend.images.refreshed().len(), 10);
    }

    async fn without_knowing_what_an_agent_runs_it_is_restarted(engine: Engine) {
        let app = with_images(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        crate::fleet::set(&app, &agent.id, "runtime_image_digest = NULL").await;
        assert_eq!(sorted(&refresh(&app, "?runtime=codex").await), done(&["codex"], &[], &[&agent]));
        started_times(&app, &agent.id, 2).await;
    }

    async fn where_a_content_was_decided_on_that_is_what_agents_are_brought_to(engine: Engine) {
        let app = with_images(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        let pin = app.request("PUT", "/admin/runtime-image-pins/codex").bearer(ADMIN);
        assert_eq!(pin.json(json!({ "digest": digest('a').as_str() })).send().await.status, 200);
        assert_eq!(sorted(&refresh(&app, "?runtime=codex").await), done(&["codex"], &[], &[&agent]));
        started_times(&app, &agent.id, 2).await;
        assert_row(&app, &agent.id, &format!("runtime_image_digest = '{}'", digest('a'))).await;
        app.backend.images.publish("codex", digest('1'));
        assert_eq!(sorted(&refresh(&app, "?runtime=codex").await), done(&["codex"], &[], &[]));
    }

    async fn one_broken_image_does_not_keep_the_others_back(engine: Engine) {
        let app = with_images(engine).start().await;
        let broken = Agent::online(&app, of_runtime("codex")).await;
        let fine = Agent::online(&app, of_runtime("hermes")).await;
        app.backend.images.set_broken("codex", true);
        app.backend.images.publish("codex", digest('1'));
        app.backend.images.publish("hermes", digest('1'));
        let reply = refresh(&app, "").await;
        let pulled: Vec<_> = KNOWN.into_iter().filter(|runtime| *runtime != "codex").collect();
        assert_eq!(sorted(&reply), done(&pulled, &["codex"], &[&fine]));
        started_times(&app, &fine.id, 2).await;
        assert_eq!(app.backend.starts_of(&broken.id).len(), 1);
    }

    async fn what_was_done_is_told_when_the_containers_cannot_be_listed(engine: Engine) {
        let app = with_images(engine).start().await;
        Agent::online(&app, of_runtime("codex")).await;
        app.backend.images.set_users_fail(true);
        let reply = refresh(&app, "?runtime=codex").await;
        let expected = json!({
            "error": "container list: the backend refused",
            "partial_result": { "pulled": ["codex"], "failed": [], "recreated": [] },
        });
        assert_eq!((reply.status, reply.json()), (500, expected));
        // Nobody is to be restarted: nobody needs to be listed.
        assert_eq!(refresh(&app, "?runtime=codex&recreate=false").await.status, 200);
    }

    async fn only_true_means_true(engine: Engine) {
        let app = with_images(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        app.backend.images.publish("codex", digest('1'));
        for no in ["false", "TRUE", "True", "1", "yes", ""] {
            let reply = refresh(&app, &format!("?runtime=codex&recreate={no}")).await;
            assert_eq!(sorted(&reply), done(&["codex"], &[], &[]), "{no}");
        }
        assert_eq!(app.backend.starts_of(&agent.id).len(), 1);
        let reply = refresh(&app, "?runtime=codex&recreate=true").await;
        assert_eq!(sorted(&reply), done(&["codex"], &[], &[&agent]));
    }

    async fn a_restart_that_a_refresh_asked_for_is_declined_without_an_image(engine: Engine) {
        let app = with_images(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        app.backend.images.publish("codex", digest('1'));
        app.backend.images.set_boots_fail(true);
        assert_eq!(sorted(&refresh(&app, "?runtime=codex").await), done(&["codex"], &[], &[&agent]));
        eventually("it is declined, and asked for again later", || async {
            count(&app, &agent.id, &format!("provision_lease_until IS NULL AND {}", later())).await == 1
        }).await;
        assert_eq!(app.backend.images.obtained().len(), 2);
        assert_eq!(app.backend.starts_of(&agent.id).len(), 1);
        assert!(app.backend.runs(&agent.id) && app.backend.stops().is_empty());
        // When its time has come and there is an image, it is started anew.
        app.backend.images.set_boots_fail(false);
        request_restart(&app, &agent.id).await;
        started_times(&app, &agent.id, 2).await;
    }

    async fn runtimes_that_share_a_repository_are_not_restarted_for_each_other(engine: Engine) {
        let app = with_images(engine).start().await;
        app.backend.images.share_repository(&["codex", "hermes"]);
        let codex = Agent::online(&app, of_runtime("codex")).await;
        let hermes = Agent::online(&app, of_runtime("hermes")).await;
        app.backend.images.publish("codex", digest('1'));
        assert_eq!(sorted(&refresh(&app, "?runtime=codex").await), done(&["codex"], &[], &[&codex]));
        let again = started_times(&app, &codex.id, 2).await;
        assert_eq!(again.register(&app).send().await.status, 200);
        // Each is compared with the image of its own runtime, and restarts once.
        app.backend.images.publish("hermes", digest('2'));
        assert_eq!(sorted(&refresh(&app, "").await), done(&KNOWN, &[], &[&hermes]));
        started_times(&app, &hermes.id, 2).await;
        assert_eq!(app.backend.starts_of(&codex.id).len(), 2);
    }

    async fn an_unknown_runtime_is_refused_with_those_that_are_known(engine: Engine) {
        let app = with_images(engine)
            .config(|config| {
                config.backend.docker.images.insert("mine".to_owned(), "registry.test/mine:1".to_owned());
            })
            .start()
            .await;
        let mut known = KNOWN.to_vec();
        known.insert(8, "mine");
        for (asked, shown) in [("unheard-of", "unheard-of"), ("..%2F..%2Fetc", "../../etc"), ("Codex", "Codex")] {
            let reply = refresh(&app, &format!("?runtime={asked}")).await;
            let expected = json!({ "error": format!("unknown runtime: {shown}"), "known_runtimes": known });
            assert_eq!((reply.status, reply.json()), (400, expected));
        }
        assert!(app.backend.images.refreshed().is_empty());
    }

    async fn what_is_built_here_is_neither_pulled_nor_failed(engine: Engine) {
        let app = with_images(engine)
            .config(|config| {
                config.backend.docker.images.insert("codex".to_owned(), "registry.test/codex:1".to_owned());
            })
            .start()
            .await;
        app.backend.images.build_locally();
        assert_eq!(sorted(&refresh(&app, "").await), done(&["codex"], &[], &[]));
        assert_eq!(sorted(&refresh(&app, "?runtime=hermes").await), done(&[], &[], &[]));
        assert_eq!(app.backend.images.refreshed(), ["codex"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_administrators_refresh_and_only_where_there_are_images() {
    let app = with_images(Engine::Sqlite).start().await;
    let agent = Agent::online(&app, of_runtime("codex")).await;
    assert_eq!(app.request("POST", REFRESH).send().await.status, 401);
    let reply = app
        .request("POST", REFRESH)
        .bearer(&agent.token)
        .send()
        .await;
    assert_eq!(reply.status, 401);
    assert!(app.backend.images.refreshed().is_empty());
    let app = strict(Engine::Sqlite).start().await;
    refresh(&app, "").await.assert_error(
        501,
        "image refresh unavailable on this deployment (no Docker backend)",
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_refresh_runs_at_a_time_and_takes_longer_than_other_requests() {
    let app = with_images(Engine::Sqlite)
        .config(|config| config.server.request_timeout_secs = 1)
        .start()
        .await;
    let (pause, detail) = (Duration::from_millis(500), "layer".to_owned());
    app.backend
        .images
        .set_registry(Registry::Slow(6, pause, detail));
    let slow = refresh(&app, "?runtime=codex");
    let second = async {
        eventually("the first pulls", || async {
            !app.backend.images.refreshed().is_empty()
        })
        .await;
        refresh(&app, "?runtime=hermes").await
    };
    let (slow, second) = tokio::join!(slow, second);
    second.assert_error(409, "an image refresh is already running");
    assert_eq!(sorted(&slow), done(&["codex"], &[], &[]));
    app.backend.images.set_registry(Registry::Serves);
    assert_eq!(refresh(&app, "?runtime=hermes").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_goes_on_when_the_client_leaves() {
    let app = with_images(Engine::Sqlite).start().await;
    let agent = Agent::online(&app, of_runtime("codex")).await;
    app.backend.images.publish("codex", digest('1'));
    let (pause, detail) = (Duration::from_millis(100), "layer".to_owned());
    app.backend
        .images
        .set_registry(Registry::Slow(10, pause, detail));
    {
        let leaving = refresh(&app, "?runtime=codex");
        let pulling = eventually("it pulls", || async {
            !app.backend.images.refreshed().is_empty()
        });
        tokio::select! {
            reply = leaving => panic!("too early: {}", reply.text),
            () = pulling => {}
        }
    }
    started_times(&app, &agent.id, 2).await;
}

/// A server that watches for newer images.
fn watching(engine: Engine) -> TestAppBuilder {
    with_images(engine)
        .config(|config| config.backend.docker.image_auto_refresh = true)
        .cadence(|cadence| cadence.images = Duration::from_millis(100))
}

/// Waits for two more looks at the registry: one of them began after now.
async fn looked(app: &TestApp, runtime: &str) {
    let before = app.backend.images.asked(runtime);
    eventually("the watcher looks", || async {
        app.backend.images.asked(runtime) >= before + 2
    })
    .await;
}

on_both_engines! {
    async fn the_watcher_brings_a_newer_image_to_who_uses_an_older_one(engine: Engine) {
        let app = watching(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        looked(&app, "codex").await;
        assert!(app.backend.images.refreshed().is_empty(), "the first sight is no news");
        assert_eq!(app.backend.images.asked("autogen"), 0, "nobody uses that");
        app.backend.images.publish("codex", digest('1'));
        let again = started_times(&app, &agent.id, 2).await;
        assert_eq!(again.register(&app).send().await.status, 200);
        looked(&app, "codex").await;
        assert_eq!(app.backend.images.refreshed(), ["codex"], "it is settled");
    }

    async fn the_watcher_tries_again_what_failed(engine: Engine) {
        let app = watching(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        looked(&app, "codex").await;
        app.backend.images.set_broken("codex", true);
        app.backend.images.publish("codex", digest('1'));
        eventually("it is tried more than once", || async { app.backend.images.refreshed().len() >= 3 }).await;
        app.backend.images.set_users_fail(true);
        app.backend.images.set_broken("codex", false);
        let tried = app.backend.images.refreshed().len();
        eventually("it is still tried", || async { app.backend.images.refreshed().len() >= tried + 3 }).await;
        assert_eq!(app.backend.starts_of(&agent.id).len(), 1);
        app.backend.images.set_users_fail(false);
        started_times(&app, &agent.id, 2).await;
    }

    async fn what_came_while_nobody_watched_is_brought_all_the_same(engine: Engine) {
        let app = with_images(engine).start().await;
        let behind = Agent::online(&app, of_runtime("codex")).await;
        let settled = Agent::online(&app, of_runtime("hermes")).await;
        app.backend.images.publish("codex", digest('1'));
        let backend = std::sync::Arc::clone(&app.backend);
        let (database, dir) = app.shutdown().await;
        let app = watching(engine).backend(backend).start_on(database, dir).await;
        started_times(&app, &behind.id, 2).await;
        looked(&app, "hermes").await;
        assert_eq!(app.backend.images.refreshed(), ["codex"]);
        assert_eq!(app.backend.starts_of(&settled.id).len(), 1);
    }

    async fn the_watcher_gives_way_to_an_administrator_and_goes_on_later(engine: Engine) {
        let app = watching(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        looked(&app, "codex").await;
        let (pause, detail) = (Duration::from_millis(100), "layer".to_owned());
        app.backend.images.set_registry(Registry::Slow(100_000, pause, detail));
        app.backend.images.publish("codex", digest('1'));
        eventually("the watcher pulls", || async { !app.backend.images.refreshed().is_empty() }).await;
        app.backend.images.set_registry(Registry::Serves);
        let reply = refresh(&app, "?runtime=hermes").await;
        assert_eq!(sorted(&reply), done(&["hermes"], &[], &[]));
        started_times(&app, &agent.id, 2).await;
    }

    async fn a_registry_that_says_nothing_is_no_news(engine: Engine) {
        let app = watching(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        looked(&app, "codex").await;
        app.backend.images.set_registry(Registry::Away);
        looked(&app, "codex").await;
        app.backend.images.publish("codex", digest('1'));
        looked(&app, "codex").await;
        assert!(app.backend.images.refreshed().is_empty());
        app.backend.images.set_registry(Registry::Serves);
        started_times(&app, &agent.id, 2).await;
    }

    async fn the_watcher_leaves_alone_what_somebody_decided_on_and_what_is_built_here(engine: Engine) {
        let app = watching(engine)
            .config(|config| {
                for named in ["codex", "autogen"] {
                    config.backend.docker.images.insert(named.to_owned(), format!("registry.test/{named}:1"));
                }
            })
            .start()
            .await;
        app.backend.images.build_locally();
        let pinned = Agent::online(&app, of_runtime("codex")).await;
        let built = Agent::online(&app, of_runtime("hermes")).await;
        Agent::online(&app, of_runtime("autogen")).await;
        looked(&app, "codex").await;
        let pin = app.request("PUT", "/admin/runtime-image-pins/codex").bearer(ADMIN);
        assert_eq!(pin.json(json!({ "digest": digest('0').as_str() })).send().await.status, 200);
        app.backend.images.publish("codex", digest('1'));
        app.backend.images.publish("hermes", digest('1'));
        // The look that was under way ends, then whole rounds pass.
        looked(&app, "autogen").await;
        let asked = app.backend.images.asked("codex");
        looked(&app, "autogen").await;
        assert_eq!(app.backend.images.asked("codex"), asked);
        assert_eq!(app.backend.images.asked("hermes"), 0);
        for agent in [&pinned, &built] {
            assert_eq!(app.backend.starts_of(&agent.id).len(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_being_told_to_nobody_watches() {
    let app = with_images(Engine::Sqlite)
        .cadence(|cadence| cadence.images = Duration::from_millis(50))
        .start()
        .await;
    let agent = Agent::online(&app, of_runtime("codex")).await;
    // The loop for pulls that failed runs, and restarts nobody.
    app.backend.images.set_stale(&["codex"]);
    eventually("it looks after failed pulls", || async {
        app.backend.images.stale().is_empty()
    })
    .await;
    assert_eq!(app.backend.images.asked("codex"), 0);
    assert_eq!(app.backend.starts_of(&agent.id).len(), 1);
    restart(&app, &agent.id).await;
    started_times(&app, &agent.id, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_servers_one_watches() {
    if !molecule_tests::database::postgres_is_wanted() {
        return;
    }
    let one = watching(Engine::Postgres).start().await;
    let agent = Agent::online(&one, of_runtime("codex")).await;
    looked(&one, "codex").await;
    // Its own backend counts its own questions.
    let dir = tempfile::tempdir().expect("a folder");
    let two = watching(Engine::Postgres)
        .start_on(one.database.share(), dir)
        .await;
    looked(&one, "codex").await;
    assert_eq!(two.backend.images.asked("codex"), 0);
    assert_eq!(one.backend.starts_of(&agent.id).len(), 1);
}
