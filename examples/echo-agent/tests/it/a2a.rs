//! The agent's own HTTP server.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::stand_in::{Agent, StandIn, http, raw};

struct Setup {
    dir: tempfile::TempDir,
    agent: Agent,
    _platform: StandIn,
}

fn running_agent() -> Setup {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let platform = StandIn::start(|_| (200, "{}".to_owned()));
    let agent = Agent::start(dir.path(), &platform.url, &[("PLANTED", "hunter2")]);
    Setup {
        dir,
        agent,
        _platform: platform,
    }
}

fn message(text: &str) -> String {
    json!({
        "jsonrpc": "2.0", "id": "req-7", "method": "message/send",
        "params": {"message": {"role": "user", "messageId": "m-1",
                               "parts": [{"kind": "text", "text": text}]}},
    })
    .to_string()
}

fn post(port: u16, body: &str) -> (u16, Value) {
    let (status, body) = http(port, "POST /", "Content-Type: application/json\r\n", body);
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}

#[test]
fn a_message_comes_back_as_an_echo() {
    let setup = running_agent();
    let (status, answer) = post(setup.agent.port(), &message("gr\u{fc}\u{df}e, world"));
    assert_eq!(status, 200);
    assert_eq!(answer["id"], "req-7");
    assert_eq!(answer["result"]["role"], "agent");
    assert_eq!(
        answer["result"]["parts"][0]["text"],
        "echo: gr\u{fc}\u{df}e, world"
    );
}

#[test]
fn a_chunked_message_is_read_too() {
    let setup = running_agent();
    let body = message("in pieces");
    let (left, right) = body.split_at(20);
    let request = format!(
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{left}\r\n{:X}\r\n{right}\r\n0\r\n\r\n",
        left.len(),
        right.len()
    );
    let (status, answer) = raw(setup.agent.port(), request.as_bytes());
    assert_eq!(status, 200);
    assert!(answer.contains("echo: in pieces"), "{answer}");
}

#[test]
fn env_shows_that_a_variable_arrived_but_not_its_value() {
    let setup = running_agent();
    let (_, answer) = post(setup.agent.port(), &message("env PLANTED"));
    assert_eq!(
        answer["result"]["parts"][0]["text"],
        "PLANTED is set (7 bytes)"
    );
    assert!(!answer.to_string().contains("hunter2"));
    let (_, answer) = post(setup.agent.port(), &message("env ABSENT"));
    assert_eq!(answer["result"]["parts"][0]["text"], "ABSENT is not set");
}

#[test]
fn wrong_calls_get_json_rpc_errors_in_a_200() {
    let setup = running_agent();
    for (body, code) in [
        ("{not json", -32700),
        ("", -32700),
        ("[]", -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tasks/get"}"#, -32601),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"message/send","params":{}}"#,
            -32602,
        ),
    ] {
        let (status, answer) = post(setup.agent.port(), body);
        assert_eq!(
            (status, &answer["error"]["code"]),
            (200, &json!(code)),
            "{body}"
        );
    }
}

#[test]
fn the_card_and_the_health_are_served() {
    let setup = running_agent();
    let port = setup.agent.port();
    for path in [
        "/.well-known/agent-card.json",
        "/.well-known/agent.json?x=1",
    ] {
        let (status, card) = http(port, &format!("GET {path}"), "", "");
        let card: Value = serde_json::from_str(&card).unwrap();
        assert_eq!(
            (status, &card["name"]),
            (200, &json!("echo-agent")),
            "{path}"
        );
    }
    assert_eq!(
        http(port, "GET /health", "", ""),
        (200, r#"{"status":"ok"}"#.to_owned())
    );
    assert_eq!(http(port, "GET /nowhere", "", "").0, 404);
    assert_eq!(http(port, "GET /", "", "").0, 405);
    assert_eq!(http(port, "DELETE /health", "", "").0, 405);
}

#[test]
fn bodies_stop_at_one_mebibyte() {
    let setup = running_agent();
    let port = setup.agent.port();

    // just below the cap passes, also when the client asks first
    let text = "x".repeat((1 << 20) - 200);
    let (status, answer) = http(port, "POST /", "Expect: 100-continue\r\n", &message(&text));
    assert_eq!(status, 200);
    assert!(answer.len() > text.len());

    // above it is refused, by its length and by its chunks
    assert_eq!(post(port, &"x".repeat((1 << 20) + 1)).0, 413);
    let mut chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..3 {
        chunked.extend(b"80000\r\n");
        chunked.extend(vec![b'x'; 0x80000]);
        chunked.extend(b"\r\n");
    }
    assert_eq!(raw(port, &chunked).0, 413);
}

#[test]
fn malformed_requests_are_refused_and_the_agent_lives_on() {
    let setup = running_agent();
    let port = setup.agent.port();
    let long_header = format!("GET /health HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(20_000));
    for (bytes, expected) in [
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n".as_slice(),
            400,
        ),
        (b"GET / HTTP/9\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: nine\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (long_header.as_bytes(), 431),
    ] {
        assert_eq!(
            raw(port, bytes).0,
            expected,
            "{:?}",
            String::from_utf8_lossy(&bytes[..20.min(bytes.len())])
        );
    }
    assert_eq!(post(port, &message("still there")).0, 200);
}

#[test]
fn silent_connections_do_not_block_others() {
    let setup = running_agent();
    let port = setup.agent.port();
    let silent: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(b"POST / HT").unwrap();
            stream
        })
        .collect();
    assert_eq!(post(port, &message("hello")).0, 200);
    drop(silent);
}

#[test]
fn a_bearer_must_be_the_shared_secret_once_there_is_one() {
    let setup = running_agent();
    let port = setup.agent.port();
    let call = |headers: &str| http(port, "POST /", headers, &message("hi")).0;

    // without a secret nothing is compared
    assert_eq!(call("Authorization: Bearer anything\r\n"), 200);

    fs::write(
        setup.dir.path().join(".platform_inbound_secret"),
        "s3cret\n",
    )
    .unwrap();
    assert_eq!(call("Authorization: Bearer s3cret\r\n"), 200);
    assert_eq!(call("authorization: bearer s3cret\r\n"), 200);
    assert_eq!(call("Authorization: Bearer wrong\r\n"), 401);
    assert_eq!(call("Authorization: Bearer \r\n"), 401);
    assert_eq!(call("Authorization: Basic s3cret\r\n"), 401);
    assert_eq!(
        call(""),
        200,
        "the platform forwards A2A calls without a bearer"
    );
}
