//! What is sent to an agent.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::error::{Error, Result};

/// Longest message.
pub(crate) const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// The message as an agent gets it: wrapped as JSON-RPC if it was not, and with a
/// message id. Everything else stays as it is.
///
/// # Errors
/// 400 `invalid JSON` for anything but a JSON object.
pub(super) fn normalise(body: &[u8]) -> Result<Vec<u8>> {
    let invalid = || Error::invalid("invalid JSON");
    let mut call: Map<String, Value> = serde_json::from_slice(body).map_err(|_| invalid())?;
    if !call.contains_key("jsonrpc") {
        let method = call.remove("method").unwrap_or(Value::Null);
        let params = call.remove("params").unwrap_or(Value::Null);
        call = Map::from_iter([
            ("jsonrpc".to_owned(), json!("2.0")),
            ("id".to_owned(), json!(Uuid::new_v4())),
            ("method".to_owned(), method),
            ("params".to_owned(), params),
        ]);
    }
    let message = call
        .get_mut("params")
        .and_then(|params| params.get_mut("message"))
        .and_then(Value::as_object_mut);
    if let Some(message) = message {
        message
            .entry("messageId")
            .or_insert_with(|| json!(Uuid::new_v4()));
    }
    serde_json::to_vec(&call).map_err(|error| Error::internal("failed to marshal request", error))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(body: &str) -> Value {
        serde_json::from_slice(&normalise(body.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn a_bare_call_is_wrapped_and_loses_what_is_not_part_of_it() {
        let call =
            normal(r#"{"method":"message/send","params":{"message":{"role":"user"}},"extra":1}"#);
        assert_eq!(call["jsonrpc"], "2.0");
        assert_eq!(call["method"], "message/send");
        assert!(call["id"].is_string() && call.get("extra").is_none());
        assert!(call["params"]["message"]["messageId"].is_string());
    }

    #[test]
    fn what_is_json_rpc_already_stays_as_it_is() {
        let text = r#"{"jsonrpc":"2.0","id":"req-7","method":"m","params":{"message":{"messageId":"m-1","parts":[{"type":"text"}]}},"extra":1}"#;
        assert_eq!(normal(text), serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn only_objects_are_messages() {
        for body in ["", "[]", "null", "\"x\"", "{", "{} {}"] {
            assert_eq!(
                normalise(body.as_bytes()).unwrap_err().message(),
                "invalid JSON"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = normalise(&bytes);
        }
    }
}
