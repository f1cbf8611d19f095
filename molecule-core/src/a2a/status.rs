//! What becomes of an agent's status and body.

use serde_json::{Value, json};

use super::Answer;

/// Passes an agent's answer on as the contract (§1.6) says: a good one as it is,
/// any other with its status and one sentence.
pub(super) fn answer(status: u16, body: Vec<u8>) -> Answer {
    if (200..300).contains(&status) {
        return Answer { status, body };
    }
    let said = serde_json::from_slice::<Value>(&body)
        .ok()
        .and_then(|body| Some(body.get("error")?.as_str()?.to_owned()));
    let phrase = http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("agent error");
    let text = said.unwrap_or_else(|| phrase.to_owned());
    // A redirect of an agent leads a client nowhere, and a change of the protocol
    // is between agent and server.
    let status = if status < 400 { 502 } else { status };
    Answer {
        status,
        body: json!({ "error": text }).to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_status_and_one_sentence() {
        let text = |status, body: &str| {
            let answer = answer(status, body.as_bytes().to_vec());
            (answer.status, String::from_utf8(answer.body).unwrap())
        };
        assert_eq!(text(200, "{\"a\": 1}"), (200, "{\"a\": 1}".to_owned()));
        assert_eq!(
            text(429, "{\"error\":\"slow down\"}"),
            (429, "{\"error\":\"slow down\"}".to_owned())
        );
        assert_eq!(
            text(500, "{\"error\":{\"code\":1}}"),
            (500, "{\"error\":\"Internal Server Error\"}".to_owned())
        );
        assert_eq!(
            text(404, "<html>"),
            (404, "{\"error\":\"Not Found\"}".to_owned())
        );
        assert_eq!(text(302, "").0, 502);
        assert_eq!(text(101, "").0, 502);
    }
}
