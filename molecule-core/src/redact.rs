//! The redactor: knows every secret the server has seen and masks it in text.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use aho_corasick::AhoCorasick;
use molecule_hooks::{REDACTED, redact_token_shapes};
use serde_json::Value;

/// Shorter values are words, not secrets; masking them would mangle the logs.
const SHORTEST: usize = 6;
/// The oldest values are forgotten beyond this many.
const MOST_VALUES: usize = 10_000;

/// Masks known secrets and everything with the shape of a credential. Cheap to
/// clone; clones share what they know.
///
/// Sits in front of every log line and of every error text that is stored or
/// broadcast.
#[derive(Clone, Default)]
pub(crate) struct Redactor(Arc<Shared>);

#[derive(Default)]
struct Shared {
    known: Mutex<Known>,
    matcher: RwLock<Option<Arc<AhoCorasick>>>,
}

#[derive(Default)]
struct Known {
    set: HashSet<String>,
    /// Those of `set` that may be forgotten, oldest first.
    order: VecDeque<String>,
    changed: bool,
}

impl Redactor {
    /// Learns a secret. Values under six bytes are ignored.
    pub(crate) fn learn(&self, value: &str) {
        self.remember(value, false);
    }

    /// Learns a secret of the server itself, which is never forgotten however
    /// many others follow.
    pub(crate) fn learn_for_good(&self, value: &str) {
        self.remember(value, true);
    }

    fn remember(&self, value: &str, for_good: bool) {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        // A multi-line secret appears line by line in logs.
        let parts = value.split(['\n', '\r']).map(str::trim);
        for form in parts.filter(|part| part.len() >= SHORTEST).flat_map(forms) {
            if !known.set.insert(form.clone()) {
                continue;
            }
            known.changed = true;
            if for_good {
                continue;
            }
            known.order.push_back(form);
            if known.order.len() > MOST_VALUES
                && let Some(oldest) = known.order.pop_front()
            {
                known.set.remove(&oldest);
            }
        }
    }

    /// The text without secrets.
    pub(crate) fn redact(&self, text: &str) -> String {
        // Known values first: a shape inside one would break it up, and what is
        // left of it would no longer be recognised.
        match self.matcher() {
            None => redact_token_shapes(text),
            Some(matcher) => {
                let mut out = String::with_capacity(text.len());
                matcher.replace_all_with(text, &mut out, |_, _, out| {
                    out.push_str(REDACTED);
                    true
                });
                redact_token_shapes(&out)
            }
        }
    }

    /// Masks secrets in every string of a JSON value, however deep.
    pub(crate) fn redact_json(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.redact(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.redact_json(item)),
            Value::Object(fields) => fields
                .values_mut()
                .for_each(|field| self.redact_json(field)),
            _ => {}
        }
    }

    /// The current matcher; rebuilt only after something new was learned.
    fn matcher(&self) -> Option<Arc<AhoCorasick>> {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.changed {
            let built = AhoCorasick::builder()
                .match_kind(aho_corasick::MatchKind::LeftmostLongest)
                .build(&known.set)
                .ok()
                .map(Arc::new);
            *self
                .0
                .matcher
                .write()
                .unwrap_or_else(PoisonError::into_inner) = built;
            known.changed = false;
        }
        drop(known);
        self.0
            .matcher
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_known_in_json_and_in_debug_output_too() {
        let redactor = Redactor::default();
        let value = "pass\"word\\with\tall \u{e4}\u{1}";
        redactor.learn(value);
        let text = format!("{} {value:?} {value}", serde_json::json!({ "a": value }));
        assert_eq!(
            redactor.redact(&text),
            r#"{"a":"[REDACTED]"} "[REDACTED]" [REDACTED]"#
        );
    }

    #[test]
    fn a_shape_inside_a_known_value_does_not_save_the_rest_of_it() {
        let redactor = Redactor::default();
        redactor.learn("before!sk-0123456789abcdef!after");
        assert_eq!(
            redactor.redact("x before!sk-0123456789abcdef!after y"),
            "x [REDACTED] y"
        );
    }

    #[test]
    fn json_is_masked_however_deep() {
        let redactor = Redactor::default();
        redactor.learn("hunter2-long");
        let mut value = serde_json::json!({ "a": [{ "b": "x hunter2-long" }], "n": 1 });
        redactor.redact_json(&mut value);
        assert_eq!(
            value,
            serde_json::json!({ "a": [{ "b": "x [REDACTED]" }], "n": 1 })
        );
    }

    #[test]
    fn learned_values_and_token_shapes_disappear_and_the_rest_stays() {
        let redactor = Redactor::default();
        redactor.learn("hunter2-long");
        redactor.learn("abc");
        redactor.learn("line-one-secret\nline-two-secret");
        let text = "abc hunter2-long line-two-secret ghs_0123456789abcdef";
        assert_eq!(
            redactor.redact(text),
            "abc [REDACTED] [REDACTED] [REDACTED]"
        );
    }

    #[test]
    fn the_oldest_values_are_forgotten_not_the_newest() {
        let redactor = Redactor::default();
        redactor.learn_for_good("the-server's-own");
        for n in 0..=MOST_VALUES {
            redactor.learn(&format!("value-{n:08}"));
        }
        assert_eq!(redactor.redact("value-00000000"), "value-00000000");
        assert_eq!(redactor.redact("the-server's-own"), REDACTED);
        assert_eq!(
            redactor.redact(&format!("value-{MOST_VALUES:08}")),
            REDACTED
        );
    }
}
