//! The description of the wire, compared with the committed one.

use molecule_tests::{Engine, TestApp};

/// Set to 1 to write the file anew.
const RENEW: &str = "MOLECULE_RENEW_OPENAPI";
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/api/openapi.json");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_is_the_committed_one() {
    let app = TestApp::builder(Engine::Sqlite).start().await;
    let document = app.get("/openapi.json").send().await.json();
    let mut now = serde_json::to_string_pretty(&document).expect("JSON");
    now.push('\n');
    if std::env::var(RENEW).is_ok_and(|value| value == "1") {
        std::fs::write(FILE, &now).expect("the file is writable");
    }
    let committed = std::fs::read_to_string(FILE).unwrap_or_default();
    let differs = now
        .lines()
        .zip(committed.lines())
        .position(|(now, then)| now != then);
    assert!(
        now == committed,
        "the wire changed, first in line {} of {FILE}. If that is meant: \
         {RENEW}=1 cargo test -p molecule-tests --test api openapi",
        differs.unwrap_or_default() + 1
    );
}
