//! More workspaces than anybody would create over HTTP: rows, written directly.

use molecule_tests::{Engine, TestDatabase};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::workspaces::Agent;

/// Rows per statement.
const ROWS: usize = 500;

/// Adds this many external workspaces, online and each with a token. External,
/// because nobody looks for a container of those.
///
/// # Panics
/// When the database refuses.
pub async fn insert(database: &TestDatabase, count: usize) -> Vec<Agent> {
    let agents: Vec<Agent> = (0..count).map(|_| agent()).collect();
    for part in agents.chunks(ROWS) {
        for sql in statements(database.engine(), part) {
            database.execute(&sql).await;
        }
    }
    agents
}

/// Random ids, as the server makes them: rows written together lie apart.
fn agent() -> Agent {
    Agent {
        id: Uuid::new_v4().to_string(),
        token: format!("bench-{}", Uuid::new_v4().simple()),
    }
}

fn statements(engine: Engine, agents: &[Agent]) -> [String; 2] {
    let now = match engine {
        Engine::Sqlite => "strftime('%Y-%m-%dT%H:%M:%f+00:00', 'now')",
        Engine::Postgres => "now()",
    };
    let id = |id: &str| match engine {
        Engine::Sqlite => format!("x'{}'", id.replace('-', "")),
        Engine::Postgres => format!("'{id}'::uuid"),
    };
    let bytes = |bytes: &[u8]| {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match engine {
            Engine::Sqlite => format!("x'{hex}'"),
            Engine::Postgres => format!("'\\x{hex}'::bytea"),
        }
    };
    let rows = agents.iter().map(|agent| {
        let (key, name) = (id(&agent.id), &agent.id);
        format!("({key}, 'bench-{name}', 'online', TRUE, {now}, {now}, {now})")
    });
    let rows: Vec<String> = rows.collect();
    let tokens = agents.iter().map(|agent| {
        let (key, owner) = (id(&Uuid::new_v4().to_string()), id(&agent.id));
        let hash = bytes(&Sha256::digest(agent.token.as_bytes()));
        format!("({key}, {owner}, {hash}, 'bench-', {now})")
    });
    let tokens: Vec<String> = tokens.collect();
    [
        format!(
            "INSERT INTO workspaces (id, name, status, external, created_at, updated_at, last_heartbeat_at) VALUES {}",
            rows.join(", ")
        ),
        format!(
            "INSERT INTO workspace_auth_tokens (id, workspace_id, token_hash, prefix, created_at) VALUES {}",
            tokens.join(", ")
        ),
    ]
}
