//! Rounds of the look for newer revisions in which something cannot be written.

use std::time::Duration;

use molecule_tests::support::strict;
use molecule_tests::{Engine, eventually};
use serde_json::json;

use crate::shelf::{Planted, Shelf, plant, sha};

const QUICK: Duration = Duration::from_millis(150);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_written_of_one_upstream_holds_up_no_other() {
    // given a row that cannot be marked and always stands first
    let shelf = Shelf::default();
    for name in ["bad", "good"] {
        shelf.set(&format!("acme/{name}"), "tag:v1", &sha('2'));
    }
    let app = strict(Engine::Sqlite)
        .registry(shelf.registry())
        .cadence(|cadence| cadence.plugin_drift = Some(QUICK))
        .config(|config| config.plugins.drift_concurrency = 1)
        .start()
        .await;
    let refuse = "CREATE TRIGGER no BEFORE UPDATE OF checked_at ON workspace_plugins
                  WHEN NEW.plugin_name = 'bad' BEGIN SELECT RAISE(ABORT, 'no'); END";
    app.database.execute(refuse).await;
    let id = app.create(json!({ "name": "one" })).await;
    plant(&app, Engine::Sqlite, &[Planted::new(&id, "bad")]).await;
    let before = shelf.lookups_of("acme/bad");
    eventually("more rounds", || async {
        shelf.lookups_of("acme/bad") > before + 1
    })
    .await;
    plant(&app, Engine::Sqlite, &[Planted::new(&id, "good")]).await;
    let later = "UPDATE workspace_plugins SET checked_at = '2026-01-01T00:00:00+00:00'
                 WHERE plugin_name = 'good'";
    app.database.execute(later).await;

    // then the other is looked after
    let queued = "SELECT count(*) FROM plugin_update_queue WHERE plugin_name = 'good'";
    eventually("the other is pending", || async {
        app.database.count(queued).await == 1
    })
    .await;
}
