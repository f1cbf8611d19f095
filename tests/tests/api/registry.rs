//! `POST /registry/register`.

use molecule_tests::{ADMIN, TestApp, on_both_engines};
use serde_json::{Value, json};

use crate::support::{Agent, recorded, registration, seen, set_status, strict};

const UNKNOWN: &str = "7aa08951-00d1-4c3e-9d6a-0123456789ab";

async fn status(app: &TestApp, id: &str) -> Value {
    let path = format!("/workspaces/{id}?include_removed=true");
    app.get(&path).send().await.json()["status"].clone()
}

on_both_engines! {
    async fn strangers_are_told_nothing_and_leave_nothing(engine: Engine) {
        let app = strict(engine).start().await;
        let before = app.database.dump().await;
        for bearer in [None, Some("garbage"), Some(ADMIN)] {
            for (path, body) in [
                ("/registry/register", registration(UNKNOWN)),
                (
                    "/registry/heartbeat",
                    json!({ "workspace_id": UNKNOWN, "current_task": "x" }),
                ),
            ] {
                let request = app.post(path, body);
                let request = match bearer {
                    Some(bearer) => request.bearer(bearer),
                    None => request,
                };
                request
                    .send()
                    .await
                    .assert_error(404, "workspace not found");
            }
        }
        assert_eq!(app.database.dump().await, before);
    }

    async fn the_body_is_read_before_the_row_the_row_before_the_token_the_token_before_the_url(
        engine: Engine,
    ) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        let send = |body: Value, token: &'static str| {
            app.post("/registry/register", body).bearer(token).send()
        };
        let blocked =
            |id: &str| json!({ "id": id, "url": "http://169.254.169.254/", "agent_card": {} });
        send(json!({ "id": UNKNOWN, "url": "x" }), "garbage")
            .await
            .assert_error(400, "invalid request body");
        send(blocked(UNKNOWN), "garbage")
            .await
            .assert_error(404, "workspace not found");
        // Names are looked up for callers only who may register.
        send(blocked(&agent.id), "garbage")
            .await
            .assert_error(401, "invalid workspace auth token");
        let reply = app
            .post("/registry/register", blocked(&agent.id))
            .bearer(&agent.token)
            .send()
            .await;
        reply.assert_error(400, "invalid request body");
        assert_eq!(
            reply.json()["detail"],
            "url points to an address that is not allowed"
        );
    }

    async fn a_removed_workspace_does_not_come_back(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        assert_eq!(
            app.delete(&format!("/workspaces/{}", agent.id))
                .bearer(ADMIN)
                .send()
                .await
                .status,
            200
        );
        let before = app.database.dump().await;
        for _ in 0..2 {
            agent
                .register(&app)
                .send()
                .await
                .assert_error(404, "workspace not found");
            agent
                .beat(&app, json!({ "current_task": "still here" }))
                .send()
                .await
                .assert_error(404, "workspace not found");
        }
        assert_eq!(status(&app, &agent.id).await, "removed");
        assert_eq!(app.database.dump().await, before);
    }

    async fn a_paused_or_hibernated_workspace_stays_so(engine: Engine) {
        let app = strict(engine).start().await;
        for state in ["paused", "hibernated", "hibernating"] {
            let agent = Agent::start(&app, json!({ "name": state })).await;
            set_status(&app, engine, &agent.id, state).await;
            let mut events = app.events();
            let reply = agent.register(&app).send().await;
            assert_eq!(
                (reply.status, reply.text.as_str()),
                (200, r#"{"status":"registered"}"#),
                "{state}"
            );
            assert_eq!(agent.beat(&app, json!({})).send().await.status, 200);
            assert_eq!(status(&app, &agent.id).await, state);
            assert_eq!(
                crate::support::changes(&mut events, &agent.id),
                [],
                "{state}"
            );
        }
        assert_eq!(recorded(&app, "WORKSPACE_ONLINE").await, 0);
    }

    async fn registering_brings_every_other_status_online(engine: Engine) {
        let app = strict(engine).start().await;
        for state in [
            "provisioning",
            "online",
            "offline",
            "degraded",
            "failed",
            "awaiting_agent",
        ] {
            let agent = Agent::start(&app, json!({ "name": state })).await;
            set_status(&app, engine, &agent.id, state).await;
            let mut events = app.events();
            assert_eq!(agent.register(&app).send().await.status, 200);
            assert_eq!(status(&app, &agent.id).await, "online", "from {state}");
            let names: Vec<_> = seen(&mut events, &agent.id)
                .into_iter()
                .map(|(name, _)| name)
                .collect();
            assert_eq!(names, ["WORKSPACE_ONLINE"], "from {state}");
        }
    }

    async fn the_url_that_the_provisioner_knows_wins(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let url = |id: String| {
            let app = &app;
            async move { app.listed(&id).await.expect("listed")["url"].clone() }
        };
        assert_eq!(url(agent.id.clone()).await, "http://127.0.0.1:9");
        // Nobody started this one; what its agent says counts, every time.
        let reply = app
            .post("/workspaces", json!({ "name": "far", "external": true }))
            .bearer(ADMIN)
            .send()
            .await
            .json();
        let (id, token) = (
            reply["id"].as_str().expect("an id"),
            reply["connection"]["auth_token"].as_str().expect("a token"),
        );
        for said in ["http://localhost:1", "https://1.1.1.1/agent"] {
            let body = json!({ "id": id, "url": said, "agent_card": null });
            assert_eq!(
                app.post("/registry/register", body)
                    .bearer(token)
                    .send()
                    .await
                    .status,
                200
            );
            assert_eq!(url(id.to_owned()).await, said);
        }
    }

    async fn any_json_is_an_agent_card_but_none_is_not(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        let cards = [
            json!(null),
            json!({}),
            json!("text"),
            json!([1, 2.5, null]),
            json!(true),
            json!({ "ä": { "deep": [{}] }, "n": 18_446_744_073_709_551_615_u64 }),
        ];
        for card in cards {
            let body = json!({ "id": agent.id, "url": "http://localhost:1", "agent_card": card });
            assert_eq!(
                app.post("/registry/register", body)
                    .bearer(&agent.token)
                    .send()
                    .await
                    .status,
                200,
                "{card}"
            );
            let detail = app
                .get(&format!("/workspaces/{}", agent.id))
                .send()
                .await
                .json();
            assert_eq!(detail["agent_card"], card);
        }
        let body = json!({ "id": agent.id, "url": "http://localhost:1" });
        let reply = app
            .post("/registry/register", body)
            .bearer(&agent.token)
            .send()
            .await;
        reply.assert_error(400, "invalid request body");
        assert_eq!(reply.json()["detail"], "agent_card is required");
    }

    async fn every_refused_url_says_why(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        let malformed =
            "url must be an http:// or https:// URL with a host and without credentials";
        let blocked = "url points to an address that is not allowed";
        let table = [
            ("ftp://agent.example", malformed),
            ("agent.example:8000", malformed),
            ("http://", malformed),
            ("http://user:pw@agent.example", malformed),
            ("http://user@127.0.0.1", malformed),
            ("file:///etc/passwd", malformed),
            (
                &*format!("http://localhost/{}", "x".repeat(2048)),
                malformed,
            ),
            ("http://127.0.0.1:8000", blocked),
            ("http://0x7f.1:8000", blocked),
            ("http://0.0.0.0", blocked),
            ("http://10.1.2.3", blocked),
            ("http://172.31.0.1", blocked),
            ("http://192.168.0.1", blocked),
            ("http://169.254.169.254/latest", blocked),
            ("http://100.64.0.1", blocked),
            ("http://192.0.2.1", blocked),
            ("http://198.51.100.1", blocked),
            ("http://203.0.113.1", blocked),
            ("http://224.0.0.1", blocked),
            ("http://[::1]", blocked),
            ("http://[::]", blocked),
            ("http://[fe80::1]", blocked),
            ("http://[fc00::1]", blocked),
            ("http://[fd12::1]", blocked),
            ("http://[ff02::1]", blocked),
            ("http://[2001:db8::1]", blocked),
            ("http://[64:ff9b::7f00:1]", blocked),
            ("http://[2002:7f00:1::]", blocked),
            ("http://[::ffff:127.0.0.1]", blocked),
        ];
        for (url, detail) in table {
            let body = json!({ "id": agent.id, "url": url, "agent_card": {} });
            let reply = app
                .post("/registry/register", body)
                .bearer(&agent.token)
                .send()
                .await;
            reply.assert_error(400, "invalid request body");
            assert_eq!(reply.json()["detail"], detail, "{url}");
        }
        for url in ["http://127.0.0.1.invalid/", "http://no-such-host.invalid"] {
            let body = json!({ "id": agent.id, "url": url, "agent_card": {} });
            let reply = app
                .post("/registry/register", body)
                .bearer(&agent.token)
                .send()
                .await;
            reply.assert_error(400, "invalid request body");
            assert_eq!(
                reply.json()["detail"],
                "the host of url cannot be resolved",
                "{url}"
            );
        }
        assert_eq!(status(&app, &agent.id).await, "provisioning");
        assert_eq!(recorded(&app, "WORKSPACE_ONLINE").await, 0);
        let id12 = &agent.id[..12];
        for url in [
            format!("http://ws-{id12}:8000"),
            format!("http://ws-{}:8000", agent.id),
            "http://localhost:8000".into(),
            "https://8.8.8.8/a2a".into(),
        ] {
            let body = json!({ "id": agent.id, "url": url, "agent_card": {} });
            let reply = app
                .post("/registry/register", body)
                .bearer(&agent.token)
                .send()
                .await;
            assert_eq!(reply.status, 200, "{url}: {}", reply.text);
        }
    }

    async fn a_datastore_error_after_the_gate_has_the_documented_text(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        app.database
            .execute("ALTER TABLE structure_events RENAME TO away")
            .await;
        agent
            .register(&app)
            .send()
            .await
            .assert_error(500, "registration failed");
        agent
            .beat(&app, json!({}))
            .send()
            .await
            .assert_error(500, "failed to update");
        // Together or not at all.
        assert_eq!(status(&app, &agent.id).await, "provisioning");
        app.database
            .execute("ALTER TABLE away RENAME TO structure_events")
            .await;
        assert_eq!(agent.register(&app).send().await.status, 200);
        assert_eq!(status(&app, &agent.id).await, "online");
    }
}
