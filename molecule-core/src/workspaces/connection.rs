//! What an external agent needs to connect, ready to paste.
//!
//! Every value is quoted for the language it lands in, although none of them should
//! need it: the id and the token are ours, and the URL was checked.

use serde_json::{Value, json};
use uuid::Uuid;

/// Stands in the snippets where the token is not known any more.
const NO_TOKEN: &str = "PASTE-THE-WORKSPACE-TOKEN";
/// Where an agent listens that nobody moved elsewhere.
const AGENT_URL: &str = "http://localhost:8000";

/// The `connection` object of an external workspace. Without a token, which is shown
/// once, the snippets have a place to paste it.
pub(super) fn connection(id: Uuid, platform_url: &str, token: Option<&str>) -> Value {
    let url = platform_url.trim_end_matches('/');
    let agent = Agent {
        id: id.to_string(),
        url,
        token: token.unwrap_or(NO_TOKEN),
    };
    json!({
        "workspace_id": id,
        "platform_url": url,
        "auth_token": token.unwrap_or_default(),
        "registry_endpoint": format!("{url}/registry/register"),
        "heartbeat_endpoint": format!("{url}/registry/heartbeat"),
        "curl_register_template": agent.curl(),
        "python_snippet": agent.python(),
        "claude_code_channel_snippet": agent.shell("Claude Code", "claude-code", "claude"),
        "universal_mcp_snippet": agent.shell(
            "the program in AGENT_COMMAND, or nothing but its presence",
            "agent",
            "if [ -n \"${AGENT_COMMAND:-}\" ]; then sh -c \"$AGENT_COMMAND\"; else wait \"$beat\"; fi",
        ),
        "hermes_channel_snippet": agent.shell("Hermes", "hermes", "hermes"),
        "codex_snippet": agent.shell("Codex", "codex", "codex"),
        "openclaw_snippet": agent.shell("OpenClaw", "openclaw", "openclaw"),
    })
}

/// Who connects, and to what.
struct Agent<'a> {
    id: String,
    url: &'a str,
    token: &'a str,
}

impl Agent<'_> {
    /// One registration; a heartbeat every 30 seconds must follow.
    fn curl(&self) -> String {
        let body = json!({
            "id": self.id,
            "url": AGENT_URL,
            "agent_card": { "name": "my agent" },
        });
        format!(
            "curl -fsS -X POST {} \\\n  -H {} \\\n  -H 'Content-Type: application/json' \\\n  -d {}",
            shell_quoted(&format!("{}/registry/register", self.url)),
            shell_quoted(&format!("Authorization: Bearer {}", self.token)),
            shell_quoted(&body.to_string()),
        )
    }

    /// Python, standard library only.
    fn python(&self) -> String {
        PYTHON
            .replace("@URL@", &python_quoted(self.url))
            .replace("@ID@", &python_quoted(&self.id))
            .replace("@TOKEN@", &python_quoted(self.token))
            .replace("@AGENT_URL@", &python_quoted(AGENT_URL))
    }

    /// A POSIX shell script that registers, keeps sending heartbeats while `command`
    /// runs, and ends with it.
    fn shell(&self, what: &str, card: &str, command: &str) -> String {
        SHELL
            .replace("@URL@", &shell_quoted(self.url))
            .replace("@ID@", &shell_quoted(&self.id))
            .replace("@TOKEN@", &shell_quoted(self.token))
            .replace("@AGENT_URL@", AGENT_URL)
            .replace("@WHAT@", what)
            .replace("@CARD@", card)
            .replace("@COMMAND@", command)
    }
}

/// One word of a POSIX shell.
fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A string of Python: those of JSON are a part of them.
fn python_quoted(text: &str) -> String {
    Value::from(text).to_string()
}

const SHELL: &str = r#"# Connects @WHAT@ to a Molecule workspace. Needs curl.
(
  set -eu
  export WORKSPACE_ID=@ID@
  export PLATFORM_URL=@URL@
  export MOLECULE_WORKSPACE_TOKEN=@TOKEN@
  # Where the platform reaches this agent; set AGENT_URL if it listens elsewhere.
  export AGENT_URL="${AGENT_URL:-@AGENT_URL@}"

  # The token goes through a pipe, so that no list of processes shows it.
  registry() {
    printf 'Authorization: Bearer %s\n' "$MOLECULE_WORKSPACE_TOKEN" |
      curl -fsS --max-time 30 -o /dev/null -X POST "$PLATFORM_URL/registry/$1" \
        -H @- -H 'Content-Type: application/json' -d "$2"
  }

  registry register "{\"id\":\"$WORKSPACE_ID\",\"url\":\"$AGENT_URL\",\"agent_card\":{\"name\":\"@CARD@\"}}"
  while :; do
    registry heartbeat "{\"workspace_id\":\"$WORKSPACE_ID\"}" ||
      echo 'molecule: heartbeat failed, next one in 30 seconds' >&2
    sleep 30
  done &
  beat=$!
  trap 'kill "$beat" 2>/dev/null' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  @COMMAND@
)
"#;

const PYTHON: &str = r#"# Connects an agent to a Molecule workspace. Python 3, standard library only.
import json
import os
import time
import urllib.request

PLATFORM_URL = @URL@
WORKSPACE_ID = @ID@
WORKSPACE_TOKEN = @TOKEN@
# Where the platform reaches this agent; set AGENT_URL if it listens elsewhere.
AGENT_URL = os.environ.get("AGENT_URL", @AGENT_URL@)


def registry(call, body):
    request = urllib.request.Request(
        PLATFORM_URL + "/registry/" + call,
        data=json.dumps(body).encode(),
        headers={
            "Authorization": "Bearer " + WORKSPACE_TOKEN,
            "Content-Type": "application/json",
        },
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


registry("register", {"id": WORKSPACE_ID, "url": AGENT_URL, "agent_card": {"name": "my agent"}})
while True:
    try:
        registry("heartbeat", {"workspace_id": WORKSPACE_ID})
    except Exception as error:
        print("molecule: heartbeat failed, next one in 30 seconds:", error, flush=True)
    time.sleep(30)
"#;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_placeholder_is_left_and_no_token_is_made_up() {
        let made = connection(Uuid::nil(), "https://molecule.example/", Some("the-token"));
        for (field, value) in made.as_object().unwrap() {
            let text = value.as_str().unwrap();
            assert!(!text.contains('@') || field.ends_with("snippet"), "{text}");
            for name in ["URL", "ID", "TOKEN", "AGENT_URL", "WHAT", "CARD", "COMMAND"] {
                assert!(!text.contains(&format!("@{name}@")), "{field}: {text}");
            }
        }
        assert_eq!(made["platform_url"], "https://molecule.example");
        let shown = connection(Uuid::nil(), "https://molecule.example", None);
        assert_eq!(shown["auth_token"], "");
        assert!(shown["codex_snippet"].as_str().unwrap().contains(NO_TOKEN));
    }

    proptest! {
        #[test]
        fn a_quoted_word_has_no_way_out(text in "[ -~'\"$`\\\\]{0,30}") {
            let quoted = shell_quoted(&text);
            let inner = quoted.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).unwrap();
            // What is left between the escapes holds no quote.
            prop_assert!(inner.split("'\\''").all(|part| !part.contains('\'')));
            prop_assert_eq!(inner.split("'\\''").collect::<Vec<_>>().join("'"), text.clone());
            let python: String = serde_json::from_str(&python_quoted(&text)).unwrap();
            prop_assert_eq!(python, text);
        }
    }
}
