//! `GET /workspaces` and `GET /workspaces/:id`.

use molecule_tests::{ADMIN, on_both_engines};
use serde_json::{Value, json};

use crate::support::{Agent, assert_time, fields, strict};

const SHARED: [&str; 16] = [
    "id",
    "name",
    "role",
    "tier",
    "status",
    "url",
    "parent_id",
    "agent_card",
    "active_tasks",
    "max_concurrent_tasks",
    "last_error_rate",
    "uptime_seconds",
    "runtime",
    "x",
    "y",
    "collapsed",
];
const LIST_ONLY: [&str; 5] = [
    "last_sample_error",
    "current_task",
    "workspace_dir",
    "monthly_spend",
    "budget_limit",
];

on_both_engines! {
    async fn the_list_has_every_field_and_the_open_detail_hides_five(engine: Engine) {
        let app = strict(engine).start().await;
        let empty = app.get("/workspaces").bearer(ADMIN).send().await;
        assert_eq!((empty.status, empty.text.as_str()), (200, "[]"));
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let listed = app.listed(&agent.id).await.expect("listed");
        let expected = SHARED.into_iter().chain(LIST_ONLY).collect();
        assert_eq!(fields(&listed), expected);
        let detail = app
            .get(&format!("/workspaces/{}", agent.id))
            .send()
            .await
            .json();
        let expected = SHARED.into_iter().chain(["last_outbound_at"]).collect();
        assert_eq!(fields(&detail), expected);
        assert_eq!(detail["last_outbound_at"], Value::Null);
        for field in SHARED {
            assert_eq!(listed[field], detail[field], "{field}");
        }
    }

    async fn the_list_is_oldest_first_and_without_the_removed(engine: Engine) {
        let app = strict(engine).start().await;
        let mut ids = Vec::new();
        for name in ["c", "a", "d", "b"] {
            ids.push(app.create(json!({ "name": name })).await);
        }
        assert_eq!(
            app.delete(&format!("/workspaces/{}", ids[2]))
                .bearer(ADMIN)
                .send()
                .await
                .status,
            200
        );
        let list = app.get("/workspaces").bearer(ADMIN).send().await.json();
        let names: Vec<_> = list
            .as_array()
            .expect("a list")
            .iter()
            .map(|row| row["name"].clone())
            .collect();
        assert_eq!(names, ["c", "a", "b"]);
    }

    async fn a_removed_workspace_is_gone_unless_asked_for(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let path = format!("/workspaces/{}", agent.id);
        assert_eq!(app.delete(&path).bearer(ADMIN).send().await.status, 200);
        for query in [
            "",
            "?include_removed=false",
            "?include_removed=1",
            "?include_removed=TRUE",
        ] {
            let reply = app.get(&format!("{path}{query}")).send().await;
            reply.assert_error(410, "workspace removed");
            let gone = reply.json();
            assert_eq!(fields(&gone), ["error", "hint", "id", "removed_at"].into());
            assert_eq!(gone["id"], agent.id.as_str());
            assert_eq!(
                gone["hint"],
                "Regenerate workspace + token from the canvas → Tokens tab"
            );
            assert_time(&gone["removed_at"]);
        }
        let kept = app
            .get(&format!("{path}?include_removed=true"))
            .send()
            .await;
        assert_eq!(
            (kept.status, &kept.json()["status"]),
            (200, &json!("removed"))
        );
        assert_eq!(kept.json()["url"], "");
        let unknown = app
            .get("/workspaces/7aa08951-00d1-4c3e-9d6a-0123456789ab?include_removed=true")
            .send()
            .await;
        unknown.assert_error(404, "workspace not found");
    }

    async fn every_status_is_shown_by_its_name(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        for status in [
            "provisioning",
            "online",
            "offline",
            "degraded",
            "failed",
            "paused",
            "hibernated",
            "hibernating",
            "awaiting_agent",
        ] {
            crate::support::set_status(&app, engine, &agent.id, status).await;
            let detail = app
                .get(&format!("/workspaces/{}", agent.id))
                .send()
                .await
                .json();
            assert_eq!(detail["status"], status);
        }
    }
}
