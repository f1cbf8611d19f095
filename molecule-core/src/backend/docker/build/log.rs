//! From the output of a build to lines that can be shown.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::mask::Mask;

/// Bytes of one line that are looked at.
const MAX_LINE_BYTES: usize = 4096;
/// Characters of one line that are shown.
const SHOWN_CHARS: usize = 200;
/// Lines kept for the error of a build.
const TAIL_LINES: usize = 20;
/// Time between two lines that are passed on, unless a line begins a step.
const PACE: Duration = Duration::from_millis(500);

/// Cuts output into lines. Memory is bounded whatever comes in.
#[derive(Default)]
pub(super) struct Lines {
    open: Vec<u8>,
    overflow: bool,
}

impl Lines {
    /// Takes more output and hands out the lines that it ended. A carriage return
    /// ends a line too: that is how progress bars are drawn.
    pub(super) fn push(&mut self, text: &str, mask: &Mask) -> Vec<String> {
        let mut done = Vec::new();
        for byte in text.bytes() {
            if byte == b'\n' || byte == b'\r' {
                done.extend(self.end(mask));
            } else if self.open.len() < MAX_LINE_BYTES {
                self.open.push(byte);
            } else {
                self.overflow = true;
            }
        }
        done
    }

    /// The line that is still open; none if it is blank.
    pub(super) fn end(&mut self, mask: &Mask) -> Option<String> {
        let line = std::mem::take(&mut self.open);
        let line = without_escapes(&String::from_utf8_lossy(&line));
        let masked = if std::mem::take(&mut self.overflow) {
            mask.hide_cut(&line)
        } else {
            mask.hide(&line)
        };
        let shown: String = masked.chars().take(SHOWN_CHARS).collect();
        let shown = shown.trim_end();
        (!shown.is_empty()).then(|| shown.to_owned())
    }
}

/// Leaves out what terminals take as commands.
fn without_escapes(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => match chars.next() {
                // A control sequence ends with a letter or so.
                Some('[') => while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
                // A title or a link ends with a bell or `ESC \`.
                Some(']' | 'P' | '^' | '_') => {
                    while let Some(c) = chars.next() {
                        if c == '\x07' || c == '\x1b' && chars.next_if_eq(&'\\').is_some() {
                            break;
                        }
                    }
                }
                _ => {}
            },
            '\t' => out.push(' '),
            c if c.is_control() || is_invisible(c) => {}
            c => out.push(c),
        }
    }
    out
}

/// Characters that change how the text around them is read.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// How much of a build is done, if the line begins a step: `Step 2/7 : RUN …`.
pub(super) fn percent(line: &str) -> Option<u8> {
    let (step, _) = line.strip_prefix("Step ")?.split_once(" : ")?;
    let (step, of) = step.split_once('/')?;
    let (step, of): (u32, u32) = (step.parse().ok()?, of.parse().ok()?);
    if step == 0 || of < step || of > 10_000 {
        return None;
    }
    // What begins is not done yet.
    u8::try_from((step - 1) * 100 / of).ok()
}

/// The last lines, and which of all lines are worth passing on.
pub(super) struct Digest {
    tail: VecDeque<String>,
    told: Option<Instant>,
}

impl Digest {
    pub(super) fn new() -> Self {
        Self {
            tail: VecDeque::new(),
            told: None,
        }
    }

    /// Keeps a line, and answers whether to pass it on.
    pub(super) fn take(&mut self, line: &str) -> bool {
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line.to_owned());
        let now = Instant::now();
        let due = self
            .told
            .is_none_or(|told| now.duration_since(told) >= PACE);
        if due || percent(line).is_some() {
            self.told = Some(now);
            return true;
        }
        false
    }

    /// The last lines as one text.
    pub(super) fn tail(&self) -> String {
        let lines: Vec<&str> = self.tail.iter().map(String::as_str).collect();
        lines.join(" | ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use molecule_hooks::Secret;
    use proptest::prelude::*;

    fn all(chunks: &[&str], mask: &Mask) -> Vec<String> {
        let mut lines = Lines::default();
        let mut done: Vec<String> = chunks.iter().flat_map(|c| lines.push(c, mask)).collect();
        done.extend(lines.end(mask));
        done
    }

    #[test]
    fn lines_come_whole_however_they_were_cut() {
        let mask = Mask::of([]);
        let found = all(
            &["Step 1/2 : FR", "OM scratch\n --->", "\r\n10%\r20%\n\nend"],
            &mask,
        );
        assert_eq!(
            found,
            ["Step 1/2 : FROM scratch", " --->", "10%", "20%", "end"]
        );
    }

    #[test]
    fn colours_titles_and_control_characters_go() {
        let mask = Mask::of([]);
        let text = "\x1b[31mred\x1b[0m \x1b]0;title\x07x\x1b]8;;u\x1b\\y\x00\x08\u{202e}z";
        assert_eq!(all(&[text], &mask), ["red xyz"]);
    }

    #[test]
    fn a_token_is_masked_also_where_a_line_is_cut() {
        let token = "s3cret-token-".repeat(20);
        let mask = Mask::of([&Secret::new(token.clone())]);
        for before in 0..400 {
            let line = format!("{}{}", " ".repeat(before), token.repeat(40));
            for shown in all(&[&line], &mask) {
                assert!(!shown.contains("s3cret"), "{shown}");
            }
        }
        let (first, second) = token.split_at(7);
        let shown = all(&["https://x:", first, second, "@host\n"], &mask);
        assert_eq!(shown, ["https://***@host"]);
    }

    #[test]
    fn steps_tell_how_far_a_build_is() {
        assert_eq!(percent("Step 1/4 : FROM scratch"), Some(0));
        assert_eq!(percent("Step 4/4 : CMD x"), Some(75));
        for line in [
            "Step 5/4 : x",
            "Step 0/4 : x",
            "Step a/b : x",
            "Step 1/4",
            "STEP 1/4 : x",
            "",
        ] {
            assert_eq!(percent(line), None, "{line}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lines_are_thinned_out_but_for_steps_and_the_last_are_kept() {
        let mut digest = Digest::new();
        assert!(digest.take("first"));
        assert!(!digest.take("second"));
        assert!(digest.take("Step 2/3 : RUN x"));
        tokio::time::advance(PACE).await;
        assert!(digest.take("third"));
        for number in 0..30 {
            digest.take(&number.to_string());
        }
        assert!(digest.tail().starts_with("10 | 11 | "), "{}", digest.tail());
    }

    proptest! {
        #[test]
        fn no_output_makes_long_or_unprintable_lines(chunks in prop::collection::vec(any::<String>(), 0..8)) {
            let mask = Mask::of([]);
            let chunks: Vec<&str> = chunks.iter().map(String::as_str).collect();
            for line in all(&chunks, &mask) {
                prop_assert!(line.chars().count() <= SHOWN_CHARS);
                prop_assert!(!line.chars().any(char::is_control));
            }
        }
    }
}
