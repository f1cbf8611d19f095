//! Servers that end in the middle of restarts, pauses and sleeps.

use std::sync::Arc;

use molecule_tests::fake_backend::Fault;
use molecule_tests::support::{Agent, sql_id};
use molecule_tests::{TestApp, eventually, on_both_engines};
use serde_json::json;

use crate::tools::{act, is_leased, quiet, set_secret, status};

const WORKSPACES: usize = 6;

async fn agents(app: &TestApp) -> Vec<Agent> {
    let mut agents = Vec::new();
    for number in 0..WORKSPACES {
        agents.push(Agent::online(app, json!({ "name": format!("agent {number}") })).await);
    }
    agents
}

on_both_engines! {
    async fn restarts_under_way_are_finished_by_the_next_server(engine: Engine) {
        // Given restarts of all kinds that hang in the backend
        let app = quiet(engine).start().await;
        let agents = agents(&app).await;
        app.backend.set_fault(Fault::StartHangs);
        for (number, agent) in agents.iter().enumerate() {
            let reply = match number % 3 {
                0 => act(&app, &agent.id, "restart").await,
                1 => set_secret(&app, &agent.id, "KEY", "value").await,
                _ => {
                    assert_eq!(act(&app, &agent.id, "pause").await.status, 200);
                    act(&app, &agent.id, "resume").await
                }
            };
            assert_eq!(reply.status, 200, "{}", reply.text);
        }
        eventually("some hang", async || app.backend.starts().len() > WORKSPACES).await;

        // When the server ends, and another one begins
        let backend = app.backend.clone();
        let (database, dir) = app.shutdown().await;
        backend.set_fault(Fault::None);
        for agent in &agents {
            let id = sql_id(engine, &agent.id);
            let sql = format!("SELECT count(*) FROM workspaces WHERE id = {id} AND status IN ('provisioning', 'online')");
            assert_eq!(database.count(&sql).await, 1, "a row that says what is to be done");
        }
        let app = quiet(engine).backend(backend).start_on(database, dir).await;

        // Then all of them run, with what was written
        for (number, agent) in agents.iter().enumerate() {
            eventually("it runs", async || {
                app.backend.runs(&agent.id) && !is_leased(&app, &agent.id).await
            }).await;
            if number % 3 == 1 {
                eventually("with its secret", async || {
                    app.backend.runs(&agent.id) && app.backend.env(&agent.id).contains_key("KEY")
                }).await;
            }
            let again = Agent::started(&app, agent.id.clone()).await;
            assert_eq!(again.register(&app).send().await.status, 200);
            assert_eq!(status(&app, &agent.id).await, "online");
        }
        app.shutdown().await;
    }

    async fn pauses_and_sleeps_under_way_are_whole_for_the_next_server(engine: Engine) {
        // Given a server that is told to end while workspaces are paused and put to
        // sleep
        let app = Arc::new(quiet(engine).start().await);
        let agents = agents(&app).await;
        let mut clients = tokio::task::JoinSet::new();
        for (number, agent) in agents.iter().enumerate() {
            let what = if number % 2 == 0 { "pause" } else { "hibernate?force=true" };
            let (url, id) = (app.url.clone(), agent.id.clone());
            clients.spawn(async move {
                let client = reqwest::Client::new();
                let request = client.post(format!("{url}/workspaces/{id}/{what}"));
                // The server may be gone before it answers.
                let reply = request.bearer_auth(molecule_tests::ADMIN).send().await;
                reply.map_or(0, |reply| reply.status().as_u16())
            });
        }
        eventually("one of them began", async || {
            app.database.count("SELECT count(*) FROM workspaces WHERE status <> 'online'").await > 0
        }).await;
        let backend = app.backend.clone();
        let app = Arc::try_unwrap(app).ok().expect("nobody else has it");
        let (database, dir) = app.shutdown().await;
        let answers = clients.join_all().await;
        assert!(answers.iter().all(|status| matches!(status, 0 | 200 | 503)), "{answers:?}");
        let app = quiet(engine).backend(backend).start_on(database, dir).await;

        // Then each was done whole or not at all
        for agent in &agents {
            let now = status(&app, &agent.id).await;
            match now.as_str() {
                "online" => assert!(app.backend.runs(&agent.id)),
                "paused" | "hibernated" => eventually("nothing runs", async || !app.backend.runs(&agent.id)).await,
                other => panic!("{other}"),
            }
            assert!(app.backend.stores(&agent.id));
        }
        println!("answers: {answers:?}");
        app.shutdown().await;
    }
}
