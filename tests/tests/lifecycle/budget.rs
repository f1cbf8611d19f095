//! `GET` and `PATCH /workspaces/:id/budget`.

use molecule_tests::support::{Agent, changes, strict};
use molecule_tests::{ADMIN, Reply, TestApp, eventually, on_both_engines};
use serde_json::{Value, json};

async fn set(app: &TestApp, id: &str, bearer: &str, body: Value) -> Reply {
    let request = app.request("PATCH", &format!("/workspaces/{id}/budget"));
    request.bearer(bearer).json(body).send().await
}

async fn get(app: &TestApp, id: &str, bearer: &str) -> Reply {
    let request = app.get(&format!("/workspaces/{id}/budget"));
    request.bearer(bearer).send().await
}

on_both_engines! {
    async fn what_remains_is_the_limit_less_what_the_agent_reports(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let unlimited = json!({ "budget_limit": null, "monthly_spend": 0, "budget_remaining": null });
        let reply = get(&app, &agent.id, &agent.token).await;
        assert_eq!((reply.status, reply.json()), (200, unlimited.clone()));

        let mut events = app.events();
        let reply = set(&app, &agent.id, ADMIN, json!({ "budget_limit": 500, "other": 1 })).await;
        let limited = json!({ "budget_limit": 500, "monthly_spend": 0, "budget_remaining": 500 });
        assert_eq!((reply.status, reply.json()), (200, limited));
        let event = ("WORKSPACE_UPDATED", json!({ "changed": ["budget_limit"] }));
        assert_eq!(changes(&mut events, &agent.id), [event]);
        assert_eq!(app.listed(&agent.id).await.expect("listed")["budget_limit"], 500);

        assert_eq!(agent.beat(&app, json!({ "monthly_spend": 620 })).send().await.status, 200);
        let overspent = json!({ "budget_limit": 500, "monthly_spend": 620, "budget_remaining": -120 });
        eventually("the spend is written", async || {
            get(&app, &agent.id, ADMIN).await.json() == overspent
        })
        .await;

        // Fractions of a cent are dropped; the same limit again is no change.
        changes(&mut events, &agent.id);
        let reply = set(&app, &agent.id, ADMIN, json!({ "budget_limit": 500.9 })).await;
        assert_eq!((reply.status, reply.json()), (200, overspent));
        assert_eq!(changes(&mut events, &agent.id), []);
        let reply = set(&app, &agent.id, ADMIN, json!({ "budget_limit": 0 })).await;
        assert_eq!(reply.json()["budget_remaining"], -620);
        let reply = set(&app, &agent.id, ADMIN, json!({ "budget_limit": null })).await;
        assert_eq!(reply.json()["budget_remaining"], Value::Null);
    }

    async fn a_budget_is_set_by_administrators_and_right_or_not_at_all(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one", "budget_limit": 5 })).await;
        let other = Agent::online(&app, json!({ "name": "two" })).await;
        let gone = app.create(json!({ "name": "gone" })).await;
        let path = format!("/workspaces/{gone}");
        assert_eq!(app.delete(&path).bearer(ADMIN).send().await.status, 200);
        let before = app.database.dump().await;

        let missing = "budget_limit field is required";
        let negative = "budget_limit must be >= 0 (USD cents)";
        let wrong = "budget_limit must be an integer (USD cents) or null";
        let table = [
            (json!({}), missing),
            (json!({ "limit": 5 }), missing),
            (json!({ "budget_limit": -1 }), negative),
            (json!({ "budget_limit": -0.1 }), negative),
            (json!({ "budget_limit": "5" }), wrong),
            (json!({ "budget_limit": [] }), wrong),
            (json!({ "budget_limit": false }), wrong),
            (json!({ "budget_limit": 1e30 }), wrong),
            (json!({ "budget_limit": u64::MAX }), wrong),
            (json!([5]), "invalid request body"),
            (json!(null), "invalid request body"),
        ];
        for (body, text) in table {
            set(&app, &agent.id, ADMIN, body).await.assert_error(400, text);
        }
        let body = json!({ "budget_limit": 9 });
        for id in [gone.as_str(), "7aa08951-00d1-4c3e-9d6a-0123456789ab"] {
            set(&app, id, ADMIN, body.clone()).await.assert_error(404, "workspace not found");
            get(&app, id, ADMIN).await.assert_error(404, "workspace not found");
        }
        set(&app, "nope", ADMIN, body.clone()).await.assert_error(400, "invalid workspace ID");
        get(&app, "nope", ADMIN).await.assert_error(400, "invalid workspace ID");
        // An agent looks at its own budget and sets none.
        let reply = set(&app, &agent.id, &agent.token, body).await;
        reply.assert_error(401, "invalid admin auth token");
        let reply = get(&app, &agent.id, &other.token).await;
        reply.assert_error(401, "invalid workspace auth token");
        assert_eq!(app.database.dump().await, before);
    }
}
