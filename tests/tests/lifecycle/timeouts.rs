//! How long a started agent has to register.

use molecule_tests::support::{sql_id, strict};
use molecule_tests::{ADMIN, Engine, TestApp, TestDatabase, on_both_engines};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Templates: `slow` and `slower` for codex, `quick` for langgraph, one that says
/// nothing.
fn templates() -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, text) in [
        (
            "slow",
            "runtime: codex\nruntime_config:\n  provision_timeout_seconds: 1200\n",
        ),
        (
            "slower",
            "runtime: codex\nruntime_config:\n  provision_timeout_seconds: 2400\n",
        ),
        (
            "quick",
            "runtime: langgraph\nruntime_config:\n  provision_timeout_seconds: 5\n",
        ),
        ("silent", "runtime: crewai\n"),
        (
            "wrong",
            "runtime: autogen\nruntime_config:\n  provision_timeout_seconds: soon\n",
        ),
    ] {
        let folder = dir.path().join(name);
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::write(folder.join("config.yaml"), text).expect("a file");
    }
    dir
}

async fn server(
    engine: Engine,
    templates: &TempDir,
    secs: Option<u64>,
    on: Option<(TestDatabase, TempDir)>,
) -> TestApp {
    let root = templates.path().to_owned();
    let builder = strict(engine).config(|config| {
        config.workspaces.templates_dir = Some(root);
        config.workspaces.provision_timeout_secs = secs;
    });
    match on {
        Some((database, dir)) => builder.start_on(database, dir).await,
        None => builder.start().await,
    }
}

/// Moves all starts so many minutes back.
async fn age(database: &TestDatabase, minutes: i64) {
    let ago = chrono::Utc::now() - chrono::TimeDelta::minutes(minutes);
    let sql = format!(
        "UPDATE workspaces SET provisioned_at = '{}'",
        ago.to_rfc3339()
    );
    database.execute(&sql).await;
}

on_both_engines! {
    async fn the_list_says_what_templates_of_the_runtime_declare(engine: Engine) {
        let dir = templates();
        let app = server(engine, &dir, None, None).await;
        let table = [
            ("codex", json!(2_400_000)),
            ("langgraph", json!(5000)),
            ("crewai", Value::Null),
            ("autogen", Value::Null),
            ("hermes", Value::Null),
        ];
        for (runtime, expected) in table {
            let id = app.create(json!({ "name": runtime, "runtime": runtime })).await;
            let row = app.listed(&id).await.expect("listed");
            assert_eq!(row["provision_timeout_ms"], expected, "{runtime}");
            let has_field = row.as_object().expect("a row").contains_key("provision_timeout_ms");
            assert_eq!(has_field, !expected.is_null(), "{runtime}");
            // Everybody else may not see it.
            let public = app.get(&format!("/workspaces/{id}")).send().await.json();
            assert!(public.get("provision_timeout_ms").is_none());
        }
    }

    async fn template_and_runtime_give_an_agent_more_time_and_the_operator_decides(engine: Engine) {
        // Given five agents that stay away, with 10, 10, 20, 40 and 30 minutes
        let dir = templates();
        let app = server(engine, &dir, None, None).await;
        let mut ids = Vec::new();
        for body in [
            json!({ "name": "plain", "runtime": "crewai" }),
            json!({ "name": "quick", "template": "quick" }),
            json!({ "name": "slow", "template": "slow" }),
            json!({ "name": "slower", "template": "slower" }),
            json!({ "name": "hermes", "runtime": "hermes" }),
        ] {
            ids.push(app.create(body).await);
        }
        let started = "SELECT count(*) FROM workspaces WHERE provisioned_at IS NOT NULL";
        molecule_tests::eventually("all start", async || app.database.count(started).await == 5).await;

        // When time goes by
        let mut on = app.shutdown().await;
        for (minutes, failed) in [(9, 0), (11, 2), (21, 3), (31, 4), (41, 5)] {
            age(&on.0, minutes).await;
            let app = server(engine, &dir, None, Some(on)).await;
            for (n, id) in [0, 1, 2, 4, 3].into_iter().map(|n| &ids[n]).enumerate() {
                let status = if n < failed { "failed" } else { "provisioning" };
                app.wait_for_status(id, status).await;
            }
            on = app.shutdown().await;
        }

        // Then each failed after its own time
        let (database, _dir) = on;
        for (id, secs) in ids.iter().zip([600, 600, 1200, 2400, 1800]) {
            let sql = format!(
                "SELECT count(*) FROM structure_events WHERE event_type = 'WORKSPACE_PROVISION_FAILED' \
                 AND workspace_id = {} AND CAST(payload AS TEXT) LIKE '%\"timeout_secs\":{secs}%'",
                sql_id(engine, id)
            );
            let spaced = sql.replace("\"timeout_secs\":", "\"timeout_secs\": ");
            assert_eq!(database.count(&sql).await + database.count(&spaced).await, 1, "{secs}");
        }
    }

    async fn an_operators_timeout_counts_for_all_and_hides_nobody(engine: Engine) {
        // Given more waiting rows than a sweep looks at in one go, and one overdue
        let dir = templates();
        let app = server(engine, &dir, None, None).await;
        let slow = app.create(json!({ "name": "slower", "template": "slower" })).await;
        let plain = app.create(json!({ "name": "plain", "runtime": "crewai" })).await;
        let started = "SELECT count(*) FROM workspaces WHERE provisioned_at IS NOT NULL";
        molecule_tests::eventually("both start", async || app.database.count(started).await == 2).await;
        let rows: Vec<String> = (0..450)
            .map(|n| {
                // Before and behind the other two.
                let id = format!("{:02x}a08951-00d1-4c3e-9d6a-{n:012}", n % 256);
                let id = sql_id(engine, &id);
                format!("({id}, 'n{n}', 'provisioning', 'hermes', '2026-01-01T00:00:00Z', '2026-01-01T00:00:00Z', '2026-01-01T00:00:00Z')")
            })
            .collect();
        let sql = format!(
            "INSERT INTO workspaces (id, name, status, runtime, provisioned_at, created_at, updated_at) VALUES {}",
            rows.join(", ")
        );
        app.database.execute(&sql).await;
        let on = app.shutdown().await;
        age(&on.0, 12).await;

        // When the sweep comes by: only the one without more time fails
        let app = server(engine, &dir, None, Some(on)).await;
        app.wait_for_status(&plain, "failed").await;
        app.wait_for_status(&slow, "provisioning").await;
        let waiting = "SELECT count(*) FROM workspaces WHERE status = 'provisioning'";
        assert_eq!(app.database.count(waiting).await, 451);
        let on = app.shutdown().await;

        // When an operator allows a minute: all do
        let app = server(engine, &dir, Some(60), Some(on)).await;
        app.wait_for_status(&slow, "failed").await;
        molecule_tests::eventually("all fail", async || app.database.count(waiting).await == 0).await;
        let reply = app.get("/workspaces").bearer(ADMIN).send().await;
        assert_eq!(reply.json().as_array().map(Vec::len), Some(452));
    }
}
