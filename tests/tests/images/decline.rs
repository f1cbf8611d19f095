//! Restarts without an image: the agent of before is kept. And boots that failed for a
//! reason that passes: they are tried again.

use std::sync::Arc;
use std::time::Duration;

use molecule_tests::fake_backend::Fault;
use molecule_tests::fake_images::Registry;
use molecule_tests::support::{Agent, changes, listen, recorded};
use molecule_tests::{ADMIN, Engine, TestApp, eventually, on_both_engines};
use serde_json::json;

use crate::fleet::{
    admin, assert_row, count, in_secs, is_leased, later, of_runtime, request_restart, restart, set,
    started_times, status, with_images,
};

const DECLINED: &str =
    "restart declined: the image could not be obtained; the running agent was kept";
const AGENT_URL: &str = "http://127.0.0.1:9";

/// Waits until a restart that was begun has ended.
async fn settled(app: &TestApp, id: &str, asked_for_images: usize) {
    eventually("the restart ends", || async {
        app.backend.images.obtained().len() >= asked_for_images && !is_leased(app, id).await
    })
    .await;
}

/// Fails unless the agent is the one that was started first, and as good as before.
async fn assert_kept(app: &TestApp, agent: &Agent) {
    assert!(app.backend.runs(&agent.id));
    assert_eq!(app.backend.starts_of(&agent.id).len(), 1);
    assert!(app.backend.stops().is_empty(), "{:?}", app.backend.stops());
    let beat = agent.beat(app, json!({})).send().await;
    assert_eq!(beat.status, 200, "its token is still good: {}", beat.text);
}

on_both_engines! {
    async fn a_restart_without_an_image_leaves_the_old_agent_as_it_was(engine: Engine) {
        let app = with_images(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        for registry in [
            Registry::Away,
            Registry::Refuses("secret-registry-detail".to_owned()),
            Registry::Panics("secret-panic-detail".to_owned()),
        ] {
            let asked = app.backend.images.obtained().len();
            let what = format!("{registry:?}");
            app.backend.images.set_registry(registry);
            let mut events = app.events();
            restart(&app, &agent.id).await;
            settled(&app, &agent.id, asked + 1).await;
            assert_eq!(status(&app, &agent.id).await, "online", "{what}");
            let row = app.listed(&agent.id).await.expect("a row");
            assert_eq!((&row["url"], &row["last_sample_error"]), (&json!(AGENT_URL), &json!(DECLINED)), "{what}");
            let booting = json!({ "name": "a codex", "tier": 3, "runtime": "codex" });
            let declined = json!({ "restart_declined": true, "error": DECLINED });
            let expected = [("WORKSPACE_PROVISIONING", booting), ("WORKSPACE_ONLINE", declined)];
            assert_eq!(changes(&mut events, &agent.id), expected, "{what}");
            assert_row(&app, &agent.id, "restart_requested_at IS NULL AND fallback_status IS NULL").await;
        }
        // Its next report says what it thinks is wrong, so not before.
        assert_kept(&app, &agent).await;
        let dump = app.database.dump().await;
        assert!(!dump.contains("secret-registry") && !dump.contains("secret-panic"));
        assert_eq!(recorded(&app, "WORKSPACE_PROVISION_FAILED").await, 0);

        app.backend.images.set_registry(Registry::Serves);
        restart(&app, &agent.id).await;
        let again = started_times(&app, &agent.id, 2).await;
        assert_ne!(again.token, agent.token);
        assert_eq!(again.register(&app).send().await.status, 200);
    }

    async fn a_declined_request_stays_one_until_the_agent_has_what_it_asked_for(engine: Engine) {
        let app = with_images(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        app.backend.images.set_registry(Registry::Away);
        let secret = app.post(&format!("/workspaces/{}/secrets", agent.id), json!({ "key": "API_KEY", "value": "hunter2-hunter2" }));
        assert_eq!(secret.bearer(&agent.token).send().await.status, 200);
        eventually("the restart is declined and asked for again, later", || async {
            count(&app, &agent.id, &later()).await == 1
        }).await;
        settled(&app, &agent.id, 2).await;
        assert_eq!(status(&app, &agent.id).await, "online");
        assert_kept(&app, &agent).await;

        app.backend.images.set_registry(Registry::Serves);
        // The time has come.
        request_restart(&app, &agent.id).await;
        started_times(&app, &agent.id, 2).await;
        assert_eq!(app.backend.env(&agent.id)["API_KEY"], "hunter2-hunter2");
        assert_row(&app, &agent.id, "restart_requested_at IS NULL").await;
    }

    async fn each_setback_makes_the_next_try_later(engine: Engine) {
        let app = with_images(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        app.backend.images.set_registry(Registry::Away);
        for (n, wait) in [60_i64, 120, 240].into_iter().enumerate() {
            request_restart(&app, &agent.id).await;
            // The runner takes it up, and puts it off.
            let (from, to) = (in_secs(wait - 40), in_secs(wait + 40));
            let put_off = format!(
                "provision_lease_until IS NULL AND restart_requested_at > {from} AND restart_requested_at < {to}"
            );
            eventually("the request is put off", || async {
                app.backend.images.obtained().len() == n + 2 && count(&app, &agent.id, &put_off).await == 1
            }).await;
        }
        assert_kept(&app, &agent).await;
    }

    async fn whatever_the_workspace_was_it_is_again(engine: Engine) {
        let app = with_images(engine).start().await;
        let table = [
            ("degraded", "WORKSPACE_DEGRADED"),
            ("offline", "WORKSPACE_OFFLINE"),
            ("failed", "WORKSPACE_PROVISION_FAILED"),
            ("provisioning", "WORKSPACE_UPDATED"),
        ];
        for (was, event) in table {
            app.backend.images.set_registry(Registry::Serves);
            let agent = Agent::online(&app, json!({ "name": was, "runtime": "codex" })).await;
            set(&app, &agent.id, &format!("status = '{was}'")).await;
            app.backend.images.set_registry(Registry::Away);
            let asked = app.backend.images.obtained().len();
            let mut events = app.events();
            restart(&app, &agent.id).await;
            settled(&app, &agent.id, asked + 1).await;
            assert_row(&app, &agent.id, &format!("status = '{was}'")).await;
            let happened = changes(&mut events, &agent.id);
            let last = happened.last().expect("events");
            assert_eq!((last.0, &last.1["restart_declined"]), (event, &json!(true)), "{was}");
            assert!(app.backend.runs(&agent.id));
        }
        assert!(app.backend.stops().is_empty());
    }

    async fn an_agent_that_registers_during_the_pull_is_online_in_between_and_after(engine: Engine) {
        let app = with_images(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        app.backend.images.set_registry(Registry::Silent);
        restart(&app, &agent.id).await;
        eventually("the pull", || async { app.backend.images.obtained().len() == 2 }).await;
        assert_eq!(agent.beat(&app, json!({})).send().await.status, 200);
        assert_eq!(status(&app, &agent.id).await, "provisioning", "that says nothing of the new one");
        assert_eq!(agent.register(&app).send().await.status, 200);
        assert_eq!(status(&app, &agent.id).await, "online");
        // The person tries again, in vain.
        app.backend.images.set_registry(Registry::Away);
        restart(&app, &agent.id).await;
        settled(&app, &agent.id, 3).await;
        assert_eq!(app.listed(&agent.id).await.expect("a row")["url"], AGENT_URL);
        assert_kept(&app, &agent).await;
    }

    async fn a_backend_that_cannot_tell_is_no_reason_to_give_an_agent_up(engine: Engine) {
        let app = with_images(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        app.backend.images.set_registry(Registry::Away);
        app.backend.set_unknown(true);
        restart(&app, &agent.id).await;
        settled(&app, &agent.id, 2).await;
        assert_eq!(app.listed(&agent.id).await.expect("a row")["url"], AGENT_URL);
        assert_kept(&app, &agent).await;
    }

    async fn without_an_old_agent_a_boot_without_an_image_fails(engine: Engine) {
        let app = with_images(engine).start().await;
        app.backend.images.set_registry(Registry::Refuses("secret-registry-detail".to_owned()));
        let id = app.create(of_runtime("codex")).await;
        app.wait_for_status(&id, "failed").await;
        let row = app.listed(&id).await.expect("a row");
        assert_eq!(row["last_sample_error"], "workspace start failed");
        assert!(app.backend.starts().is_empty());
        assert_eq!(app.database.count("SELECT count(*) FROM workspace_auth_tokens").await, 0, "nothing was minted");
        assert!(!app.database.dump().await.contains("secret-registry"));
        assert_row(&app, &id, "restart_requested_at IS NULL").await;

        app.backend.images.set_registry(Registry::Serves);
        let agent = Agent::online(&app, of_runtime("hermes")).await;
        app.backend.lose(&agent.id);
        app.backend.images.set_registry(Registry::Away);
        restart(&app, &agent.id).await;
        app.wait_for_status(&agent.id, "failed").await;
        assert_row(&app, &agent.id, "restart_requested_at IS NULL AND url = ''").await;
    }

    async fn a_workspace_that_died_is_back_once_there_is_an_image_again(engine: Engine) {
        let app = with_images(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        app.backend.images.set_registry(Registry::Refuses("gone".to_owned()));
        app.backend.lose(&agent.id);
        // As the health sweep leaves it.
        set(&app, &agent.id, &format!(
            "status = 'offline', url = '', restart_requested_at = {}, restart_if_offline = TRUE", in_secs(-1)
        )).await;
        app.wait_for_status(&agent.id, "failed").await;
        assert_row(&app, &agent.id, &later()).await;
        app.backend.images.set_registry(Registry::Serves);
        set(&app, &agent.id, &format!("restart_requested_at = {}", in_secs(-1))).await;
        let again = started_times(&app, &agent.id, 2).await;
        assert_eq!(again.register(&app).send().await.status, 200);
    }

    async fn what_nobody_waits_for_is_tried_again_if_the_trouble_passes(engine: Engine) {
        let app = with_images(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        app.backend.set_fault(Fault::StartUnavailable);
        request_restart(&app, &agent.id).await;
        app.wait_for_status(&agent.id, "failed").await;
        assert_row(&app, &agent.id, &later()).await;
        app.backend.set_fault(Fault::None);
        set(&app, &agent.id, &format!("restart_requested_at = {}", in_secs(-1))).await;
        let again = started_times(&app, &agent.id, 3).await;
        assert_eq!(again.register(&app).send().await.status, 200);
        assert_row(&app, &agent.id, "restart_requested_at IS NULL").await;

        // A person sees that it failed, and what is broken stays so.
        app.backend.set_fault(Fault::StartUnavailable);
        restart(&app, &agent.id).await;
        app.wait_for_status(&agent.id, "failed").await;
        assert_row(&app, &agent.id, "restart_requested_at IS NULL").await;
        app.backend.set_fault(Fault::StartFails("no such file".to_owned()));
        request_restart(&app, &agent.id).await;
        eventually("it failed again", || async {
            app.backend.starts_of(&agent.id).len() == 5 && !is_leased(&app, &agent.id).await
        }).await;
        assert_row(&app, &agent.id, "status = 'failed' AND restart_requested_at IS NULL").await;
    }

    async fn a_wake_that_failed_for_a_reason_that_passes_is_tried_again(engine: Engine) {
        let app = with_images(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        assert_eq!(admin(&app, "POST", &format!("/workspaces/{}/hibernate", agent.id)).await.status, 200);
        app.backend.images.set_registry(Registry::Refuses("not found after pull attempt".to_owned()));
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "message/send", "params": { "message": { "parts": [] } } });
        let reply = app.post(&format!("/workspaces/{}/a2a", agent.id), message).bearer(ADMIN).send().await;
        assert_eq!((reply.status, &reply.json()["waking"]), (503, &json!(true)), "{}", reply.text);
        app.wait_for_status(&agent.id, "failed").await;
        assert_row(&app, &agent.id, &later()).await;
    }

    async fn a_server_that_stops_in_the_middle_of_a_pull_leaves_the_old_agent_to_the_next(engine: Engine) {
        let app = with_images(engine).start().await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        app.backend.images.set_registry(Registry::Silent);
        restart(&app, &agent.id).await;
        eventually("the pull", || async { app.backend.images.obtained().len() == 2 }).await;
        let backend = Arc::clone(&app.backend);
        let (database, dir) = app.shutdown().await;
        assert!(backend.runs(&agent.id) && backend.stops().is_empty());
        // The next one has no image either.
        backend.images.set_registry(Registry::Away);
        let app = with_images(engine).backend(Arc::clone(&backend)).start_on(database, dir).await;
        settled(&app, &agent.id, 3).await;
        assert_eq!(status(&app, &agent.id).await, "online");
        assert_kept(&app, &agent).await;
    }

    async fn a_pause_or_a_delete_ends_a_pull(engine: Engine) {
        let app = with_images(engine).start().await;
        let paused = Agent::online(&app, of_runtime("codex")).await;
        let removed = Agent::online(&app, of_runtime("hermes")).await;
        app.backend.images.set_registry(Registry::Silent);
        let new = app.create(of_runtime("autogen")).await;
        restart(&app, &paused.id).await;
        restart(&app, &removed.id).await;
        eventually("the pulls", || async { app.backend.images.obtained().len() == 5 }).await;
        assert_eq!(admin(&app, "POST", &format!("/workspaces/{}/pause", paused.id)).await.status, 200);
        for id in [&removed.id, &new] {
            assert_eq!(admin(&app, "DELETE", &format!("/workspaces/{id}?confirm=true")).await.status, 200);
        }
        assert_eq!(status(&app, &paused.id).await, "paused");
        assert!(!app.backend.runs(&paused.id) && !app.backend.runs(&removed.id));
        assert!(!app.backend.stores(&removed.id) && !app.backend.stores(&new));
    }

    async fn a_pull_without_progress_is_given_up(engine: Engine) {
        let app = with_images(engine)
            .config(|config| config.workspaces.provision_quiet_secs = 1)
            .start()
            .await;
        let agent = Agent::online(&app, of_runtime("codex")).await;
        app.backend.images.set_registry(Registry::Silent);
        restart(&app, &agent.id).await;
        settled(&app, &agent.id, 2).await;
        assert_eq!(app.listed(&agent.id).await.expect("a row")["last_sample_error"], DECLINED);
        assert_kept(&app, &agent).await;
        let id = app.create(of_runtime("hermes")).await;
        app.wait_for_status(&id, "failed").await;
        let row = app.listed(&id).await.expect("a row");
        assert_eq!(row["last_sample_error"], "workspace start failed");
    }

    async fn a_pull_with_progress_is_given_up_at_the_deadline(engine: Engine) {
        let app = with_images(engine)
            .config(|config| {
                config.workspaces.provision_deadline_secs = 2;
                config.workspaces.provision_timeout_secs = Some(2);
            })
            .start()
            .await;
        let step = Duration::from_millis(20);
        app.backend.images.set_registry(Registry::Slow(100_000, step, "layer".to_owned()));
        let id = app.create(of_runtime("codex")).await;
        app.wait_for_status(&id, "failed").await;
        assert!(app.backend.starts().is_empty());
    }

    async fn a_pull_may_take_longer_than_the_deadline_if_the_agent_may(engine: Engine) {
        let app = with_images(engine)
            .config(|config| config.workspaces.provision_deadline_secs = 1)
            .start()
            .await;
        let step = Duration::from_millis(100);
        app.backend.images.set_registry(Registry::Slow(25, step, "layer".to_owned()));
        Agent::online(&app, of_runtime("codex")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_tells_an_agent_that_was_kept_that_it_restarted() {
    let app = with_images(Engine::Sqlite).start().await;
    let agent = Agent::online(&app, of_runtime("codex")).await;
    let mut heard = listen(&app).await;
    app.backend.images.set_registry(Registry::Away);
    restart(&app, &agent.id).await;
    settled(&app, &agent.id, 2).await;
    assert_eq!(agent.beat(&app, json!({})).send().await.status, 200);
    // Longer than the server looks whether it is back.
    tokio::time::sleep(Duration::from_secs(2)).await;
    app.backend.images.set_registry(Registry::Serves);
    let before = chrono::Utc::now();
    restart(&app, &agent.id).await;
    let again = started_times(&app, &agent.id, 2).await;
    assert_eq!(again.register(&app).send().await.status, 200);
    let first = heard.recv().await.expect("a message");
    let text = first["params"]["message"]["parts"][0]["text"].as_str();
    let at = text.and_then(|text| text.lines().nth(1)?.strip_prefix("Restart at: "));
    let at = chrono::DateTime::parse_from_rfc3339(at.expect("a time")).expect("a time");
    assert!(
        at.timestamp() >= before.timestamp(),
        "that is about the restart that was declined"
    );
}
