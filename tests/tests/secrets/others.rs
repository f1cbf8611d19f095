//! What one workspace can learn about the secrets of another by talking, and do to
//! its words: nothing.

use molecule_tests::support::{Agent, strict};
use molecule_tests::{ADMIN, on_both_engines};
use serde_json::{Value, json};

const OWN: &str = "common-word";
const GLOBAL: &str = "secret-of-all";

on_both_engines! {
    async fn an_agent_is_masked_with_its_own_secrets_and_those_of_all(engine: Engine) {
        // Given a workspace whose secret is a word that others use
        let app = strict(engine).start().await;
        let body = json!({ "name": "one", "secrets": { "WORD": OWN } });
        let one = Agent::online(&app, body).await;
        let other = Agent::online(&app, json!({ "name": "other" })).await;
        let set = json!({ "key": "ALL", "value": GLOBAL });
        let reply = app.post("/settings/secrets", set).bearer(ADMIN).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let text = format!("{OWN} {GLOBAL}");
        for (agent, expected) in [
            (&one, "[REDACTED] [REDACTED]".to_owned()),
            (&other, format!("{OWN} [REDACTED]")),
        ] {
            // When agents say it wherever they can
            let mut events = app.events();
            let beat = json!({ "current_task": text, "sample_error": text, "error_rate": 0.9 });
            assert_eq!(agent.beat(&app, beat).send().await.status, 200);
            let card = json!({ "workspace_id": agent.id, "agent_card": { "name": [{ "x": text }] } });
            let reply = app.post("/registry/update-card", card).bearer(&agent.token).send().await;
            assert_eq!(reply.status, 200, "{}", reply.text);

            // Then it is masked in rows, cards and events as for this agent
            let card = json!({ "name": [{ "x": expected }] });
            let row = app.get(&format!("/workspaces/{}", agent.id)).send().await.json();
            assert_eq!(row["agent_card"], card);
            let mut seen: Vec<(String, Value)> = Vec::new();
            while let Ok(event) = events.try_recv() {
                seen.push((event.event.as_str().to_owned(), event.payload));
            }
            let payload = |kind: &str| {
                let found = seen.iter().find(|(name, _)| name == kind);
                found.unwrap_or_else(|| panic!("no {kind} in {seen:?}")).1.clone()
            };
            assert_eq!(payload("TASK_UPDATED")["current_task"], expected);
            assert_eq!(payload("WORKSPACE_DEGRADED")["sample_error"], expected);
            assert_eq!(payload("AGENT_CARD_UPDATED")["agent_card"], card);
        }
        app.shutdown().await;
    }
}
