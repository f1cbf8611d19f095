//! `POST /registry/heartbeat`.

use molecule_tests::{eventually, on_both_engines};
use serde_json::{Value, json};

use crate::support::{Agent, changes, recorded, seen, set_status, strict};

on_both_engines! {
    async fn each_transition_of_the_table_happens_with_exactly_one_event(engine: Engine) {
        let app = strict(engine).start().await;
        let native = json!({ "capabilities": { "status_mgmt": true } });
        let online = |payload: Value| Some(("online", "WORKSPACE_ONLINE", payload));
        let degraded = |payload: Value| Some(("degraded", "WORKSPACE_DEGRADED", payload));
        let wedged = || degraded(json!({ "runtime_state": "wedged", "sample_error": "" }));
        let table = [
            ("online", json!({ "runtime_state": "wedged" }), wedged()),
            (
                "online",
                json!({ "runtime_state": "wedged", "error_rate": 0.9 }),
                wedged(),
            ),
            (
                "online",
                json!({ "runtime_state": "wedged", "runtime_metadata": native }),
                wedged(),
            ),
            (
                "online",
                json!({ "error_rate": 0.5, "sample_error": "boom" }),
                degraded(json!({ "error_rate": 0.5, "sample_error": "boom" })),
            ),
            (
                "online",
                json!({ "error_rate": 1 }),
                degraded(json!({ "error_rate": 1.0, "sample_error": "" })),
            ),
            ("online", json!({ "error_rate": 0.49 }), None),
            (
                "online",
                json!({ "error_rate": 0.9, "runtime_metadata": native }),
                None,
            ),
            ("online", json!({ "runtime_state": "busy" }), None),
            ("online", json!({}), None),
            ("degraded", json!({}), online(json!({}))),
            ("degraded", json!({ "error_rate": 0.09 }), online(json!({}))),
            ("degraded", json!({ "error_rate": 0.1 }), None),
            ("degraded", json!({ "runtime_state": "wedged" }), None),
            ("degraded", json!({ "runtime_state": "busy" }), None),
            ("degraded", json!({ "runtime_metadata": native }), None),
            (
                "degraded",
                json!({ "runtime_metadata": { "capabilities": { "status_mgmt": false } } }),
                online(json!({})),
            ),
            ("offline", json!({ "error_rate": 1 }), online(json!({}))),
            (
                "provisioning",
                json!({}),
                online(json!({ "recovered_from": "provisioning" })),
            ),
            (
                "awaiting_agent",
                json!({}),
                online(json!({ "recovered_from": "awaiting_agent" })),
            ),
            ("failed", json!({}), None),
            ("paused", json!({ "runtime_state": "wedged" }), None),
            ("hibernated", json!({ "error_rate": 1 }), None),
            ("hibernating", json!({}), None),
        ];
        for (n, (from, beat, expected)) in table.into_iter().enumerate() {
            let agent = Agent::start(&app, json!({ "name": format!("ws {n}") })).await;
            set_status(&app, engine, &agent.id, from).await;
            let mut events = app.events();
            let stored = recorded(&app, "WORKSPACE_ONLINE").await
                + recorded(&app, "WORKSPACE_DEGRADED").await;
            let reply = agent.beat(&app, beat.clone()).send().await;
            assert_eq!(
                (reply.status, reply.text.as_str()),
                (200, r#"{"status":"ok"}"#),
                "{from} {beat}"
            );
            let detail = app
                .get(&format!("/workspaces/{}", agent.id))
                .send()
                .await
                .json();
            let (to, happened) = match expected {
                Some((to, event, payload)) => (to, vec![(event, payload)]),
                None => (from, vec![]),
            };
            assert_eq!(detail["status"], to, "{from} {beat}");
            assert_eq!(changes(&mut events, &agent.id), happened, "{from} {beat}");
            let now = recorded(&app, "WORKSPACE_ONLINE").await
                + recorded(&app, "WORKSPACE_DEGRADED").await;
            assert_eq!(now - stored, happened.len() as i64, "{from} {beat}");
        }
    }

    async fn many_heartbeats_at_once_cause_one_change(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::start(&app, json!({ "name": "one" })).await;
        let mut events = app.events();
        let beats = (0..30).map(|_| agent.beat(&app, json!({})).send());
        for reply in futures_util::future::join_all(beats).await {
            assert_eq!(reply.status, 200);
        }
        let expected = (
            "WORKSPACE_ONLINE",
            json!({ "recovered_from": "provisioning" }),
        );
        assert_eq!(changes(&mut events, &agent.id), [expected]);
        assert_eq!(recorded(&app, "WORKSPACE_ONLINE").await, 1);
    }

    async fn what_an_agent_reports_is_shown_soon(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let report = json!({
            "error_rate": 0.25, "sample_error": "it broke", "active_tasks": 3, "uptime_seconds": 77,
            "current_task": "review", "monthly_spend": 1234,
            "runtime_metadata": { "idle_timeout_seconds": 5, "unknown": 1 },
        });
        assert_eq!(agent.beat(&app, report).send().await.status, 200);
        let expected = json!({
            "last_error_rate": 0.25, "last_sample_error": "it broke", "active_tasks": 3, "uptime_seconds": 77,
            "current_task": "review", "monthly_spend": 1234, "status": "online",
        });
        let shows = |expected: Value| {
            let (app, id) = (&app, &agent.id);
            async move {
                let row = app.listed(id).await.expect("listed");
                expected
                    .as_object()
                    .expect("fields")
                    .iter()
                    .all(|(field, value)| row[field] == *value)
            }
        };
        eventually("the report is written", || shows(expected.clone())).await;
        // Absent means zero or empty, but nobody spends less than before.
        assert_eq!(agent.beat(&app, json!({})).send().await.status, 200);
        let expected = json!({
            "last_error_rate": 0.0, "last_sample_error": "", "active_tasks": 0, "uptime_seconds": 0,
            "current_task": "", "monthly_spend": 1234,
        });
        eventually("the second report is written", || shows(expected.clone())).await;
        assert_eq!(
            app.database
                .count("SELECT count(*) FROM workspaces WHERE last_heartbeat_at IS NOT NULL")
                .await,
            1
        );
    }

    async fn spend_is_believed_between_zero_and_ten_billion_dollars(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        for (said, stored) in [
            (500_i64, 500_i64),
            (-1, 500),
            (0, 500),
            (i64::MAX, 1_000_000_000_000),
            (7, 7),
        ] {
            let task = format!("spent {said}");
            let report = json!({ "monthly_spend": said, "current_task": task });
            assert_eq!(agent.beat(&app, report).send().await.status, 200);
            eventually("the report is written", || async {
                let row = app.listed(&agent.id).await.expect("listed");
                row["current_task"] == task.as_str() && row["monthly_spend"] == stored
            })
            .await;
        }
    }

    async fn a_spend_survives_a_report_without_one_in_the_same_second(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        assert_eq!(
            agent
                .beat(&app, json!({ "monthly_spend": 42 }))
                .send()
                .await
                .status,
            200
        );
        assert_eq!(
            agent
                .beat(&app, json!({ "current_task": "later" }))
                .send()
                .await
                .status,
            200
        );
        eventually("both are written", || async {
            let row = app.listed(&agent.id).await.expect("listed");
            row["current_task"] == "later" && row["monthly_spend"] == 42
        })
        .await;
    }

    async fn a_shutdown_writes_what_is_pending(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        assert_eq!(
            agent
                .beat(&app, json!({ "current_task": "last words" }))
                .send()
                .await
                .status,
            200
        );
        let (database, _dir) = app.shutdown().await;
        assert_eq!(
            database
                .count("SELECT count(*) FROM workspaces WHERE current_task = 'last words'")
                .await,
            1
        );
    }

    async fn every_beat_is_announced_and_a_new_task_too(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let mut events = app.events();
        let beat = |task: &str, active: i64| {
            agent
                .beat(
                    &app,
                    json!({ "current_task": task, "active_tasks": active, "uptime_seconds": 9 }),
                )
                .send()
        };
        let alive = |active: i64| {
            (
                "WORKSPACE_HEARTBEAT",
                json!({ "active_tasks": active, "uptime_seconds": 9 }),
            )
        };
        let task = |task: &str, active: i64| {
            (
                "TASK_UPDATED",
                json!({ "current_task": task, "active_tasks": active }),
            )
        };
        beat("", 0).await;
        assert_eq!(seen(&mut events, &agent.id), [alive(0)]);
        beat("a", 1).await;
        assert_eq!(seen(&mut events, &agent.id), [task("a", 1), alive(1)]);
        beat("a", 2).await;
        assert_eq!(seen(&mut events, &agent.id), [alive(2)]);
        beat("", 0).await;
        assert_eq!(seen(&mut events, &agent.id), [task("", 0), alive(0)]);
        assert_eq!(
            recorded(&app, "TASK_UPDATED").await + recorded(&app, "WORKSPACE_HEARTBEAT").await,
            0
        );
    }

    async fn a_secret_in_a_report_is_masked_and_a_long_text_is_cut(engine: Engine) {
        let app = strict(engine).start().await;
        let agent = Agent::online(
            &app,
            json!({ "name": "one", "secrets": { "API_KEY": "hunter2-very-secret" } }),
        )
        .await;
        let mut events = app.events();
        let report = json!({
            "error_rate": 0.9, "sample_error": "401 for hunter2-very-secret",
            "current_task": "ä".repeat(10_000),
        });
        assert_eq!(agent.beat(&app, report).send().await.status, 200);
        for (name, payload) in seen(&mut events, &agent.id) {
            assert!(!payload.to_string().contains("hunter2"), "{name} {payload}");
        }
        eventually("the report is written", || async {
            let row = app.listed(&agent.id).await.expect("listed");
            let length = row["current_task"].as_str().map_or(0, str::len);
            row["last_sample_error"] == "401 for [REDACTED]" && (8000..=8192).contains(&length)
        })
        .await;
        assert!(!app.database.dump().await.contains("hunter2"));
    }
}
