//! An event as it is sent: encoded once, shared by everybody who hears it.

use std::sync::OnceLock;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use super::Event;
use super::store::EventRow;

/// One event with its encodings.
pub(crate) struct Frame {
    event: Event,
    json: OnceLock<Bytes>,
    data: OnceLock<Bytes>,
}

impl Frame {
    pub(super) fn new(event: Event) -> Self {
        Self {
            event,
            json: OnceLock::new(),
            data: OnceLock::new(),
        }
    }

    /// An event of which the JSON came from another server.
    pub(super) fn with_json(event: Event, json: Bytes) -> Self {
        Self {
            event,
            json: OnceLock::from(json),
            data: OnceLock::new(),
        }
    }

    pub(super) fn event(&self) -> &Event {
        &self.event
    }

    /// The event as WebSocket clients and other servers read it.
    pub(super) fn json(&self) -> Bytes {
        let encode = || serde_json::to_vec(&self.event).unwrap_or_default().into();
        self.json.get_or_init(encode).clone()
    }

    /// The event as an event stream sends it, without an id.
    pub(super) fn data(&self) -> Bytes {
        let event = &self.event;
        let encode = || data(event.event.as_str(), event.timestamp, &event.payload);
        self.data.get_or_init(encode).clone()
    }
}

#[derive(Serialize)]
struct Data<'a> {
    r#type: &'a str,
    /// Milliseconds since 1970.
    timestamp: i64,
    data: &'a Value,
}

fn data(kind: &str, at: DateTime<Utc>, payload: &Value) -> Bytes {
    let data = Data {
        r#type: kind,
        timestamp: at.timestamp_millis(),
        data: payload,
    };
    // JSON without white space has no line breaks.
    let json = serde_json::to_string(&data).unwrap_or_default();
    format!("data: {json}\n\n").into()
}

impl EventRow {
    /// As [`Frame::data`].
    pub(super) fn data(&self) -> Bytes {
        data(&self.event_type, self.created_at, &self.payload)
    }
}
