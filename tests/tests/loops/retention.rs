//! History that is old enough to go.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use molecule_hooks::testing::FakeClock;
use molecule_tests::support::{Agent, recorded, sql_bytes, sql_id};
use molecule_tests::{Engine, TestApp, eventually, on_both_engines};
use serde_json::json;
use uuid::Uuid;

use crate::rounds::{QUICK, only, sql_time, wait_for_lead};

/// More than one statement deletes.
const MANY: usize = 2300;

async fn count(app: &TestApp, table: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table}");
    app.database.count(&sql).await
}

/// Writes rows of one age into both tables of history.
async fn plant(app: &TestApp, engine: Engine, workspace: &str, rows: usize, at: DateTime<Utc>) {
    let workspace = sql_id(engine, workspace);
    let at = sql_time(at);
    let ids: Vec<String> = (0..rows)
        .map(|_| sql_id(engine, &Uuid::new_v4().to_string()))
        .collect();
    for (table, kind) in [
        ("structure_events", "event_type"),
        ("activity_logs", "activity_type"),
    ] {
        let (column, payload) = match table {
            "structure_events" => (", payload", ", '{}'"),
            _ => ("", ""),
        };
        let values: Vec<String> = ids
            .iter()
            .map(|id| format!("({id}, {workspace}, 'AGED', {at}{payload})"))
            .collect();
        let sql = format!(
            "INSERT INTO {table} (id, workspace_id, {kind}, created_at{column}) VALUES {}",
            values.join(", ")
        );
        app.database.execute(&sql).await;
    }
}

/// Writes tickets that end at this time.
async fn plant_tickets(app: &TestApp, engine: Engine, tickets: u8, ends: DateTime<Utc>) {
    for number in 0..tickets {
        let sql = format!(
            "INSERT INTO websocket_tickets (ticket_hash, expires_at) VALUES ({}, {})",
            sql_bytes(engine, &[number, ends.timestamp() as u8]),
            sql_time(ends)
        );
        app.database.execute(&sql).await;
    }
}

on_both_engines! {
    async fn history_beyond_its_days_is_deleted_in_batches(engine: Engine) {
        // Given history of two ages, and tokens that were revoked at two times
        let app = only(engine, |_| {}).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let days_ago = |days| Utc::now() - TimeDelta::days(days);
        plant(&app, engine, &agent.id, MANY, days_ago(11)).await;
        plant(&app, engine, &agent.id, 10, days_ago(9)).await;
        for (days, hash) in [(31, 1), (29, 2)] {
            let sql = format!(
                "INSERT INTO workspace_auth_tokens (id, workspace_id, token_hash, prefix, created_at, revoked_at)
                 VALUES ({}, {}, {}, 'x', {}, {})",
                sql_id(engine, &Uuid::new_v4().to_string()),
                sql_id(engine, &agent.id),
                sql_bytes(engine, &[hash]),
                sql_time(days_ago(99)),
                sql_time(days_ago(days))
            );
            app.database.execute(&sql).await;
        }
        let backend = app.backend.clone();
        let (database, dir) = app.shutdown().await;

        // When a server comes up that keeps ten days
        let app = only(engine, |_| {})
            .backend(backend)
            .config(|config| {
                config.retention.events_days = 10;
                config.retention.activity_days = 10;
            })
            .start_on(database, dir)
            .await;

        // Then what is older goes, soon after its start, and the rest stays
        eventually("old history is gone", || async {
            recorded(&app, "AGED").await == 10
                && count(&app, "activity_logs").await == 10
                && count(&app, "workspace_auth_tokens").await == 2
        })
        .await;
        assert!(recorded(&app, "WORKSPACE_ONLINE").await > 0);
        let reply = agent.beat(&app, json!({})).send().await;
        assert_eq!(reply.status, 200, "a live token of any age stays");
    }

    async fn a_clock_that_is_ahead_deletes_nothing_that_is_young(engine: Engine) {
        // Given young history
        let app = only(engine, |_| {}).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        plant(&app, engine, &agent.id, 10, Utc::now() - TimeDelta::days(2)).await;
        plant(&app, engine, &agent.id, 10, Utc::now() - TimeDelta::days(200)).await;
        let backend = app.backend.clone();
        let (database, dir) = app.shutdown().await;

        // When a server comes up whose clock is a year ahead
        let time = FakeClock::at(Utc::now() + TimeDelta::days(365));
        let app = only(engine, |_| {}).backend(backend).clock(time.clock()).start_on(database, dir).await;

        // Then it deletes what the database's clock calls old, and no more
        eventually("old history is gone", || async {
            count(&app, "activity_logs").await == 10 && recorded(&app, "AGED").await == 10
        })
        .await;
    }

    async fn tickets_that_nobody_used_are_forgotten(engine: Engine) {
        let time = FakeClock::new();
        let app = only(engine, |cadence| cadence.tokens = QUICK)
            .clock(time.clock())
            .start()
            .await;
        wait_for_lead(&app).await;
        plant_tickets(&app, engine, 3, time.now() + Duration::from_secs(30)).await;
        plant_tickets(&app, engine, 2, time.now() + Duration::from_secs(90)).await;
        assert_eq!(count(&app, "websocket_tickets").await, 5);
        time.advance(Duration::from_secs(60));
        eventually("those that ended are gone", || async {
            count(&app, "websocket_tickets").await == 2
        })
        .await;
    }
}
