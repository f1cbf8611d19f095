//! Boots of workspaces that run images: what they ask for, when, and what a boot that
//! goes wrong leaves of the agent of before.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Json;
use axum::routing::post;
use molecule_hooks::HookError;
use molecule_tests::fake_images::Registry;
use molecule_tests::hooks::FnHook;
use molecule_tests::support::{Agent, recorded};
use molecule_tests::{ADMIN, Engine, Reply, TestApp, eventually, on_both_engines};
use serde_json::json;

use crate::fleet::{
    assert_row, in_secs, is_leased, later, of_runtime, request_restart, restart, set,
    started_times, status, with_images,
};

type Mood = Arc<Mutex<Option<HookError>>>;

/// A hook that fails as it is told to.
fn moody() -> (FnHook, Mood) {
    let mood = Mood::default();
    let told = Arc::clone(&mood);
    let hook = FnHook::new("moody", move |_, _| match &*told.lock().unwrap() {
        Some(error) => Err(error.clone()),
        None => Ok(()),
    });
    (hook, mood)
}

/// Sends an agent a message.
async fn send(app: &TestApp, id: &str) -> Reply {
    let message = json!({
        "jsonrpc": "2.0", "id": 1, "method": "message/send", "params": { "message": { "parts": [] } }
    });
    let request = app.post(&format!("/workspaces/{id}/a2a"), message);
    request.bearer(ADMIN).send().await
}

on_both_engines! {
    async fn a_boot_asks_for_its_image_once(engine: Engine) {
        let app = with_images(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        // Given a registry that goes away after it served
        app.backend.images.set_registry(Registry::ServesOnce);
        restart(&app, &agent.id).await;
        // Then the boot that got its image is none the worse for it
        let again = started_times(&app, &agent.id, 2).await;
        assert_eq!(again.register(&app).send().await.status, 200);
        assert_eq!(app.backend.images.obtained().len(), 2);
        let given = app.backend.starts_of(&agent.id)[1].image.clone().expect("an image");
        assert_eq!(given.reference, "registry.test/workspace-template-codex:latest");
        assert_row(&app, &agent.id, &format!("runtime_image_digest = '{}'", given.digest.expect("a digest"))).await;
    }

    async fn who_waits_for_an_image_keeps_nobody_from_starting(engine: Engine) {
        let app = with_images(engine)
            .config(|config| config.workspaces.provision_concurrency = 1)
            .start()
            .await;
        app.backend.images.set_registry(Registry::Silent);
        let waits = app.create(of_runtime("codex")).await;
        eventually("the pull", || async { app.backend.images.obtained().len() == 1 }).await;
        app.backend.images.set_registry(Registry::Serves);
        Agent::online(&app, of_runtime("hermes")).await;
        assert_eq!(status(&app, &waits).await, "provisioning");
        assert!(app.backend.starts_of(&waits).is_empty());
    }

    async fn trouble_that_passes_leaves_an_agent_alone_that_has_its_credentials(engine: Engine) {
        let (hook, mood) = moody();
        let app = with_images(engine).hook(hook).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        let declined = "restart declined: plugin env mutator chain failed; the running agent was kept";
        *mood.lock().unwrap() = Some(HookError::transient("secret-upstream-detail"));

        // A person is told, and sees that nothing happened
        restart(&app, &agent.id).await;
        eventually("it is declined", || async {
            app.backend.images.obtained().len() == 2 && !is_leased(&app, &agent.id).await
        }).await;
        let row = app.listed(&agent.id).await.expect("a row");
        assert_eq!((&row["status"], &row["last_sample_error"]), (&json!("online"), &json!(declined)));
        assert_row(&app, &agent.id, "restart_requested_at IS NULL").await;

        // What somebody asked for is still asked for, although the boot had read it
        request_restart(&app, &agent.id).await;
        eventually("it is declined again", || async {
            app.backend.images.obtained().len() == 3 && !is_leased(&app, &agent.id).await
        }).await;
        assert_row(&app, &agent.id, &format!("status = 'online' AND {}", later())).await;
        assert_eq!(agent.beat(&app, json!({})).send().await.status, 200, "its token is still good");
        assert!(app.backend.stops().is_empty() && app.backend.runs(&agent.id));
        assert_eq!(recorded(&app, "WORKSPACE_PROVISION_FAILED").await, 0);
        assert!(!app.database.dump().await.contains("secret-upstream"));

        // And what is broken for good fails
        *mood.lock().unwrap() = Some(HookError::permanent("no such app"));
        restart(&app, &agent.id).await;
        app.wait_for_status(&agent.id, "failed").await;
        let row = app.listed(&agent.id).await.expect("a row");
        assert_eq!(row["last_sample_error"], "plugin env mutator chain failed");

        *mood.lock().unwrap() = None;
        restart(&app, &agent.id).await;
        let again = started_times(&app, &agent.id, 2).await;
        assert_eq!(again.register(&app).send().await.status, 200);
    }

    async fn what_the_old_agent_reports_during_the_pull_says_nothing_of_the_new_one(engine: Engine) {
        let app = with_images(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        let step = Duration::from_millis(50);
        app.backend.images.set_registry(Registry::Slow(40, step, "layer".to_owned()));
        restart(&app, &agent.id).await;
        assert_eq!(agent.register(&app).send().await.status, 200);
        assert_row(&app, &agent.id, "status = 'online' AND fallback_status IS NOT NULL").await;
        let again = started_times(&app, &agent.id, 2).await;
        assert_eq!(status(&app, &agent.id).await, "provisioning", "the new one has not reported");
        assert_eq!(agent.register(&app).send().await.status, 401);
        assert_eq!(again.register(&app).send().await.status, 200);
        assert_eq!(status(&app, &agent.id).await, "online");
    }

    async fn the_old_agent_gets_its_messages_until_there_is_an_image(engine: Engine) {
        let app = with_images(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        set(&app, &agent.id, &format!("url = '{}'", answering().await)).await;
        assert_eq!(send(&app, &agent.id).await.status, 200);
        app.backend.images.set_registry(Registry::Silent);
        restart(&app, &agent.id).await;
        eventually("the pull", || async { app.backend.images.obtained().len() == 2 }).await;
        assert_eq!(status(&app, &agent.id).await, "provisioning");
        let reply = send(&app, &agent.id).await;
        assert_eq!((reply.status, &reply.json()["result"]), (200, &json!("heard")), "{}", reply.text);
        // One that is paused meanwhile gets none
        let path = format!("/workspaces/{}/pause", agent.id);
        assert_eq!(app.request("POST", &path).bearer(ADMIN).send().await.status, 200);
        let reply = send(&app, &agent.id).await;
        assert_eq!((reply.status, &reply.json()["status"]), (503, &json!("paused")));
    }

    async fn an_agent_that_dies_does_not_wait_for_a_restart_that_was_put_off(engine: Engine) {
        let app = with_images(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        // As a declined restart leaves it
        set(&app, &agent.id, &format!("restart_requested_at = {}", in_secs(500))).await;
        app.backend.lose(&agent.id);
        let reply = send(&app, &agent.id).await;
        assert_eq!((reply.status, &reply.json()["restarting"]), (503, &json!(true)), "{}", reply.text);
        let again = started_times(&app, &agent.id, 2).await;
        assert_eq!(again.register(&app).send().await.status, 200);
    }
}

/// Where an agent listens that has one answer to everything.
async fn answering() -> String {
    let answer = || async { Json(json!({ "jsonrpc": "2.0", "id": 1, "result": "heard" })) };
    let router = axum::Router::new().route("/", post(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_long_boot_does_not_keep_requested_restarts_of_others_waiting() {
    // Given three restarts at once, and then one every other second
    let app = with_images(Engine::Sqlite)
        .config(|config| config.workspaces.restarts_per_minute = 30)
        .start()
        .await;
    let mut agents = Vec::new();
    for runtime in ["codex", "hermes", "crewai", "autogen", "openclaw"] {
        agents.push(Agent::online(&app, of_runtime(runtime)).await);
    }
    for (agent, secs) in agents.iter().zip(-9_i64..) {
        let at = format!("restart_requested_at = {}", in_secs(secs));
        set(&app, &agent.id, &at).await;
    }
    let asked = |runtime: &str| {
        let obtained = app.backend.images.obtained();
        obtained
            .iter()
            .filter(|request| request.runtime == runtime)
            .count()
    };
    eventually("the third one starts again", || async {
        asked("crewai") == 2
    })
    .await;
    // When somebody restarts the fourth one, whose image does not come
    app.backend.images.set_registry(Registry::Silent);
    restart(&app, &agents[3].id).await;
    eventually("it waits for its image", || async { asked("autogen") >= 2 }).await;
    // Then the fifth one has its turn all the same
    eventually("the fifth one starts again", || async {
        asked("openclaw") == 2
    })
    .await;
}
