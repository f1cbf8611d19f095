use std::cell::Cell;

use serde::de::value::Error;
use serde::de::{Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;

use crate::config::HookConfig;

/// The keys a config type reads: what its derived `Deserialize` asks for. None
/// for a type that is not a plain struct, for example one with a flattened part.
pub(crate) fn decoded_keys<C: HookConfig>() -> Option<&'static [&'static str]> {
    let keys = Cell::new(None);
    // Always an error: the probe has no values, it only listens.
    let _ = C::deserialize(Probe(&keys));
    keys.get()
}

struct Probe<'a>(&'a Cell<Option<&'static [&'static str]>>);

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.0.set(Some(fields));
        Err(Error::custom("a probe has no values"))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("a probe has no values"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string
        bytes byte_buf option unit unit_struct seq tuple tuple_struct map enum
        identifier ignored_any
    }
}
