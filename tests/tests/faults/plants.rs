//! Secrets to plant, and how to find them again.

use std::collections::BTreeMap;

use molecule_tests::{Reply, Request};

/// Must be found: tells that looking works at all.
pub(crate) const CANARY: &str = "a-canary-that-is-no-secret";

/// Every planted secret, by what it is.
#[derive(Default)]
pub(crate) struct Plants(pub(crate) BTreeMap<&'static str, String>);

impl Plants {
    pub(crate) fn new() -> Self {
        let plants = [
            ("admin token", "plant-admin-token-0123456789"),
            ("encryption key", "plant-encryption-key-32-bytes-ok"),
            ("database password", "plant-database-password"),
            ("create secret", "plant-create-secret"),
            ("quoted secret", r#"plant-"quoted"\and\back-slashed"#),
            ("tabbed secret", "plant-tab\tand-umlaut-\u{e4}\u{f6}"),
            ("pem line one", "plant-pem-line-one-AAAA"),
            ("pem line two", "plant-pem-line-two-BBBB"),
            ("shape inside", "plant!Basic QWxhZGRpbjpvcGVu!tail-of-it"),
            ("hook config secret", "plant-hook-config-secret"),
            ("hook file secret", "plant-hook-file-secret"),
            ("hook env token", "plant-token-from-the-environment"),
            ("a model key", "plant-sk-ant-model-key-0123456789"),
            ("github token", "ghp_plantedgithubtoken0123456789abcd"),
            (
                "github server token",
                "ghs_plantedservertoken0123456789abcd",
            ),
            (
                "fine-grained token",
                "github_pat_planted0123456789_abcdefgh",
            ),
            ("url password", "plant-password-in-a-url"),
        ];
        Self(plants.map(|(what, value)| (what, value.to_owned())).into())
    }

    pub(crate) fn get(&self, what: &str) -> &str {
        &self.0[what]
    }

    pub(crate) fn add(&mut self, what: &'static str, value: &str) {
        assert!(value.len() >= 16, "{what}: {value:?}");
        self.0.insert(what, value.to_owned());
    }

    /// All of them in one text, as an agent might report them. Nobody but the
    /// agent knows the password in the URL: its place gives it away.
    pub(crate) fn text(&self) -> String {
        let known = self.0.iter().filter(|(what, _)| **what != "url password");
        let all: Vec<&str> = known.map(|(_, value)| value.as_str()).collect();
        format!(
            "{CANARY} {} postgres://u:{}@host/x",
            all.join(" | "),
            self.get("url password")
        )
    }

    /// Where a plant, or a form of it, shows up in `text`.
    pub(crate) fn found_in(&self, place: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (what, value) in &self.0 {
            let json = serde_json::to_string(value).expect("JSON");
            let debug = format!("{value:?}");
            let forms = [
                value.as_str(),
                json.trim_matches('"'),
                debug.trim_matches('"'),
            ];
            for form in forms {
                if let Some(at) = text.find(form) {
                    let line = text[..at].rfind('\n').map_or(0, |start| start + 1);
                    let end = text[at..].find('\n').map_or(text.len(), |end| at + end);
                    found.push(format!("{what} in {place}: {}", &text[line..end]));
                    break;
                }
            }
        }
        found
    }
}

/// Sends requests and keeps what came back.
pub(crate) struct Recorder {
    pub(crate) replies: Vec<(String, Reply)>,
}

impl Recorder {
    /// A reply in which nothing may be found.
    pub(crate) async fn send(&mut self, what: &str, request: Request) -> &Reply {
        let reply = request.send().await;
        self.replies.push((what.to_owned(), reply));
        &self.replies.last().expect("the reply").1
    }

    pub(crate) async fn expect(&mut self, status: u16, what: &str, request: Request) -> &Reply {
        let reply = self.send(what, request).await;
        assert_eq!(reply.status, status, "{what}: {}", reply.text);
        reply
    }

    pub(crate) fn leaks(&self, plants: &Plants) -> Vec<String> {
        let text = |reply: &Reply| format!("{:?}\n{}", reply.headers, reply.text);
        self.replies
            .iter()
            .flat_map(|(what, reply)| plants.found_in(what, &text(reply)))
            .collect()
    }
}
