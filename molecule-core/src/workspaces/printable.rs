//! Makes what a machine printed safe to show: in a page, and in a terminal that
//! would obey it.

/// The text without escape sequences and control characters but line breaks and
/// tabs. A carriage return, with which programs write over a line, begins a new one.
/// Works line by line: an escape sequence ends with its line.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(next) = rest.next() {
        match next {
            '\n' | '\t' => shown.push(next),
            '\r' if rest.peek() == Some(&'\n') => {}
            '\r' => shown.push('\n'),
            '\u{1b}' => match rest.next_if(|&kind| kind != '\n') {
                Some('[') => skip_control_sequence(&mut rest),
                Some(']' | 'P' | 'X' | '^' | '_') => skip_string(&mut rest),
                // Two characters, or more with some between.
                Some(' '..='/') => {
                    while rest.next_if(|c| (' '..='/').contains(c)).is_some() {}
                    rest.next_if(|&last| last != '\n');
                }
                Some(_) | None => {}
            },
            '\u{9b}' => skip_control_sequence(&mut rest),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => skip_string(&mut rest),
            // They let a line look like another one.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
            _ if next.is_control() => {}
            _ => shown.push(next),
        }
    }
    shown
}

type Rest<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// Colours, movements: up to the first letter.
fn skip_control_sequence(rest: &mut Rest<'_>) {
    while rest.next_if(|c| (' '..='?').contains(c)).is_some() {}
    rest.next_if(|last| ('@'..='~').contains(last));
}

/// Titles, links: up to their terminator.
fn skip_string(rest: &mut Rest<'_>) {
    while let Some(next) = rest.next_if(|&c| c != '\n') {
        match next {
            '\u{7}' | '\u{9c}' => return,
            '\u{1b}' => {
                rest.next_if_eq(&'\\');
                return;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_and_controls_are_left_out() {
        for (printed, shown) in [
            ("plain é\ttext\n", "plain é\ttext\n"),
            ("\u{1b}[1;31mred\u{1b}[0m", "red"),
            (
                "\u{1b}]0;title\u{7}a\u{1b}]8;;http://x\u{1b}\\link",
                "alink",
            ),
            ("\u{1b}]0;never ended\nnext", "\nnext"),
            ("\u{1b}[12;\nnext\u{1b}\nlast\u{1b}", "\nnext\nlast"),
            ("\u{1b}(B\u{1b}#8\u{1b}cok", "ok"),
            ("\u{9b}31mred\u{9d}0;t\u{9c}!", "red!"),
            ("10%\r20%\r\n", "10%\n20%\n"),
            ("a\0b\u{8}\u{7f}c", "abc"),
            ("\u{202e}live", "live"),
        ] {
            assert_eq!(printable(printed), shown, "{printed:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_shown_is_a_control(text in any::<String>(), more in "[\u{1b}\u{9b}\\[\\]0-9;m\r\n\u{7}a]{0,60}") {
            let shown = printable(&format!("{text}{more}"));
            prop_assert!(shown.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'));
            prop_assert_eq!(printable(&shown), shown);
        }

        #[test]
        fn plain_text_stays_as_it_is(text in "[a-zA-Z0-9 éß€.\n\t]{0,60}") {
            prop_assert_eq!(printable(&text), text);
        }
    }
}
