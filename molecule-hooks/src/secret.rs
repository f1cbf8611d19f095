use std::fmt;
use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

/// A value that must not be seen: a token, a password, a private key.
///
/// `Debug` prints `[REDACTED]`, there is no `Display` and no `Serialize`, and
/// the memory is wiped on drop. Reading it takes a deliberate
/// [`expose`](Secret::expose).
///
/// ```
/// use molecule_hooks::Secret;
/// let password = Secret::new("hunter22");
/// assert_eq!(format!("{password:?}"), "[REDACTED]");
/// assert_eq!(password.expose(), "hunter22");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(Zeroizing::new(value.into()))
    }

    /// The value itself. Every call of this is a place to review.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// True when the value is the empty string.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self::new(value)
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self::new(value)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// What stands in a text where a secret was.
pub const REDACTED: &str = "[REDACTED]";

/// Prefixes that only credentials have: GitHub, GitLab, Slack, AWS and
/// model-provider keys, and the start of a JWT. Matched without regard to what
/// surrounds them; the run of token characters that follows is masked.
const TOKEN_PREFIXES: &[&str] = &[
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "AKIA",
    "ASIA",
    "sk-",
    "eyJ",
    "Bearer ",
    "bearer ",
    "Basic ",
    "basic ",
    "PRIVATE KEY-----",
];

/// A run shorter than this after a prefix is prose ("sk-lite"), not a token.
const SHORTEST_TOKEN: usize = 12;

static PREFIXES: LazyLock<Option<AhoCorasick>> =
    LazyLock::new(|| AhoCorasick::new(TOKEN_PREFIXES).ok());

/// Masks everything in `text` that has the shape of a credential: tokens with a
/// well-known prefix, bearer and basic credentials, PEM bodies and the user
/// information of URLs. Text without any is returned as it is.
///
/// The shapes are a second line of defence. The first is not to write secrets
/// into messages at all.
///
/// ```
/// use molecule_hooks::redact_token_shapes;
/// let text = "clone https://oauth2:abc@example.org failed: ghs_0123456789abcdef";
/// assert_eq!(
///     redact_token_shapes(text),
///     "clone https://[REDACTED]@example.org failed: [REDACTED]"
/// );
/// ```
pub fn redact_token_shapes(text: &str) -> String {
    let masked = mask_prefixed(text);
    mask_userinfo(&masked)
}

fn mask_prefixed(text: &str) -> String {
    let Some(prefixes) = PREFIXES.as_ref() else {
        return REDACTED.to_owned();
    };
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for found in prefixes.find_iter(text) {
        if found.start() < done {
            continue;
        }
        let prefix = &text[found.range()];
        let pem = prefix.starts_with("PRIVATE KEY");
        let tail = &text[found.end()..];
        let run = tail
            .find(|c: char| !(is_token_char(c) || pem && (c.is_whitespace() || c == '\\')))
            .unwrap_or(tail.len());
        if run < SHORTEST_TOKEN || is_prose(&text[..found.start()], prefix, &tail[..run]) {
            continue;
        }
        out.push_str(&text[done..found.start()]);
        if prefix.ends_with(' ') || pem {
            out.push_str(prefix);
        }
        out.push_str(REDACTED);
        done = found.end() + run;
    }
    out.push_str(&text[done..]);
    out
}

/// Prefixes that are also the end of a word ("task-runner-name") or the start of
/// a sentence ("Basic authentication failed").
fn is_prose(before: &str, prefix: &str, run: &str) -> bool {
    match prefix {
        "sk-" => {
            // A letter that ends an escape such as `\n` starts a new word.
            let escape = matches!(before.as_bytes(), [.., b'\\', _]);
            before.ends_with(|c: char| c.is_ascii_alphanumeric()) && !escape
        }
        "Basic " | "basic " => run.bytes().all(|b| b.is_ascii_lowercase()),
        _ => false,
    }
}

fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+' | '/' | '=' | '~')
}

fn mask_userinfo(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\''))
            .unwrap_or(after.len());
        // A colon before the end may belong to the next "://": look there again.
        let end = end - usize::from(after[..end].ends_with(':'));
        match after[..end].rfind('@') {
            Some(user) => {
                out.push_str(REDACTED);
                out.push_str(&after[user..end]);
            }
            None => out.push_str(&after[..end]),
        }
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_left_alone() {
        for text in [
            "",
            "a sk-lite thing",
            "https://example.org/a@b",
            "no secrets here",
            "hook task-dispatcher-for-agents failed",
            "Basic authentication failed",
        ] {
            assert_eq!(redact_token_shapes(text), text);
        }
    }

    #[test]
    fn a_bearer_keeps_its_scheme_and_loses_its_token() {
        assert_eq!(
            redact_token_shapes("Authorization: Bearer 0123456789abcdef, ok"),
            "Authorization: Bearer [REDACTED], ok"
        );
    }

    #[test]
    fn the_user_information_of_every_url_in_a_chain_is_masked() {
        assert_eq!(
            redact_token_shapes("via http://https://me:pw@host/x and ftp://a@b"),
            "via http://https://[REDACTED]@host/x and ftp://[REDACTED]@b"
        );
    }

    #[test]
    fn a_key_after_an_escape_or_a_sign_is_masked() {
        for text in ["key=sk-0123456789abcdef", "line\\nsk-0123456789abcdef"] {
            assert!(!redact_token_shapes(text).contains("0123456789"), "{text}");
        }
    }

    #[test]
    fn a_private_key_body_is_masked() {
        let pem =
            "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQ\n-----END PRIVATE KEY-----";
        assert!(!redact_token_shapes(pem).contains("MIIEv"));
        assert!(!redact_token_shapes(pem).contains("hkiG9w"));
    }
}
