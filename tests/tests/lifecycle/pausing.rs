//! Pause and resume.

use std::sync::Arc;

use molecule_tests::fake_backend::Fault;
use molecule_tests::{eventually, on_both_engines};
use serde_json::json;

use crate::support::{Agent, changes, strict};
use crate::tools::{act, is_leased, named, started_times, status};

on_both_engines! {
    async fn a_pause_stops_everything_below_and_a_resume_brings_it_back(engine: Engine) {
        let app = strict(engine).start().await;
        let lead = Agent::online(&app, named("lead")).await;
        let dev = Agent::online(&app, json!({ "name": "dev", "parent_id": lead.id })).await;
        let intern = Agent::online(&app, json!({ "name": "intern", "parent_id": dev.id })).await;
        let other = Agent::online(&app, named("other")).await;
        let mut events = app.events();

        let reply = act(&app, &lead.id, "pause").await;

        let expected = json!({ "status": "paused", "paused_count": 3, "stop_failures": 0 });
        assert_eq!((reply.status, reply.json()), (200, expected));
        for agent in [&lead, &dev, &intern] {
            assert_eq!(status(&app, &agent.id).await, "paused");
            assert!(!app.backend.runs(&agent.id) && app.backend.stores(&agent.id));
        }
        assert_eq!(changes(&mut events, &lead.id), [("WORKSPACE_PAUSED", json!({ "name": "lead" }))]);
        assert!(app.backend.runs(&other.id));
        act(&app, &lead.id, "pause").await.assert_error(404, "workspace not found or already paused");
        act(&app, &dev.id, "resume").await.assert_error(409, "parent workspace \"lead\" is paused — resume it first");

        // A late sign of life changes nothing.
        assert_eq!(dev.beat(&app, json!({ "active_tasks": 1 })).send().await.status, 200);
        assert_eq!(dev.register(&app).send().await.status, 200);
        assert_eq!(status(&app, &dev.id).await, "paused");

        let reply = act(&app, &lead.id, "resume").await;
        assert_eq!((reply.status, reply.json()), (200, json!({ "status": "provisioning", "resumed_count": 3 })));
        for agent in [&lead, &dev, &intern] {
            let again = started_times(&app, &agent.id, 2).await;
            assert_eq!(again.register(&app).send().await.status, 200);
            assert_eq!(status(&app, &agent.id).await, "online");
        }
        act(&app, &lead.id, "resume").await.assert_error(404, "workspace not found or not paused");
    }

    async fn a_pause_ends_a_boot_under_way(engine: Engine) {
        let app = strict(engine).start().await;
        app.backend.set_fault(Fault::StartHangs);
        let id = app.create(named("dev")).await;
        eventually("the start hangs", || async { app.backend.starts_of(&id).len() == 1 }).await;
        let reply = act(&app, &id, "pause").await;
        assert_eq!((reply.status, &reply.json()["stop_failures"]), (200, &json!(0)));
        assert_eq!(status(&app, &id).await, "paused");
        assert!(!app.backend.runs(&id) && !is_leased(&app, &id).await);

        app.backend.set_fault(Fault::None);
        assert_eq!(act(&app, &id, "resume").await.status, 200);
        let agent = started_times(&app, &id, 2).await;
        assert!(app.backend.starts_of(&id)[1].existing_config.is_none(), "there was no first boot yet");
        assert_eq!(agent.register(&app).send().await.status, 200);
    }

    async fn compute_that_would_not_stop_is_counted_and_stopped_later(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, named("dev")).await;
        app.backend.set_fault(Fault::StopFails);
        let reply = act(&app, &agent.id, "pause").await;
        assert_eq!((reply.status, &reply.json()["stop_failures"]), (200, &json!(1)), "{}", reply.text);
        assert!(!reply.text.contains("secret-backend-detail"));
        assert_eq!(status(&app, &agent.id).await, "paused");
        assert!(app.backend.runs(&agent.id));

        let backend = Arc::clone(&app.backend);
        let (database, dir) = app.shutdown().await;
        backend.set_fault(Fault::None);
        let app = strict(engine).backend(Arc::clone(&backend)).start_on(database, dir).await;
        eventually("the sweeper stops it", || async { !backend.runs(&agent.id) }).await;
        assert!(backend.stores(&agent.id), "only the compute goes");
        assert_eq!(status(&app, &agent.id).await, "paused");
    }

    async fn an_external_workspace_waits_for_its_agent_again(engine: Engine) {
        let app = strict(engine).start().await;
        let id = app.create(json!({ "name": "remote", "external": true })).await;
        assert_eq!(act(&app, &id, "pause").await.json()["paused_count"], 1);
        let mut events = app.events();
        let reply = act(&app, &id, "resume").await;
        assert_eq!((reply.status, &reply.json()["resumed_count"]), (200, &json!(1)));
        assert_eq!(status(&app, &id).await, "awaiting_agent");
        let expected = json!({ "name": "remote", "external": true });
        assert_eq!(changes(&mut events, &id), [("WORKSPACE_AWAITING_AGENT", expected)]);
        assert!(app.backend.starts().is_empty());
    }

    async fn unknown_workspaces_can_be_neither_paused_nor_resumed(engine: Engine) {
        let app = strict(engine).start().await;
        let unknown = "7aa08951-00d1-4c3e-9d6a-0123456789ab";
        act(&app, unknown, "pause").await.assert_error(404, "workspace not found or already paused");
        act(&app, unknown, "resume").await.assert_error(404, "workspace not found or not paused");
        for what in ["pause", "resume", "hibernate"] {
            act(&app, "x", what).await.assert_error(400, "invalid workspace ID");
        }
    }
}
