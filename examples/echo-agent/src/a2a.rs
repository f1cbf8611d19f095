//! The A2A side: one JSON-RPC call in, one JSON-RPC answer out.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::plugins::{Loader, Plugin};
use crate::settings::Env;
use crate::status::Status;
use crate::timestamp;

const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;

/// Answers the body of one `POST /`.
///
/// Errors are JSON-RPC errors too and travel in an HTTP 200: the platform
/// replaces the body of any other status.
pub(crate) fn answer(body: &[u8], env: &Env, plugins: &Loader, status: &Status) -> Value {
    let Ok(call) = serde_json::from_slice::<Value>(body) else {
        return error(&Value::Null, PARSE_ERROR, "Parse error");
    };
    let id = match call.get("id") {
        None | Some(Value::Null) => Value::Null,
        Some(id @ (Value::String(_) | Value::Number(_))) => id.clone(),
        Some(_) => return error(&Value::Null, INVALID_REQUEST, "Invalid Request"),
    };
    if call.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return error(&id, INVALID_REQUEST, "Invalid Request");
    }
    match call.get("method").and_then(Value::as_str) {
        Some("message/send") => {
            let _task = status.begin_task();
            send(&id, &call, env, plugins)
        }
        Some(_) => error(&id, METHOD_NOT_FOUND, "Method not found"),
        None => error(&id, INVALID_REQUEST, "Invalid Request"),
    }
}

fn send(id: &Value, call: &Value, env: &Env, plugins: &Loader) -> Value {
    let message = &call["params"]["message"];
    let Some(parts) = message["parts"].as_array() else {
        return error(
            id,
            INVALID_PARAMS,
            "Invalid params: message.parts must be a list",
        );
    };
    let reply = reply_to(&heard(parts), env, plugins);
    let mut result = json!({
        "kind": "message",
        "role": "agent",
        "messageId": message_id(),
        "parts": [{"kind": "text", "text": reply}],
    });
    if let Some(context) = message["contextId"].as_str() {
        result["contextId"] = context.into();
    }
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

/// The text of a message. Senders in the wild write `kind` or `type`.
fn heard(parts: &[Value]) -> String {
    let texts: Vec<&str> = parts
        .iter()
        .filter(|part| part["kind"] == "text" || part["type"] == "text")
        .filter_map(|part| part["text"].as_str())
        .collect();
    texts.join("\n")
}

/// `env NAME` tells whether a variable arrived, never what it holds; `plugins` lists
/// what is loaded, and `skill PLUGIN NAME` says what a skill of one says. Everything
/// else is echoed.
fn reply_to(text: &str, env: &Env, plugins: &Loader) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.as_slice() {
        ["env", name] if is_variable_name(name) => match env.raw(name) {
            Some(value) => format!("{name} is set ({} bytes)", value.len()),
            None => format!("{name} is not set"),
        },
        ["plugins"] => {
            let lines: Vec<String> = plugins.load().iter().map(Plugin::line).collect();
            match lines.is_empty() {
                true => "no plugins".to_owned(),
                false => lines.join("\n"),
            }
        }
        ["skill", plugin, name] => {
            let loaded = plugins.load();
            let plugin = loaded.iter().find(|loaded| loaded.name == *plugin);
            plugin
                .and_then(|plugin| plugin.skill(name))
                .unwrap_or_else(|| format!("no skill {name} is loaded"))
        }
        _ => format!("echo: {text}"),
    }
}

fn is_variable_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Unique within this agent, which is all the protocol asks for.
fn message_id() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!(
        "echo-{:x}-{:x}-{count:x}",
        timestamp::now(),
        std::process::id()
    )
}

fn error(id: &Value, code: i64, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(body: &str) -> Value {
        let nowhere = std::path::Path::new("/nowhere");
        let env = Env::fixed(&[
            ("SECRET", "hunter2"),
            ("EMPTY", ""),
            ("PLUGINS_DIR", "/nowhere"),
        ]);
        let plugins = Loader::new(nowhere, &env);
        answer(body.as_bytes(), &env, &plugins, &Status::new())
    }

    fn say(text: &str) -> String {
        let body = json!({
            "jsonrpc": "2.0", "id": 1, "method": "message/send",
            "params": {"message": {"role": "user", "parts": [{"kind": "text", "text": text}]}},
        });
        let answer = ask(&body.to_string());
        answer["result"]["parts"][0]["text"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    #[test]
    fn a_message_is_answered_in_kind() {
        let answer = ask(
            r#"{"jsonrpc":"2.0","id":"req-7","method":"message/send","params":{"message":
               {"role":"user","messageId":"m-1","contextId":"c-1","parts":[
                 {"kind":"text","text":"one"},{"kind":"file","file":{}},{"type":"text","text":"two"}]}}}"#,
        );
        assert_eq!(answer["jsonrpc"], "2.0");
        assert_eq!(answer["id"], "req-7");
        let result = &answer["result"];
        assert_eq!(result["kind"], "message");
        assert_eq!(result["role"], "agent");
        assert_eq!(result["contextId"], "c-1");
        assert_eq!(
            result["parts"],
            json!([{"kind": "text", "text": "echo: one\ntwo"}])
        );
        assert_ne!(result["messageId"], ask(r#"{}"#)["result"]["messageId"]);
    }

    #[test]
    fn env_reports_presence_and_size_only() {
        assert_eq!(say("env SECRET"), "SECRET is set (7 bytes)");
        assert_eq!(say("  env   EMPTY "), "EMPTY is set (0 bytes)");
        assert_eq!(say("env MISSING"), "MISSING is not set");
        assert_eq!(say("env A=B"), "echo: env A=B");
        assert_eq!(say("env 1A"), "echo: env 1A");
        assert_eq!(say("env"), "echo: env");
        assert_eq!(say("env A B"), "echo: env A B");
    }

    #[test]
    fn without_plugins_there_is_nothing_to_list() {
        assert_eq!(say("plugins"), "no plugins");
        assert_eq!(say("skill a b"), "no skill b is loaded");
        assert_eq!(say("skill a"), "echo: skill a");
    }

    #[test]
    fn bad_calls_get_the_codes_of_json_rpc() {
        let deep = "[".repeat(100_000);
        for (body, code) in [
            ("", PARSE_ERROR),
            ("{", PARSE_ERROR),
            ("\u{0}", PARSE_ERROR),
            (deep.as_str(), PARSE_ERROR),
            ("[]", INVALID_REQUEST),
            ("1", INVALID_REQUEST),
            ("{}", INVALID_REQUEST),
            (
                r#"{"jsonrpc":"1.0","id":1,"method":"message/send"}"#,
                INVALID_REQUEST,
            ),
            (
                r#"{"jsonrpc":"2.0","id":{},"method":"message/send"}"#,
                INVALID_REQUEST,
            ),
            (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, INVALID_REQUEST),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"message/stream"}"#,
                METHOD_NOT_FOUND,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"message/send"}"#,
                INVALID_PARAMS,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"message/send","params":{"message":{"parts":{}}}}"#,
                INVALID_PARAMS,
            ),
        ] {
            let head: String = body.chars().take(80).collect();
            assert_eq!(ask(body)["error"]["code"], code, "{head}");
        }
    }

    #[test]
    fn a_message_without_text_is_echoed_as_nothing() {
        let answer = ask(
            r#"{"jsonrpc":"2.0","id":1,"method":"message/send","params":{"message":{"parts":[1,null,{"kind":"text"}]}}}"#,
        );
        assert_eq!(answer["result"]["parts"][0]["text"], "echo: ");
    }
}
