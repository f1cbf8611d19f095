//! Foreign YAML, read into a budget.
//!
//! An alias costs what it stands for, so that a few bytes never become many.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

/// As much of a document as anybody asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Node {
    Text(String),
    List(Vec<Node>),
    /// By key; keys that are no texts are left out.
    Map(Vec<(String, Node)>),
    /// A number, a truth, nothing.
    Other,
}

/// Key whose mapping, or list of mappings, fills in for missing keys.
const MERGE: &str = "<<";

impl Node {
    /// Reads the first document; none when there is none, when it is no YAML, or when it
    /// costs more than the budget: a node costs one, and each byte of a text one.
    pub(super) fn read(bytes: &[u8], budget: usize) -> Option<Self> {
        let document = serde_yaml::Deserializer::from_slice(bytes).next()?;
        let left = Cell::new(budget);
        Reader(&left).deserialize(document).ok()
    }

    /// The value of a key, its own or a merged one.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Map(entries) = self else {
            return None;
        };
        let own = |key: &str| {
            let mut entries = entries.iter();
            entries.find(|(own, _)| own == key).map(|(_, value)| value)
        };
        own(key).or_else(|| match own(MERGE)? {
            Self::List(maps) => maps.iter().find_map(|map| map.get(key)),
            map => map.get(key),
        })
    }
}

#[derive(Clone, Copy)]
struct Reader<'a>(&'a Cell<usize>);

impl Reader<'_> {
    fn pay<E: Error>(self, cost: usize) -> Result<(), E> {
        let left = self.0.get().checked_sub(cost);
        self.0.set(left.ok_or_else(|| E::custom("too much"))?);
        Ok(())
    }

    fn other<E: Error>(self) -> Result<Node, E> {
        self.pay(1).map(|()| Node::Other)
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Node, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Node, E> {
        self.pay(1 + text.len())?;
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Node, E> {
        self.other()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Node, E> {
        self.other()
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<Node, E> {
        self.other()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Node, E> {
        self.other()
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<Node, E> {
        self.other()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Node, E> {
        self.other()
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        self.other()
    }

    fn visit_none<E: Error>(self) -> Result<Node, E> {
        self.other()
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Node, D::Error> {
        self.deserialize(from)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        self.pay(1)?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        self.pay(1)?;
        let (mut map, mut seen) = (Vec::new(), HashSet::new());
        while let Some(key) = entries.next_key_seed(self)? {
            let value = entries.next_value_seed(self)?;
            let Node::Text(key) = key else {
                continue;
            };
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom("a key twice"));
            }
            map.push((key, value));
        }
        Ok(Node::Map(map))
    }

    /// A tag of somebody's own changes nothing about what it is.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Node, A::Error> {
        let (Tag, value) = tagged.variant_seed(PhantomData)?;
        value.newtype_variant_seed(self)
    }
}

/// A tag that nobody looks at.
struct Tag;

impl<'de> Deserialize<'de> for Tag {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(from).map(|_| Self)
    }
}
