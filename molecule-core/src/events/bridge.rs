//! Events between the servers of one database: each hears those of the others as
//! if they had happened here, exactly once.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::broadcast;
use uuid::Uuid;

use super::hub::Ended;
use super::replay::{WINDOW, floor_of_now};
use super::{Event, EventType, Events, Frame, store};
use crate::store::{Notice, Relay, Topic};

/// Recorded events that are remembered, to hand none on twice.
const REMEMBERED: usize = 16_384;
/// After a lost connection this many missed events are fetched; if there are more,
/// clients are better off reading the state anew.
const MOST_MISSED: usize = REMEMBERED / 2;
const PAGE: i64 = 512;
const MOST_PAGES: usize = 64;
/// A database that was away may need a moment.
const ATTEMPTS: usize = 5;
const ATTEMPT_EVERY: Duration = Duration::from_secs(1);

/// The side of the events that other servers see.
pub(super) struct Bridge {
    relay: Relay,
    /// Words of the others, between two rounds.
    notices: Mutex<Option<broadcast::Receiver<Notice>>>,
    seen: Mutex<Seen>,
    /// Nothing from before this id is ours to tell.
    start: Uuid,
}

/// The recorded events that were handed on last.
#[derive(Default)]
struct Seen {
    order: VecDeque<Uuid>,
    ids: HashSet<Uuid>,
}

impl Seen {
    /// False when it is there already.
    fn insert(&mut self, id: Uuid) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

/// An event in another server's words: its id or `-`, a space, its JSON.
#[derive(Deserialize)]
struct Foreign {
    event: String,
    workspace_id: Uuid,
    timestamp: DateTime<Utc>,
    payload: Value,
}

/// Reads another server's words; none for what is no event or of a type that only
/// a newer server knows.
fn read(text: &str) -> Option<(Event, Bytes)> {
    let (id, json) = text.split_once(' ')?;
    let id = match id {
        "-" => None,
        id => Some(Uuid::parse_str(id).ok()?),
    };
    let foreign: Foreign = serde_json::from_str(json).ok()?;
    let event = Event {
        event: EventType::parse(&foreign.event)?,
        workspace_id: foreign.workspace_id,
        timestamp: foreign.timestamp,
        payload: foreign.payload,
        id,
    };
    Some((event, Bytes::copy_from_slice(json.as_bytes())))
}

impl Bridge {
    pub(super) fn new(relay: Relay) -> Self {
        Self {
            notices: Mutex::new(Some(relay.subscribe(Topic::Event))),
            relay,
            seen: Mutex::default(),
            start: floor_of_now(Duration::ZERO),
        }
    }

    /// True when there may be other servers.
    pub(super) fn is_needed(&self) -> bool {
        self.relay.is_shared()
    }

    /// True when an event that is not recorded is of use to another server.
    pub(super) fn wants(&self, kind: EventType) -> bool {
        match kind.is_frequent() {
            true => self.relay.has_peers(),
            false => self.relay.is_shared(),
        }
    }

    /// Tells the other servers.
    pub(super) fn tell(&self, frame: &Frame) {
        let event = frame.event();
        if !self.wants(event.event) {
            return;
        }
        let json = frame.json();
        let json = String::from_utf8_lossy(&json);
        let text = match event.id {
            Some(id) => format!("{id} {json}"),
            None => format!("- {json}"),
        };
        match event.event.is_frequent() {
            true => self.relay.send_lazily(Topic::Event, text),
            false => self.relay.send(Topic::Event, text),
        }
    }

    /// True the first time a recorded event is handed on, and always for others.
    pub(super) fn is_new(&self, event: &Event) -> bool {
        match event.id {
            Some(id) if self.relay.is_shared() => (self.seen.lock())
                .unwrap_or_else(PoisonError::into_inner)
                .insert(id),
            _ => true,
        }
    }

    fn notices(&self) -> std::sync::MutexGuard<'_, Option<broadcast::Receiver<Notice>>> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events {
    /// Hears the other servers until `ends`.
    pub(super) async fn hear_others(&self, ends: Instant) {
        let bridge = &self.0.bridge;
        let kept = bridge.notices().take();
        let mut notices = match kept {
            Some(notices) => notices,
            None => {
                // The last round did not end as it should.
                let fresh = bridge.relay.subscribe(Topic::Event);
                self.catch_up().await;
                fresh
            }
        };
        while let Ok(heard) = tokio::time::timeout_at(ends.into(), notices.recv()).await {
            match heard {
                Ok(Notice::Message(text)) => self.repeat(&text),
                Ok(Notice::Gap) | Err(broadcast::error::RecvError::Lagged(_)) => {
                    self.catch_up().await;
                }
                Err(broadcast::error::RecvError::Closed) => break,
            }
        }
        *bridge.notices() = Some(notices);
    }

    fn repeat(&self, text: &str) {
        let Some((event, json)) = read(text) else {
            tracing::debug!("another server's event is not understood");
            return;
        };
        if event.event.moves_workspaces() {
            // Word of the change itself may come after this.
            self.0.hub.reach_changed();
        }
        self.hand_on(Frame::with_json(event, json));
    }

    /// Fetches what others recorded while they could not be heard. What was not
    /// recorded is lost then.
    async fn catch_up(&self) {
        let bridge = &self.0.bridge;
        let unheard = (bridge.relay.take_gap()).map_or(Duration::ZERO, |since| since.elapsed());
        let mut from = floor_of_now(unheard + WINDOW).max(bridge.start);
        let mut missed = 0;
        for _ in 0..MOST_PAGES {
            let Some(page) = self.page_after(from).await else {
                return self.0.hub.end_all(Ended::Behind);
            };
            let full = page.len() as i64 == PAGE;
            for row in page {
                from = row.id;
                if let Some(event) = row.into_event() {
                    missed += usize::from(self.hand_on(Frame::new(event)));
                }
            }
            match (full, missed) {
                (false, 0) => return,
                (false, missed) => return tracing::info!(missed, "missed events were fetched"),
                (true, ..MOST_MISSED) => {}
                (true, _) => break,
            }
        }
        tracing::warn!("too many events were missed");
        self.0.hub.end_all(Ended::Behind);
    }

    async fn page_after(&self, id: Uuid) -> Option<Vec<store::EventRow>> {
        for attempt in 1..=ATTEMPTS {
            match store::after(&self.0.db, None, id, PAGE).await {
                Ok(page) => return Some(page),
                Err(error) => {
                    tracing::warn!(%error, attempt, "missed events cannot be fetched");
                    tokio::time::sleep(ATTEMPT_EVERY).await;
                }
            }
        }
        None
    }
}

impl store::EventRow {
    /// None for a type that only a newer server knows.
    fn into_event(self) -> Option<Event> {
        Some(Event {
            event: EventType::parse(&self.event_type)?,
            workspace_id: self.workspace_id?,
            timestamp: self.created_at,
            payload: self.payload.0,
            id: Some(self.id),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_read_as_it_was_told() {
        let event = Event {
            event: EventType::WorkspaceOnline,
            workspace_id: Uuid::now_v7(),
            timestamp: Utc::now(),
            payload: json!({ "url": "http://a", "agent_card": { "name": "é\u{0}" } }),
            id: Some(Uuid::now_v7()),
        };
        let frame = Frame::new(event.clone());
        let json = frame.json();
        let text = format!("{} {}", Uuid::nil(), String::from_utf8_lossy(&json));
        let (read, same) = read(&text).expect("an event");
        assert_eq!(same, json);
        assert_eq!(read.id, Some(Uuid::nil()));
        assert_eq!((read.event, read.payload), (event.event, event.payload));
        assert!(!text.contains('\0'));
    }

    #[test]
    fn the_oldest_of_many_is_forgotten() {
        let mut seen = Seen::default();
        let first = Uuid::now_v7();
        assert!(seen.insert(first) && !seen.insert(first));
        for _ in 0..REMEMBERED {
            assert!(seen.insert(Uuid::now_v7()));
        }
        assert_eq!((seen.ids.len(), seen.order.len()), (REMEMBERED, REMEMBERED));
        assert!(seen.insert(first));
    }

    proptest! {
        #[test]
        fn nothing_strange_is_read_with_a_panic(text in "\\PC{0,80}") {
            let _ = (read(&text), read(&format!("- {text}")));
        }
    }
}
