//! Workspaces whose agents run elsewhere, on a server that has a backend.

use molecule_tests::{ADMIN, on_both_engines};
use serde_json::json;

use crate::support::{changes, create, fields, registration, seen, strict};

on_both_engines! {
    async fn an_external_workspace_with_a_url_is_online_at_once(engine: Engine) {
        let app = strict(engine).start().await;
        let mut events = app.events();
        for body in [
            json!({ "name": "a", "external": true, "url": "https://agent.example/a2a" }),
            json!({ "name": "b", "runtime": "external", "url": "https://agent.example/a2a" }),
        ] {
            let reply = create(&app, body.clone()).await;
            let mut made = reply.json();
            let id = made["id"].as_str().expect("an id").to_owned();
            // How its agent gets a first token where nobody is let in for nothing.
            let secret = made["enrolment_secret"].take();
            assert_eq!(secret.as_str().map(str::len), Some(43));
            assert_eq!(
                (reply.status, made),
                (
                    201,
                    json!({ "id": id, "external": true, "status": "online", "enrolment_secret": null })
                )
            );
            let expected = json!({ "name": body["name"], "external": true });
            assert_eq!(seen(&mut events, &id), [("WORKSPACE_ONLINE", expected)]);
            assert_eq!(
                app.listed(&id).await.expect("listed")["url"],
                "https://agent.example/a2a"
            );
        }
        assert!(app.backend.starts().is_empty());
        assert_eq!(
            app.database
                .count("SELECT count(*) FROM workspace_auth_tokens")
                .await,
            0
        );
    }

    async fn an_external_workspace_without_a_url_gets_what_its_agent_needs(engine: Engine) {
        let app = strict(engine).start().await;
        let mut events = app.events();
        let reply = create(&app, json!({ "name": "far", "external": true })).await;
        let made = reply.json();
        let id = made["id"].as_str().expect("an id").to_owned();
        assert_eq!(
            fields(&made),
            ["connection", "external", "id", "status"].into()
        );
        assert_eq!(
            (reply.status, &made["external"], &made["status"]),
            (201, &json!(true), &json!("awaiting_agent"))
        );
        assert_eq!(
            seen(&mut events, &id),
            [(
                "WORKSPACE_AWAITING_AGENT",
                json!({ "name": "far", "external": true })
            )]
        );

        let connection = &made["connection"];
        let token = connection["auth_token"].as_str().expect("a token");
        assert_eq!(token.len(), 43);
        assert_eq!(connection["workspace_id"], id.as_str());
        assert_eq!(connection["platform_url"], app.url);
        assert_eq!(
            connection["registry_endpoint"],
            format!("{}/registry/register", app.url)
        );
        assert_eq!(
            connection["heartbeat_endpoint"],
            format!("{}/registry/heartbeat", app.url)
        );
        for snippet in [
            "curl_register_template",
            "python_snippet",
            "claude_code_channel_snippet",
            "universal_mcp_snippet",
            "hermes_channel_snippet",
            "codex_snippet",
            "openclaw_snippet",
        ] {
            let text = connection[snippet].as_str().unwrap_or_default();
            assert!(
                text.contains(token) && text.contains(&id),
                "{snippet}: {text}"
            );
        }
        assert_eq!(connection.as_object().map(serde_json::Map::len), Some(12));
        assert!(!app.database.dump().await.contains(token));

        // The token works, and a heartbeat alone brings it online.
        let beat = app
            .post("/registry/heartbeat", json!({ "workspace_id": id }))
            .bearer(token)
            .send()
            .await;
        assert_eq!(beat.status, 200);
        assert_eq!(
            changes(&mut events, &id),
            [(
                "WORKSPACE_ONLINE",
                json!({ "recovered_from": "awaiting_agent" })
            )]
        );
        let again = app
            .post("/registry/register", registration(&id))
            .bearer(token)
            .send()
            .await;
        assert_eq!(again.text, r#"{"status":"registered"}"#);
        assert_eq!(
            app.listed(&id).await.expect("listed")["url"],
            "http://localhost:8000"
        );
        assert!(app.backend.starts().is_empty());
    }

    async fn the_connection_names_the_configured_or_forwarded_address(engine: Engine) {
        let far = json!({ "name": "far", "external": true });
        let app = strict(engine).start().await;
        let request = app.post("/workspaces", far.clone()).bearer(ADMIN);
        let reply = request
            .header("x-forwarded-proto", "https")
            .header("x-forwarded-host", "molecule.example")
            .send()
            .await;
        assert_eq!(
            reply.json()["connection"]["platform_url"],
            "https://molecule.example"
        );
        let app = strict(engine)
            .config(|config| config.server.external_url = Some("https://set.example/".into()))
            .start()
            .await;
        let reply = create(&app, far).await;
        assert_eq!(
            reply.json()["connection"]["registry_endpoint"],
            "https://set.example/registry/register"
        );
    }
}
