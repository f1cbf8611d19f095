//! What the redactor knows, and how it finds that in a text.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use molecule_hooks::REDACTED;
use uuid::Uuid;

use super::SHORTEST;

/// Memory for stored secrets; beyond it those least recently learned go.
pub(super) const KEPT_BYTES: usize = 32 * 1024 * 1024;
/// Memory for secrets that expire.
pub(super) const PASSING_BYTES: usize = 8 * 1024 * 1024;
/// What an entry takes beside its value, roughly.
pub(super) const ENTRY_BYTES: usize = 128;
/// A value that so many workspaces have is masked for all of them.
pub(super) const MOST_OWNERS: usize = 64;
/// Binary logarithm of the size of the table of beginnings.
const TABLE_BITS: u32 = 18;

pub(super) struct Known {
    /// Every form of every secret. Ordered by its bytes, for [`longest_at`](Self::longest_at).
    values: BTreeMap<Arc<[u8]>, Place>,
    /// How many values begin with bytes of this hash. One that is full stays so:
    /// a wrong "perhaps" costs a look, never a secret.
    beginnings: Vec<u8>,
    kept: Queue,
    passing: Queue,
    /// The number of the next entry in a queue.
    next: u64,
    pub(super) has_warned: bool,
}

/// Why a value is known, and so for how long. Ordered: the greater one wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
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
pub(super) enum Owners {
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

impl Known {
    pub(super) fn insert(&mut self, value: Arc<[u8]>, class: Class, owners: Owners) {
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
    pub(super) fn forget_beyond_budget(&mut self) -> bool {
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
    pub(super) fn mask(&self, text: &str, workspace: Option<Uuid>) -> String {
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
