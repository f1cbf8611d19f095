//! How notices look inside `NOTIFY` payloads.
//!
//! The notices of a batch are one text: `<letter><bytes>:<payload>` for each. The
//! text is cut into parts, and a payload is `<version> <origin> <batch> <part>
//! <last>`, a line break and one part.

use super::Topic;

/// PostgreSQL refuses payloads of 8000 bytes; the head of a part takes up to 80.
const MAX_PART_BYTES: usize = 7_900;
/// Another version of this format is somebody we do not understand.
const VERSION: &str = "1";

/// One thing that servers tell each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// For the subscribers of a topic.
    Message(Topic, String),
    /// Messages of a topic were dropped.
    Gap(Topic),
    /// I am here.
    Hello,
    /// I am leaving.
    Bye,
}

impl Item {
    /// Its length in a batch, but for a few bytes.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Message(_, payload) => payload.len(),
            Self::Gap(_) | Self::Hello | Self::Bye => 0,
        }
    }

    fn letter(&self) -> char {
        match self {
            Self::Message(Topic::Event, _) => 'e',
            Self::Message(Topic::TokensRevoked, _) => 't',
            Self::Message(Topic::WorkspaceChanged, _) => 'w',
            Self::Gap(Topic::Event) => 'E',
            Self::Gap(Topic::TokensRevoked) => 'T',
            Self::Gap(Topic::WorkspaceChanged) => 'W',
            Self::Hello => 'h',
            Self::Bye => 'b',
        }
    }

    fn from_parts(letter: char, payload: &str) -> Option<Self> {
        Some(match letter {
            'e' => Self::Message(Topic::Event, payload.to_owned()),
            't' => Self::Message(Topic::TokensRevoked, payload.to_owned()),
            'w' => Self::Message(Topic::WorkspaceChanged, payload.to_owned()),
            'E' => Self::Gap(Topic::Event),
            'T' => Self::Gap(Topic::TokensRevoked),
            'W' => Self::Gap(Topic::WorkspaceChanged),
            'h' => Self::Hello,
            'b' => Self::Bye,
            _ => return None,
        })
    }
}

/// Appends a notice to the text of a batch.
pub(super) fn append(text: &mut String, item: &Item) {
    let payload = match item {
        Item::Message(_, payload) => payload.as_str(),
        Item::Gap(_) | Item::Hello | Item::Bye => "",
    };
    text.push(item.letter());
    text.push_str(&payload.len().to_string());
    text.push(':');
    text.push_str(payload);
}

/// Reads the text of a batch; none when it is not one.
pub(super) fn read(mut text: &str) -> Option<Vec<Item>> {
    let mut items = Vec::new();
    while let Some(letter) = text.chars().next() {
        let (length, rest) = text[letter.len_utf8()..].split_once(':')?;
        let payload = rest.get(..length.parse().ok()?)?;
        items.push(Item::from_parts(letter, payload)?);
        text = &rest[payload.len()..];
    }
    Some(items)
}

/// Cuts the text of a batch into payloads.
pub(super) fn split(origin: &str, batch: u64, text: &str) -> Vec<String> {
    let mut payloads = Vec::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_at(rest.floor_char_boundary(MAX_PART_BYTES));
        let (index, last) = (payloads.len(), u8::from(after.is_empty()));
        payloads.push(format!("{VERSION} {origin} {batch} {index} {last}\n{part}"));
        if after.is_empty() {
            return payloads;
        }
        rest = after;
    }
}

/// A payload, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part<'a> {
    pub(super) origin: &'a str,
    pub(super) batch: u64,
    pub(super) index: usize,
    pub(super) last: bool,
    pub(super) text: &'a str,
}

impl<'a> Part<'a> {
    /// None for what is not ours.
    pub(super) fn parse(payload: &'a str) -> Option<Self> {
        let (head, text) = payload.split_once('\n')?;
        let mut words = head.split(' ');
        let mut word = || words.next();
        if word()? != VERSION {
            return None;
        }
        let part = Self {
            origin: word().filter(|origin| !origin.is_empty() && origin.len() <= 64)?,
            batch: word()?.parse().ok()?,
            index: word()?.parse().ok()?,
            last: match word()? {
                "0" => false,
                "1" => true,
                _ => return None,
            },
            text,
        };
        word().is_none().then_some(part)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item() -> impl Strategy<Value = Item> {
        let topic = || prop::sample::select(Topic::ALL.to_vec());
        prop_oneof![
            (topic(), ".{0,40}").prop_map(|(topic, text)| Item::Message(topic, text)),
            (topic(), 0..30_000usize)
                .prop_map(|(topic, length)| Item::Message(topic, "é€😀x".repeat(length / 10))),
            topic().prop_map(Item::Gap),
            Just(Item::Hello),
            Just(Item::Bye),
        ]
    }

    proptest! {
        #[test]
        fn what_is_split_is_read_again(items in prop::collection::vec(item(), 0..8), batch: u64) {
            let mut text = String::new();
            items.iter().for_each(|item| append(&mut text, item));
            let payloads = split("0123456789abcdef0123456789abcdef", batch, &text);
            let mut joined = String::new();
            for (index, payload) in payloads.iter().enumerate() {
                prop_assert!(payload.len() < 8000, "{}", payload.len());
                let part = Part::parse(payload).expect("our own");
                prop_assert_eq!((part.batch, part.index), (batch, index));
                prop_assert_eq!(part.last, index + 1 == payloads.len());
                joined.push_str(part.text);
            }
            prop_assert_eq!(read(&joined).expect("our own"), items);
        }

        #[test]
        fn nothing_strange_is_read_with_a_panic(text in "\\PC{0,60}", head in "[1 a-f0-9]{0,40}") {
            let _ = (read(&text), Part::parse(&text), Part::parse(&format!("{head}\n{text}")));
            let _ = (read(&format!("e9:{text}")), read(&format!("e99999999999999999999:{text}")));
        }
    }
}
