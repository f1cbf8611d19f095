//! Windows line ends become Unix line ends, piece by piece.

/// Turns each `\r\n` of a stream into `\n` and leaves every other `\r` alone.
#[derive(Debug, Default)]
pub(super) struct LineEnds {
    /// A `\r` that ended the last piece: only the next byte says what it was.
    held: bool,
}

impl LineEnds {
    /// Puts back what was held, before the next piece is appended to `buffer`.
    pub(super) fn resume(&mut self, buffer: &mut Vec<u8>) {
        if std::mem::take(&mut self.held) {
            buffer.push(b'\r');
        }
    }

    /// Converts what `buffer` holds from `from` on, where [`resume`](Self::resume)
    /// began. `last` says that nothing follows.
    pub(super) fn convert(&mut self, buffer: &mut Vec<u8>, from: usize, last: bool) {
        let Some(first) = buffer[from..].iter().position(|byte| *byte == b'\r') else {
            return;
        };
        let (begin, end) = (from + first, buffer.len());
        let mut to = begin;
        for at in begin..end {
            if buffer[at] == b'\r' {
                if at + 1 == end && !last {
                    self.held = true;
                    continue;
                }
                if at + 1 < end && buffer[at + 1] == b'\n' {
                    continue;
                }
            }
            buffer[to] = buffer[at];
            to += 1;
        }
        buffer.truncate(to);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn in_pieces(text: &[u8], size: usize) -> Vec<u8> {
        let mut ends = LineEnds::default();
        let mut out = Vec::new();
        let pieces: Vec<&[u8]> = text.chunks(size).collect();
        for (nth, piece) in pieces.iter().enumerate() {
            let from = out.len();
            ends.resume(&mut out);
            out.extend_from_slice(piece);
            ends.convert(&mut out, from, nth + 1 == pieces.len());
        }
        out
    }

    #[test]
    fn only_carriage_returns_before_line_feeds_go() {
        for size in 1..12 {
            assert_eq!(in_pieces(b"a\r\nb\rc\r\n\r", size), b"a\nb\rc\n\r");
            assert_eq!(in_pieces(b"\r\r\n\n", size), b"\r\n\n");
        }
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            text in prop::collection::vec(prop::sample::select(vec![b'\r', b'\n', b'x']), 0..40),
            size in 1_usize..9,
        ) {
            let whole = String::from_utf8(text.clone()).unwrap().replace("\r\n", "\n");
            prop_assert_eq!(in_pieces(&text, size), whole.as_bytes());
        }
    }
}
