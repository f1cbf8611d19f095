//! What a backend holds for nobody goes, and nothing else does.

use std::time::Duration;

use molecule_tests::fake_backend::Fault;
use molecule_tests::support::{Agent, set_status};
use molecule_tests::{ADMIN, Engine, TestApp, TestAppBuilder, eventually, on_both_engines};
use serde_json::json;
use uuid::Uuid;

use crate::rounds::{QUICK, assert_status, loops, only, wait_for_lead};

fn sweeping(engine: Engine) -> TestAppBuilder {
    only(engine, |cadence| cadence.orphans = QUICK)
}

/// Waits until the sweep went through everything twice more.
async fn rounds(app: &TestApp) {
    let before = app.backend.lists();
    eventually("whole rounds of the orphan sweep", async || {
        app.backend.lists() >= before + 4
    })
    .await;
}

/// What Prometheus reads of a gauge.
async fn gauge(app: &TestApp, name: &str) -> Option<f64> {
    let text = app.get("/metrics").send().await.text;
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name} ")))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Deletes rows without their compute and storage, all at once, as restoring an old
/// backup does.
async fn forget(app: &TestApp, names: &str) {
    let ids = format!("(SELECT id FROM workspaces WHERE name LIKE '{names}')");
    for table in [
        "workspace_auth_tokens",
        "canvas_layouts",
        "workspace_secrets",
    ] {
        let sql = format!("DELETE FROM {table} WHERE workspace_id IN {ids}");
        app.database.execute(&sql).await;
    }
    let sql = format!("DELETE FROM workspaces WHERE name LIKE '{names}'");
    app.database.execute(&sql).await;
}

fn uuid(agent: &Agent) -> Uuid {
    Uuid::parse_str(&agent.id).expect("a UUID")
}

on_both_engines! {
    async fn what_removed_workspaces_left_goes(engine: Engine) {
        // Given a delete that could not stop anything
        let app = sweeping(engine).start().await;
        let agent = Agent::online(&app, json!({ "name": "one" })).await;
        let kept = Agent::online(&app, json!({ "name": "two" })).await;
        app.backend.set_fault(Fault::StopFails);
        let reply = app.delete(&format!("/workspaces/{}", agent.id)).bearer(ADMIN).send().await;
        assert_eq!(reply.status, 500, "{}", reply.text);

        // Then neither compute nor storage goes as long as it does not stop
        rounds(&app).await;
        assert!(app.backend.runs(&agent.id) && app.backend.stores(&agent.id));

        // When the storage cannot be removed
        app.backend.set_fault(Fault::RemoveFails);
        eventually("it is stopped", async || !app.backend.runs(&agent.id)).await;
        rounds(&app).await;
        assert!(app.backend.stores(&agent.id));
        let removed = || gauge(&app, "molecule_orphans_removed_total{reason=\"removed\"}");
        assert_eq!(removed().await, None, "counted what is still there");

        // And when it can, then all of it is gone, and nothing of the other
        app.backend.set_fault(Fault::None);
        eventually("all of it is gone", async || !app.backend.holds(uuid(&agent))).await;
        eventually("it is counted", async || removed().await == Some(1.0)).await;
        rounds(&app).await;
        assert!(app.backend.runs(&kept.id) && app.backend.stores(&kept.id));
    }

    async fn what_has_no_row_goes_on_the_second_sighting(engine: Engine) {
        // Given storage that no row knows of, and workspaces in every status
        let app = sweeping(engine).start().await;
        wait_for_lead(&app).await;
        let mut kept = Vec::new();
        for status in ["online", "degraded", "offline", "failed", "provisioning", "a newer status"] {
            let agent = Agent::online(&app, json!({ "name": status })).await;
            if !status.contains(' ') {
                set_status(&app, engine, &agent.id, status).await;
            }
            kept.push(agent);
        }
        let stray = Uuid::new_v4();
        app.backend.plant(stray);

        // Then it goes, and they stay
        eventually("the stray is gone", async || !app.backend.holds(stray)).await;
        rounds(&app).await;
        for agent in &kept {
            assert!(app.backend.stores(&agent.id));
        }
    }

    async fn one_sighting_is_none(engine: Engine) {
        // Given a sweep that looks once, and storage without a row
        let app = only(engine, |_| {}).edit_backend(|backend| backend.plant(Uuid::nil())).start().await;
        wait_for_lead(&app).await;
        eventually("the sweep looked", async || app.backend.lists() > 0).await;
        let seen = async || loops(&app).await["subsystems"]["orphan-sweeper"].clone();
        assert!(seen().await.is_object());
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(app.backend.holds(Uuid::nil()));
    }

    async fn a_backend_that_cannot_look_keeps_everything(engine: Engine) {
        let app = sweeping(engine).start().await;
        let stray = Uuid::new_v4();
        app.backend.set_unknown(true);
        app.backend.plant(stray);
        rounds(&app).await;
        assert!(app.backend.holds(stray));
        app.backend.set_unknown(false);
        eventually("the stray is gone", async || !app.backend.holds(stray)).await;
    }

    async fn so_many_without_a_row_are_left_alone(engine: Engine) {
        // Given a database that forgot its workspaces
        let app = sweeping(engine).start().await;
        let mut forgotten = Vec::new();
        for number in 0..7 {
            forgotten.push(Agent::online(&app, json!({ "name": format!("agent {number}") })).await);
        }
        let stray = Uuid::new_v4();
        let removed = Agent::online(&app, json!({ "name": "removed" })).await;
        forget(&app, "agent %").await;
        app.backend.plant(stray);

        // Then nothing without a row goes, however often they are seen
        eventually("it is told", async || {
            gauge(&app, "molecule_orphan_breaker_open").await == Some(1.0)
        })
        .await;
        rounds(&app).await;
        assert!(forgotten.iter().all(|agent| app.backend.runs(&agent.id)));
        assert!(app.backend.holds(stray));

        // While other sweeps go on
        set_status(&app, engine, &removed.id, "removed").await;
        eventually("what is removed is gone", async || !app.backend.holds(uuid(&removed))).await;
        assert!(forgotten.iter().all(|agent| app.backend.runs(&agent.id)));
        assert!(app.backend.holds(stray));
    }

    async fn not_one_of_a_few_goes_when_all_are_unknown(engine: Engine) {
        // Given a small installation whose database is another one
        let app = sweeping(engine).start().await;
        wait_for_lead(&app).await;
        let strays = [Uuid::new_v4(), Uuid::new_v4()];
        for stray in strays {
            app.backend.plant(stray);
        }

        // Then nothing goes
        eventually("it is told", async || {
            gauge(&app, "molecule_orphan_breaker_open").await == Some(1.0)
        })
        .await;
        rounds(&app).await;
        assert!(strays.iter().all(|stray| app.backend.holds(*stray)));

        // And when it knows one more, then what it does not know is left over
        Agent::online(&app, json!({ "name": "one" })).await;
        for stray in strays {
            eventually("it is gone", async || !app.backend.holds(stray)).await;
        }
    }

    async fn an_operator_can_let_all_of_them_go(engine: Engine) {
        let app = sweeping(engine)
            .config(|config| config.backend.orphan_limit_percent = 100)
            .start()
            .await;
        let strays: Vec<Uuid> = (0..30).map(|_| Uuid::new_v4()).collect();
        for stray in &strays {
            app.backend.plant(*stray);
        }
        eventually("all are gone", async || app.backend.is_empty()).await;
    }

    async fn what_was_made_after_its_start_gave_up_goes(engine: Engine) {
        // Given compute that was never started, of workspaces in several statuses
        let app = sweeping(engine).start().await;
        let mut kept = Vec::new();
        for status in ["online", "provisioning", "offline"] {
            let agent = Agent::online(&app, json!({ "name": status })).await;
            set_status(&app, engine, &agent.id, status).await;
            kept.push(agent);
        }
        let late = Agent::online(&app, json!({ "name": "late" })).await;
        app.backend.kill(&late.id);
        set_status(&app, engine, &late.id, "failed").await;
        for agent in kept.iter().chain([&late]) {
            app.backend.make_late(uuid(agent));
        }

        // Then only that of a failed one goes, and its storage stays
        eventually("it is gone", async || !app.backend.has_late(uuid(&late))).await;
        assert!(app.backend.stores(&late.id));
        rounds(&app).await;
        assert!(kept.iter().all(|agent| app.backend.has_late(uuid(agent))));
        assert_status(&app, engine, &late.id, "failed").await;
    }

    async fn a_sleeper_that_runs_is_stopped_and_keeps_its_storage(engine: Engine) {
        let app = sweeping(engine).start().await;
        for status in ["paused", "hibernated"] {
            let agent = Agent::online(&app, json!({ "name": status })).await;
            set_status(&app, engine, &agent.id, status).await;
            eventually("it is stopped", async || !app.backend.runs(&agent.id)).await;
            assert!(app.backend.stores(&agent.id));
            assert_status(&app, engine, &agent.id, status).await;
        }
    }

    async fn agents_elsewhere_are_nobody_s_to_stop(engine: Engine) {
        // Given a removed external workspace whose id the backend knows for some reason
        let app = sweeping(engine).start().await;
        let body = json!({ "name": "far", "external": true, "url": "https://agent.example/" });
        let id = app.create(body).await;
        set_status(&app, engine, &id, "removed").await;
        let id = Uuid::parse_str(&id).expect("a UUID");
        app.backend.plant(id);
        rounds(&app).await;
        assert!(app.backend.holds(id));
        assert!(!app.backend.stops().contains(&id));
    }
}
