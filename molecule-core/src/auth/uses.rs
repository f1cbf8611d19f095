//! Uses of tokens that wait to be written together.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::store::Use;

/// Notes kept at most; a use more is not worth the memory.
const MOST: usize = 100_000;

/// Notes in the order of their tokens.
#[derive(Default)]
pub(super) struct Uses(Mutex<BTreeMap<Uuid, (bool, DateTime<Utc>)>>);

impl Uses {
    pub(super) fn note(&self, (id, of_workspace, at): Use) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() < MOST || noted.contains_key(&id) {
            noted.insert(id, (of_workspace, at));
        }
    }

    /// Everything noted, in the order of the tokens; nothing is left.
    pub(super) fn take(&self) -> Vec<Use> {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *noted)
            .into_iter()
            .map(|(id, (of_workspace, at))| (id, of_workspace, at))
            .collect()
    }
}
