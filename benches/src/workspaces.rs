//! Workspaces with agents that exist only as tokens.

use molecule_tests::{ADMIN, TestApp, eventually};
use serde_json::json;

/// A workspace and the token its agent was given.
#[derive(Debug, Clone)]
pub struct Agent {
    /// UUID of the workspace.
    pub id: String,
    /// What the server put into the agent's `.auth_token`.
    pub token: String,
}

/// Creates workspaces through the public interface and waits until each was
/// started. Leaves no connection behind.
///
/// # Panics
/// When the server refuses or does not start one in time.
pub async fn create(app: &TestApp, count: usize) -> Vec<Agent> {
    let mut ids = Vec::new();
    for number in 0..count {
        let body = json!({ "name": format!("bench-{number}") });
        let request = app.post("/workspaces", body).bearer(ADMIN);
        let reply = request.header("connection", "close").send().await;
        assert_eq!(reply.status, 201, "{}", reply.text);
        ids.push(reply.json()["id"].as_str().expect("an id").to_owned());
    }
    let mut agents = Vec::new();
    for id in ids {
        eventually("the workspace is started", || async {
            app.backend.agent_token(&id).is_some()
        })
        .await;
        let token = app
            .backend
            .agent_token(&id)
            .expect("it was there a moment ago");
        agents.push(Agent { id, token });
    }
    agents
}
