//! Workspaces without an agent to talk to.

use molecule_tests::fake_backend::Fault;
use molecule_tests::support::sql_id;
use molecule_tests::{ADMIN, on_both_engines};
use serde_json::json;

use crate::stand_in::StandIn;
use crate::tools::{UNKNOWN, online, post, send, server};

on_both_engines! {
    async fn a_workspace_without_a_url_says_what_it_is(engine: Engine) {
        let stand_in = StandIn::echo().await;
        let app = server(engine, &stand_in.url).await;
        let agent = online(&app, json!({ "name": "dev" })).await;
        for status in [
            "provisioning", "paused", "offline", "failed", "hibernating", "awaiting_agent",
            "online", "degraded", "removed",
        ] {
            let id = sql_id(engine, &agent.id);
            let sql = format!("UPDATE workspaces SET status = '{status}', url = '' WHERE id = {id}");
            app.database.execute(&sql).await;
            let reply = send(&app, &agent.id, "hi").send().await;
            let expected = json!({ "error": "workspace has no URL", "status": status });
            assert_eq!((reply.status, reply.json()), (503, expected));
        }
        assert!(stand_in.heard().is_empty());
        assert_eq!(app.backend.starts_of(&agent.id).len(), 1, "nobody is woken");
        send(&app, UNKNOWN, "hi").send().await.assert_error(404, "workspace not found");
    }

    async fn a_paused_workspace_and_one_that_boots_get_no_messages(engine: Engine) {
        let stand_in = StandIn::echo().await;
        let app = server(engine, &stand_in.url).await;
        let agent = online(&app, json!({ "name": "dev" })).await;
        let path = format!("/workspaces/{}/pause", agent.id);
        assert_eq!(app.request("POST", &path).bearer(ADMIN).send().await.status, 200);
        let reply = send(&app, &agent.id, "hi").send().await;
        assert_eq!((reply.status, &reply.json()["status"]), (503, &json!("paused")));

        app.backend.set_fault(Fault::StartHangs);
        let booting = app.create(json!({ "name": "booting" })).await;
        let reply = send(&app, &booting, "hi").send().await;
        let expected = json!({ "error": "workspace has no URL", "status": "provisioning" });
        assert_eq!((reply.status, reply.json()), (503, expected));
        assert!(stand_in.heard().is_empty());
    }

    async fn a_spent_budget_stops_messages_before_anything_else_does(engine: Engine) {
        // Given a workspace that may spend a little
        let stand_in = StandIn::echo().await;
        let app = server(engine, &stand_in.url).await;
        let agent = online(&app, json!({ "name": "dev", "budget_limit": 100 })).await;
        assert_eq!(send(&app, &agent.id, "hi").send().await.status, 200);

        // When it has
        let spent = async |cents: i64| {
            let id = sql_id(engine, &agent.id);
            let sql = format!("UPDATE workspaces SET monthly_spend = {cents} WHERE id = {id}");
            app.database.execute(&sql).await;
        };
        spent(99).await;
        assert_eq!(send(&app, &agent.id, "hi").send().await.status, 200);
        spent(100).await;

        // Then nothing is delivered, whatever it is
        let text = "workspace budget limit exceeded";
        send(&app, &agent.id, "hi").send().await.assert_error(402, text);
        post(&app, &agent.id, "nonsense").bearer(ADMIN).send().await.assert_error(402, text);
        let path = format!("/workspaces/{}/hibernate", agent.id);
        assert_eq!(app.request("POST", &path).bearer(ADMIN).send().await.status, 200);
        send(&app, &agent.id, "hi").send().await.assert_error(402, text);
        assert_eq!(app.backend.starts_of(&agent.id).len(), 1, "it sleeps on");
        assert_eq!(stand_in.heard().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_at_the_workspace_that_fails_says_nothing_about_the_database() {
    let stand_in = StandIn::echo().await;
    let app = server(molecule_tests::Engine::Sqlite, &stand_in.url).await;
    let agent = online(&app, json!({ "name": "dev" })).await;
    let rename = "ALTER TABLE workspaces RENAME TO elsewhere";
    app.database.execute(rename).await;
    let reply = send(&app, &agent.id, "hi").send().await;
    assert_eq!(reply.json(), json!({ "error": "lookup failed" }));
    assert_eq!(reply.status, 500);
}
