//! The text that names a plugin.

use std::fmt;

/// The scheme of bare names.
pub(in crate::plugins) const LOCAL: &str = "local";
/// Longest text that names a plugin, in bytes.
const MAX_BYTES: usize = 2048;

/// `scheme://spec`. `Display` is this raw form, which answers and the database carry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::plugins) struct SourceRef {
    /// Who is asked. Compared with case.
    pub(in crate::plugins) scheme: String,
    /// What is asked for. Never empty, never with a space at either end.
    pub(in crate::plugins) spec: String,
}

/// The text names no plugin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid plugin source: {0}")]
pub(in crate::plugins) struct InvalidSource(pub(in crate::plugins) &'static str);

impl SourceRef {
    /// Reads `scheme://spec` or a bare name, which is one of `local`.
    ///
    /// # Errors
    /// [`InvalidSource`]: nothing there, nothing behind the scheme, too long, or with
    /// control characters.
    pub(in crate::plugins) fn parse(text: &str) -> Result<Self, InvalidSource> {
        let text = text.trim();
        if text.is_empty() {
            return Err(InvalidSource("it is empty"));
        }
        if text.len() > MAX_BYTES {
            return Err(InvalidSource("it is too long"));
        }
        // No source shall see one, and a raw form shall mean the same when it is read again.
        if text.contains(char::is_control) {
            return Err(InvalidSource("it has control characters"));
        }
        let named = text.split_once("://");
        let named = named.filter(|(scheme, _)| is_scheme(scheme));
        let Some((scheme, spec)) = named else {
            if text.len() > MAX_BYTES - LOCAL.len() - "://".len() {
                return Err(InvalidSource("it is too long"));
            }
            return Ok(Self {
                scheme: LOCAL.to_owned(),
                spec: text.to_owned(),
            });
        };
        let spec = spec.trim();
        if spec.is_empty() {
            return Err(InvalidSource("nothing stands behind the scheme"));
        }
        Ok(Self {
            scheme: scheme.to_owned(),
            spec: spec.to_owned(),
        })
    }
}

impl fmt::Display for SourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.spec)
    }
}

/// A letter, then letters, digits, `+`, `.`, `-`.
pub(super) fn is_scheme(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'.' | b'-');
    text.bytes()
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic())
        && text.bytes().all(plain)
}

/// A spec with another fragment, the part behind its first `#`; without any if the
/// fragment is empty.
pub(in crate::plugins) fn with_fragment(spec: &str, fragment: &str) -> String {
    let base = spec.split_once('#').map_or(spec, |(base, _)| base);
    match fragment {
        "" => base.to_owned(),
        fragment => format!("{base}#{fragment}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Option<(String, String)> {
        let source = SourceRef::parse(text).ok()?;
        Some((source.scheme, source.spec))
    }

    #[test]
    fn a_scheme_is_told_from_a_bare_name() {
        for (text, scheme, spec) in [
            ("local://my-plugin", "local", "my-plugin"),
            ("  my-plugin\n", "local", "my-plugin"),
            ("github://o/r#tag:v1.0", "github", "o/r#tag:v1.0"),
            ("GitHub:// o/r ", "GitHub", "o/r"),
            ("a+b.c-1://x://y", "a+b.c-1", "x://y"),
            // No scheme at all, so a name that `local` refuses.
            ("1x://y", "local", "1x://y"),
            ("://y", "local", "://y"),
            ("a b://y", "local", "a b://y"),
            ("github:o/r", "local", "github:o/r"),
        ] {
            let expected = Some((scheme.to_owned(), spec.to_owned()));
            assert_eq!(parsed(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_names_nothing_is_refused() {
        let long = format!("github://{}", "x".repeat(MAX_BYTES));
        let long_name = "x".repeat(MAX_BYTES);
        for text in [
            "",
            " \t\n",
            "github://",
            "github://  ",
            "github://o/r\n../x",
            "a\nb",
            "x://a\0b",
            &long,
            &long_name,
        ] {
            assert_eq!(parsed(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_fragment_is_replaced_added_and_removed() {
        for (spec, fragment, expected) in [
            ("o/r#v1", "sha:1", "o/r#sha:1"),
            ("o/r#v1#v2", "v3", "o/r#v3"),
            ("o/r", "v3", "o/r#v3"),
            ("o/r#v1", "", "o/r"),
        ] {
            assert_eq!(with_fragment(spec, fragment), expected);
        }
    }

    proptest! {
        #[test]
        fn the_raw_form_means_the_same(text in any::<String>()) {
            if let Ok(source) = SourceRef::parse(&text) {
                prop_assert_eq!(SourceRef::parse(&source.to_string()), Ok(source));
            }
        }

        #[test]
        fn any_text_is_taken_or_refused(text in any::<String>()) {
            let _ = SourceRef::parse(&text).map(|source| with_fragment(&source.spec, &text));
        }

        #[test]
        fn schemes_and_specs_are_told_apart(
            scheme in "[A-Za-z][A-Za-z0-9+.-]{0,9}", spec in "[!-~]([ -~]{0,20}[!-~])?",
        ) {
            let source = SourceRef::parse(&format!("{scheme}://{spec}")).unwrap();
            prop_assert_eq!((source.scheme, source.spec), (scheme, spec));
        }
    }
}
