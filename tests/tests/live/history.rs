//! `GET /events` and `GET /events/{workspaceId}`.

use molecule_tests::support::{Agent, assert_time, fields, strict};
use molecule_tests::{ADMIN, Reply, TestApp, on_both_engines};
use serde_json::{Value, json};

async fn get(app: &TestApp, path: &str) -> Reply {
    app.get(path).bearer(ADMIN).send().await
}

async fn list(app: &TestApp, path: &str) -> Vec<Value> {
    let reply = get(app, path).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json().as_array().expect("a list").clone()
}

on_both_engines! {
    async fn history_is_newest_first_and_read_in_pages(engine: Engine) {
        let app = strict(engine).start().await;
        assert_eq!(list(&app, "/events").await, Vec::<Value>::new());
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let other = Agent::online(&app, json!({ "name": "two" })).await;
        for number in 0..60 {
            for rate in [0.9, 0.0] {
                let beat = json!({ "error_rate": rate, "sample_error": number.to_string() });
                agent.beat(&app, beat).send().await;
            }
        }
        let newest = list(&app, "/events").await;
        assert_eq!(newest.len(), 100);
        let first = &newest[0];
        assert_eq!(
            fields(first).into_iter().collect::<Vec<_>>(),
            ["created_at", "event_type", "id", "payload", "workspace_id"]
        );
        assert_time(&first["created_at"]);
        assert_eq!(first["event_type"], "WORKSPACE_ONLINE");
        assert_eq!(newest[1]["payload"], json!({ "error_rate": 0.9, "sample_error": "59" }));
        let times: Vec<_> = newest.iter().map(|row| row["created_at"].to_string()).collect();
        assert!(times.is_sorted_by(|newer, older| newer >= older), "{times:?}");

        // Page by page it is the same, and nothing twice.
        let mut pages = Vec::new();
        let mut path = "/events?limit=7".to_owned();
        loop {
            let page = list(&app, &path).await;
            let Some(last) = page.last() else { break };
            path = format!("/events?limit=7&before={}", last["id"].as_str().expect("an id"));
            pages.extend(page);
        }
        assert_eq!(pages[..100], newest);
        assert_eq!(pages, list(&app, "/events?limit=1000").await);

        let of_other = list(&app, &format!("/events/{}", other.id)).await;
        assert!(of_other.iter().all(|row| row["workspace_id"] == other.id.as_str()));
        let kinds: Vec<_> = of_other.iter().map(|row| row["event_type"].clone()).collect();
        assert_eq!(kinds, ["WORKSPACE_ONLINE", "WORKSPACE_PROVISIONING"]);
        let one = list(&app, &format!("/events/{}?limit=1", other.id)).await;
        assert_eq!(one, of_other[..1]);
        let nobody = format!("/events/{}", uuid::Uuid::new_v4());
        assert_eq!(list(&app, &nobody).await, Vec::<Value>::new());
        app.shutdown().await;
    }

    async fn bad_questions_are_refused(engine: Engine) {
        let app = strict(engine).start().await;
        for limit in ["0", "-1", "1001", "x", "", "1.0", "99999999999999999999"] {
            let reply = get(&app, &format!("/events?limit={limit}")).await;
            reply.assert_error(400, "invalid limit");
        }
        for before in ["x", "", "1", "%00", "00000000-0000-0000-0000-00000000000g"] {
            let reply = get(&app, &format!("/events?before={before}")).await;
            reply.assert_error(400, "invalid before");
        }
        for id in ["x", "1", "%FF", "%E2%80%AE", "00000000-0000-0000-0000-00000000000g"] {
            let reply = get(&app, &format!("/events/{id}")).await;
            reply.assert_error(400, "invalid workspace ID");
        }
        for path in ["/events", "/events/00000000-0000-0000-0000-000000000000"] {
            app.get(path).send().await.assert_error(401, "admin auth required");
            let reply = app.get(path).bearer("garbage").send().await;
            reply.assert_error(401, "invalid admin auth token");
        }
        app.shutdown().await;
    }
}
