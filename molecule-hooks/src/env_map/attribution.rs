//! Noting what a hook did by comparing what it was given with what it left.
//!
//! The map keeps its own notes while a hook writes to it. A hook may replace the
//! whole map, though (`*env = EnvMap::new()`), or name another writer; the notes are
//! then put right, so that a plan tells what really happened.

use super::{EnvMap, EnvSource, EnvStep};

impl EnvMap {
    /// Makes the notes agree with what `writer` changed since `before`.
    pub(crate) fn attribute(&mut self, before: &EnvMap, writer: &EnvSource) {
        for (name, entry) in &mut self.entries {
            let old = before.entries.get(name);
            let unchanged = old.filter(|old| old.value == entry.value);
            if let Some(old) = unchanged {
                entry.secret |= old.secret;
            }
            if entry.writers.last() == Some(writer) {
                continue;
            }
            if unchanged.is_some_and(|old| old.writers == entry.writers) {
                continue;
            }
            entry.writers = old.map(|old| old.writers.clone()).unwrap_or_default();
            if unchanged.is_none() && entry.writers.last() != Some(writer) {
                entry.writers.push(writer.clone());
            }
            match before.removed.get(name) {
                Some(steps) => drop(self.removed.insert(name.clone(), steps.clone())),
                None => drop(self.removed.remove(name)),
            }
        }
        let gone = before
            .names()
            .chain(before.removed_names())
            .filter(|name| !self.entries.contains_key(*name));
        for name in gone {
            let is_noted = (self.removed.get(name).and_then(|steps| steps.last()))
                .is_some_and(|last| last.removed && last.source == *writer);
            if is_noted {
                continue;
            }
            let mut steps = before.history(name);
            if before.contains(name) {
                steps.push(EnvStep::removed(writer.clone()));
            }
            self.removed.insert(name.to_owned(), steps);
        }
        // Names that only ever lived inside the call.
        let entries = &self.entries;
        self.removed
            .retain(|name, _| entries.contains_key(name) || !before.history(name).is_empty());
    }
}
