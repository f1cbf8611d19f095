//! Two servers on one database and one backend, and clients of both that change
//! the same workspaces.

use std::sync::Arc;
use std::time::Duration;

use molecule_tests::database::postgres_is_wanted;
use molecule_tests::support::{Agent, assert_settled};
use molecule_tests::{ADMIN, Engine, TestApp, eventually};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use crate::tools::{act, quiet, set_secret, start_on, status};

const WORKSPACES: usize = 3;
const CLIENTS: usize = 4;
const STEPS: usize = 10;
const ROUNDS: usize = 3;

#[derive(Debug, Clone, Copy)]
enum Step {
    Restart,
    Secret,
    Pause,
    Resume,
    Hibernate,
    Register,
    Heartbeat,
    Rename,
    Kill,
    Delete,
    Wait,
}

/// Which workspace, on which server, what.
fn step() -> impl Strategy<Value = (usize, usize, Step)> {
    let kind = prop_oneof![
        3 => Just(Step::Restart),
        3 => Just(Step::Secret),
        3 => Just(Step::Pause),
        3 => Just(Step::Resume),
        3 => Just(Step::Hibernate),
        4 => Just(Step::Register),
        4 => Just(Step::Heartbeat),
        1 => Just(Step::Rename),
        1 => Just(Step::Kill),
        1 => Just(Step::Delete),
        2 => Just(Step::Wait),
    ];
    (0..WORKSPACES, 0..2_usize, kind)
}

async fn take(app: &TestApp, id: &str, step: Step) {
    let agent = Agent {
        id: id.to_owned(),
        token: app.backend.agent_token(id).unwrap_or_default(),
    };
    let path = format!("/workspaces/{id}");
    let reply = match step {
        Step::Restart => act(app, id, "restart").await,
        Step::Secret => {
            let value = uuid::Uuid::new_v4().to_string();
            set_secret(app, id, "KEY", &value).await
        }
        Step::Pause => act(app, id, "pause").await,
        Step::Resume => act(app, id, "resume").await,
        Step::Hibernate => act(app, id, "hibernate?force=true").await,
        Step::Register => agent.register(app).send().await,
        Step::Heartbeat => agent.beat(app, json!({ "active_tasks": 1 })).send().await,
        Step::Rename => {
            let body = json!({ "name": format!("name {}", uuid::Uuid::new_v4()) });
            app.request("PATCH", &path)
                .bearer(ADMIN)
                .json(body)
                .send()
                .await
        }
        Step::Delete => {
            let path = format!("{path}?confirm=true");
            app.delete(&path).bearer(ADMIN).send().await
        }
        Step::Kill => return app.backend.kill(id),
        Step::Wait => return tokio::time::sleep(Duration::from_millis(15)).await,
    };
    assert!(
        matches!(reply.status, 200 | 401 | 404 | 409),
        "{step:?}: {} {}",
        reply.status,
        reply.text
    );
}

/// What must hold once everything is quiet.
async fn check(servers: &[Arc<TestApp>; 2], id: &str, story: &str) {
    let [app, other] = servers;
    assert_settled(app, id, story).await;
    eventually("both servers say the same", || async {
        status(app, id).await == status(other, id).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_order_of_changes_on_two_servers_leaves_rows_and_compute_in_agreement() {
    if !postgres_is_wanted() {
        return;
    }
    let mut runner = TestRunner::new(Config::default());
    let scripts = prop::collection::vec(prop::collection::vec(step(), STEPS), CLIENTS);
    for _ in 0..ROUNDS {
        let scripts = scripts.new_tree(&mut runner).expect("a value").current();
        let story = format!("{scripts:?}");
        let one = quiet(Engine::Postgres).start().await;
        let builder = quiet(Engine::Postgres).backend(one.backend.clone());
        let other = start_on(builder, one.database.share()).await;
        let servers = [Arc::new(one), Arc::new(other)];
        let mut ids = Vec::new();
        for index in 0..WORKSPACES {
            let app = &servers[index % 2];
            ids.push(
                Agent::online(app, json!({ "name": format!("w{index}") }))
                    .await
                    .id,
            );
        }
        let mut clients = tokio::task::JoinSet::new();
        for script in scripts {
            let (servers, ids) = (servers.clone(), ids.clone());
            clients.spawn(async move {
                for (which, server, step) in script {
                    take(&servers[server], &ids[which], step).await;
                }
            });
        }
        while let Some(done) = clients.join_next().await {
            done.unwrap_or_else(|error| panic!("{error}: {story}"));
        }
        for id in &ids {
            check(&servers, id, &story).await;
        }
        // Whatever happened, each can be deleted on either and leaves nothing.
        for (index, id) in ids.iter().enumerate() {
            let path = format!("/workspaces/{id}?confirm=true&purge=true");
            let reply = servers[index % 2].delete(&path).bearer(ADMIN).send().await;
            assert_eq!(reply.status, 200, "{}: {story}", reply.text);
        }
        eventually("nothing is left", async || servers[0].backend.is_empty()).await;
    }
}
