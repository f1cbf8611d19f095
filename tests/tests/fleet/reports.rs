//! What heartbeats leave behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{TimeDelta, Utc};
use molecule_hooks::Clock;
use molecule_tests::{TestApp, eventually, on_both_engines};
use serde_json::json;

use crate::support::{Agent, changes, recorded, set_status, strict};
use crate::{remove, with_strange_fields};

/// The wall clock, some time ahead or behind.
#[derive(Clone, Default)]
struct Watch(Arc<AtomicI64>);

impl Watch {
    fn clock(&self) -> Clock {
        let ahead = Arc::clone(&self.0);
        Clock::from_fn(move || Utc::now() + TimeDelta::seconds(ahead.load(Ordering::Relaxed)))
    }

    fn turn(&self, secs: i64) {
        self.0.fetch_add(secs, Ordering::Relaxed);
    }
}

/// Waits until a report with this task is written, and a condition on the row
/// holds then.
async fn written(app: &TestApp, task: &str, condition: &str) {
    let sql = format!("SELECT count(*) FROM workspaces WHERE current_task = '{task}'");
    eventually("the report is written", async || {
        app.database.count(&sql).await == 1
    })
    .await;
    let found = app
        .database
        .count(&format!("{sql} AND ({condition})"))
        .await;
    assert_eq!(found, 1, "{task}: {condition}");
}

on_both_engines! {
    async fn idleness_begins_when_the_work_ends_and_ends_when_work_begins(engine: Engine) {
        let watch = Watch::default();
        let app = strict(engine).clock(watch.clock()).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let beat = async |task: &str, active: i64| {
            let report = json!({ "current_task": task, "active_tasks": active });
            assert_eq!(agent.beat(&app, report).send().await.status, 200);
        };
        // The first report of nothing to do.
        beat("t1", 0).await;
        written(&app, "t1", "idle_since = last_heartbeat_at").await;
        // More of nothing.
        watch.turn(60);
        beat("t2", 0).await;
        written(&app, "t2", "idle_since < last_heartbeat_at").await;
        // Work.
        beat("t3", 2).await;
        written(&app, "t3", "idle_since IS NULL").await;
        watch.turn(60);
        beat("t4", 0).await;
        written(&app, "t4", "idle_since = last_heartbeat_at").await;
        // Work that began and ended between two writes counts, too.
        watch.turn(60);
        beat("t5", 1).await;
        beat("t6", 0).await;
        written(&app, "t6", "idle_since = last_heartbeat_at").await;
        // A new agent was never idle.
        watch.turn(60);
        assert_eq!(agent.register(&app).send().await.status, 200);
        written(&app, "t6", "idle_since IS NULL").await;
        beat("t7", 0).await;
        written(&app, "t7", "idle_since = last_heartbeat_at").await;
    }

    async fn a_clock_that_jumps_back_changes_nothing_for_agents(engine: Engine) {
        let watch = Watch::default();
        let app = strict(engine).clock(watch.clock()).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let mut events = app.events();
        let beat = async |task: &str, rate: f64| {
            let report = json!({ "current_task": task, "error_rate": rate });
            assert_eq!(agent.beat(&app, report).send().await.status, 200);
        };
        beat("before", 0.0).await;
        written(&app, "before", "idle_since = last_heartbeat_at").await;
        watch.turn(-3600);
        beat("after", 0.9).await;
        // The latest report is the truth, and nobody is idle since tomorrow.
        written(&app, "after", "status = 'degraded' AND idle_since = last_heartbeat_at AND idle_since = updated_at").await;
        watch.turn(-3600);
        beat("later", 0.0).await;
        written(&app, "later", "status = 'online' AND idle_since = last_heartbeat_at").await;
        let told: Vec<_> = changes(&mut events, &agent.id).into_iter().map(|(name, _)| name).collect();
        assert_eq!(told, ["WORKSPACE_DEGRADED", "WORKSPACE_ONLINE"]);
        assert_eq!(agent.register(&app).send().await.status, 200);
    }

    async fn many_reports_at_once_reach_their_own_rows(engine: Engine) {
        // Given more agents than one statement writes
        let app = strict(engine).start().await;
        let mut agents = Vec::new();
        for n in 0..77 {
            agents.push(Agent::online(&app, json!({ "name": format!("agent {n}") })).await);
        }
        remove(&app, &agents[5].id).await;
        // When all of them report at once
        let beats = agents.iter().enumerate().map(|(n, agent)| {
            let report = json!({
                "current_task": format!("task {n}"), "active_tasks": n, "uptime_seconds": n * 2,
                "error_rate": n as f64 / 1000.0, "sample_error": format!("error {n}"), "monthly_spend": n * 3,
            });
            agent.beat(&app, report).send()
        });
        let replies = futures_util::future::join_all(beats).await;
        // Then each one's row says what that one said
        for (n, reply) in replies.iter().enumerate() {
            assert_eq!(reply.status, if n == 5 { 404 } else { 200 });
        }
        eventually("all are written", async || {
            app.database.count("SELECT count(*) FROM workspaces WHERE current_task <> ''").await == 76
        })
        .await;
        let list = app.get("/workspaces").bearer(molecule_tests::ADMIN).send().await.json();
        let rows = list.as_array().expect("rows");
        assert_eq!(rows.len(), 76);
        for row in rows {
            let n = agents.iter().position(|agent| row["id"] == agent.id.as_str()).expect("an agent");
            let found = json!([
                row["current_task"], row["active_tasks"], row["uptime_seconds"], row["last_error_rate"],
                row["last_sample_error"], row["monthly_spend"],
            ]);
            let expected = json!([
                format!("task {n}"), n, n * 2, n as f64 / 1000.0, format!("error {n}"), n * 3,
            ]);
            assert_eq!(found, expected);
        }
    }

    async fn a_pause_wins_over_every_heartbeat(engine: Engine) {
        let app = strict(engine).start().await;
        for round in 0..5 {
            let agent = Agent::online(&app, json!({ "name": format!("round {round}") })).await;
            // Given a server that believes the workspace online
            assert_eq!(agent.beat(&app, json!({})).send().await.status, 200);
            let before = recorded(&app, "WORKSPACE_DEGRADED").await + recorded(&app, "WORKSPACE_ONLINE").await;
            // When it is paused behind the server's back while its agent reports
            let beats = (0..20).map(|n| {
                let state = if n % 2 == 0 { "wedged" } else { "" };
                agent.beat(&app, json!({ "runtime_state": state })).send()
            });
            let (replies, ()) = tokio::join!(
                futures_util::future::join_all(beats),
                set_status(&app, engine, &agent.id, "paused"),
            );
            for reply in replies {
                assert_eq!(reply.status, 200);
            }
            let after = recorded(&app, "WORKSPACE_DEGRADED").await + recorded(&app, "WORKSPACE_ONLINE").await;
            // Then it stays paused, and later reports change nothing
            for _ in 0..4 {
                agent.beat(&app, json!({ "runtime_state": "wedged", "error_rate": 1 })).send().await;
                agent.beat(&app, json!({})).send().await;
                assert_eq!(agent.register(&app).send().await.text, r#"{"status":"registered"}"#);
            }
            let detail = app.get(&format!("/workspaces/{}", agent.id)).send().await.json();
            assert_eq!(detail["status"], "paused", "round {round}");
            let now = recorded(&app, "WORKSPACE_DEGRADED").await + recorded(&app, "WORKSPACE_ONLINE").await;
            assert_eq!(now, after, "round {round}: {before}");
        }
    }

    async fn strange_reports_are_taken_or_refused_whole(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let ok = [
            json!({ "current_task": "rtl \u{202e}\u{200f} control \u{1}\u{7f} nul \0", "sample_error": "\u{feff}" }),
            with_strange_fields(json!({ "runtime_metadata": { "capabilities": { "flying": true }, "idle_timeout_seconds": -1 } })),
            json!({ "runtime_metadata": { "idle_timeout_seconds": i64::MAX } }),
            json!({ "runtime_metadata": {} }),
            json!({ "runtime_metadata": null, "runtime_state": "\u{202e}wedged" }),
        ];
        for report in ok {
            assert_eq!(agent.beat(&app, report.clone()).send().await.status, 200, "{report}");
        }
        let bad = [
            json!({ "runtime_metadata": { "capabilities": { "scheduler": "yes" } } }),
            json!({ "runtime_metadata": { "capabilities": [] } }),
            json!({ "runtime_metadata": { "idle_timeout_seconds": 1.5 } }),
            json!({ "runtime_metadata": { "idle_timeout_seconds": "5" } }),
            json!({ "runtime_metadata": "x" }),
            json!({ "active_tasks": -1 }),
            json!({ "error_rate": -0.1 }),
        ];
        for report in bad {
            agent.beat(&app, report.clone()).send().await.assert_error(400, "invalid request body");
        }
        let large = json!({ "current_task": "x".repeat(1024 * 1024) });
        agent.beat(&app, large).send().await.assert_error(413, "request body too large");
        eventually("the last good report is written", async || {
            let row = app.listed(&agent.id).await.expect("listed");
            row["current_task"] == "" && row["status"] == "online"
        })
        .await;
    }
}
