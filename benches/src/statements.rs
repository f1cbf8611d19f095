//! Counts the SQL statements of this process, whichever engine they go to.
//!
//! The database library reports every statement to `tracing`; here is a subscriber
//! that listens to nothing else. A process has one subscriber, so this and the
//! server's own logs exclude each other.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, Subscriber};
use tracing::{Event, Metadata};

const TARGET: &str = "sqlx::query";

/// How often each statement ran, by its first words.
pub type Counts = BTreeMap<String, u64>;

static COUNTS: Mutex<Counts> = Mutex::new(BTreeMap::new());

fn counts() -> MutexGuard<'static, Counts> {
    COUNTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts counting. Further calls change nothing.
pub fn count() {
    // Somebody else listens already: ourselves, in all likelihood.
    let _ = tracing::subscriber::set_global_default(Counter);
}

/// What ran so far, without the beginnings and ends of transactions, which the
/// library reports for one engine only.
pub fn so_far() -> Counts {
    counts().clone()
}

/// What ran since `before`.
pub fn since(before: &Counts) -> Counts {
    let mut grown = so_far();
    for (summary, count) in &mut grown {
        *count -= before.get(summary).copied().unwrap_or_default();
    }
    grown.retain(|_, count| *count > 0);
    grown
}

/// How many of them there are in all.
pub fn total(counts: &Counts) -> u64 {
    counts.values().sum()
}

/// How many of them only read.
pub fn reads(counts: &Counts) -> u64 {
    let reads = counts.iter().filter(|(sql, _)| sql.starts_with("SELECT"));
    reads.map(|(_, count)| count).sum()
}

/// Most frequent first, for a report.
pub fn listed(counts: &Counts) -> String {
    let mut sorted: Vec<_> = counts.iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let parts = sorted
        .iter()
        .map(|(sql, count)| format!("{count} x `{sql}`"));
    parts.collect::<Vec<_>>().join(", ")
}

struct Counter;

impl Subscriber for Counter {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match metadata.target() == TARGET {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        // Where the library reports statements.
        Some(LevelFilter::DEBUG)
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == TARGET
    }

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Summary);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1) // none is enabled
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

struct Summary;

impl Visit for Summary {
    fn record_str(&mut self, field: &Field, value: &str) {
        let bounds = ["BEGIN", "COMMIT", "ROLLBACK"];
        if field.name() == "summary" && !bounds.iter().any(|bound| value.starts_with(bound)) {
            *counts().entry(value.to_owned()).or_default() += 1;
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_meanwhile_is_told_by_kind() {
        let counts = Counts::from([("SELECT status FROM …".into(), 3), ("UPDATE x".into(), 5)]);
        assert_eq!((total(&counts), reads(&counts)), (8, 3));
        assert_eq!(
            listed(&counts),
            "5 x `UPDATE x`, 3 x `SELECT status FROM …`"
        );
    }
}
