//! The redactor: knows every secret the server has seen and masks it in text.
//!
//! What it knows is a sorted set and a table of beginnings. Learning is one
//! insertion, in force for the next line; masking looks each position up in the
//! table and asks the set only where a secret may begin. There is no index to
//! rebuild, and lines are masked side by side.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use molecule_hooks::{REDACTED, redact_token_shapes};
use serde_json::Value;
use uuid::Uuid;

/// Shorter values are words, not secrets; masking them would mangle the logs.
const SHORTEST: usize = 6;
/// Memory for stored secrets; beyond it those least recently learned go.
const KEPT_BYTES: usize = 32 * 1024 * 1024;
/// Memory for secrets that expire.
const PASSING_BYTES: usize = 8 * 1024 * 1024;
/// What an entry takes beside its value, roughly.
const ENTRY_BYTES: usize = 128;
/// A value that so many workspaces have is masked for all of them.
const MOST_OWNERS: usize = 64;
/// Binary logarithm of the size of the table of beginnings.
const TABLE_BITS: u32 = 18;

/// Masks known secrets and everything with the shape of a credential. Cheap to
/// clone; clones share what they know.
///
/// Sits in front of every log line and of every error text that is stored or
/// broadcast.
#[derive(Clone, Default)]
pub(crate) struct Redactor(Arc<RwLock<Known>>);

struct Known {
    /// Every form of every secret. Ordered by its bytes, for [`longest_at`](Self::longest_at).
    values: BTreeMap<Arc<[u8]>, Place>,
    /// How many values begin with bytes of this hash. One that is full stays so:
    /// a wrong "perhaps" costs a look, never a secret.
    beginnings: Vec<u8>,
    kept: Queue,
    passing: Queue,
    /// The number of the next entry in a queue.
    next: u64,
    has_warned: bool,
}

/// Why a value is known, and so for how long. Ordered: the greater one wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Passing,
    Kept,
    ForGood,
}

#[derive(Clone)]
struct Place {
    class: Class,
    number: u64,
    owners: Owners,
}

/// In whose texts a value is masked.
#[derive(Clone)]
enum Owners {
    Everybody,
    /// These workspaces only, beside the logs.
    Some(Vec<Uuid>),
}

impl Owners {
    fn include(&self, workspace: Option<Uuid>) -> bool {
        match (self, workspace) {
            (Self::Everybody, _) | (_, None) => true,
            (Self::Some(owners), Some(workspace)) => owners.contains(&workspace),
        }
    }

    fn with(self, more: Self) -> Self {
        let (Self::Some(mut owners), Self::Some(more)) = (self, more) else {
            return Self::Everybody;
        };
        for owner in more {
            if !owners.contains(&owner) {
                owners.push(owner);
            }
        }
        match owners.len() > MOST_OWNERS {
            true => Self::Everybody,
            false => Self::Some(owners),
        }
    }
}

/// Values that may be forgotten, by when they were last learned.
#[derive(Default)]
struct Queue {
    by_age: BTreeMap<u64, Arc<[u8]>>,
    bytes: usize,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            values: BTreeMap::new(),
            beginnings: vec![0; 1 << TABLE_BITS],
            kept: Queue::default(),
            passing: Queue::default(),
            next: 0,
            has_warned: false,
        }
    }
}

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

impl Known {
    fn insert(&mut self, value: Arc<[u8]>, class: Class, owners: Owners) {
        let (value, class, owners) = match self.values.remove_entry(&value) {
            Some((value, place)) => {
                if let Some(queue) = self.queue(place.class) {
                    queue.take(place.number);
                }
                (value, place.class.max(class), place.owners.with(owners))
            }
            None => {
                if let Some(slot) = slot(&value) {
                    self.beginnings[slot] = self.beginnings[slot].saturating_add(1);
                }
                (value, class, owners)
            }
        };
        let number = self.next;
        self.next += 1;
        if let Some(queue) = self.queue(class) {
            queue.put(number, Arc::clone(&value));
        }
        let place = Place {
            class,
            number,
            owners,
        };
        self.values.insert(value, place);
    }

    /// True when a kept value had to go.
    fn forget_beyond_budget(&mut self) -> bool {
        while self.passing.bytes > PASSING_BYTES {
            let oldest = self.passing.pop();
            self.forget(oldest);
        }
        let is_over = self.kept.bytes > KEPT_BYTES;
        while self.kept.bytes > KEPT_BYTES {
            let oldest = self.kept.pop();
            self.forget(oldest);
        }
        is_over
    }

    fn forget(&mut self, value: Option<Arc<[u8]>>) {
        let Some(value) = value else { return };
        self.values.remove(&value);
        if let Some(slot) = slot(&value)
            && self.beginnings[slot] != u8::MAX
        {
            self.beginnings[slot] -= 1;
        }
    }

    fn queue(&mut self, class: Class) -> Option<&mut Queue> {
        match class {
            Class::Passing => Some(&mut self.passing),
            Class::Kept => Some(&mut self.kept),
            Class::ForGood => None,
        }
    }

    /// The text with every byte of a known value masked, if a workspace is given of
    /// those that count for it; values that overlap become one mark.
    fn mask(&self, text: &str, workspace: Option<Uuid>) -> String {
        let mut out = String::with_capacity(text.len());
        // Everything before this is in `out`, or masked.
        let mut done = 0;
        for start in 0..text.len() {
            let rest = &text.as_bytes()[start..];
            // A value begins and ends with whole characters, and so does its match.
            let Some(length) = self.longest_at(rest, workspace) else {
                continue;
            };
            if start >= done {
                out.push_str(&text[done..start]);
                out.push_str(REDACTED);
            }
            done = done.max(start + length);
        }
        out.push_str(&text[done..]);
        out
    }

    /// Length of the longest value that `rest` begins with.
    fn longest_at(&self, rest: &[u8], workspace: Option<Uuid>) -> Option<usize> {
        if self.beginnings[slot(rest)?] == 0 {
            return None;
        }
        let mut bound = rest;
        // Of the values up to `bound` only the last can be the longest that it
        // begins with; if that one differs somewhere, shorter ones can only be
        // found in what the two have in common.
        loop {
            let range = (Bound::Unbounded, Bound::Included(bound));
            let (last, place) = self.values.range::<[u8], _>(range).next_back()?;
            let mut common = last.iter().zip(bound).take_while(|(a, b)| a == b).count();
            if common == last.len() {
                if place.owners.include(workspace) {
                    return Some(common);
                }
                // What is left are shorter ones.
                common -= 1;
            }
            if common < SHORTEST {
                return None;
            }
            bound = &bound[..common];
        }
    }
}

impl Queue {
    fn put(&mut self, number: u64, value: Arc<[u8]>) {
        self.bytes += value.len() + ENTRY_BYTES;
        self.by_age.insert(number, value);
    }

    fn take(&mut self, number: u64) {
        if let Some(value) = self.by_age.remove(&number) {
            self.bytes -= value.len() + ENTRY_BYTES;
        }
    }

    fn pop(&mut self) -> Option<Arc<[u8]>> {
        let (_, value) = self.by_age.pop_first()?;
        self.bytes -= value.len() + ENTRY_BYTES;
        Some(value)
    }
}

/// Where the beginning of a value is counted; none if it is too short for one.
fn slot(value: &[u8]) -> Option<usize> {
    let [a, b, c, d, e, f] = *value.first_chunk::<SHORTEST>()?;
    let number = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
    // Fibonacci hashing: the high bits of a product with 2^64 divided by the
    // golden ratio.
    let hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - TABLE_BITS);
    usize::try_from(hash).ok()
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
        redactor.redact_json_of(Uuid::nil(), &mut value);
        assert_eq!(
            value,
            serde_json::json!({ "a": [{ "b": "x [REDACTED]" }], "n": 1 })
        );
    }

    #[test]
    fn what_is_of_one_workspace_is_left_alone_in_the_words_of_others() {
        let redactor = Redactor::default();
        let [one, two, three] = [1, 2, 3].map(Uuid::from_u128);
        redactor.learn_of(one, "common-word");
        redactor.learn_of(one, "common-word-and-more");
        redactor.learn_of(two, "common-word-and-more");
        redactor.learn("global-secret");
        let text = "common-word-and-more common-word global-secret ghs_0123456789abcdef";
        for (workspace, masked) in [
            (one, "[REDACTED] [REDACTED] [REDACTED] [REDACTED]"),
            (two, "[REDACTED] common-word [REDACTED] [REDACTED]"),
            (
                three,
                "common-word-and-more common-word [REDACTED] [REDACTED]",
            ),
        ] {
            assert_eq!(redactor.redact_of(workspace, text), masked);
        }
        let all = "[REDACTED] [REDACTED] [REDACTED] [REDACTED]";
        assert_eq!(redactor.redact(text), all);
        // A shorter one that counts is found behind a longer one that does not.
        redactor.learn_of(three, "common-word");
        let masked = "[REDACTED]-and-more [REDACTED] [REDACTED] [REDACTED]";
        assert_eq!(redactor.redact_of(three, text), masked);
        // What becomes everybody's stays so.
        redactor.learn("common-word");
        redactor.learn_of(one, "common-word");
        assert_eq!(redactor.redact_of(two, "common-word"), REDACTED);
    }

    #[test]
    fn a_value_of_very_many_is_masked_for_everybody() {
        let redactor = Redactor::default();
        for owner in 1..=MOST_OWNERS as u128 {
            redactor.learn_of(Uuid::from_u128(owner), "popular");
            redactor.learn_of(Uuid::from_u128(owner), "popular");
        }
        assert_eq!(redactor.redact_of(Uuid::nil(), "popular"), "popular");
        redactor.learn_of(Uuid::max(), "popular");
        assert_eq!(redactor.redact_of(Uuid::nil(), "popular"), REDACTED);
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
    fn passing_values_push_out_the_oldest_of_their_kind_and_nothing_else() {
        let redactor = Redactor::default();
        redactor.learn_for_good("the-server's-own");
        redactor.learn("a-stored-secret");
        redactor.learn_passing("a-token-that-was-stored-later");
        redactor.learn("a-token-that-was-stored-later");
        redactor.learn_passing("a-stored-secret");
        let tokens = PASSING_BYTES / ENTRY_BYTES;
        for n in 0..=tokens {
            redactor.learn_passing(&format!("value-{n:08}"));
        }
        assert_eq!(redactor.redact("value-00000000"), "value-00000000");
        for known in [
            "the-server's-own",
            "a-stored-secret",
            "a-token-that-was-stored-later",
            &format!("value-{tokens:08}"),
        ] {
            assert_eq!(redactor.redact(known), REDACTED, "{known}");
        }
    }

    #[test]
    fn what_is_learned_again_is_young_again() {
        let redactor = Redactor::default();
        let large = |n: u32| format!("{n:08}{}", "x".repeat(1024 * 1024));
        redactor.learn_for_good("the-server's-own");
        redactor.learn("learned-once");
        redactor.learn("learned-twice");
        for n in 0..20 {
            redactor.learn(&large(n));
        }
        redactor.learn("learned-twice");
        for n in 20..40 {
            redactor.learn(&large(n));
        }
        assert_eq!(redactor.redact("learned-once"), "learned-once");
        assert_eq!(redactor.redact("learned-twice"), REDACTED);
        assert_eq!(redactor.redact("the-server's-own"), REDACTED);
        assert_eq!(redactor.redact(&large(39)), REDACTED);
    }

    #[test]
    fn values_that_contain_begin_or_overlap_each_other_are_masked_whole() {
        let redactor = Redactor::default();
        for value in [
            "secret",
            "secret-and-more",
            "more-of-it",
            "secret-zzz",
            "\u{e4}\u{e4}\u{e4}",
        ] {
            redactor.learn(value);
        }
        for (text, masked) in [
            ("a secret-and-more b", "a [REDACTED] b"),
            ("a secret-and-more-of-it b", "a [REDACTED] b"),
            ("a secret-and-mor b", "a [REDACTED]-and-mor b"),
            ("secretsecret", "[REDACTED][REDACTED]"),
            ("\u{e4}\u{e4}\u{e4}\u{e4} secre", "[REDACTED] secre"),
        ] {
            assert_eq!(redactor.redact(text), masked, "{text}");
        }
    }

    #[test]
    fn thousands_of_values_that_come_one_by_one_are_masked_at_once() {
        let redactor = Redactor::default();
        let started = std::time::Instant::now();
        for n in 0..20_000 {
            let value = format!("common-beginning-{n:08}");
            redactor.learn(&value);
            assert_eq!(redactor.redact(&format!("x {value} y")), "x [REDACTED] y");
        }
        // An index that is rebuilt for each takes minutes.
        let took = started.elapsed();
        assert!(took < std::time::Duration::from_secs(20), "{took:?}");
    }

    proptest::proptest! {
        #[test]
        fn no_value_survives_in_any_text(
            values in proptest::collection::vec("[ab\u{e4}]{6,9}", 1..8),
            text in "[ab\u{e4} ]{0,60}",
        ) {
            let redactor = Redactor::default();
            values.iter().for_each(|value| redactor.learn(value));
            let masked = redactor.redact(&text);
            for value in &values {
                proptest::prop_assert!(!masked.contains(value.as_str()), "{} in {}", value, masked);
            }
            let marks = values.iter().any(|value| text.contains(value.as_str()));
            proptest::prop_assert_eq!(marks, masked.contains(REDACTED));
        }

        #[test]
        fn others_secrets_change_nothing(
            own in proptest::collection::vec("[ab]{6,9}", 0..6),
            others in proptest::collection::vec("[ab]{6,9}", 0..6),
            text in "[ab ]{0,60}",
        ) {
            let (alone, among) = (Redactor::default(), Redactor::default());
            own.iter().for_each(|value| alone.learn_of(Uuid::nil(), value));
            own.iter().for_each(|value| among.learn_of(Uuid::nil(), value));
            others.iter().for_each(|value| among.learn_of(Uuid::max(), value));
            let expected = alone.redact_of(Uuid::nil(), &text);
            proptest::prop_assert_eq!(among.redact_of(Uuid::nil(), &text), expected);
        }
    }
}
