//! The memory file of an agent, and the blocks that plugins have in it.

/// Begins a block: `# Plugin: <name> / rule: <file>`.
const BEGIN: &[u8] = b"# Plugin: ";
/// Ends a block of a runtime that marks the end, with what followed [`BEGIN`].
const END: &[u8] = b"# End plugin: ";

/// Takes the blocks of the plugin `name` out of `text` and answers with how many bytes
/// are left at its beginning.
///
/// A block goes from a line that starts with `# Plugin: <name> /` to its end line. One
/// without goes to the second blank line after its first, to the next line that starts
/// with `# Plugin: ` (which stays) or to the end.
pub(crate) fn strip(text: &mut [u8], name: &[u8]) -> usize {
    let (mut at, mut kept) = (0, 0);
    while at < text.len() {
        let end = line_end(text, at);
        let next = match is_own(&text[at..end], name) {
            true => block_end(text, at, end),
            false => {
                text.copy_within(at..end, kept);
                kept += end - at;
                end
            }
        };
        at = next;
    }
    kept
}

fn is_own(line: &[u8], name: &[u8]) -> bool {
    let rest = line.strip_prefix(BEGIN);
    let rest = rest.and_then(|rest| rest.strip_prefix(name));
    rest.is_some_and(|rest| rest.starts_with(b" /"))
}

/// Where the block ends whose first line is `begin..after`.
fn block_end(text: &[u8], begin: usize, after: usize) -> usize {
    let title = text[begin..after].trim_ascii_end();
    let title = title.get(BEGIN.len()..).unwrap_or_default();
    let (mut at, mut blanks, mut unmarked) = (after, 0, None);
    while at < text.len() {
        let end = line_end(text, at);
        let line = text[at..end].trim_ascii_end();
        if text[at..end].starts_with(BEGIN) {
            break;
        }
        if line.strip_prefix(END) == Some(title) {
            // The blank line after it parted it from the next.
            let next = line_end(text, end);
            let blank = text[end..next].trim_ascii().is_empty();
            return if blank { next } else { end };
        }
        if line.is_empty() {
            blanks += 1;
            if blanks == 2 {
                unmarked = Some(end);
            }
        }
        at = end;
    }
    unmarked.unwrap_or(at)
}

/// Where the line ends that begins at `at`, with its line break.
fn line_end(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    let length = rest.iter().position(|c| *c == b'\n');
    at + length.map_or(rest.len(), |length| length + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    fn strip(text: &str, name: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        let left = super::strip(&mut bytes, name.as_bytes());
        String::from_utf8(bytes[..left].to_vec()).unwrap()
    }

    #[test]
    fn a_block_goes_up_to_the_second_blank_line() {
        let text = "mine\n\n# Plugin: a / rule: x.md\n\nrule\nof a\n\nalso mine\n";
        assert_eq!(strip(text, "a"), "mine\n\nalso mine\n");
        for other in ["b", "A", "a / rule", ""] {
            assert_eq!(strip(text, other), text, "{other:?}");
        }
        // Also with the line ends of another system, and at the end of the file
        let text = "# Plugin: a / fragment: y\r\n\r\ntext\r\n\r\nmine\r\n";
        assert_eq!(strip(text, "a"), "mine\r\n");
        assert_eq!(
            strip("mine\n# Plugin: a / rule: x\n\nno end", "a"),
            "mine\n"
        );
        assert_eq!(strip("# Plugin: a / rule: x", "a"), "");
    }

    #[test]
    fn a_block_ends_where_the_next_one_begins() {
        let text = "# Plugin: a / rule: x\n\none\n# Plugin: b / rule: y\n\ntwo\n\n\
                    # Plugin: a / rule: z\n# Plugin: a-b / rule: z\n\nthree\n";
        let left = "# Plugin: b / rule: y\n\ntwo\n\n# Plugin: a-b / rule: z\n\nthree\n";
        assert_eq!(strip(text, "a"), left);
        let without_b = "# Plugin: a / rule: x\n\none\n# Plugin: a / rule: z\n\
                         # Plugin: a-b / rule: z\n\nthree\n";
        assert_eq!(strip(text, "b"), without_b);
    }

    #[test]
    fn a_block_with_an_end_goes_up_to_its_end() {
        let text = "mine\n\n# Plugin: a / rule: x\n\none\n\ntwo\n\n\nthree\n\
                    # End plugin: a / rule: x\n\nalso mine\n\nand this\n";
        assert_eq!(strip(text, "a"), "mine\n\nalso mine\n\nand this\n");
        // The end of another block is none of this one
        let text = "# Plugin: a / rule: x\n\none\n\nmine\n\n# Plugin: b / rule: x\n\nb\n\
                    # End plugin: a / rule: x\n";
        let left = "mine\n\n# Plugin: b / rule: x\n\nb\n# End plugin: a / rule: x\n";
        assert_eq!(strip(text, "a"), left);
    }

    proptest! {
        #[test]
        fn what_is_left_was_there_and_is_nobodys(
            lines in prop::collection::vec(
                prop_oneof![
                    Just("# Plugin: a / rule: x\n"), Just("# Plugin: b / rule: x\n"),
                    Just("# End plugin: a / rule: x\n"), Just("\n"), Just("text\n"),
                    Just("# Plugin: a / "), Just("\r\n"), Just("# Plugin: "),
                ], 0..20)
        ) {
            let text = lines.concat();
            let left = strip(&text, "a");
            prop_assert!(!left.lines().any(|line| line.starts_with("# Plugin: a /")));
            // A second time there is nothing to do
            prop_assert_eq!(strip(&left, "a"), left.clone());
            // Whole lines, in their order
            let mut rest = text.split_inclusive('\n');
            for line in left.split_inclusive('\n') {
                prop_assert!(rest.any(|there| there == line), "{:?} of {:?}", line, text);
            }
        }
    }
}
