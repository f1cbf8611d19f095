//! A fleet that dies at once and comes back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use molecule_tests::support::create;
use molecule_tests::{ADMIN, TestApp, TestAppBuilder, eventually, on_both_engines};
use serde_json::json;

use crate::tools::{QUICK, leads, quiet};

const FLEET: usize = 1000;

fn server(engine: molecule_tests::Engine, restarts: u32) -> TestAppBuilder {
    quiet(engine)
        .cadence(|cadence| cadence.health = QUICK)
        .config(|config| config.workspaces.restarts_per_minute = restarts)
}

async fn count(app: &TestApp, condition: &str) -> usize {
    let sql = format!("SELECT count(*) FROM workspaces WHERE {condition}");
    usize::try_from(app.database.count(&sql).await).expect("a number")
}

/// Workspaces that run, as if all their agents had registered.
async fn fleet(app: &TestApp, size: usize) {
    eventually("it leads", async || leads(app).await).await;
    for first in (0..size).step_by(50) {
        let some = first..(first + 50).min(size);
        let creating = some.map(|number| create(app, json!({ "name": format!("agent {number}") })));
        for reply in join_all(creating).await {
            assert_eq!(reply.status, 201, "{}", reply.text);
        }
    }
    eventually("everything runs", async || {
        app.backend.starts().len() == size
            && count(app, "provision_lease_until IS NOT NULL").await == 0
    })
    .await;
    let now = chrono::Utc::now().to_rfc3339();
    let online = format!("UPDATE workspaces SET status = 'online', last_heartbeat_at = '{now}'");
    app.database.execute(&online).await;
}

on_both_engines! {
    async fn a_fleet_that_dies_is_offline_and_waits_for_its_turn_while_clients_are_served(engine: Engine) {
        // Given a fleet on a server that restarts few a minute
        let app = server(engine, 60).start().await;
        fleet(&app, FLEET).await;

        // When all of it dies, while an administrator looks on
        let died = Instant::now();
        assert_eq!(app.backend.lose_all(), FLEET);
        let mut took = Vec::new();
        let missed = "SELECT count(*) FROM structure_events WHERE event_type = 'WORKSPACE_OFFLINE'";
        while app.database.count(missed).await < 1000 || died.elapsed() < Duration::from_secs(4) {
            let asked = Instant::now();
            assert_eq!(app.get("/admin/liveness").bearer(ADMIN).send().await.status, 200);
            assert_eq!(create(&app, json!({})).await.status, 400);
            took.push(asked.elapsed());
            assert!(died.elapsed() < Duration::from_secs(15), "not everybody was missed");
        }
        let watched = died.elapsed();
        took.sort();
        println!("{engine:?}: p99 {:?} of {} pairs in {watched:?}", took[took.len() * 99 / 100], took.len());

        // Then everybody is offline or one of the few that had their turn
        let allowed = 6 + watched.as_secs_f64().ceil() as usize + 1;
        let restarted = app.backend.starts().len() - FLEET;
        assert!((1..=allowed).contains(&restarted), "{restarted} after {watched:?}");
        let waiting = count(&app, "status = 'offline' AND restart_requested_at IS NOT NULL").await;
        assert!(waiting >= FLEET - allowed, "{waiting} wait");
        assert_eq!(app.database.count(missed).await, 1000, "told once each");
        app.shutdown().await;
    }

    async fn a_fleet_whose_budget_allows_it_comes_back_whole_and_nobody_twice(engine: Engine) {
        let size = 120;
        let app = server(engine, 60_000).start().await;
        fleet(&app, size).await;
        assert_eq!(app.backend.lose_all(), size);
        eventually("everybody is started again", async || {
            app.backend.starts().len() >= 2 * size
                && count(&app, "restart_requested_at IS NOT NULL OR provision_lease_until IS NOT NULL").await == 0
        }).await;
        let mut starts = BTreeMap::new();
        for spec in app.backend.starts() {
            *starts.entry(spec.workspace_id).or_insert(0) += 1;
        }
        assert!(starts.values().all(|count| *count == 2), "{starts:?}");
        assert_eq!(count(&app, "status = 'provisioning' AND provisioned_at IS NOT NULL").await, size);
        app.shutdown().await;
    }
}
