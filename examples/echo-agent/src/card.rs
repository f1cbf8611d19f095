//! The agent card: who this agent is and what it can do.

use serde_json::{Value, json};

use crate::config_file::ConfigFile;

/// Builds the card from `config.yaml` and the registered URL.
pub(crate) fn build(config: &ConfigFile, url: &str) -> Value {
    let mut description = "Answers every message with what it heard.".to_owned();
    if let Some(runtime) = &config.runtime {
        description.push_str(&format!(" Configured runtime: {runtime}."));
    }
    if let Some(model) = &config.model {
        description.push_str(&format!(" Configured model: {model}."));
    }
    json!({
        "protocolVersion": "0.3.0",
        "name": config.name.as_deref().unwrap_or("echo-agent"),
        "description": description,
        "version": env!("CARGO_PKG_VERSION"),
        "url": url,
        "preferredTransport": "JSONRPC",
        "capabilities": {
            "streaming": false,
            "pushNotifications": false,
            "stateTransitionHistory": false,
        },
        "defaultInputModes": ["text/plain"],
        "defaultOutputModes": ["text/plain"],
        "skills": [{
            "id": "echo",
            "name": "Echo",
            "description": "Repeats the text of a message.",
            "tags": ["echo", "test"],
            "examples": ["hello"],
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_card_shows_what_the_file_said() {
        let config = ConfigFile {
            name: Some("Writer".to_owned()),
            runtime: Some("langgraph".to_owned()),
            model: Some("sonnet".to_owned()),
        };
        let card = build(&config, "http://localhost:1");
        assert_eq!(card["name"], "Writer");
        assert_eq!(card["url"], "http://localhost:1");
        assert_eq!(card["skills"][0]["id"], "echo");
        let description = card["description"].as_str().unwrap();
        assert!(description.contains("langgraph") && description.contains("sonnet"));
    }

    #[test]
    fn an_empty_file_still_gives_a_named_card() {
        assert_eq!(build(&ConfigFile::default(), "u")["name"], "echo-agent");
    }
}
