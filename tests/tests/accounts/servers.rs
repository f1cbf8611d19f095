//! Two servers on one PostgreSQL: what one revokes, the other refuses.

use molecule_tests::database::postgres_is_wanted;
use molecule_tests::support::{Agent, strict};
use molecule_tests::{ADMIN, Engine, TestApp, eventually};
use serde_json::json;

async fn two_servers() -> (TestApp, TestApp) {
    let first = strict(Engine::Postgres).start().await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let second = strict(Engine::Postgres)
        .start_on(first.database.share(), dir)
        .await;
    (first, second)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_revoked_on_one_server_is_soon_dead_on_the_other() {
    if !postgres_is_wanted() {
        return;
    }
    let (first, second) = two_servers().await;
    let agent = Agent::start(&first, json!({ "name": "one" })).await;
    let path = format!("/workspaces/{}/tokens", agent.id);
    let reply = first.post("/org/tokens", json!({})).bearer(ADMIN);
    let org = reply.send().await.json();
    let org_token = org["auth_token"].as_str().expect("a token");

    // Both are in the second server's memory.
    for _ in 0..2 {
        assert_eq!(
            second.get(&path).bearer(&agent.token).send().await.status,
            200
        );
        assert_eq!(
            second
                .get("/org/tokens")
                .bearer(org_token)
                .send()
                .await
                .status,
            200
        );
    }
    let listed = first.get(&path).bearer(ADMIN).send().await.json();
    let id = listed["tokens"][0]["id"].as_str().expect("an id");
    let revoke = format!("{path}/{id}");
    assert_eq!(first.delete(&revoke).bearer(ADMIN).send().await.status, 200);
    eventually("the workspace token is dead", async || {
        second.get(&path).bearer(&agent.token).send().await.status == 401
    })
    .await;

    assert_eq!(
        second
            .get("/org/tokens")
            .bearer(org_token)
            .send()
            .await
            .status,
        200
    );
    let revoke = format!("/org/tokens/{}", org["id"].as_str().expect("an id"));
    assert_eq!(first.delete(&revoke).bearer(ADMIN).send().await.status, 200);
    eventually("the org token is dead", async || {
        second
            .get("/org/tokens")
            .bearer(org_token)
            .send()
            .await
            .status
            == 401
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_minted_on_one_server_works_on_the_other_at_once() {
    if !postgres_is_wanted() {
        return;
    }
    let (first, second) = two_servers().await;
    let agent = Agent::start(&first, json!({ "name": "one" })).await;
    let path = format!("/workspaces/{}/tokens", agent.id);
    let reply = first.request("POST", &path).bearer(ADMIN).send().await;
    let token = reply.json()["auth_token"]
        .as_str()
        .expect("a token")
        .to_owned();
    assert_eq!(second.get(&path).bearer(&token).send().await.status, 200);
    // The cap counts what either minted.
    let mint = |n: usize| {
        let app = if n.is_multiple_of(2) { &first } else { &second };
        app.request("POST", &path).bearer(ADMIN).send()
    };
    let replies = futures_util::future::join_all((0..60).map(mint)).await;
    let minted = replies.iter().filter(|reply| reply.status == 201).count();
    assert_eq!(minted, 48, "two were there before");
}
