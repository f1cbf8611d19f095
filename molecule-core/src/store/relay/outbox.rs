//! Notices that wait to be sent: bounded, and never in the way of a request.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::Topic;
use super::wire::{self, Item};

const MAX_ITEMS: usize = 20_000;
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Nothing that servers tell each other is longer. What is longer is not sent.
const MAX_ITEM_BYTES: usize = 2 * 1024 * 1024;
/// A batch grows up to this, or is one notice that is larger alone.
const BATCH_BYTES: usize = 512 * 1024;
/// A lazy notice waits this long for company.
const LAZY: Duration = Duration::from_millis(500);

/// What is sent in one transaction.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) number: u64,
    pub(super) payloads: Vec<String>,
}

#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    bytes: usize,
    /// Topics of which something had to be dropped.
    dropped: Vec<Topic>,
    /// When what is there must be sent.
    due: Option<Instant>,
    batches: u64,
    /// Sent without a known end: sent again, as it is.
    unsent: Option<Arc<Batch>>,
}

impl Outbox {
    /// Queues a notice, or notes that its topic lost one.
    pub(super) fn put(&self, item: Item, urgent: bool) {
        let mut state = self.state();
        let full = state.items.len() >= MAX_ITEMS || state.bytes + item.len() > MAX_BYTES;
        match item {
            // PostgreSQL's text has no NUL.
            Item::Message(topic, payload)
                if full || payload.len() > MAX_ITEM_BYTES || payload.contains('\0') =>
            {
                metrics::counter!("molecule_relay_dropped_total").increment(1);
                if !state.dropped.contains(&topic) {
                    tracing::warn!(?topic, "a notice to other servers had to be dropped");
                    state.dropped.push(topic);
                }
            }
            item => {
                state.bytes += item.len();
                state.items.push_back(item);
            }
        }
        let due = Instant::now() + if urgent { Duration::ZERO } else { LAZY };
        state.due = Some(state.due.map_or(due, |earlier| earlier.min(due)));
        drop(state);
        self.wake.notify_one();
    }

    /// The next batch, once there is reason to send one; none within `patience`.
    /// For one caller at a time.
    pub(super) async fn next(&self, origin: &str, patience: Duration) -> Option<Arc<Batch>> {
        let ends = Instant::now() + patience;
        loop {
            let now = Instant::now();
            let due = {
                let mut state = self.state();
                if state.unsent.is_some() || state.due.is_some_and(|due| due <= now) {
                    return state.batch(origin);
                }
                state.due
            };
            if now >= ends {
                return None;
            }
            let until = due.map_or(ends, |due| due.min(ends));
            let _ = tokio::time::timeout_at(until.into(), self.wake.notified()).await;
        }
    }

    /// The next batch of what is there, now.
    pub(super) fn rest(&self, origin: &str) -> Option<Arc<Batch>> {
        self.state().batch(origin)
    }

    /// The batch arrived.
    pub(super) fn sent(&self, number: u64) {
        self.state()
            .unsent
            .take_if(|unsent| unsent.number == number);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn batch(&mut self, origin: &str) -> Option<Arc<Batch>> {
        if let Some(unsent) = &self.unsent {
            return Some(Arc::clone(unsent));
        }
        let mut text = String::new();
        for topic in self.dropped.drain(..) {
            wire::append(&mut text, &Item::Gap(topic));
        }
        while let Some(item) = self.items.front()
            && (text.is_empty() || text.len() + item.len() <= BATCH_BYTES)
        {
            self.bytes -= item.len();
            wire::append(&mut text, item);
            self.items.pop_front();
        }
        self.due = (!self.items.is_empty()).then(Instant::now);
        if text.is_empty() {
            return None;
        }
        self.batches += 1;
        let batch = Arc::new(Batch {
            number: self.batches,
            payloads: wire::split(origin, self.batches, &text),
        });
        self.unsent = Some(Arc::clone(&batch));
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Part, read};
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn event(text: &str) -> Item {
        Item::Message(Topic::Event, text.to_owned())
    }

    fn items(batch: &Batch) -> Vec<Item> {
        let parts = batch.payloads.iter();
        let text: String = parts.map(|p| Part::parse(p).expect("ours").text).collect();
        read(&text).expect("ours")
    }

    #[tokio::test]
    async fn what_waits_together_is_sent_together() {
        let outbox = Outbox::default();
        outbox.put(event("a"), true);
        outbox.put(event("b"), true);
        let batch = outbox.next("me", NOW).await.expect("a batch");
        assert_eq!(items(&batch), [event("a"), event("b")]);
        outbox.sent(batch.number);
        assert!(outbox.next("me", NOW).await.is_none());
    }

    #[tokio::test]
    async fn a_batch_that_failed_is_sent_again_as_it_was() {
        let outbox = Outbox::default();
        outbox.put(event("a"), true);
        let first = outbox.next("me", NOW).await.expect("a batch");
        outbox.put(event("b"), true);
        let again = outbox.next("me", NOW).await.expect("a batch");
        assert_eq!(first.payloads, again.payloads);
        outbox.sent(again.number);
        let second = outbox.next("me", NOW).await.expect("a batch");
        assert_eq!((second.number, items(&second)), (2, vec![event("b")]));
    }

    #[tokio::test]
    async fn a_lazy_notice_waits_but_leaves_with_an_urgent_one() {
        let outbox = Outbox::default();
        outbox.put(event("lazy"), false);
        assert!(outbox.next("me", NOW).await.is_none());
        outbox.put(event("urgent"), true);
        let batch = outbox.next("me", NOW).await.expect("a batch");
        assert_eq!(items(&batch), [event("lazy"), event("urgent")]);
        outbox.sent(batch.number);
        outbox.put(event("lazy"), false);
        let batch = outbox.next("me", LAZY * 10).await.expect("a batch");
        assert_eq!(items(&batch), [event("lazy")]);
    }

    #[tokio::test]
    async fn what_does_not_fit_becomes_a_gap_of_its_topic() {
        let outbox = Outbox::default();
        for _ in 0..MAX_ITEMS {
            outbox.put(event(""), true);
        }
        outbox.put(Item::Message(Topic::TokensRevoked, "x".to_owned()), true);
        let batch = outbox.next("me", NOW).await.expect("a batch");
        let items = items(&batch);
        assert_eq!(items[0], Item::Gap(Topic::TokensRevoked));
        assert_eq!(items.len(), 1 + MAX_ITEMS);
    }

    #[tokio::test]
    async fn what_cannot_be_sent_becomes_a_gap_and_the_rest_arrives() {
        let outbox = Outbox::default();
        outbox.put(event("nul \0"), true);
        outbox.put(event(&"x".repeat(MAX_ITEM_BYTES + 1)), true);
        let large = event(&"x".repeat(MAX_ITEM_BYTES));
        outbox.put(large.clone(), true);
        let batch = outbox.next("me", NOW).await.expect("a batch");
        assert_eq!(items(&batch), [Item::Gap(Topic::Event)]);
        outbox.sent(batch.number);
        let batch = outbox.next("me", NOW).await.expect("a batch");
        assert_eq!(items(&batch), [large]);
    }
}
