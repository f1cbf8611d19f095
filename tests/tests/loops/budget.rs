//! A fleet that dies at once is restarted a few workspaces a minute.

use std::time::Duration;

use molecule_tests::support::create;
use molecule_tests::{TestApp, eventually, on_both_engines};
use serde_json::json;
use tokio::time::Instant;

use crate::rounds::{QUICK, only, wait_for_lead};

const FLEET: usize = 1000;
const BUDGET: u32 = 30;
/// For how long the budget is watched: much less than the minute it is for.
const WATCHED: Duration = Duration::from_secs(5);

async fn count(app: &TestApp, condition: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM workspaces WHERE {condition}");
    app.database.count(&sql).await
}

/// Workspaces that run and whose agents registered.
async fn fleet(app: &TestApp) {
    let numbers: Vec<usize> = (0..FLEET).collect();
    for some in numbers.chunks(50) {
        let creating = some
            .iter()
            .map(|number| create(app, json!({ "name": format!("agent {number}") })));
        for reply in futures_util::future::join_all(creating).await {
            assert_eq!(reply.status, 201, "{}", reply.text);
        }
    }
    eventually("everything runs", async || {
        app.backend.starts().len() == FLEET
    })
    .await;
    eventually("everything is recorded", async || {
        count(app, "provision_lease_until IS NOT NULL").await == 0
    })
    .await;
    // As a thousand registrations would.
    let now = chrono::Utc::now().to_rfc3339();
    app.database
        .execute(&format!(
            "UPDATE workspaces SET status = 'online', last_heartbeat_at = '{now}'"
        ))
        .await;
}

on_both_engines! {
    async fn a_thousand_workspaces_that_die_at_once_stay_inside_the_budget(engine: Engine) {
        // Given a fleet on a server that restarts few a minute
        let app = only(engine, |cadence| cadence.health = QUICK)
            .config(|config| {
                config.workspaces.restarts_per_minute = BUDGET;
                config.server.rate_limit = 1_000_000;
            })
            .start()
            .await;
        wait_for_lead(&app).await;
        fleet(&app).await;

        // When all of it dies
        let died = Instant::now();
        assert_eq!(app.backend.lose_all(), FLEET);
        let deadline = died + Duration::from_secs(60);
        while count(&app, "status = 'online' AND restart_requested_at IS NULL").await > 0 {
            assert!(Instant::now() < deadline, "not everybody was missed");
            tokio::time::sleep(QUICK).await;
        }

        // Then some are started again at once, but no more than the budget of the
        // time that passed, and a minute's worth in hand
        eventually("the first ones come back", async || app.backend.starts().len() > FLEET).await;
        let until = Instant::now() + WATCHED;
        loop {
            let minutes = died.elapsed().as_secs() / 60 + 1;
            let allowed = usize::try_from(u64::from(BUDGET) * (minutes + 1)).expect("a number");
            let restarted = app.backend.starts().len() - FLEET;
            assert!(restarted <= allowed, "{restarted} restarts after {:?}", died.elapsed());
            if Instant::now() > until {
                break;
            }
            tokio::time::sleep(QUICK).await;
        }

        // And nobody is forgotten: who was not started again still waits for it
        let restarted = i64::try_from(app.backend.starts().len() - FLEET).expect("a number");
        let waiting = count(&app, "restart_requested_at IS NOT NULL").await;
        let fleet = i64::try_from(FLEET).expect("a number");
        assert!(waiting + restarted >= fleet, "{waiting} wait, {restarted} were restarted");
        app.shutdown().await;
    }
}
