//! The redactor: knows every secret the server has seen and masks it in text.
//!
//! What it knows is a sorted set and a table of beginnings. Learning is one
//! insertion, in force for the next line; masking looks each position up in the
//! table and asks the set only where a secret may begin. There is no index to
//! rebuild, and lines are masked side by side.

mod known;
#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError, RwLock};

use molecule_hooks::redact_token_shapes;
use serde_json::Value;
use uuid::Uuid;

use self::known::{Class, KEPT_BYTES, Known, Owners};

/// Shorter values are words, not secrets; masking them would mangle the logs.
const SHORTEST: usize = 6;

/// Masks known secrets and everything with the shape of a credential. Cheap to
/// clone; clones share what they know.
///
/// Sits in front of every log line and of every error text that is stored or
/// broadcast.
#[derive(Clone, Default)]
pub(crate) struct Redactor(Arc<RwLock<Known>>);

impl Redactor {
    /// Learns a secret that is stored or stays valid. Values under six bytes are
    /// ignored.
    pub(crate) fn learn(&self, value: &str) {
        self.remember(value, Class::Kept, &Owners::Everybody);
    }

    /// Learns a secret that somebody chose for a workspace. In what other workspaces
    /// say it is left alone: they could find it out by trying, and its owner could
    /// black out their words. Logs show it nowhere.
    pub(crate) fn learn_of(&self, workspace: Uuid, value: &str) {
        self.remember(value, Class::Kept, &Owners::Some(vec![workspace]));
    }

    /// Learns a secret that expires by itself. However many there are, they push
    /// out nothing but each other.
    pub(crate) fn learn_passing(&self, value: &str) {
        self.remember(value, Class::Passing, &Owners::Everybody);
    }

    /// Learns a secret of the server itself, which is never forgotten however
    /// many others follow.
    pub(crate) fn learn_for_good(&self, value: &str) {
        self.remember(value, Class::ForGood, &Owners::Everybody);
    }

    fn remember(&self, value: &str, class: Class, owners: &Owners) {
        // A multi-line secret appears line by line in logs.
        let parts = value.split(['\n', '\r']).map(str::trim);
        let forms: Vec<String> = parts
            .filter(|part| part.len() >= SHORTEST)
            .flat_map(forms)
            .collect();
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for form in forms {
            known.insert(form.into_bytes().into(), class, owners.clone());
        }
        let warn = known.forget_beyond_budget() && !known.has_warned;
        known.has_warned |= warn;
        // The warning is a log line and comes back here.
        drop(known);
        if warn {
            tracing::warn!(
                budget_mib = KEPT_BYTES / (1024 * 1024),
                "more secrets than are remembered for masking; the ones unused for longest may \
                 show in logs"
            );
        }
    }

    /// The text without secrets.
    pub(crate) fn redact(&self, text: &str) -> String {
        self.redact_within(None, text)
    }

    /// What a workspace says, without its own secrets and those of the whole server.
    pub(crate) fn redact_of(&self, workspace: Uuid, text: &str) -> String {
        self.redact_within(Some(workspace), text)
    }

    fn redact_within(&self, workspace: Option<Uuid>, text: &str) -> String {
        // Known values first: a shape inside one would break it up, and what is
        // left of it would no longer be recognised.
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let masked = known.mask(text, workspace);
        drop(known);
        redact_token_shapes(&masked)
    }

    /// As [`redact_of`](Self::redact_of), in every string of a JSON value, however
    /// deep.
    pub(crate) fn redact_json_of(&self, workspace: Uuid, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.redact_of(workspace, text),
            Value::Array(items) => items
                .iter_mut()
                .for_each(|item| self.redact_json_of(workspace, item)),
            Value::Object(fields) => fields
                .values_mut()
                .for_each(|field| self.redact_json_of(workspace, field)),
            _ => {}
        }
    }
}

/// How a value looks in a text: as it is, inside a JSON string, and as `{:?}`
/// prints it.
fn forms(value: &str) -> Vec<String> {
    let quoted = [
        serde_json::to_string(value).unwrap_or_default(),
        format!("{value:?}"),
    ];
    let inner = quoted
        .iter()
        .filter_map(|text| text.strip_prefix('"')?.strip_suffix('"'));
    let mut forms = vec![value.to_owned()];
    for form in inner {
        if !forms.iter().any(|known| known == form) {
            forms.push(form.to_owned());
        }
    }
    forms
}
