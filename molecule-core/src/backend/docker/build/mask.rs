//! Keeps credentials of the git host out of texts.

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use molecule_hooks::{Secret, redact_token_shapes};

/// What stands where a secret was.
const MASK: &str = "***";
/// Longest text that is passed on, in characters.
const LONGEST_TEXT: usize = 300;

/// Knows the secrets of local builds.
#[derive(Clone)]
pub(super) struct Mask {
    known: Option<AhoCorasick>,
    longest: usize,
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mask").finish_non_exhaustive()
    }
}

impl Mask {
    /// Masks these values as they are and in the forms in which they travel.
    pub(super) fn of<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut known = Vec::new();
        for secret in secrets {
            let value = secret.expose();
            if value.is_empty() {
                continue;
            }
            known.push(value.to_owned());
            known.push(STANDARD.encode(value));
            known.push(STANDARD_NO_PAD.encode(value));
            known.push(url::form_urlencoded::byte_serialize(value.as_bytes()).collect());
        }
        Self {
            longest: known.iter().map(String::len).max().unwrap_or_default(),
            known: AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(&known)
                .ok(),
        }
    }

    /// [`hide`](Self::hide) for a text that was cut off. The cut may have gone through
    /// a secret, whose beginning nothing would recognise: it goes too.
    pub(super) fn hide_cut(&self, text: &str) -> String {
        let mut masked = self.hide(text);
        let mut end = masked.len().saturating_sub(self.longest);
        while !masked.is_char_boundary(end) {
            end -= 1;
        }
        masked.truncate(end);
        masked
    }

    /// The text without secrets: known values become `***`, names and passwords in
    /// URLs `***@`.
    pub(super) fn hide(&self, text: &str) -> String {
        let Some(known) = &self.known else {
            return MASK.to_owned();
        };
        let mut masked = String::with_capacity(text.len());
        known.replace_all_with(text, &mut masked, |_, _, out| {
            out.push_str(MASK);
            true
        });
        // Tokens that are not ours have a shape.
        hide_userinfo(&redact_token_shapes(&masked))
    }

    /// [`hide`](Self::hide), as one line of at most 300 characters.
    pub(super) fn line(&self, text: &str) -> String {
        let hidden = self.hide(text);
        let plain = hidden.chars().map(|c| if c.is_control() { ' ' } else { c });
        let bounded: String = plain.take(LONGEST_TEXT).collect();
        bounded.trim().to_owned()
    }
}

/// Replaces everything between `://` and the last `@` of the same authority.
fn hide_userinfo(text: &str) -> String {
    let ends = |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"' | '\'' | '<' | '>');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let authority = &after[..after.find(ends).unwrap_or(after.len())];
        match authority.rfind('@') {
            Some(at) => {
                out.push_str(MASK);
                rest = &after[at..];
            }
            None => rest = after,
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tokens_and_userinfo_become_stars_in_every_form() {
        let mask = Mask::of([
            &Secret::new("t0k+n value"),
            &Secret::new("oauth2:t0k+n value"),
        ]);
        let basic = STANDARD.encode("oauth2:t0k+n value");
        for (text, shown) in [
            ("a t0k+n value b", "a *** b".to_owned()),
            (
                "fatal: unable to access 'https://oauth2:t0k+n value@h/o/r/'",
                "fatal: unable to access 'https://***@h/o/r/'".to_owned(),
            ),
            (
                "https://u:p@h:1/x http://a@b",
                "https://***@h:1/x http://***@b".to_owned(),
            ),
            ("https://h/x@y", "https://h/x@y".to_owned()),
            ("https://u:p@x@h/", "https://***@h/".to_owned()),
            ("key t0k%2Bn+value", "key ***".to_owned()),
        ] {
            assert_eq!(mask.hide(text), shown);
        }
        assert!(
            !mask
                .hide(&format!("Authorization: Basic {basic}"))
                .contains(&basic)
        );
        assert!(!format!("{mask:?}").contains("t0k"));
    }

    #[test]
    fn a_line_is_bounded_and_has_no_control_characters() {
        let line = Mask::of([]).line(&"a\x1b\n\tb".repeat(500));
        assert!(line.chars().count() <= LONGEST_TEXT);
        assert!(!line.chars().any(char::is_control));
    }

    proptest! {
        #[test]
        fn no_text_shows_a_token(
            before in ".{0,40}", after in ".{0,40}", token in "[A-Za-z0-9_-]{8,60}",
        ) {
            let mask = Mask::of([&Secret::new(token.clone())]);
            for text in [
                format!("{before}{token}{after}"),
                format!("https://oauth2:{token}@host/{after}"),
                format!("{before}{}", STANDARD.encode(&token)),
            ] {
                prop_assert!(!mask.hide(&text).contains(&token));
                prop_assert!(!mask.hide(&text).contains(&STANDARD.encode(&token)));
            }
        }

        #[test]
        fn masking_takes_any_text(text in any::<String>()) {
            let mask = Mask::of([&Secret::new("sesame-open")]);
            prop_assert!(mask.line(&text).chars().count() <= LONGEST_TEXT);
        }
    }
}
