//! Hibernate and wake.

use molecule_tests::fake_backend::Fault;
use molecule_tests::{Engine, eventually, on_both_engines};
use serde_json::json;

use crate::support::{Agent, changes, sql_id, strict};
use crate::tools::{act, named, started_times, status};

const NOT_AWAKE: &str =
    "workspace not found or not in a hibernatable state (must be online or degraded)";

on_both_engines! {
    async fn an_idle_workspace_sleeps_and_a_restart_wakes_it(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, named("dev")).await;
        let mut events = app.events();
        let reply = act(&app, &agent.id, "hibernate").await;
        assert_eq!((reply.status, reply.json()), (200, json!({ "status": "hibernated" })));
        assert_eq!(status(&app, &agent.id).await, "hibernated");
        assert!(!app.backend.runs(&agent.id) && app.backend.stores(&agent.id));
        let expected = json!({ "name": "dev", "tier": 3 });
        assert_eq!(changes(&mut events, &agent.id), [("WORKSPACE_HIBERNATED", expected)]);
        assert_eq!(app.listed(&agent.id).await.expect("a row")["url"], "");
        act(&app, &agent.id, "hibernate").await.assert_error(404, NOT_AWAKE);

        assert_eq!(agent.beat(&app, json!({})).send().await.status, 200);
        assert_eq!(status(&app, &agent.id).await, "hibernated", "a heartbeat wakes nobody");
        assert_eq!(act(&app, &agent.id, "restart").await.status, 200);
        let again = started_times(&app, &agent.id, 2).await;
        assert_eq!(again.register(&app).send().await.status, 200);
        assert_eq!(status(&app, &agent.id).await, "online");
    }

    async fn a_busy_workspace_sleeps_only_by_force(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, named("dev")).await;
        assert_eq!(agent.beat(&app, json!({ "active_tasks": 2 })).send().await.status, 200);
        eventually("the heartbeat is written", || async {
            app.listed(&agent.id).await.is_some_and(|row| row["active_tasks"] == 2)
        }).await;
        let reply = act(&app, &agent.id, "hibernate").await;
        let expected = json!({ "error": "workspace has active tasks; use ?force=true to terminate them", "active_tasks": 2 });
        assert_eq!((reply.status, reply.json()), (409, expected));
        assert!(app.backend.runs(&agent.id));
        assert_eq!(act(&app, &agent.id, "hibernate?force=true").await.status, 200);
        assert_eq!(status(&app, &agent.id).await, "hibernated");
        assert_eq!(app.listed(&agent.id).await.expect("a row")["active_tasks"], 0);
    }

    async fn a_workspace_that_would_not_stop_is_what_it_was(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, named("dev")).await;
        app.backend.set_fault(Fault::StopFails);
        let reply = act(&app, &agent.id, "hibernate").await;
        reply.assert_error(500, "failed to stop workspace");
        assert!(!reply.text.contains("secret-backend-detail"));
        assert_eq!(status(&app, &agent.id).await, "online");
        app.backend.set_fault(Fault::None);
        assert_eq!(act(&app, &agent.id, "hibernate").await.status, 200);
    }

    async fn who_is_not_awake_cannot_be_put_to_sleep(engine: Engine) {
        let app = strict(engine).start().await;
        let unknown = "7aa08951-00d1-4c3e-9d6a-0123456789ab";
        act(&app, unknown, "hibernate").await.assert_error(404, NOT_AWAKE);
        let booting = Agent::start(&app, named("booting")).await;
        act(&app, &booting.id, "hibernate").await.assert_error(404, NOT_AWAKE);
        let external = json!({ "name": "remote", "external": true, "url": "http://203.0.113.7:8000" });
        let reply = crate::support::create(&app, external).await;
        if reply.status == 201 {
            let id = reply.json()["id"].as_str().expect("an id").to_owned();
            let reply = act(&app, &id, "hibernate").await;
            reply.assert_error(409, "external workspaces have no compute to hibernate");
        }
    }

    async fn what_a_dead_server_left_half_asleep_is_put_to_sleep(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, named("dev")).await;
        let long_ago = match engine {
            Engine::Sqlite => "'2026-01-01T00:00:00+00:00'",
            Engine::Postgres => "'2026-01-01T00:00:00Z'",
        };
        let sql = format!(
            "UPDATE workspaces SET status = 'hibernating', updated_at = {long_ago} WHERE id = {}",
            sql_id(engine, &agent.id)
        );
        app.database.execute(&sql).await;
        app.wait_for_status(&agent.id, "hibernated").await;
        assert!(!app.backend.runs(&agent.id) && app.backend.stores(&agent.id));
    }
}
