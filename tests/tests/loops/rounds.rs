//! Loops that do not make a test wait, and time that passes when it says so.

use std::time::Duration;

use chrono::{DateTime, Utc};
use molecule_core::Cadence;
use molecule_hooks::testing::FakeClock;
pub(crate) use molecule_tests::support::status;
use molecule_tests::support::{sql_id, strict};
use molecule_tests::{ADMIN, Engine, TestApp, TestAppBuilder, eventually};
use serde_json::Value;

/// How often the loop under test looks.
pub(crate) const QUICK: Duration = Duration::from_millis(50);
const NEVER: Duration = Duration::from_secs(3600);
/// Less than what a server takes for a jump of its clock, even twice.
const STEP: Duration = Duration::from_secs(5);

/// A strict server whose loops look once, at its start, but for what `change`
/// says.
pub(crate) fn only(engine: Engine, change: impl FnOnce(&mut Cadence)) -> TestAppBuilder {
    strict(engine).cadence(|cadence| {
        cadence.liveness = NEVER;
        cadence.health = NEVER;
        cadence.told_health = NEVER;
        cadence.hibernation = NEVER;
        cadence.tokens = NEVER;
        cadence.orphans = NEVER;
        change(cadence);
    })
}

/// What `GET /admin/liveness` says.
pub(crate) async fn loops(app: &TestApp) -> Value {
    app.get("/admin/liveness").bearer(ADMIN).send().await.json()
}

/// Whether this server leads.
pub(crate) async fn leads(app: &TestApp) -> bool {
    loops(app).await["leader"] == true
}

/// Waits until this server leads.
pub(crate) async fn wait_for_lead(app: &TestApp) {
    eventually("the server leads", || leads(app)).await;
}

/// Lets time pass in steps that the liveness monitor takes part in.
pub(crate) async fn listen(app: &TestApp, time: &FakeClock, secs: u64) {
    let until = time.now() + Duration::from_secs(secs);
    while time.now() < until {
        time.advance(STEP);
        round(app, time).await;
    }
}

/// Waits until a round of the liveness monitor ended at this time.
pub(crate) async fn round(app: &TestApp, time: &FakeClock) {
    let now = time
        .now()
        .to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    eventually("the liveness monitor looks", || async {
        loops(app).await["subsystems"]["liveness-monitor"]["last_tick_at"] == *now
    })
    .await;
}

/// Sets a column of a workspace's row, as another part of the platform would.
pub(crate) async fn set(app: &TestApp, engine: Engine, id: &str, column: &str, value: &str) {
    let id = sql_id(engine, id);
    let sql = format!("UPDATE workspaces SET {column} = {value} WHERE id = {id}");
    app.database.execute(&sql).await;
}

/// A time as a literal, in the shape the server stores.
pub(crate) fn sql_time(time: DateTime<Utc>) -> String {
    format!("'{}'", time.to_rfc3339())
}

/// Fails unless the row has this status, from the database rather than a cache.
pub(crate) async fn assert_status(app: &TestApp, engine: Engine, id: &str, expected: &str) {
    let id = sql_id(engine, id);
    let sql = format!("SELECT count(*) FROM workspaces WHERE id = {id} AND status = '{expected}'");
    assert_eq!(
        app.database.count(&sql).await,
        1,
        "not {expected}, but {}",
        status(app, &id).await
    );
}

/// How often a workspace was found silent or dead. Its status may have moved on
/// since: what is missed is restarted.
pub(crate) async fn offline_events(app: &TestApp, engine: Engine, id: &str) -> i64 {
    let id = sql_id(engine, id);
    let sql = format!(
        "SELECT count(*) FROM structure_events WHERE event_type = 'WORKSPACE_OFFLINE' AND workspace_id = {id}"
    );
    app.database.count(&sql).await
}

/// Waits until a workspace is found silent or dead.
pub(crate) async fn wait_until_offline(app: &TestApp, engine: Engine, id: &str) {
    eventually("it is missed", || async {
        offline_events(app, engine, id).await > 0
    })
    .await;
}
