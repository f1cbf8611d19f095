//! Routes about the server itself.

use molecule_tests::{ADMIN, Engine, eventually, on_both_engines};
use serde_json::json;

use crate::support::{Agent, assert_time, fields, strict};

on_both_engines! {
    async fn health_says_ok_whatever_the_database_does(engine: Engine) {
        let app = strict(engine).start().await;
        app.database
            .execute("ALTER TABLE platform_state RENAME TO away")
            .await;
        let reply = app.get("/health").send().await;
        assert_eq!(
            (reply.status, reply.text.as_str()),
            (200, r#"{"status":"ok"}"#)
        );
    }

    async fn readiness_tells_the_database_from_the_backend(engine: Engine) {
        let app = strict(engine).start().await;
        let reply = app.get("/readyz").send().await;
        assert_eq!(
            (reply.status, reply.json()),
            (
                200,
                json!({ "status": "ready", "database": "ok", "backend": "process" })
            )
        );
        // A database without its tables does not do.
        app.database
            .execute("ALTER TABLE platform_state RENAME TO away")
            .await;
        // An answer counts for a second, whoever asks.
        assert_eq!(app.get("/readyz").send().await.status, 200);
        eventually("it is noticed", || async {
            app.get("/readyz").send().await.status == 503
        })
        .await;
        let reply = app.get("/readyz").send().await;
        let expected =
            json!({ "status": "unavailable", "database": "unavailable", "backend": "process" });
        assert_eq!(reply.json(), expected);
        app.database
            .execute("ALTER TABLE away RENAME TO platform_state")
            .await;
        eventually("it is ready again", || async {
            app.get("/readyz").send().await.status == 200
        })
        .await;
    }

    async fn liveness_lists_every_loop(engine: Engine) {
        let app = strict(engine).start().await;
        eventually("every loop ticks", || async {
            let reply = app.get("/admin/liveness").bearer(ADMIN).send().await.json();
            let loops = reply["subsystems"]
                .as_object()
                .map_or(0, serde_json::Map::len);
            loops >= 5
        })
        .await;
        let reply = app.get("/admin/liveness").bearer(ADMIN).send().await.json();
        assert_eq!(fields(&reply), ["leader", "subsystems"].into());
        let names = fields(&reply["subsystems"]);
        for name in [
            "heartbeat-flush",
            "metrics-upkeep",
            "orphan-sweeper",
            "provision-recovery",
            "provision-timeout-sweep",
        ] {
            assert!(names.contains(name), "{names:?}");
            let entry = &reply["subsystems"][name];
            assert_eq!(fields(entry), ["last_tick_at", "seconds_ago"].into());
            assert_time(&entry["last_tick_at"]);
            assert!(
                entry["seconds_ago"]
                    .as_i64()
                    .is_some_and(|secs| (0..120).contains(&secs)),
                "{entry}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_have_the_documented_type_names_and_labels() {
    let app = strict(Engine::Sqlite).start().await;
    let agent = Agent::online(&app, json!({ "name": "one" })).await;
    let _ = app.get(&format!("/workspaces/{}", agent.id)).send().await;
    let _ = app
        .get(&format!("/no/such/route/{}", agent.id))
        .send()
        .await;
    let _ = app.request("BREW", "/health").send().await;
    assert_eq!(agent.beat(&app, json!({})).send().await.status, 200);
    let reply = app.get("/metrics").send().await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    let line = |start: &str, parts: &[&str]| {
        reply
            .text
            .lines()
            .any(|line| line.starts_with(start) && parts.iter().all(|part| line.contains(part)))
    };
    let requests = "molecule_http_requests_total{";
    assert!(
        line(
            requests,
            &[
                r#"method="GET""#,
                r#"path="/workspaces/:id""#,
                r#"status="200""#
            ]
        ),
        "{}",
        reply.text
    );
    assert!(line(
        requests,
        &[r#"method="GET""#, r#"path="unmatched""#, r#"status="404""#]
    ));
    assert!(line(requests, &[r#"method="OTHER""#, r#"status="404""#]));
    assert!(line(
        "molecule_http_request_duration_seconds_total{",
        &[r#"path="/workspaces/:id""#, r#"status="200""#]
    ));
    for name in [
        "molecule_http_request_duration_seconds_bucket",
        "molecule_heartbeats_total",
        "molecule_provisions_total",
    ] {
        assert!(line(name, &[]), "{name}");
    }
    // Ids and strange methods are no labels.
    assert!(!reply.text.contains(&agent.id) && !reply.text.contains("BREW"));
}
