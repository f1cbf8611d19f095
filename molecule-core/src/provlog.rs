//! Structured provisioning records: one log line `evt: <name> <json>` each.
//! Tools read them; names and fields are only ever added to.

use serde_json::Value;

/// Writes one record. Values must be ids, names and words, never secrets.
pub(crate) fn provlog(name: &'static str, fields: Value) {
    tracing::info!("evt: {name} {fields}");
}
