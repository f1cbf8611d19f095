//! Taking one plugin out of a running container.

use uuid::Uuid;

use super::super::Inner;
use super::super::config_file::{self, Found};
use super::super::container::CONFIG_PATH;
use super::program::{Operation, Program};
use super::staged::Replacement;
use super::{failed, files, installed, running};
use crate::backend::DeliveryError;
use crate::backend::plugins::transaction::{MAX_MEMORY_BYTES, strip};
use crate::backend::plugins::{Ledger, PluginRemoval, doomed_skills};

const MEMORY_FILE: &str = "CLAUDE.md";

/// Removes a plugin: one exec, and one more where it has skills that others could have,
/// too.
pub(super) async fn run(
    inner: &Inner,
    workspace: Uuid,
    removal: &PluginRemoval,
) -> Result<(), DeliveryError> {
    let container = running(inner, workspace).await?;
    let skills = doomed(inner, workspace, &container, removal).await?;
    let under_way = inner.deliveries.begin(workspace);
    let _turn = under_way.turn().await;
    let program = Program::new(inner, &container, under_way.suffix());
    let operation = Operation::Remove {
        name: removal.name.clone(),
        skills,
    };
    let told = program.bring_and_run(operation).await?;
    told.log(workspace);
    // The script leaves the memory file to us: no shell can be trusted with its bytes.
    if told.asks_for_memory() {
        forget(inner, &container, &program, removal).await;
    }
    Ok(())
}

/// The skills that go with the plugin.
async fn doomed(
    inner: &Inner,
    workspace: Uuid,
    container: &str,
    removal: &PluginRemoval,
) -> Result<Vec<molecule_hooks::PluginName>, DeliveryError> {
    let ledger = match config_file::read(&inner.daemon, container, Ledger::FILE).await {
        Ok(Found::Nothing) => Ledger::Nothing,
        Ok(Found::File(text)) => Ledger::Text(text),
        Ok(Found::Other | Found::TooLong) => Ledger::Unreadable,
        Err(error) => return Err(failed(error)),
    };
    if removal.skills.is_empty() && ledger == Ledger::Nothing {
        return Ok(Vec::new());
    }
    let installed = installed(inner, workspace, container).await?;
    Ok(doomed_skills(removal, &ledger, &installed))
}

/// Takes the plugin's blocks out of the memory file, best effort: the new file is put
/// beside the old one with its owner and mode, and then moved over it.
async fn forget(inner: &Inner, container: &str, program: &Program<'_>, removal: &PluginRemoval) {
    let path = format!("{CONFIG_PATH}/{MEMORY_FILE}");
    let found = files::one(&inner.daemon, container, &path, MAX_MEMORY_BYTES).await;
    let Ok(Some(mut memory)) = found else {
        // Missing, a link or too long; or the daemon cannot say.
        if found.is_err() {
            tracing::warn!(
                container,
                "the memory file cannot be read; it keeps what it has"
            );
        }
        return;
    };
    let before = memory.content.len();
    let left = strip(&mut memory.content, removal.name.as_str().as_bytes());
    if left == before {
        return;
    }
    memory.content.truncate(left);
    let entry = format!(".memory{}", program.suffix());
    let replacement = Replacement {
        entry: entry.clone(),
        content: memory.content,
        mode: memory.mode,
        owner: memory.owner,
    };
    let replaced = match program.replace(replacement).await {
        false => Err("it could not be written".to_owned()),
        true => {
            let operation = Operation::Memory {
                entry,
                bytes: before as u64,
            };
            let moved = program.run(operation, false).await;
            moved
                .map(|_| ())
                .map_err(|not_done| not_done.error.to_string())
        }
    };
    if let Err(error) = replaced {
        tracing::warn!(container, error, "the memory file keeps what it has");
    }
}
