//! Names of files of a tree.

/// Longest path below the root, in bytes: with what a target puts before it, it stays
/// below the 4096 that a call of the kernel takes.
pub(super) const MAX_PATH_BYTES: usize = 1024;
/// How much of a name is shown.
const MAX_SHOWN_CHARS: usize = 200;

/// The name as text, if a file of a tree may have it.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(name: &[u8]) -> Result<&str, &'static str> {
    let text = std::str::from_utf8(name).map_err(|_| "is not UTF-8")?;
    if text.is_empty() || text == "." || text == ".." || text.contains('/') {
        return Err("is none");
    }
    if text.contains('\\') {
        return Err("has a backslash");
    }
    match text.chars().any(is_invisible) {
        true => Err("has control characters"),
        false => Ok(text),
    }
}

/// Control characters, what breaks lines, and what turns the direction of writing.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What two names have in common that a file system without case takes for one.
pub(super) fn folded(name: &str) -> String {
    name.chars().flat_map(char::to_lowercase).collect()
}

/// A name, or a part of one, as a log or an answer may show it.
pub(super) fn shown(name: &[u8]) -> String {
    let escaped: String = match std::str::from_utf8(name) {
        Ok(text) => text.chars().flat_map(char::escape_debug).collect(),
        Err(_) => name.escape_ascii().to_string(),
    };
    match escaped.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &escaped[..end]),
        None => escaped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn odd_names_are_data_and_dangerous_ones_are_refused() {
        for name in [
            "a",
            ".x",
            "..x",
            "x..",
            "$(id)",
            "%2E",
            "`a`",
            "it's \"fine\"",
            " ",
            "-rf",
            "ünï",
            "漢字",
            "a:b",
            "*",
            "~",
            "CON",
        ] {
            assert_eq!(check(name.as_bytes()), Ok(name));
        }
        for name in [
            &b"a\nb"[..],
            b"\x1b[31m",
            b"a\0",
            b"\x7f",
            b"a\\b",
            b"\xff",
            b"\xc3\x28",
            b"",
            b".",
            b"..",
            b"a/b",
            "a\u{202e}b".as_bytes(),
            "a\u{85}".as_bytes(),
            "a\u{2028}".as_bytes(),
        ] {
            assert!(check(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn names_are_shown_without_what_a_terminal_obeys() {
        assert_eq!(shown(b"a\nb\x1b"), r"a\nb\u{1b}");
        assert_eq!(shown(b"\xff\n"), r"\xff\n");
        assert_eq!(shown("x".repeat(1000).as_bytes()).chars().count(), 201);
        assert_eq!(folded("ÄÖ.MD"), folded("äö.md"));
        assert_eq!(folded("ΑΣ"), folded("ασ"));
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_answer_and_can_be_shown(name in prop::collection::vec(any::<u8>(), 0..300)) {
            let text = shown(&name);
            prop_assert!(!text.chars().any(char::is_control));
            prop_assert!(text.chars().count() <= MAX_SHOWN_CHARS + 1);
            if let Ok(name) = check(&name) {
                let first = folded(name);
                prop_assert_eq!(folded(&first.to_uppercase()).is_empty(), first.is_empty());
            }
        }
    }
}
