//! What the agent of a new workspace remembers from the start.

use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Services, store};
use crate::error::{Error, Result};
use crate::store::{Tx, timestamp};

/// Most memories a create payload may carry.
const MAX_MEMORIES: usize = 1000;
/// What is kept of one memory.
const MAX_CONTENT_BYTES: usize = 100_000;

/// A memory to start with.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct InitialMemory {
    /// What to remember; kept up to 100 000 bytes.
    content: Option<String>,
    /// `LOCAL` (the default), `TEAM` or `GLOBAL`, any case.
    scope: Option<String>,
}

/// A memory that is worth keeping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewMemory {
    pub(super) content: String,
    pub(super) scope: &'static str,
}

/// The memories to keep. Those without content or with an unknown scope are skipped
/// and counted in the log.
///
/// # Errors
/// One sentence when there are too many.
pub(super) fn check(memories: Vec<InitialMemory>) -> std::result::Result<Vec<NewMemory>, String> {
    let offered = memories.len();
    if offered > MAX_MEMORIES {
        return Err(format!("initial_memories: at most {MAX_MEMORIES} entries"));
    }
    let kept: Vec<NewMemory> = memories.into_iter().filter_map(keep).collect();
    if kept.len() < offered {
        let skipped = offered - kept.len();
        tracing::warn!(
            skipped,
            "initial memories without content or scope are left out"
        );
    }
    Ok(kept)
}

fn keep(memory: InitialMemory) -> Option<NewMemory> {
    let scope = match memory.scope.unwrap_or_default().to_uppercase().as_str() {
        "" | "LOCAL" => "LOCAL",
        "TEAM" => "TEAM",
        "GLOBAL" => "GLOBAL",
        _ => return None,
    };
    // PostgreSQL cannot store this one character.
    let content = memory.content?.replace('\0', "");
    (!content.is_empty()).then_some(NewMemory { content, scope })
}

impl Services {
    /// Writes the memories of a new workspace in the caller's transaction, masked:
    /// they are there with the row or not at all.
    ///
    /// # Errors
    /// 500 `failed to create workspace`.
    pub(super) async fn store_memories(
        &self,
        tx: &mut Tx,
        id: Uuid,
        memories: &[NewMemory],
    ) -> Result<()> {
        let now = timestamp(&self.clock);
        let namespace = format!("workspace:{id}");
        for memory in memories {
            // Masked before it is cut: half a secret has no shape to know it by.
            let masked = self.redactor.redact_of(id, &memory.content);
            let content = &masked[..masked.floor_char_boundary(MAX_CONTENT_BYTES)];
            let row = store::memories::NewRow {
                workspace_id: id,
                content,
                scope: memory.scope,
                namespace: &namespace,
                now,
            };
            store::memories::insert(tx, &row)
                .await
                .map_err(|error| Error::from(error).says("failed to create workspace"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(content: Option<&str>, scope: Option<&str>) -> InitialMemory {
        InitialMemory {
            content: content.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn scopes_are_upper_cased_and_what_cannot_be_kept_is_skipped() {
        let offered = vec![
            memory(Some("a"), None),
            memory(Some("b"), Some("")),
            memory(Some("c"), Some("team")),
            memory(Some("d\0d"), Some("Global")),
            memory(Some("e"), Some("galaxy")),
            memory(Some("f"), Some(" LOCAL")),
            memory(Some(""), Some("LOCAL")),
            memory(Some("\0"), Some("LOCAL")),
            memory(None, Some("LOCAL")),
        ];
        let kept: Vec<_> = check(offered)
            .unwrap()
            .into_iter()
            .map(|memory| (memory.content, memory.scope))
            .collect();
        let expected = [
            ("a", "LOCAL"),
            ("b", "LOCAL"),
            ("c", "TEAM"),
            ("dd", "GLOBAL"),
        ];
        assert_eq!(kept, expected.map(|(text, scope)| (text.to_owned(), scope)));
    }

    #[test]
    fn a_flood_is_refused() {
        let flood = |n| (0..n).map(|_| memory(Some("x"), None)).collect();
        assert_eq!(check(flood(MAX_MEMORIES)).unwrap().len(), MAX_MEMORIES);
        assert!(check(flood(MAX_MEMORIES + 1)).is_err());
    }
}
