//! What was heard: parts put together, repetitions dropped, losses noticed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::wire::{self, Item, Part};

/// A server that says nothing for this long is gone.
const PEER_LIFETIME: Duration = Duration::from_secs(60);
/// More servers than anybody runs: a bound for what strangers could make us keep.
const MAX_PEERS: usize = 1024;
/// Longest batch that is put together.
const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;

/// What a payload brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) items: Vec<Item>,
    /// Something before it was lost.
    pub(super) lost: bool,
    /// It came from a server that does not know us.
    pub(super) greet: bool,
    /// Something came, be it our own words.
    pub(super) any: bool,
}

pub(super) struct Inbox {
    own: String,
    peers: HashMap<String, Peer>,
    open: Option<Open>,
}

struct Peer {
    /// Number of its last batch.
    batch: u64,
    seen: Instant,
}

/// A batch whose last part has not come yet.
struct Open {
    origin: String,
    batch: u64,
    parts: usize,
    text: String,
}

impl Inbox {
    pub(super) fn new(own: &str) -> Self {
        Self {
            own: own.to_owned(),
            peers: HashMap::new(),
            open: None,
        }
    }

    /// Servers that are there besides us.
    pub(super) fn peers(&mut self, now: Instant) -> usize {
        self.peers
            .retain(|_, peer| now.duration_since(peer.seen) < PEER_LIFETIME);
        self.peers.len()
    }

    /// Takes one payload as it came.
    pub(super) fn take(&mut self, payload: &str, now: Instant) -> Heard {
        let Some(part) = Part::parse(payload) else {
            // Somebody else's use of our channel, or a version we do not know.
            metrics::counter!("molecule_relay_not_understood_total").increment(1);
            return Heard::default();
        };
        if part.origin == self.own {
            return Heard::default();
        }
        let mut heard = Heard::default();
        if part.index == 0 {
            // The parts of a batch come in a row: one that is still open never ends.
            heard.lost = self.open.is_some();
            self.open = Some(Open {
                origin: part.origin.to_owned(),
                batch: part.batch,
                parts: 0,
                text: String::new(),
            });
        }
        let Some(open) = self.open.as_mut().filter(|open| open.expects(&part)) else {
            heard.lost |= self.open.take().is_some();
            return heard;
        };
        open.parts += 1;
        open.text.push_str(part.text);
        if open.text.len() > MAX_BATCH_BYTES {
            self.open = None;
            heard.lost = true;
            return heard;
        }
        if part.last
            && let Some(open) = self.open.take()
        {
            self.complete(&open, now, &mut heard);
        }
        heard
    }

    fn complete(&mut self, open: &Open, now: Instant, heard: &mut Heard) {
        let known = self.peers.get(&open.origin).map(|peer| peer.batch);
        match known {
            // Sent twice, because its sender did not learn that it arrived.
            Some(last) if open.batch <= last => return,
            Some(last) => heard.lost |= open.batch != last + 1,
            None => heard.greet = true,
        }
        let Some(items) = wire::read(&open.text) else {
            heard.lost = true;
            return;
        };
        if items.contains(&Item::Bye) {
            self.peers.remove(&open.origin);
            heard.greet = false;
        } else if known.is_some() || self.peers.len() < MAX_PEERS {
            let peer = Peer {
                batch: open.batch,
                seen: now,
            };
            self.peers.insert(open.origin.clone(), peer);
        }
        heard.items = items;
    }
}

impl Open {
    fn expects(&self, part: &Part<'_>) -> bool {
        self.origin == part.origin && self.batch == part.batch && self.parts == part.index
    }
}

#[cfg(test)]
mod tests {
    use super::super::Topic;
    use super::*;

    fn event(text: &str) -> Item {
        Item::Message(Topic::Event, text.to_owned())
    }

    fn payloads(origin: &str, batch: u64, items: &[Item]) -> Vec<String> {
        let mut text = String::new();
        items.iter().for_each(|item| wire::append(&mut text, item));
        wire::split(origin, batch, &text)
    }

    /// Everything heard, put together.
    fn take(inbox: &mut Inbox, payloads: &[String]) -> Heard {
        let mut all = Heard::default();
        for payload in payloads {
            let heard = inbox.take(payload, Instant::now());
            all.items.extend(heard.items);
            all.lost |= heard.lost;
            all.greet |= heard.greet;
        }
        all
    }

    #[test]
    fn nobody_hears_himself() {
        let mut inbox = Inbox::new("me");
        let heard = take(&mut inbox, &payloads("me", 1, &[event("a")]));
        assert_eq!(heard, Heard::default());
        assert_eq!(inbox.peers(Instant::now()), 0);
    }

    #[test]
    fn a_stranger_is_greeted_once_and_a_repetition_ignored() {
        let mut inbox = Inbox::new("me");
        let first = payloads("you", 7, &[event("a")]);
        let heard = take(&mut inbox, &first);
        assert_eq!(heard.items, [event("a")]);
        assert!(heard.greet && !heard.lost, "{heard:?}");
        assert_eq!(take(&mut inbox, &first), Heard::default());
        let heard = take(&mut inbox, &payloads("you", 8, &[event("b")]));
        assert_eq!(heard.items, [event("b")]);
        assert!(!heard.greet && !heard.lost, "{heard:?}");
        assert_eq!(inbox.peers(Instant::now()), 1);
        assert_eq!(inbox.peers(Instant::now() + PEER_LIFETIME), 0);
    }

    #[test]
    fn a_missing_batch_and_a_missing_part_are_losses() {
        let mut inbox = Inbox::new("me");
        let long = event(&"x".repeat(20_000));
        take(&mut inbox, &payloads("you", 1, &[event("a")]));
        let heard = take(&mut inbox, &payloads("you", 3, &[event("b")]));
        assert!(heard.lost && heard.items == [event("b")], "{heard:?}");
        // The middle of a batch is missing: all of it is.
        let mut parts = payloads("you", 4, std::slice::from_ref(&long));
        assert_eq!(parts.len(), 3);
        parts.remove(1);
        let heard = take(&mut inbox, &parts);
        assert!(heard.lost && heard.items.is_empty(), "{heard:?}");
        // Its end is missing.
        let mut parts = payloads("you", 5, std::slice::from_ref(&long));
        parts.pop();
        assert!(!take(&mut inbox, &parts).lost);
        let heard = take(
            &mut inbox,
            &payloads("they", 1, std::slice::from_ref(&long)),
        );
        assert!(heard.lost && heard.items == [long], "{heard:?}");
    }

    #[test]
    fn who_says_goodbye_is_gone() {
        let mut inbox = Inbox::new("me");
        take(&mut inbox, &payloads("you", 1, &[Item::Hello]));
        assert_eq!(inbox.peers(Instant::now()), 1);
        let heard = take(&mut inbox, &payloads("you", 2, &[event("last"), Item::Bye]));
        assert_eq!(heard.items, [event("last"), Item::Bye]);
        assert!(!heard.greet);
        assert_eq!(inbox.peers(Instant::now()), 0);
    }

    #[test]
    fn what_is_not_ours_changes_nothing() {
        let mut inbox = Inbox::new("me");
        for text in [
            "",
            "hello",
            "2 you 1 0 1\nh0:",
            "1 you 1 5 1\nh0:",
            "1 you x 0 1\n",
        ] {
            assert_eq!(inbox.take(text, Instant::now()).items, []);
        }
        assert!(inbox.take("1 you 1 0 1\nnonsense", Instant::now()).lost);
    }
}
