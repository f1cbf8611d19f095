//! `POST /workspaces/:id/restart`.

use std::fs;

use molecule_tests::fake_backend::Fault;
use molecule_tests::{ADMIN, Engine, eventually, on_both_engines};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Agent, changes, listen, strict};
use crate::tools::{act, act_with, named, started_times, status};

fn folder(root: &TempDir, name: &str, config: &str) {
    let dir = root.path().join(name);
    fs::create_dir_all(&dir).expect("a folder");
    fs::write(dir.join("config.yaml"), config).expect("a file");
}

on_both_engines! {
    async fn a_restart_keeps_the_files_and_gives_the_agent_new_credentials(engine: Engine) {
        let app = strict(engine).start().await;
        let parent = Agent::online(&app, named("lead")).await;
        let body = json!({ "name": "dev", "role": "developer", "parent_id": parent.id });
        let agent = Agent::online(&app, body).await;
        let mut events = app.events();

        let path = format!("/workspaces/{}/restart", agent.id);
        let reply = app.request("POST", &path).bearer(&agent.token).send().await;

        let expected = json!({ "status": "provisioning", "config_dir": "existing-volume", "reset_session": false });
        assert_eq!((reply.status, reply.json()), (200, expected));
        let again = started_times(&app, &agent.id, 2).await;
        let specs = app.backend.starts_of(&agent.id);
        assert!(specs[1].existing_config.is_some() && specs[1].template_dir.is_none());
        let files: Vec<_> = specs[1].files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(files, [".auth_token", ".platform_inbound_secret"], "the user's config.yaml stays");
        let env = app.backend.env(&agent.id);
        assert_eq!((env["MOLECULE_AGENT_ROLE"].as_str(), env["PARENT_ID"].as_str()), ("developer", parent.id.as_str()));
        let payload = json!({ "name": "dev", "tier": 3, "runtime": "langgraph" });
        assert_eq!(changes(&mut events, &agent.id), [("WORKSPACE_PROVISIONING", payload)]);

        assert_ne!(again.token, agent.token);
        agent.beat(&app, json!({})).send().await.assert_error(401, "invalid workspace auth token");
        assert_eq!(again.register(&app).send().await.status, 200);
        assert_eq!(status(&app, &agent.id).await, "online");
    }

    async fn a_restart_takes_its_files_from_where_it_is_told(engine: Engine) {
        let root = tempfile::tempdir().expect("a folder");
        let templates = root.path().join("templates");
        fs::create_dir(&templates).expect("a folder");
        folder(&root, "templates/chosen", "name: chosen\n");
        folder(&root, "templates/dev-lead", "name: anything\n");
        folder(&root, "templates/by-name", "name: QA Lead\n");
        folder(&root, "templates/langgraph-default", "name: default\n");
        folder(&root, "org-templates/ops", "name: ops\n");
        let dir = templates.clone();
        let app = strict(engine).config(|config| config.workspaces.templates_dir = Some(dir)).start().await;
        let table = [
            ("Dev Lead", json!({ "template": "chosen" }), "chosen", "chosen"),
            ("Dev Lead", json!({ "template": "../chosen", "apply_template": true }), "dev-lead", "dev-lead"),
            ("qa lead", json!({ "apply_template": true }), "by-name", "by-name"),
            ("ops", json!({ "apply_template": true, "rebuild_config": true }), "org-templates/ops", "ops"),
            ("nobody", json!({ "apply_template": true }), "langgraph-default", "langgraph-default"),
            ("nothing", json!({ "template": "missing" }), "existing-volume", ""),
            ("quiet", json!({}), "existing-volume", ""),
        ];
        for (index, (name, body, config_dir, folder)) in table.into_iter().enumerate() {
            let tier = index % 4 + 1;
            let parent = Agent::online(&app, json!({ "name": format!("parent {index}") })).await;
            let agent = Agent::online(&app, json!({ "name": name, "tier": tier, "parent_id": parent.id })).await;
            let reply = act_with(&app, &agent.id, "restart", body.clone()).await;
            assert_eq!((reply.status, reply.json()["config_dir"].as_str()), (200, Some(config_dir)), "{body}");
            started_times(&app, &agent.id, 2).await;
            let spec = app.backend.starts_of(&agent.id).pop().expect("a start");
            // The backend looks again whether it still lies where templates do
            if let Some(dir) = &spec.template_dir {
                let root = spec.template_root.as_deref().expect("a root").canonicalize().expect("a folder");
                assert!(dir.starts_with(&root) && *dir != root, "{dir:?} {root:?}");
            }
            let copied = spec.template_dir.and_then(|dir| Some(dir.file_name()?.to_str()?.to_owned()));
            assert_eq!(copied.unwrap_or_default(), folder, "{body}");
        }
    }

    async fn a_reset_reaches_the_backend_from_body_or_query(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, named("dev")).await;
        let reply = act(&app, &agent.id, "restart?reset=true").await;
        assert_eq!((reply.status, &reply.json()["reset_session"]), (200, &json!(true)));
        started_times(&app, &agent.id, 2).await;
        let reply = act_with(&app, &agent.id, "restart", json!({ "reset": true })).await;
        assert_eq!((reply.status, &reply.json()["reset_session"]), (200, &json!(true)));
        started_times(&app, &agent.id, 3).await;
        assert!(app.backend.starts_of(&agent.id)[1..].iter().all(|spec| spec.reset_session));
    }

    async fn what_cannot_be_restarted_says_why(engine: Engine) {
        let app = strict(engine).start().await;
        let parent = Agent::online(&app, named("lead")).await;
        let child = Agent::online(&app, json!({ "name": "dev", "parent_id": parent.id })).await;
        let unknown = "7aa08951-00d1-4c3e-9d6a-0123456789ab";
        act(&app, unknown, "restart").await.assert_error(404, "workspace not found");
        act(&app, "not-a-uuid", "restart").await.assert_error(400, "invalid workspace ID");
        let reply = act_with(&app, &child.id, "restart", json!({ "template": 5 })).await;
        reply.assert_error(400, "invalid request body");

        assert_eq!(act(&app, &parent.id, "pause").await.status, 200);
        let conflict = act(&app, &child.id, "restart").await;
        conflict.assert_error(409, "parent workspace \"lead\" is paused — resume it first");
        act(&app, &parent.id, "restart").await.assert_error(409, "workspace is paused — resume it first");

        let gone = Agent::online(&app, named("gone")).await;
        app.delete(&format!("/workspaces/{}", gone.id)).bearer(ADMIN).send().await;
        act(&app, &gone.id, "restart").await.assert_error(404, "workspace not found");

        let external = app.create(json!({ "name": "remote", "external": true })).await;
        let reply = act(&app, &external, "restart").await;
        assert_eq!((reply.status, &reply.json()["status"]), (200, &json!("noop")));
        assert!(reply.json()["message"].as_str().is_some_and(|text| text.starts_with("external workspaces are operator-driven")));
        assert_eq!(app.backend.starts_of(&child.id).len(), 1, "nothing was started");
    }

    async fn a_restart_that_fails_keeps_the_storage_and_can_be_tried_again(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, named("dev")).await;
        app.backend.set_fault(Fault::StartFails("no such image: secret-registry/agent".into()));
        assert_eq!(act(&app, &agent.id, "restart").await.status, 200);
        app.wait_for_status(&agent.id, "failed").await;
        let row = app.listed(&agent.id).await.expect("a row");
        assert_eq!(row["last_sample_error"], "workspace start failed");
        eventually("what ran before is stopped", || async { !app.backend.runs(&agent.id) }).await;
        assert!(app.backend.stores(&agent.id), "the user's files are still there");

        app.backend.set_fault(Fault::None);
        assert_eq!(act(&app, &agent.id, "restart").await.status, 200);
        let again = started_times(&app, &agent.id, 3).await;
        assert_eq!(again.register(&app).send().await.status, 200);
        assert_eq!(status(&app, &agent.id).await, "online");
        let row = app.listed(&agent.id).await.expect("a row");
        assert_eq!(row["last_sample_error"], "", "the old failure is not shown any more");
    }

    async fn lost_files_are_said_so(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, named("dev")).await;
        app.backend.set_fault(Fault::ConfigLost);
        assert_eq!(act(&app, &agent.id, "restart").await.status, 200);
        app.wait_for_status(&agent.id, "failed").await;
        let row = app.listed(&agent.id).await.expect("a row");
        let expected = format!(
            "cannot start workspace {}: no config.yaml source and config volume is empty — delete the workspace or \
             provide a template", agent.id);
        assert_eq!(row["last_sample_error"], json!(expected));
    }

    async fn the_runtime_that_the_agent_chose_is_used_and_kept(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, named("dev")).await;
        app.backend.write_config(&agent.id, "config.yaml", "runtime: hermes\nruntime_config:\n  required_env: [NEEDED]\n");
        assert_eq!(act(&app, &agent.id, "restart").await.status, 200);
        app.wait_for_status(&agent.id, "failed").await;
        let row = app.listed(&agent.id).await.expect("a row");
        assert_eq!(row["runtime"], "hermes");
        assert!(row["last_sample_error"].as_str().is_some_and(|text| text.starts_with("missing required env var \"NEEDED\"")), "{row}");
        // Not a name that could reach a path or an image reference.
        app.backend.write_config(&agent.id, "config.yaml", "runtime: ../../etc\n");
        assert_eq!(act(&app, &agent.id, "restart").await.status, 200);
        started_times(&app, &agent.id, 2).await;
        assert_eq!(app.listed(&agent.id).await.expect("a row")["runtime"], "hermes");
    }

    async fn a_restart_in_the_middle_of_a_boot_starts_over(engine: Engine) {
        let app = strict(engine).start().await;
        app.backend.set_fault(Fault::StartHangs);
        let id = app.create(named("dev")).await;
        eventually("the start hangs", || async { app.backend.starts_of(&id).len() == 1 }).await;
        app.backend.set_fault(Fault::None);
        assert_eq!(act(&app, &id, "restart").await.status, 200);
        let agent = started_times(&app, &id, 2).await;
        assert_eq!(app.backend.cancelled(), 1);
        assert!(app.backend.starts_of(&id)[1].existing_config.is_none(), "there was no first boot yet");
        assert_eq!(agent.register(&app).send().await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_restarted_agent_is_told_which_variables_it_has_and_no_value() {
    let app = strict(Engine::Sqlite).start().await;
    let body = json!({ "name": "dev", "secrets": { "API_KEY": "hunter2-hunter2", "B_KEY": "other-value" } });
    let agent = Agent::online(&app, body).await;
    let mut heard = listen(&app).await;
    assert_eq!(act(&app, &agent.id, "restart").await.status, 200);
    let again = started_times(&app, &agent.id, 2).await;
    assert_eq!(again.register(&app).send().await.status, 200);
    let message = heard.recv().await.expect("a message");
    assert_eq!(message["method"], "message/send");
    let text = message["params"]["message"]["parts"][0]["text"]
        .as_str()
        .expect("a text");
    assert!(
        text.starts_with("=== WORKSPACE RESTART CONTEXT ===\nRestart at: "),
        "{text}"
    );
    assert!(
        text.contains("Env vars now available: API_KEY, B_KEY\n"),
        "{text}"
    );
    assert!(!message.to_string().contains("hunter2"), "{message}");
    assert_eq!(
        message["params"]["message"]["metadata"]["kind"],
        "restart_context"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_backend_nothing_can_be_restarted() {
    let app = strict(Engine::Sqlite)
        .real_backend()
        .config(|config| config.backend.kind = molecule_core::config::BackendChoice::None)
        .start()
        .await;
    let id = app.create(named("dev")).await;
    act(&app, &id, "restart")
        .await
        .assert_error(503, "provisioner not available");
    act(&app, &id, "pause").await;
    act(&app, &id, "resume")
        .await
        .assert_error(503, "provisioner not available");
}
