//! Random changes of a few workspaces at once, from several clients: whatever the
//! order, nothing is left that the rows do not know of, and nobody hears of a fault.

use std::sync::Arc;
use std::time::Duration;

use molecule_tests::{ADMIN, TestApp, on_both_engines};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use crate::support::{Agent, assert_settled, strict};
use crate::tools::{act, request_restart};

const WORKSPACES: usize = 3;
const CLIENTS: usize = 4;
const STEPS: usize = 12;

#[derive(Debug, Clone, Copy)]
enum Step {
    Restart,
    RequestRestart,
    Pause,
    Resume,
    Hibernate,
    Register,
    Heartbeat,
    Kill,
    Delete,
    Wait,
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let kind = prop_oneof![
        3 => Just(Step::Restart),
        3 => Just(Step::RequestRestart),
        3 => Just(Step::Pause),
        3 => Just(Step::Resume),
        3 => Just(Step::Hibernate),
        4 => Just(Step::Register),
        4 => Just(Step::Heartbeat),
        1 => Just(Step::Kill),
        1 => Just(Step::Delete),
        2 => Just(Step::Wait),
    ];
    (0..WORKSPACES, kind)
}

async fn take(app: &TestApp, id: &str, step: Step) {
    let token = app.backend.agent_token(id).unwrap_or_default();
    let agent = Agent {
        id: id.to_owned(),
        token,
    };
    let reply = match step {
        Step::Restart => act(app, id, "restart").await,
        Step::Pause => act(app, id, "pause").await,
        Step::Resume => act(app, id, "resume").await,
        Step::Hibernate => act(app, id, "hibernate?force=true").await,
        Step::Register => agent.register(app).send().await,
        Step::Heartbeat => agent.beat(app, json!({ "active_tasks": 1 })).send().await,
        Step::Delete => {
            let path = format!("/workspaces/{id}?confirm=true");
            app.delete(&path).bearer(ADMIN).send().await
        }
        Step::RequestRestart => return request_restart(app, id).await,
        Step::Kill => {
            return app.backend.kill(id);
        }
        Step::Wait => return tokio::time::sleep(Duration::from_millis(15)).await,
    };
    assert!(
        matches!(reply.status, 200 | 401 | 404 | 409),
        "{step:?}: {} {}",
        reply.status,
        reply.text
    );
}

on_both_engines! {
    async fn any_order_of_changes_leaves_rows_and_compute_in_agreement(engine: Engine) {
        let mut runner = TestRunner::new(Config::default());
        let scripts = prop::collection::vec(prop::collection::vec(step(), STEPS), CLIENTS);
        for _ in 0..4 {
            let scripts = scripts.new_tree(&mut runner).expect("a value").current();
            let story = format!("{scripts:?}");
            let app = Arc::new(strict(engine).config(|config| config.workspaces.restarts_per_minute = 6000).start().await);
            let mut ids = Vec::new();
            for index in 0..WORKSPACES {
                let agent = Agent::online(&app, json!({ "name": format!("w{index}") })).await;
                ids.push(agent.id);
            }
            let mut clients = tokio::task::JoinSet::new();
            for script in scripts {
                let (app, ids) = (Arc::clone(&app), ids.clone());
                clients.spawn(async move {
                    for (which, step) in script {
                        take(&app, &ids[which], step).await;
                    }
                });
            }
            while let Some(done) = clients.join_next().await {
                done.unwrap_or_else(|error| panic!("{error}: {story}"));
            }
            for id in &ids {
                assert_settled(&app, id, &story).await;
            }
            // Whatever happened, each can be deleted and leaves nothing.
            for id in &ids {
                let reply = app.delete(&format!("/workspaces/{id}?confirm=true&purge=true")).bearer(ADMIN).send().await;
                assert_eq!(reply.status, 200, "{}: {story}", reply.text);
            }
            assert!(app.backend.is_empty(), "{story}");
        }
    }
}
