//! The next boot against the one of the running container.

use std::collections::{BTreeMap, BTreeSet};

use super::super::store::plan::Booted as Stored;
use super::super::view::rfc3339;
use super::model::{BootPlan, Booted, BootedKey, Change, EnvPlan, KeyChange, PlannedKey};

/// Compares with the stored plan, unless that is of another container than the one
/// that runs: its own was lost with the server that started it.
pub(super) fn booted(plan: &EnvPlan, stored: Stored, instance_id: Option<&str>) -> Option<Booted> {
    let at = rfc3339(stored.created_at);
    let boot: BootPlan = match serde_json::from_value(stored.plan.0) {
        Ok(boot) => boot,
        // The parser's message may quote what it read.
        Err(_) => {
            tracing::warn!("a stored boot plan cannot be read; it is left out");
            return None;
        }
    };
    if instance_id.is_some_and(|running| running != boot.instance_id) {
        return None;
    }
    // Without the environment there is nothing to compare.
    let is_whole = (plan.error.as_ref()).is_none_or(|error| error.step == "start_backend");
    if !is_whole {
        return Some(Booted {
            at,
            differs: None,
            changes: Vec::new(),
        });
    }
    let comparable = boot.hash_key == plan.hash_key;
    let changes = changes(&boot.keys, &plan.keys, comparable);
    let differs = changes.iter().any(|one| one.change != Change::Renewed);
    Some(Booted {
        at,
        differs: (differs || comparable).then_some(differs),
        changes,
    })
}

fn changes(old: &[BootedKey], new: &[PlannedKey], comparable: bool) -> Vec<KeyChange> {
    let old: BTreeMap<&str, &BootedKey> = old.iter().map(|key| (key.key.as_str(), key)).collect();
    let new: BTreeMap<&str, &PlannedKey> = new
        .iter()
        .filter(|key| key.present)
        .map(|key| (key.key.as_str(), key))
        .collect();
    let names: BTreeSet<&str> = old.keys().chain(new.keys()).copied().collect();
    names
        .into_iter()
        .filter_map(|name| {
            let change = change(old.get(name).copied(), new.get(name).copied(), comparable)?;
            let key = name.to_owned();
            Some(KeyChange { key, change })
        })
        .collect()
}

fn change(old: Option<&BootedKey>, new: Option<&PlannedKey>, comparable: bool) -> Option<Change> {
    let (old, new) = match (old, new) {
        (None, None) => return None,
        (None, Some(_)) => return Some(Change::Added),
        (Some(_), None) => return Some(Change::Removed),
        (Some(old), Some(new)) => (old, new),
    };
    let same_writer = old.writers.last() == Some(&new.won_by);
    let differs = match (&old.hash, &new.hash) {
        (Some(old), Some(new)) => comparable && old != new,
        _ => false,
    };
    let are_tokens = old.expires_at.is_some() && new.expires_at.is_some();
    match (differs, same_writer) {
        (true, true) if are_tokens => Some(Change::Renewed),
        (true, _) => Some(Change::Changed),
        (false, false) => Some(Change::WriterChanged),
        (false, true) => None,
    }
}
