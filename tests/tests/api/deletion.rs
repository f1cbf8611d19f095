//! `DELETE /workspaces/:id`.

use molecule_tests::fake_backend::Fault;
use molecule_tests::{ADMIN, Reply, TestApp, eventually, on_both_engines};
use serde_json::{Value, json};

use crate::support::{Agent, changes, fields, recorded, strict};

async fn delete(app: &TestApp, id: &str, query: &str) -> Reply {
    let path = format!("/workspaces/{id}{query}");
    app.delete(&path).bearer(ADMIN).send().await
}

/// Three generations: lead, qa below it, intern below qa.
async fn family(app: &TestApp) -> [Agent; 3] {
    let lead = Agent::online(app, json!({ "name": "lead" })).await;
    let qa = Agent::online(app, json!({ "name": "qa", "parent_id": lead.id })).await;
    let intern = Agent::online(app, json!({ "name": "intern", "parent_id": qa.id })).await;
    [lead, qa, intern]
}

fn stopped(app: &TestApp, id: &str) -> usize {
    app.backend
        .stops()
        .iter()
        .filter(|stop| stop.to_string() == id)
        .count()
}

on_both_engines! {
    async fn a_workspace_is_removed_with_its_compute_and_storage(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one", "canvas": { "x": 5 } })).await;
        let mut events = app.events();
        let reply = delete(&app, &agent.id, "").await;
        assert_eq!(
            (reply.status, reply.json()),
            (200, json!({ "status": "removed", "cascade_deleted": 0 }))
        );
        assert_eq!(
            changes(&mut events, &agent.id),
            [("WORKSPACE_REMOVED", json!({ "cascade_deleted": 0 }))]
        );
        assert!(app.backend.is_empty());
        for (sql, expected) in [
            (
                "SELECT count(*) FROM workspaces WHERE status = 'removed' AND url = '' \
                 AND instance_id IS NULL AND removed_at IS NOT NULL",
                1,
            ),
            ("SELECT count(*) FROM canvas_layouts", 0),
            (
                "SELECT count(*) FROM workspace_auth_tokens WHERE revoked_at IS NULL",
                0,
            ),
        ] {
            assert_eq!(app.database.count(sql).await, expected, "{sql}");
        }
        // Again, and again: the same answer, no second event.
        for _ in 0..2 {
            assert_eq!(
                delete(&app, &agent.id, "").await.json(),
                json!({ "status": "removed", "cascade_deleted": 0 })
            );
        }
        assert_eq!(recorded(&app, "WORKSPACE_REMOVED").await, 1);
    }

    async fn children_are_deleted_only_when_confirmed(engine: Engine) {
        let app = strict(engine).start().await;
        let [lead, qa, intern] = family(&app).await;
        let before = app.database.dump().await;
        for query in ["", "?confirm=false", "?confirm=1", "?purge=true"] {
            let reply = delete(&app, &lead.id, query).await;
            let body = reply.json();
            assert_eq!(reply.status, 409);
            assert_eq!(body["status"], "confirmation_required");
            assert_eq!(
                body["message"],
                "This workspace has sub-workspaces. Delete with ?confirm=true to cascade delete."
            );
            assert_eq!(body["children"], json!([{ "id": qa.id, "name": "qa" }]));
            assert_eq!(body["children_count"], 1);
        }
        assert_eq!(app.database.dump().await.len(), before.len());
        assert!(app.backend.stops().is_empty());

        let mut events = app.events();
        let reply = delete(&app, &lead.id, "?confirm=true").await;
        assert_eq!(
            (reply.status, reply.json()),
            (200, json!({ "status": "removed", "cascade_deleted": 2 }))
        );
        let removed: Vec<(String, Value)> = std::iter::from_fn(|| events.try_recv().ok())
            .filter(|event| event.event.as_str() == "WORKSPACE_REMOVED")
            .map(|event| (event.workspace_id.to_string(), event.payload))
            .collect();
        assert_eq!(removed.len(), 3, "{removed:?}");
        assert_eq!(
            removed[2],
            (lead.id.clone(), json!({ "cascade_deleted": 2 }))
        );
        for child in [&qa, &intern] {
            assert!(
                removed.contains(&(child.id.clone(), json!({}))),
                "{removed:?}"
            );
            child
                .beat(&app, json!({}))
                .send()
                .await
                .assert_error(404, "workspace not found");
        }
        assert!(app.backend.is_empty());
    }

    async fn a_leaf_needs_no_confirmation_and_leaves_its_parent_alone(engine: Engine) {
        let app = strict(engine).start().await;
        let [lead, qa, intern] = family(&app).await;
        assert_eq!(
            delete(&app, &intern.id, "").await.json(),
            json!({ "status": "removed", "cascade_deleted": 0 })
        );
        // Its parent has no living children any more.
        assert_eq!(
            delete(&app, &qa.id, "").await.json(),
            json!({ "status": "removed", "cascade_deleted": 0 })
        );
        assert_eq!(
            app.listed(&lead.id).await.expect("listed")["status"],
            "online"
        );
    }

    async fn an_unknown_workspace_is_deleted_already(engine: Engine) {
        let app = strict(engine).start().await;
        let id = "7aa08951-00d1-4c3e-9d6a-0123456789ab";
        assert_eq!(
            delete(&app, id, "").await.json(),
            json!({ "status": "removed", "cascade_deleted": 0 })
        );
        assert_eq!(
            delete(&app, id, "?purge=true").await.json(),
            json!({ "status": "purged", "cascade_deleted": 0 })
        );
        delete(&app, "nope", "")
            .await
            .assert_error(400, "invalid workspace ID");
        assert_eq!(recorded(&app, "WORKSPACE_REMOVED").await, 0);
    }

    async fn a_purge_leaves_no_row_but_the_events(engine: Engine) {
        let app = strict(engine).start().await;
        let [lead, qa, _] = family(&app).await;
        let other = Agent::online(&app, json!({ "name": "other", "secrets": { "A": "v" } })).await;
        // Removed before, so not below it any more; it loses its parent.
        let old = Agent::online(&app, json!({ "name": "old", "parent_id": lead.id })).await;
        assert_eq!(delete(&app, &old.id, "").await.status, 200);
        let reply = delete(&app, &lead.id, "?confirm=true&purge=true").await;
        assert_eq!(
            (reply.status, reply.json()),
            (200, json!({ "status": "purged", "cascade_deleted": 2 }))
        );
        app.get(&format!("/workspaces/{}?include_removed=true", lead.id))
            .send()
            .await
            .assert_error(404, "workspace not found");
        app.get(&format!("/workspaces/{}?include_removed=true", qa.id))
            .send()
            .await
            .assert_error(404, "workspace not found");
        let left = app
            .get(&format!("/workspaces/{}?include_removed=true", old.id))
            .send()
            .await
            .json();
        assert_eq!(
            (&left["status"], &left["parent_id"]),
            (&json!("removed"), &Value::Null)
        );
        for (table, expected) in [
            ("workspaces", 2),
            ("canvas_layouts", 1),
            ("workspace_secrets", 1),
            ("workspace_config", 0),
        ] {
            assert_eq!(
                app.database
                    .count(&format!("SELECT count(*) FROM {table}"))
                    .await,
                expected,
                "{table}"
            );
        }
        assert_eq!(
            app.listed(&other.id).await.expect("listed")["status"],
            "online"
        );
        assert_eq!(recorded(&app, "WORKSPACE_REMOVED").await, 4);
    }

    async fn compute_that_does_not_stop_is_reported_keeps_its_storage_and_can_be_retried(
        engine: Engine,
    ) {
        let app = strict(engine).start().await;
        let [lead, qa, intern] = family(&app).await;
        app.backend.set_fault(Fault::StopFails);
        let reply = delete(&app, &lead.id, "?confirm=true&purge=true").await;
        let body = reply.json();
        assert_eq!(reply.status, 500);
        assert_eq!(
            fields(&body),
            ["error", "removed_count", "stop_failures"].into()
        );
        assert_eq!(
            (&body["removed_count"], &body["stop_failures"]),
            (&json!(3), &json!(3))
        );
        let error = reply.error();
        let start = "workspace marked removed, but 3 stop call(s) failed — please retry: stop ";
        assert!(error.starts_with(start), "{error}");
        for agent in [&lead, &qa, &intern] {
            assert!(error.contains(&format!("stop {}", agent.id)), "{error}");
            let path = format!("/workspaces/{}?include_removed=true", agent.id);
            assert_eq!(
                app.get(&path).send().await.json()["status"],
                "removed",
                "no purge"
            );
        }
        assert!(
            !reply.text.contains("secret-backend-detail"),
            "{}",
            reply.text
        );
        assert!(!app.backend.is_empty());

        // The retry reaches the children as well, although they are marked already.
        app.backend.set_fault(Fault::None);
        let before = [stopped(&app, &qa.id), stopped(&app, &intern.id)];
        let reply = delete(&app, &lead.id, "?confirm=true").await;
        assert_eq!(
            (reply.status, &reply.json()["status"]),
            (200, &json!("removed")),
            "{}",
            reply.text
        );
        assert!(app.backend.is_empty(), "something still runs");
        assert_eq!(
            [stopped(&app, &qa.id), stopped(&app, &intern.id)],
            before.map(|n| n + 1)
        );
        assert_eq!(recorded(&app, "WORKSPACE_REMOVED").await, 3);
    }

    async fn storage_that_cannot_be_removed_is_left_to_the_sweeper(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        app.backend.set_fault(Fault::RemoveFails);
        let reply = delete(&app, &agent.id, "").await;
        assert_eq!(
            (reply.status, reply.json()),
            (200, json!({ "status": "removed", "cascade_deleted": 0 }))
        );
        assert!(!app.backend.is_empty());
    }

    async fn a_start_under_way_is_cancelled_first(engine: Engine) {
        let app = strict(engine).start().await;
        app.backend.set_fault(Fault::StartHangs);
        let id = app.create(json!({ "name": "one" })).await;
        eventually("the start hangs", || async {
            app.backend.starts().len() == 1
        })
        .await;
        let reply = delete(&app, &id, "").await;
        assert_eq!(
            (reply.status, reply.json()),
            (200, json!({ "status": "removed", "cascade_deleted": 0 }))
        );
        assert_eq!(app.backend.cancelled(), 1);
        assert!(app.backend.is_empty());
        assert_eq!(
            app.database
                .count("SELECT count(*) FROM workspace_auth_tokens WHERE revoked_at IS NULL")
                .await,
            0
        );
        assert_eq!(recorded(&app, "WORKSPACE_PROVISION_FAILED").await, 0);
    }

    async fn an_external_agent_is_nobodys_to_stop(engine: Engine) {
        let app = strict(engine).start().await;
        app.backend.set_fault(Fault::StopFails);
        let id = app.create(json!({ "name": "far", "external": true })).await;
        let reply = delete(&app, &id, "").await;
        assert_eq!(
            (reply.status, reply.json()),
            (200, json!({ "status": "removed", "cascade_deleted": 0 }))
        );
        assert!(app.backend.stops().is_empty());
    }

    async fn a_delete_is_not_taken_back_by_a_client_that_leaves(engine: Engine) {
        let app = strict(engine).start().await;
        app.backend.set_fault(Fault::StartHangs);
        let id = app.create(json!({ "name": "one" })).await;
        eventually("the start hangs", || async {
            app.backend.starts().len() == 1
        })
        .await;
        let address = app
            .url
            .strip_prefix("http://")
            .expect("an address")
            .to_owned();
        let mut stream = tokio::net::TcpStream::connect(address)
            .await
            .expect("connect");
        let request = format!(
            "DELETE /workspaces/{id} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN}\r\n\r\n"
        );
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes())
            .await
            .expect("write");
        app.wait_for_status(&id, "removed").await;
        drop(stream);
        eventually("the rest is done", || async {
            app.backend.cancelled() == 1 && recorded(&app, "WORKSPACE_REMOVED").await == 1
        })
        .await;
    }
}
