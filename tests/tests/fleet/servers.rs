//! Two servers on one PostgreSQL database.

use molecule_tests::database::postgres_is_wanted;
use molecule_tests::{ADMIN, Engine, TestApp, eventually};
use serde_json::json;

use crate::remove;
use crate::support::{Agent, set_status, strict};

async fn pair() -> (TestApp, TestApp) {
    let first = strict(Engine::Postgres).start().await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let second = strict(Engine::Postgres)
        .start_on(first.database.share(), dir)
        .await;
    (first, second)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_server_changes_the_other_knows() {
    if !postgres_is_wanted() {
        return;
    }
    // Given two servers that both know a workspace and its relatives
    let (first, second) = pair().await;
    let one = Agent::online(&first, json!({ "name": "one" })).await;
    let two = Agent::online(&first, json!({ "name": "two" })).await;
    let allowed = async |app: &TestApp, caller: &str, target: &str| {
        let body = json!({ "caller_id": caller, "target_id": target });
        let reply = app.post("/registry/check-access", body).bearer(ADMIN);
        reply.send().await.json()["allowed"] == true
    };
    assert!(allowed(&second, &one.id, &two.id).await);
    assert_eq!(two.beat(&second, json!({})).send().await.status, 200);

    // When one of them creates a child, the other lets it talk
    let child = json!({ "name": "child", "parent_id": one.id, "external": true });
    let child = first.create(child).await;
    eventually("the second server knows the child", async || {
        allowed(&second, &one.id, &child).await
    })
    .await;

    // When one degrades a workspace, the other can bring it back
    let wedged = json!({ "runtime_state": "wedged" });
    assert_eq!(two.beat(&first, wedged).send().await.status, 200);
    eventually("the second server knows that it is degraded", async || {
        two.beat(&second, json!({})).send().await;
        first.listed(&two.id).await.expect("listed")["status"] == "online"
    })
    .await;

    // When one removes it, the other refuses it
    remove(&first, &two.id).await;
    eventually("the second server forgets it", async || {
        two.beat(&second, json!({})).send().await.status == 404
            && !allowed(&second, &one.id, &two.id).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_no_server_told_of_is_found_out_by_the_next_reports() {
    if !postgres_is_wanted() {
        return;
    }
    // Given a server that believes an agent online
    let app = strict(Engine::Postgres).start().await;
    let agent = Agent::online(&app, json!({ "name": "one" })).await;
    assert_eq!(agent.beat(&app, json!({})).send().await.status, 200);
    // When somebody else says otherwise, without a word
    set_status(&app, Engine::Postgres, &agent.id, "offline").await;
    // Then writing its reports shows that, and a later one brings it back
    eventually("the agent is online again", async || {
        agent.beat(&app, json!({})).send().await;
        app.listed(&agent.id).await.expect("listed")["status"] == "online"
    })
    .await;
}
