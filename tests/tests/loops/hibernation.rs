//! Workspaces that asked to be put to sleep when they idle.

use chrono::{TimeDelta, Utc};
use molecule_tests::support::{Agent, set_status};
use molecule_tests::{eventually, on_both_engines};
use serde_json::json;

use crate::rounds::{QUICK, assert_status, only, set, sql_time};

on_both_engines! {
    async fn who_idles_long_enough_sleeps_and_nobody_else(engine: Engine) {
        // Given workspaces that differ in one thing each
        let app = only(engine, |cadence| cadence.hibernation = QUICK).start().await;
        let minutes_ago = |minutes| sql_time(Utc::now() - TimeDelta::minutes(minutes));
        let mut expected = Vec::new();
        for (name, column, value, status) in [
            ("idle", "tier", "1".to_owned(), "hibernated"),
            ("degraded", "status", "'degraded'".to_owned(), "hibernated"),
            ("just idle", "idle_since", minutes_ago(9), "online"),
            ("never idle", "idle_since", "NULL".to_owned(), "online"),
            ("ahead", "idle_since", minutes_ago(-90), "online"),
            ("busy", "active_tasks", "1".to_owned(), "online"),
            ("external", "external", "TRUE".to_owned(), "online"),
            ("unset", "hibernation_idle_minutes", "NULL".to_owned(), "online"),
            ("off", "hibernation_idle_minutes", "0".to_owned(), "online"),
            ("negative", "hibernation_idle_minutes", "-5".to_owned(), "online"),
            ("endless", "hibernation_idle_minutes", i64::MAX.to_string(), "online"),
            ("paused", "status", "'paused'".to_owned(), "paused"),
            ("offline", "status", "'offline'".to_owned(), "offline"),
            ("failed", "status", "'failed'".to_owned(), "failed"),
        ] {
            let agent = Agent::online(&app, json!({ "name": name })).await;
            set(&app, engine, &agent.id, "hibernation_idle_minutes", "10").await;
            set(&app, engine, &agent.id, column, &value).await;
            if column != "idle_since" {
                let since = minutes_ago(11);
                set(&app, engine, &agent.id, "idle_since", &since).await;
            }
            expected.push((agent.id, status));
        }
        // And one that says when all of them were looked at
        let last = Agent::online(&app, json!({ "name": "last" })).await;
        set(&app, engine, &last.id, "hibernation_idle_minutes", "10").await;

        // When they are looked at, twice
        for _ in 0..2 {
            set_status(&app, engine, &last.id, "online").await;
            set(&app, engine, &last.id, "idle_since", &minutes_ago(11)).await;
            eventually("it sleeps", || async {
                let sleeping = "SELECT count(*) FROM workspaces WHERE name = 'last' AND status = 'hibernated'";
                app.database.count(sleeping).await == 1
            })
            .await;
        }

        // Then
        for (id, status) in expected {
            assert_status(&app, engine, &id, status).await;
        }
    }
}
