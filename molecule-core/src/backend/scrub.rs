//! Keeps what a workspace was given out of the texts about it.

use aho_corasick::{AhoCorasick, MatchKind};
use molecule_hooks::{REDACTED, redact_token_shapes};

use super::StartSpec;

/// Shorter values are words, not secrets.
const SHORTEST: usize = 6;
/// Longest text that is passed on, in characters.
const LONGEST_TEXT: usize = 300;

/// Cleans texts that come from outside (a daemon's answer, an error of a
/// library) before they become part of an error.
pub(super) struct Scrubber(Option<AhoCorasick>);

impl Scrubber {
    /// Knows no values: token shapes are masked and the length is bounded.
    pub(super) fn plain() -> Self {
        Self::knowing(&[])
    }

    /// Knows the environment of a workspace and the words of those of its files
    /// that only their owner may read.
    pub(super) fn of(spec: &StartSpec) -> Self {
        let mut values = Vec::new();
        for (_, value) in &spec.env {
            learn(&mut values, value.expose());
        }
        for file in spec.files.iter().filter(|file| file.mode & 0o077 == 0) {
            let text = String::from_utf8_lossy(&file.content);
            text.split_whitespace()
                .for_each(|word| learn(&mut values, word));
            learn(&mut values, &text);
        }
        Self::knowing(&values)
    }

    /// Knows these values; one that is empty masks nothing.
    pub(super) fn knowing(values: &[String]) -> Self {
        let values = values.iter().filter(|value| !value.is_empty());
        Self(
            AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(values)
                .ok(),
        )
    }

    /// One line of at most 300 characters without anything secret.
    pub(super) fn clean(&self, text: &str) -> String {
        let Some(known) = &self.0 else {
            return REDACTED.to_owned();
        };
        let mut masked = String::with_capacity(text.len().min(4 * LONGEST_TEXT));
        known.replace_all_with(text, &mut masked, |_, _, out| {
            out.push_str(REDACTED);
            // What lies beyond is cut off anyway.
            out.len() < 16 * LONGEST_TEXT
        });
        redact_token_shapes(&masked)
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(LONGEST_TEXT)
            .collect()
    }
}

/// A value as it is, each of its lines, and how it looks inside JSON.
fn learn(values: &mut Vec<String>, value: &str) {
    let whole = value.trim();
    if whole.len() < SHORTEST {
        return;
    }
    values.push(whole.to_owned());
    if let Ok(quoted) = serde_json::to_string(whole) {
        let inner = quoted.trim_matches('"');
        if inner != whole {
            values.push(inner.to_owned());
        }
    }
    if whole.contains('\n') {
        let lines = whole
            .lines()
            .map(str::trim)
            .filter(|line| line.len() >= SHORTEST);
        values.extend(lines.map(str::to_owned));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{ConfigFile, WorkspaceAccess};

    fn spec() -> StartSpec {
        StartSpec {
            workspace_id: uuid::Uuid::nil(),
            runtime: String::new(),
            tier: 1,
            platform_url: String::new(),
            env: vec![
                ("KEY".to_owned(), "s3cr3t-value".into()),
                ("PEM".to_owned(), "first-line\nsecond-line".into()),
                ("SHORT".to_owned(), "two".into()),
            ],
            template_dir: None,
            template_root: None,
            files: vec![
                ConfigFile {
                    path: ".auth_token".to_owned(),
                    content: b"file-secret\n".to_vec(),
                    mode: 0o600,
                },
                ConfigFile {
                    path: "config.yaml".to_owned(),
                    content: b"public words".to_vec(),
                    mode: 0o644,
                },
            ],
            workspace_dir: None,
            workspace_access: WorkspaceAccess::None,
            existing_config: None,
            reset_session: false,
            image_pin: None,
            image: None,
            plugins: crate::backend::Plugins::none(),
            progress: crate::backend::Progress::none(),
        }
    }

    #[test]
    fn values_of_the_workspace_disappear_from_texts() {
        let scrubber = Scrubber::of(&spec());
        let echoed = "env [KEY=s3cr3t-value, PEM=first-line\\nsecond-line] two public words \
                      second-line file-secret";
        let clean = scrubber.clean(echoed);
        for secret in ["s3cr3t-value", "first-line", "second-line", "file-secret"] {
            assert!(!clean.contains(secret), "{clean}");
        }
        assert!(clean.contains("two public words"), "{clean}");
    }

    #[test]
    fn texts_become_one_bounded_line() {
        let clean = Scrubber::plain().clean(&"line\n".repeat(1000));
        assert_eq!(clean.chars().count(), LONGEST_TEXT);
        assert!(!clean.contains('\n'));
    }
}
