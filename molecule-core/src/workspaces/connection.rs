//! What an external agent needs to connect, ready to paste.

use serde_json::{Value, json};
use uuid::Uuid;

/// The `connection` object of a workspace without a URL.
pub(super) fn connection(id: Uuid, platform_url: &str, token: &str) -> Value {
    let url = platform_url.trim_end_matches('/');
    let register = format!("{url}/registry/register");
    let heartbeat = format!("{url}/registry/heartbeat");
    let environment = format!(
        "export WORKSPACE_ID={id}\nexport PLATFORM_URL={url}\nexport MOLECULE_WORKSPACE_TOKEN={token}\n"
    );
    let snippet = |command: &str| format!("{environment}{command}\n");
    json!({
        "workspace_id": id,
        "platform_url": url,
        "auth_token": token,
        "registry_endpoint": register,
        "heartbeat_endpoint": heartbeat,
        "curl_register_template": format!(
            "curl -sS -X POST {register} \\\n  -H 'Authorization: Bearer {token}' \\\n  \
             -H 'Content-Type: application/json' \\\n  \
             -d '{{\"id\":\"{id}\",\"url\":\"https://YOUR-AGENT\",\"agent_card\":{{\"name\":\"my agent\"}}}}'"
        ),
        "python_snippet": format!(
            "import json, time, urllib.request\n\n\
             def post(url, body):\n    \
                 request = urllib.request.Request(url, json.dumps(body).encode(), {{\n        \
                     \"Authorization\": \"Bearer {token}\", \"Content-Type\": \"application/json\"}})\n    \
                 return urllib.request.urlopen(request, timeout=10).read()\n\n\
             post(\"{register}\", {{\"id\": \"{id}\", \"url\": \"https://YOUR-AGENT\", \"agent_card\": {{\"name\": \"my agent\"}}}})\n\
             while True:\n    \
                 post(\"{heartbeat}\", {{\"workspace_id\": \"{id}\"}})\n    time.sleep(30)\n"
        ),
        "claude_code_channel_snippet": snippet("claude mcp add molecule -- molecule-mcp"),
        "universal_mcp_snippet": snippet("molecule-mcp"),
        "hermes_channel_snippet": snippet("hermes channel add molecule"),
        "codex_snippet": snippet("codex mcp add molecule -- molecule-mcp"),
        "openclaw_snippet": snippet("openclaw channel add molecule"),
    })
}
