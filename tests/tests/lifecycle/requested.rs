//! Restarts that a change requests.

use std::time::Duration;

use molecule_tests::fake_backend::Fault;
use molecule_tests::{eventually, on_both_engines};
use serde_json::json;

use crate::support::{Agent, strict};
use crate::tools::{act, named, request_restart, started_times, status};

on_both_engines! {
    async fn many_requests_cost_two_boots_at_most_and_the_last_one_counts(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, named("dev")).await;
        app.backend.set_fault(Fault::StartSlow(Duration::from_millis(1500)));
        request_restart(&app, &agent.id).await;
        eventually("the first restart is under way", || async {
            app.backend.starts_of(&agent.id).len() == 2
        }).await;
        for _ in 0..50 {
            request_restart(&app, &agent.id).await;
        }
        app.backend.set_fault(Fault::None);
        let again = started_times(&app, &agent.id, 3).await;
        assert_eq!(again.register(&app).send().await.status, 200);
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(app.backend.starts_of(&agent.id).len(), 3, "one more round of the runner found nothing");
    }

    async fn who_sleeps_is_not_restarted(engine: Engine) {
        let app = strict(engine).start().await;
        let lead = Agent::online(&app, named("lead")).await;
        let paused = Agent::online(&app, json!({ "name": "dev", "parent_id": lead.id })).await;
        let asleep = Agent::online(&app, named("asleep")).await;
        let awake = Agent::online(&app, named("awake")).await;
        assert_eq!(act(&app, &lead.id, "pause").await.status, 200);
        assert_eq!(act(&app, &asleep.id, "hibernate").await.status, 200);
        for agent in [&lead, &paused, &asleep, &awake] {
            request_restart(&app, &agent.id).await;
        }
        started_times(&app, &awake.id, 2).await;
        for (agent, expected) in [(&lead, "paused"), (&paused, "paused"), (&asleep, "hibernated")] {
            assert_eq!(app.backend.starts_of(&agent.id).len(), 1);
            assert_eq!(status(&app, &agent.id).await, expected);
        }
    }

    async fn a_request_survives_the_server(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, named("dev")).await;
        let backend = std::sync::Arc::clone(&app.backend);
        let (database, dir) = app.shutdown().await;
        let now = crate::tools::now(engine);
        let id = crate::support::sql_id(engine, &agent.id);
        let sql = format!("UPDATE workspaces SET restart_requested_at = {now} WHERE id = {id}");
        database.execute(&sql).await;
        let app = strict(engine).backend(backend).start_on(database, dir).await;
        started_times(&app, &agent.id, 2).await;
    }
}
