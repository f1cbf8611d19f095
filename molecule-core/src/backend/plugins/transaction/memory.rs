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
