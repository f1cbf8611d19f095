//! What operators and the control plane tell and ask.

use std::sync::Arc;

use molecule_tests::database::postgres_is_wanted;
use molecule_tests::fake_backend::{ConsoleScript, Fault};
use molecule_tests::support::{Agent, changes, recorded, strict};
use molecule_tests::{ADMIN, Engine, Reply, TestApp, eventually, on_both_engines};
use serde_json::{Value, json};

const UNKNOWN: &str = "7aa08951-00d1-4c3e-9d6a-0123456789ab";

async fn report(app: &TestApp, id: &str, body: Value) -> Reply {
    let path = format!("/admin/workspaces/{id}/bootstrap-failed");
    app.post(&path, body).bearer(ADMIN).send().await
}

async fn console(app: &TestApp, id: &str, bearer: &str) -> Reply {
    let request = app.get(&format!("/workspaces/{id}/console"));
    request.bearer(bearer).send().await
}

async fn idle(app: &TestApp, id: &str, body: Value) -> Reply {
    let request = app.request("PUT", &format!("/admin/workspaces/{id}/hibernation"));
    request.bearer(ADMIN).json(body).send().await
}

on_both_engines! {
    async fn a_machine_that_did_not_boot_fails_its_workspace_once(engine: Engine) {
        // Given a workspace whose agent has not registered
        let app = strict(engine).start().await;
        let secret = "a-value-nobody-may-read";
        let body = json!({ "name": "one", "secrets": { "API_KEY": secret } });
        let agent = Agent::start(&app, body).await;
        let mut events = app.events();

        // When the control plane reports it
        let log = format!("booting\nkey={secret}\n\u{0}panic");
        let body = json!({ "error": "no disk", "log_tail": log, "other": 1 });
        let reply = report(&app, &agent.id, body.clone()).await;

        // Then row and event say why, masked
        assert_eq!((reply.status, reply.text.as_str()), (200, r#"{"ok":true}"#));
        let row = app.listed(&agent.id).await.expect("listed");
        let tail = "booting\nkey=[REDACTED]\npanic";
        assert_eq!((&row["status"], &row["url"]), (&json!("failed"), &json!("")));
        assert_eq!(row["last_sample_error"], format!("no disk\n\n{tail}"));
        let payload = json!({ "error": "no disk", "log_tail": tail, "source": "bootstrap_watcher" });
        assert_eq!(changes(&mut events, &agent.id), [("WORKSPACE_PROVISION_FAILED", payload)]);
        // The key itself is stored sealed.
        assert!(!app.database.dump().await.contains(secret));

        // And again, later or for nobody it is no news
        for id in [agent.id.as_str(), UNKNOWN] {
            let reply = report(&app, id, body.clone()).await;
            assert_eq!((reply.status, reply.text.as_str()), (200, r#"{"ok":true,"no_change":true}"#));
        }
        assert_eq!(recorded(&app, "WORKSPACE_PROVISION_FAILED").await, 1);
        // An agent that boots after all is welcome.
        assert_eq!(agent.register(&app).send().await.status, 200);
        app.wait_for_status(&agent.id, "online").await;
        let reply = report(&app, &agent.id, body).await;
        assert_eq!(reply.json()["no_change"], true);
        app.wait_for_status(&agent.id, "online").await;
    }

    async fn a_long_report_is_cut_between_two_characters(engine: Engine) {
        let app = strict(engine).start().await;
        let secret = "a-value-nobody-may-read";
        let body = json!({ "name": "one", "secrets": { "API_KEY": secret } });
        let agent = Agent::start(&app, body).await;
        let mut events = app.events();
        // The cut would go through a character, or through the secret.
        let log = format!("{}{secret}{}é", "é".repeat(40_000), "x".repeat(8192 - 10));
        let error = format!("{}é", "e".repeat(8191));
        let reply = report(&app, &agent.id, json!({ "error": error, "log_tail": log })).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let (_, payload) = changes(&mut events, &agent.id).remove(0);
        let tail = payload["log_tail"].as_str().expect("a tail");
        let kept = tail.strip_prefix("...(truncated)...\n").expect("a mark");
        assert!(kept.len() <= 8192 && kept.ends_with("xé"), "{}", kept.len());
        assert!(!kept.contains("read"), "{}", &kept[..40]);
        assert_eq!(payload["error"], "e".repeat(8191));
        let row = app.listed(&agent.id).await.expect("listed");
        assert_eq!(row["last_sample_error"], "e".repeat(8191));
    }

    async fn a_report_without_words_has_the_documented_one(engine: Engine) {
        let app = strict(engine).start().await;
        let silent = [json!({}), json!({ "error": "", "log_tail": null }), json!({ "error": "\u{0}" })];
        for (n, body) in silent.into_iter().enumerate() {
            let agent = Agent::start(&app, json!({ "name": format!("w{n}") })).await;
            let mut events = app.events();
            assert_eq!(report(&app, &agent.id, body).await.status, 200);
            let (_, payload) = changes(&mut events, &agent.id).remove(0);
            assert_eq!(payload["error"], "bootstrap failed — see log_tail");
            let row = app.listed(&agent.id).await.expect("listed");
            assert_eq!(row["last_sample_error"], "bootstrap failed — see log_tail");
        }
    }

    async fn a_report_in_mid_start_fails_the_row_and_leaves_no_compute_unknown(engine: Engine) {
        // Given a start that hangs
        let app = strict(engine).start().await;
        app.backend.set_fault(Fault::StartHangs);
        let id = app.create(json!({ "name": "one" })).await;
        eventually("it starts", async || !app.backend.starts().is_empty()).await;
        // When it is reported as failed, and then deleted
        assert_eq!(report(&app, &id, json!({ "error": "x" })).await.text, r#"{"ok":true}"#);
        app.wait_for_status(&id, "failed").await;
        let path = format!("/workspaces/{id}");
        assert_eq!(app.delete(&path).bearer(ADMIN).send().await.status, 200);
        // Then nothing is left
        app.wait_for_status(&id, "removed").await;
        assert!(app.backend.is_empty());
        assert_eq!(recorded(&app, "WORKSPACE_PROVISION_FAILED").await, 1);
    }

    async fn a_report_that_is_none_changes_nothing(engine: Engine) {
        let builder = strict(engine).config(|config| config.server.max_body_bytes = 8192);
        let app = builder.start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        let before = app.database.dump().await;
        for body in [json!([]), json!("x"), json!({ "error": 5 }), json!({ "log_tail": ["a"] })] {
            report(&app, &agent.id, body).await.assert_error(400, "invalid request body");
        }
        let path = format!("/admin/workspaces/{}/bootstrap-failed", agent.id);
        let reply = app.request("POST", &path).bearer(ADMIN).send().await;
        reply.assert_error(400, "invalid request body");
        report(&app, "nope", json!({})).await.assert_error(400, "invalid workspace ID");
        let huge = "x".repeat(8192);
        let reply = report(&app, &agent.id, json!({ "log_tail": huge })).await;
        reply.assert_error(413, "request body too large");
        let reply = app.post(&path, json!({})).bearer(&agent.token).send().await;
        reply.assert_error(401, "invalid admin auth token");
        assert_eq!(app.database.dump().await, before);
    }

    async fn a_console_is_shown_masked_and_bounded(engine: Engine) {
        let app = strict(engine).start().await;
        let secret = "a-value-nobody-may-read";
        let body = json!({ "name": "one", "secrets": { "API_KEY": secret } });
        let agent = Agent::start(&app, body).await;
        // Without the capability
        let none = "console output unavailable on this deployment (no control plane)";
        console(&app, &agent.id, ADMIN).await.assert_error(501, none);

        let shows = |text: &str| app.backend.set_console(ConsoleScript::Shows(text.to_owned()));
        shows(&format!("login: {secret}\nready\n"));
        let reply = console(&app, &agent.id, ADMIN).await;
        assert_eq!((reply.status, reply.json()), (200, json!({ "output": "login: [REDACTED]\nready\n" })));
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        // The cut goes through the secret in the first line: the line is left out.
        let lines = format!("{}\n", "z".repeat(99)).repeat(2621);
        shows(&format!("{}{secret}\n{lines}", "a".repeat(64)));
        let reply = console(&app, &agent.id, ADMIN).await;
        assert_eq!(reply.json()["output"], lines);
        // Masks are longer than some secrets; the bound holds all the same.
        shows(&format!("{secret}\n").repeat(20_000));
        let output = console(&app, &agent.id, ADMIN).await.json()["output"].clone();
        let output = output.as_str().expect("text");
        assert!(output.len() <= 256 * 1024 && output.lines().all(|line| line == "[REDACTED]"));
        shows("");
        assert_eq!(console(&app, &agent.id, ADMIN).await.json(), json!({ "output": "" }));

        app.backend.set_console(ConsoleScript::Fails("10.0.0.7 refused, i-0abc".to_owned()));
        let reply = console(&app, &agent.id, ADMIN).await;
        assert_eq!(
            (reply.status, reply.json()),
            (502, json!({ "error": "control plane returned an error fetching console output" }))
        );
    }

    async fn a_console_is_for_administrators_and_for_machines_of_ours(engine: Engine) {
        let app = strict(engine).start().await;
        app.backend.set_console(ConsoleScript::Shows("hello".to_owned()));
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        console(&app, &agent.id, &agent.token).await.assert_error(401, "invalid admin auth token");
        console(&app, "nope", ADMIN).await.assert_error(400, "invalid workspace ID");
        console(&app, UNKNOWN, ADMIN).await.assert_error(404, "workspace not found");
        let far = app.create(json!({ "name": "far", "external": true })).await;
        assert_eq!(console(&app, &far, ADMIN).await.status, 501);
        let path = format!("/workspaces/{}", agent.id);
        assert_eq!(app.delete(&path).bearer(ADMIN).send().await.status, 200);
        console(&app, &agent.id, ADMIN).await.assert_error(404, "workspace not found");
    }

    async fn the_idle_time_of_hibernation_is_set_and_taken_back(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let count = |minutes: &str| {
            format!("SELECT count(*) FROM workspaces WHERE hibernation_idle_minutes {minutes}")
        };
        for minutes in [1, 30, 525_600] {
            let reply = idle(&app, &agent.id, json!({ "idle_minutes": minutes })).await;
            let expected = json!({ "status": "updated", "idle_minutes": minutes });
            assert_eq!((reply.status, reply.json()), (200, expected));
            assert_eq!(app.database.count(&count(&format!("= {minutes}"))).await, 1);
        }
        let before = app.database.dump().await;
        let range = "idle_minutes must be between 1 and 525600";
        let kind = "idle_minutes must be an integer or null";
        let table = [
            (json!({}), "idle_minutes field is required"),
            (json!({ "idle_minutes": 0 }), range),
            (json!({ "idle_minutes": -5 }), range),
            (json!({ "idle_minutes": 525_601 }), range),
            (json!({ "idle_minutes": i64::MAX }), range),
            (json!({ "idle_minutes": u64::MAX }), kind),
            (json!({ "idle_minutes": 1.5 }), kind),
            (json!({ "idle_minutes": "30" }), kind),
            (json!({ "idle_minutes": true }), kind),
            (json!([]), "invalid request body"),
        ];
        for (body, text) in table {
            idle(&app, &agent.id, body).await.assert_error(400, text);
        }
        idle(&app, UNKNOWN, json!({ "idle_minutes": 5 })).await.assert_error(404, "workspace not found");
        idle(&app, "nope", json!({ "idle_minutes": 5 })).await.assert_error(400, "invalid workspace ID");
        let path = format!("/admin/workspaces/{}/hibernation", agent.id);
        let own = app.request("PUT", &path).bearer(&agent.token).json(json!({ "idle_minutes": 5 }));
        own.send().await.assert_error(401, "invalid admin auth token");
        assert_eq!(app.database.dump().await, before);
        let reply = idle(&app, &agent.id, json!({ "idle_minutes": null })).await;
        assert_eq!(reply.json(), json!({ "status": "updated", "idle_minutes": null }));
        assert_eq!(app.database.count(&count("IS NULL")).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_console_is_masked_by_a_server_that_did_not_store_the_secrets() {
    if !postgres_is_wanted() {
        return;
    }
    // Given two servers that work with one backend, and an agent
    let first = strict(Engine::Postgres).start().await;
    let agent = Agent::start(&first, json!({ "name": "one" })).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let second = strict(Engine::Postgres)
        .backend(Arc::clone(&first.backend))
        .start_on(first.database.share(), dir)
        .await;
    let console = async || {
        let reply = console(&second, &agent.id, ADMIN).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.json()["output"].as_str().expect("text").to_owned()
    };

    // When the first one gives the agent a new secret, which the agent prints
    let restarted = first.post(&format!("/workspaces/{}/restart", agent.id), json!({}));
    assert_eq!(restarted.bearer(ADMIN).send().await.status, 200);
    eventually("it starts again", async || first.backend.starts().len() > 1).await;
    let spec = first.backend.starts().pop().expect("a start");
    let mut files = spec.files.iter();
    let inbound = files.find(|file| file.path == ".platform_inbound_secret");
    let inbound = String::from_utf8_lossy(&inbound.expect("a secret").content).into_owned();
    first
        .backend
        .set_console(ConsoleScript::Shows(format!("secret {inbound}\n")));

    // Then the second does not show it
    assert_eq!(console().await, "secret [REDACTED]\n");

    // Nor what is stored through the first
    let path = format!("/workspaces/{}/secrets", agent.id);
    for (path, key, value) in [
        (path.as_str(), "API_KEY", "a-value-nobody-may-read"),
        ("/settings/secrets", "SHARED", "one-more-of-everybody"),
    ] {
        let body = json!({ "key": key, "value": value });
        let reply = first.post(path, body).bearer(ADMIN).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
    }
    let prints = "a-value-nobody-may-read, one-more-of-everybody\n".to_owned();
    first.backend.set_console(ConsoleScript::Shows(prints));
    assert_eq!(console().await, "[REDACTED], [REDACTED]\n");
}
