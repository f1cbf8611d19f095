//! Who may send a message to whom.

use molecule_tests::{ADMIN, TestApp, on_both_engines};
use serde_json::json;

use crate::stand_in::StandIn;
use crate::tools::{UNKNOWN, message, online, server};

const DENIED: &str = "access denied: workspaces cannot communicate per hierarchy rules";

on_both_engines! {
    async fn a_caller_is_who_it_proves_to_be(engine: Engine) {
        // Given two agents that may talk to each other
        let stand_in = StandIn::echo().await;
        let app = server(engine, &stand_in.url).await;
        let a = online(&app, json!({ "name": "a" })).await;
        let b = online(&app, json!({ "name": "b" })).await;
        let minted = app.post("/org/tokens", json!({ "name": "ci" })).bearer(ADMIN).send().await;
        let org = minted.json()["auth_token"].as_str().unwrap_or_default().to_owned();
        assert!(!org.is_empty(), "{}", minted.text);

        // (X-Workspace-ID, bearer, status, error), all to `b`
        let table = [
            // People: an administrator only.
            (None, None, 401, "admin auth required"),
            (None, Some("nonsense"), 401, "invalid admin auth token"),
            (None, Some(&*b.token), 401, "invalid admin auth token"),
            (None, Some(ADMIN), 200, ""),
            (None, Some(&*org), 200, ""),
            (Some(""), Some(ADMIN), 200, ""),
            (Some(""), None, 401, "admin auth required"),
            // Workspaces: with their own token.
            (Some(&*a.id), Some(&*a.token), 200, ""),
            (Some(&*a.id), None, 401, "missing caller auth token"),
            (Some(&*a.id), Some(&*b.token), 401, "invalid caller auth token"),
            (Some(&*a.id), Some("nonsense"), 401, "invalid caller auth token"),
            (Some(UNKNOWN), Some(&*a.token), 401, "invalid caller auth token"),
            (Some(UNKNOWN), None, 401, "missing caller auth token"),
            // Also when they call themselves.
            (Some(&*b.id), Some(&*b.token), 200, ""),
            (Some(&*b.id), None, 401, "missing caller auth token"),
            (Some(&*b.id), Some(&*a.token), 401, "invalid caller auth token"),
            // The platform's own names are nobody else's.
            (Some("system:cron"), Some(ADMIN), 403, "invalid caller ID"),
            (Some("webhook:github"), Some(&*a.token), 403, "invalid caller ID"),
            (Some("TEST:x"), None, 403, "invalid caller ID"),
            (Some("channel:slack"), None, 403, "invalid caller ID"),
            (Some(" system:x"), None, 403, "invalid caller ID"),
            // Nonsense.
            (Some("not-a-uuid"), Some(ADMIN), 400, "invalid X-Workspace-ID"),
        ];
        for (caller, bearer, status, error) in table {
            let before = stand_in.heard().len();
            let mut request = message(&app, &b.id, "hi");
            if let Some(caller) = caller {
                request = request.header("x-workspace-id", caller);
            }
            if let Some(bearer) = bearer {
                request = request.bearer(bearer);
            }
            let reply = request.send().await;
            let found = (reply.status, reply.error());
            assert_eq!(found, (status, error.to_owned()), "{caller:?} {bearer:?}: {}", reply.text);
            let heard = usize::from(status == 200);
            assert_eq!(stand_in.heard().len() - before, heard, "{caller:?} {bearer:?}");
        }
    }

    async fn the_hierarchy_says_who_talks_to_whom(engine: Engine) {
        let stand_in = StandIn::echo().await;
        let app = server(engine, &stand_in.url).await;
        let root = online(&app, json!({ "name": "root" })).await;
        let other = online(&app, json!({ "name": "other" })).await;
        let child = online(&app, json!({ "name": "child", "parent_id": root.id })).await;
        let sibling = online(&app, json!({ "name": "sibling", "parent_id": root.id })).await;
        let grandchild = online(&app, json!({ "name": "grandchild", "parent_id": child.id })).await;
        let table = [
            (&root, &other, true),
            (&root, &child, true),
            (&child, &root, true),
            (&child, &sibling, true),
            (&root, &grandchild, true),
            (&grandchild, &root, true),
            (&other, &child, false),
            (&child, &other, false),
            // An uncle.
            (&sibling, &grandchild, false),
            (&grandchild, &sibling, false),
        ];
        for (from, to, allowed) in table {
            let reply = message(&app, &to.id, "hi")
                .header("x-workspace-id", &from.id)
                .bearer(&from.token)
                .send()
                .await;
            match allowed {
                true => assert_eq!(reply.status, 200, "{}", reply.text),
                false => reply.assert_error(403, DENIED),
            }
        }
        // Nobody can find out what is there by asking.
        let reply = message(&app, UNKNOWN, "hi")
            .header("x-workspace-id", &root.id)
            .bearer(&root.token)
            .send()
            .await;
        reply.assert_error(403, DENIED);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_development_anybody_talks_to_agents() {
    let stand_in = StandIn::echo().await;
    let app = TestApp::builder(molecule_tests::Engine::Sqlite)
        .start()
        .await;
    app.backend.set_url(&stand_in.url);
    let agent = online(&app, json!({ "name": "dev" })).await;
    assert_eq!(message(&app, &agent.id, "hi").send().await.status, 200);
    // But not in the name of somebody else.
    let reply = message(&app, &agent.id, "hi")
        .header("x-workspace-id", &agent.id)
        .send()
        .await;
    reply.assert_error(401, "missing caller auth token");
    let reply = message(&app, &agent.id, "hi")
        .header("x-workspace-id", "system:x")
        .send()
        .await;
    reply.assert_error(403, "invalid caller ID");
}
