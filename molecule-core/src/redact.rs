//! The redactor: knows every secret the server has seen and masks it in text.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use aho_corasick::AhoCorasick;
use molecule_hooks::{REDACTED, redact_token_shapes};

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
    order: VecDeque<String>,
    changed: bool,
}

impl Redactor {
    /// Learns a secret. Values under six bytes are ignored.
    pub(crate) fn learn(&self, value: &str) {
        // A multi-line secret appears line by line in logs.
        for part in value.split(['\n', '\r']).map(str::trim) {
            if part.len() < SHORTEST {
                continue;
            }
            let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
            if !known.set.insert(part.to_owned()) {
                continue;
            }
            known.order.push_back(part.to_owned());
            if known.order.len() > MOST_VALUES
                && let Some(oldest) = known.order.pop_front()
            {
                known.set.remove(&oldest);
            }
            known.changed = true;
        }
    }

    /// The text without secrets.
    pub(crate) fn redact(&self, text: &str) -> String {
        let shaped = redact_token_shapes(text);
        match self.matcher() {
            None => shaped,
            Some(matcher) => {
                let mut out = String::with_capacity(shaped.len());
                matcher.replace_all_with(&shaped, &mut out, |_, _, out| {
                    out.push_str(REDACTED);
                    true
                });
                out
            }
        }
    }

    /// The current matcher; rebuilt only after something new was learned.
    fn matcher(&self) -> Option<Arc<AhoCorasick>> {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.changed {
            let built = AhoCorasick::builder()
                .match_kind(aho_corasick::MatchKind::LeftmostLongest)
                .build(&known.order)
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

#[cfg(test)]
mod tests {
    use super::*;

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
        for n in 0..=MOST_VALUES {
            redactor.learn(&format!("value-{n:08}"));
        }
        assert_eq!(redactor.redact("value-00000000"), "value-00000000");
        assert_eq!(
            redactor.redact(&format!("value-{MOST_VALUES:08}")),
            REDACTED
        );
    }
}
