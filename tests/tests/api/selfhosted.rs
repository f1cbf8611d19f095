//! A server that starts no compute: its agents run elsewhere.

use molecule_core::config::BackendChoice;
use molecule_tests::{ADMIN, TestApp, TestAppBuilder, on_both_engines};
use serde_json::json;

use crate::support::{changes, fields, registration, seen, strict};

const NO_BACKEND: &str = "no provisioning backend available — workspace requires either a \
     Docker daemon (self-hosted) or control-plane provisioner (SaaS)";

fn without_backend(app: TestAppBuilder) -> TestAppBuilder {
    app.config(|config| config.backend.kind = BackendChoice::None)
        .real_backend()
}

on_both_engines! {
    async fn a_workspace_is_accepted_and_says_that_nothing_runs_it(engine: Engine) {
        let app = without_backend(strict(engine)).start().await;
        let mut events = app.events();
        let reply = app
            .post(
                "/workspaces",
                json!({ "name": "one", "tier": 2, "runtime": "hermes" }),
            )
            .bearer(ADMIN)
            .send()
            .await;
        let made = reply.json();
        let id = made["id"].as_str().expect("an id").to_owned();
        assert_eq!(
            (reply.status, &made["status"]),
            (201, &json!("provisioning"))
        );
        assert_eq!(
            fields(&made),
            [
                "awareness_namespace",
                "enrolment_secret",
                "id",
                "status",
                "workspace_access"
            ]
            .into()
        );
        let expected = [
            (
                "WORKSPACE_PROVISIONING",
                json!({ "name": "one", "tier": 2, "runtime": "hermes" }),
            ),
            ("WORKSPACE_PROVISION_FAILED", json!({ "error": NO_BACKEND })),
        ];
        assert_eq!(seen(&mut events, &id), expected);
        let row = app.listed(&id).await.expect("listed");
        assert_eq!(
            (&row["status"], &row["last_sample_error"]),
            (&json!("failed"), &json!(NO_BACKEND))
        );
        let dump = app.database.dump().await;
        let data = dump
            .lines()
            .find(|line| line.contains("template"))
            .unwrap_or_default();
        for part in [
            r#""name""#,
            r#""one""#,
            r#""hermes""#,
            r#""tier""#,
            r#""template""#,
        ] {
            // PostgreSQL doubles the quotes of a value inside a row.
            let data = data.replace("\"\"", "\"");
            assert!(data.contains(part), "{part} in {data}");
        }
        assert_eq!(
            app.database
                .count("SELECT count(*) FROM workspace_config")
                .await,
            1
        );
        let secret = made["enrolment_secret"].as_str().expect("a secret");
        assert!(secret.len() == 43 && !dump.contains(secret));
    }

    async fn its_agent_enrols_once_and_gets_its_token_once(engine: Engine) {
        let app = without_backend(strict(engine)).start().await;
        let made = app
            .post("/workspaces", json!({ "name": "one" }))
            .bearer(ADMIN)
            .send()
            .await
            .json();
        let (id, secret) = (
            made["id"].as_str().expect("an id"),
            made["enrolment_secret"].as_str().expect("a secret"),
        );
        let mut events = app.events();
        let register = || app.post("/registry/register", registration(id));
        register()
            .send()
            .await
            .assert_error(401, "missing workspace auth token");
        register()
            .bearer("garbage")
            .send()
            .await
            .assert_error(401, "invalid workspace auth token");
        assert_eq!(changes(&mut events, id), []);

        let reply = register().bearer(secret).send().await;
        let token = reply.json()["auth_token"]
            .as_str()
            .expect("a token")
            .to_owned();
        assert_eq!(
            (reply.status, reply.text.as_str()),
            (
                200,
                &*format!(r#"{{"status":"registered","auth_token":"{token}"}}"#)
            )
        );
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert_eq!(app.listed(id).await.expect("listed")["status"], "online");
        assert_eq!(
            app.listed(id).await.expect("listed")["url"],
            "http://localhost:8000"
        );

        register()
            .bearer(secret)
            .send()
            .await
            .assert_error(401, "invalid workspace auth token");
        let again = register().bearer(&token).send().await;
        assert_eq!(again.text, r#"{"status":"registered"}"#);
        let beat = app
            .post("/registry/heartbeat", json!({ "workspace_id": id }))
            .bearer(&token)
            .send()
            .await;
        assert_eq!(beat.status, 200);
    }

    async fn another_workspaces_enrolment_secret_opens_nothing(engine: Engine) {
        let app = without_backend(strict(engine)).start().await;
        let one = app
            .post("/workspaces", json!({ "name": "one" }))
            .bearer(ADMIN)
            .send()
            .await
            .json();
        let two = app
            .post("/workspaces", json!({ "name": "two" }))
            .bearer(ADMIN)
            .send()
            .await
            .json();
        let secret = two["enrolment_secret"].as_str().expect("a secret");
        let id = one["id"].as_str().expect("an id");
        app.post("/registry/register", registration(id))
            .bearer(secret)
            .send()
            .await
            .assert_error(401, "invalid workspace auth token");
        app.get("/workspaces")
            .bearer(secret)
            .send()
            .await
            .assert_error(401, "invalid admin auth token");
        let path = format!("/workspaces/{id}/github-installation-token");
        app.get(&path)
            .bearer(secret)
            .send()
            .await
            .assert_error(401, "invalid workspace auth token");
    }

    async fn in_development_the_first_contact_needs_no_secret(engine: Engine) {
        let app = without_backend(TestApp::builder(engine)).start().await;
        let id = app.create(json!({ "name": "one" })).await;
        let reply = app
            .post("/registry/register", registration(&id))
            .send()
            .await;
        assert_eq!(
            reply.json()["auth_token"].as_str().map(str::len),
            Some(43),
            "{}",
            reply.text
        );
        app.post("/registry/register", registration(&id))
            .send()
            .await
            .assert_error(401, "missing workspace auth token");
        app.wait_for_status(&id, "online").await;
    }

    async fn deleting_has_nothing_to_stop(engine: Engine) {
        let app = without_backend(strict(engine)).start().await;
        let id = app.create(json!({ "name": "one" })).await;
        let reply = app
            .delete(&format!("/workspaces/{id}?purge=true"))
            .bearer(ADMIN)
            .send()
            .await;
        assert_eq!(
            (reply.status, reply.json()),
            (200, json!({ "status": "purged", "cascade_deleted": 0 }))
        );
        assert_eq!(app.get("/readyz").send().await.json()["backend"], "none");
    }
}
