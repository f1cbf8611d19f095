//! Keys of known objects match without regard to case, as on the reference
//! platform; keys of free maps stay as they are.
//!
//! A decoder around a decoder: it sees which objects become structs, because serde
//! names their fields, and corrects the case of those keys on their way. A key
//! that is written exactly wins over every other spelling of it, wherever it
//! stands; of several other spellings the last one counts.

use std::collections::VecDeque;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// The names of a struct's fields, aliases included.
type Fields = &'static [&'static str];

/// The decoder.
pub(super) struct Fold<D>(pub(super) D);

macro_rules! forward {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method(visitor)
        }
    )*};
}

macro_rules! forward_wrapped {
    ($($method:ident($($argument:ident: $type:ty),*))*) => {$(
        fn $method<V: Visitor<'de>>(
            self,
            $($argument: $type,)*
            visitor: V,
        ) -> Result<V::Value, D::Error> {
            self.0.$method($($argument,)* Within { visitor, fields: None })
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Fold<D> {
    type Error = D::Error;

    // Nothing in these is a struct; what takes anything has no fields either.
    forward! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32
        deserialize_i64 deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32
        deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char
        deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf
        deserialize_unit deserialize_identifier deserialize_ignored_any
    }

    forward_wrapped! {
        deserialize_option()
        deserialize_newtype_struct(name: &'static str)
        deserialize_seq()
        deserialize_tuple(len: usize)
        deserialize_tuple_struct(name: &'static str, len: usize)
        deserialize_map()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: Fields,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let fields = Some(fields);
        // A map, because serde would also read a struct from an array; the wire
        // knows objects only.
        self.0.deserialize_map(Within { visitor, fields })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: Fields,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let fields = None;
        (self.0).deserialize_enum(name, variants, Within { visitor, fields })
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

/// Wraps whatever is found, so that structs inside are seen too.
struct Within<V> {
    visitor: V,
    /// Of the struct that an object becomes.
    fields: Option<Fields>,
}

macro_rules! visit {
    ($($method:ident($type:ty))*) => {$(
        fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.visitor.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Within<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    visit! {
        visit_bool(bool) visit_i64(i64) visit_i128(i128) visit_u64(u64) visit_u128(u128)
        visit_f64(f64) visit_char(char) visit_str(&str) visit_borrowed_str(&'de str)
        visit_string(String) visit_bytes(&[u8]) visit_borrowed_bytes(&'de [u8])
        visit_byte_buf(Vec<u8>)
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Fold(inner))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_newtype_struct(Fold(inner))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_seq(Elements(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        match self.fields {
            Some(fields) => self.visitor.visit_map(Known::new(entries, fields)),
            None => self.visitor.visit_map(Free(entries)),
        }
    }

    fn visit_enum<A: EnumAccess<'de>>(self, variants: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_enum(variants)
    }
}

struct FoldSeed<S>(S);

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for FoldSeed<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, decoder: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Fold(decoder))
    }
}

struct Elements<A>(A);

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Elements<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(FoldSeed(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

/// A map whose keys are the client's.
struct Free<A>(A);

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Free<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(FoldSeed(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

/// An object that becomes a struct.
struct Known<A> {
    entries: A,
    fields: Fields,
    /// Bit per field that was written exactly; beyond 128 fields nothing is folded.
    exact: u128,
    /// Values under other spellings, which count if nothing exact turns up.
    other: VecDeque<(usize, Value)>,
    /// The entries are through; what is in `other` comes now.
    value: Option<Value>,
}

/// A key as the struct's own decoder shall see it.
enum Key {
    /// This field, exactly.
    Exact(usize),
    /// This field, in another spelling.
    Other(usize),
    Unknown(String),
}

impl<A> Known<A> {
    fn new(entries: A, fields: Fields) -> Self {
        Self {
            entries,
            fields,
            exact: 0,
            other: VecDeque::new(),
            value: None,
        }
    }

    fn is_exact(&self, field: usize) -> bool {
        self.exact & bit(field) != 0
    }
}

fn bit(field: usize) -> u128 {
    u32::try_from(field)
        .ok()
        .and_then(|field| 1_u128.checked_shl(field))
        .unwrap_or(0)
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Known<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        let named = |seed: S, name: &str| seed.deserialize(StrDeserializer::new(name)).map(Some);
        while let Some(key) = self.entries.next_key_seed(KeySeed(self.fields))? {
            match key {
                Key::Exact(field) => {
                    self.exact |= bit(field);
                    return named(seed, self.fields[field]);
                }
                Key::Unknown(name) => return named(seed, &name),
                Key::Other(field) => {
                    let value = self.entries.next_value()?;
                    self.other.retain(|(earlier, _)| *earlier != field);
                    self.other.push_back((field, value));
                }
            }
        }
        while let Some((field, value)) = self.other.pop_front() {
            if !self.is_exact(field) {
                self.value = Some(value);
                return named(seed, self.fields[field]);
            }
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        match self.value.take() {
            Some(value) => seed.deserialize(Fold(value)).map_err(A::Error::custom),
            None => self.entries.next_value_seed(FoldSeed(seed)),
        }
    }
}

struct KeySeed(Fields);

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, decoder: D) -> Result<Key, D::Error> {
        decoder.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Key, E> {
        let position = |is: &dyn Fn(&str) -> bool| self.0.iter().position(|field| is(field));
        Ok(match position(&|field| field == name) {
            Some(field) => Key::Exact(field),
            None => match position(&|field| field.eq_ignore_ascii_case(name)) {
                Some(field) if bit(field) != 0 => Key::Other(field),
                _ => Key::Unknown(name.to_owned()),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Payload {
        name: String,
        parent_id: Option<i64>,
        #[serde(alias = "tags")]
        labels: Vec<Label>,
        canvas: Option<Canvas>,
        by_name: BTreeMap<String, Canvas>,
        secrets: BTreeMap<String, String>,
        agent_card: Value,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Label {
        key: String,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Canvas {
        x: i64,
        y: i64,
    }

    fn decode(text: &str) -> Result<Payload, serde_json::Error> {
        Payload::deserialize(Fold(&mut serde_json::Deserializer::from_str(text)))
    }

    #[test]
    fn keys_of_structs_match_in_any_case_wherever_they_are() {
        let text = r#"{
            "NAME": "n", "Parent_ID": 5,
            "Tags": [{"Key": "a"}, {"key": "b"}],
            "Canvas": {"X": 1, "y": 2},
            "by_NAME": {"One": {"X": 3}}
        }"#;
        let expected = Payload {
            name: "n".to_owned(),
            parent_id: Some(5),
            labels: ["a", "b"]
                .map(|key| Label {
                    key: key.to_owned(),
                })
                .into(),
            canvas: Some(Canvas { x: 1, y: 2 }),
            by_name: [("One".to_owned(), Canvas { x: 3, y: 0 })].into(),
            ..Payload::default()
        };
        assert_eq!(decode(text).unwrap(), expected);
    }

    #[test]
    fn keys_of_free_maps_stay_as_they_are() {
        let text = r#"{
            "SECRETS": {"Name": "1", "NAME": "2", "name": "3"},
            "agent_card": {"Name": "card", "CANVAS": {"X": 1}}
        }"#;
        let payload = decode(text).unwrap();
        let keys: Vec<_> = payload.secrets.keys().collect();
        assert_eq!(keys, ["NAME", "Name", "name"]);
        assert_eq!(
            payload.agent_card,
            json!({"Name": "card", "CANVAS": {"X": 1}})
        );
        assert_eq!(payload.name, "");
    }

    #[test]
    fn an_exact_key_wins_wherever_it_stands() {
        for text in [
            r#"{"name": "exact", "NAME": "other"}"#,
            r#"{"Name": "other", "name": "exact", "NAME": "other"}"#,
        ] {
            assert_eq!(decode(text).unwrap().name, "exact", "{text}");
        }
        let text = r#"{"Name": "first", "NAME": "last"}"#;
        assert_eq!(decode(text).unwrap().name, "last");
        // Twice the same is a mistake, as before.
        assert!(decode(r#"{"name": "a", "name": "b"}"#).is_err());
    }

    #[test]
    fn wrong_types_are_wrong_in_any_case() {
        for text in [
            r#"{"NAME": 5}"#,
            r#"{"Parent_Id": 1.0}"#,
            r#"{"Canvas": [1, 2]}"#,
            r#"{"canvas": [1, 2]}"#,
            r#"{"CANVAS": {"X": "one"}}"#,
            r#"["n"]"#,
            r#"{"NAME": }"#,
        ] {
            assert!(decode(text).is_err(), "{text}");
        }
        assert_eq!(
            decode(r#"{"PARENT_ID": null}"#).unwrap(),
            Payload::default()
        );
    }

    /// Flips the case of ASCII letters where `flips` says so.
    fn flip(text: &str, flips: &[bool]) -> String {
        let letters = text
            .chars()
            .zip(flips.iter().chain(std::iter::repeat(&false)));
        letters
            .map(|(letter, flip)| match flip {
                true if letter.is_ascii_lowercase() => letter.to_ascii_uppercase(),
                true => letter.to_ascii_lowercase(),
                false => letter,
            })
            .collect()
    }

    proptest! {
        #[test]
        fn no_case_of_any_key_changes_the_meaning(
            name in "\\PC{0,20}",
            parent in proptest::option::of(any::<i64>()),
            (x, y) in any::<(i64, i64)>(),
            secrets in proptest::collection::btree_map("[a-zA-Z]{1,8}", "\\PC{0,8}", 0..6),
            flips in proptest::collection::vec(any::<bool>(), 60),
        ) {
            let key = |at: usize, key: &str| flip(key, &flips[at..]);
            let text = json!({
                key(0, "name"): name,
                key(4, "parent_id"): parent,
                key(13, "canvas"): { key(19, "x"): x, key(20, "y"): y },
                key(21, "secrets"): secrets,
                key(28, "unknown"): { "Name": 1 },
                key(35, "agent_card"): secrets,
            });
            let payload = decode(&text.to_string()).unwrap();
            prop_assert_eq!(payload, Payload {
                name,
                parent_id: parent,
                canvas: Some(Canvas { x, y }),
                agent_card: json!(secrets),
                secrets,
                ..Payload::default()
            });
        }

        #[test]
        fn exact_keys_decode_as_without_us(text in "\\{(\"(name|NAME|canvas|secrets|x)\":(1|\"a\"|null|\\{\\}|\\{\"x\":1\\}),?){0,4}\\}") {
            let ours = decode(&text);
            let theirs = serde_json::from_str::<Payload>(&text);
            if !text.contains("NAME") {
                prop_assert_eq!(ours.is_ok(), theirs.is_ok());
                prop_assert_eq!(ours.ok(), theirs.ok());
            }
        }
    }
}
