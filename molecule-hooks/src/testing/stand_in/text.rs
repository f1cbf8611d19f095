//! Small readers of what HTTP carries as text.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

/// The fields of an `application/x-www-form-urlencoded` body, the last of each name.
pub(super) fn form(body: &str) -> BTreeMap<String, String> {
    body.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode_form(name), decode_form(value))
        })
        .collect()
}

/// One name or value of a form: `+` is a space.
pub(super) fn decode_form(text: &str) -> String {
    decode_percent(&text.replace('+', " "))
}

/// `%2F` and its kind; what is no escape stays.
pub(super) fn decode_percent(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes
            .get(at + 1..at + 3)
            .filter(|hex| bytes[at] == b'%' && hex.iter().all(u8::is_ascii_hexdigit));
        let value = escape
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(value.unwrap_or(bytes[at]));
        at += if value.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// User and password of `Authorization: Basic`, as they were sent.
pub(super) fn basic(header: &str) -> Option<(String, String)> {
    let bytes = STANDARD.decode(header.strip_prefix("Basic ")?).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// Header and claims of a JWT, its signature unchecked.
pub(super) fn jwt(text: &str) -> Option<(Value, Value)> {
    let mut parts = text.split('.');
    let mut read = || {
        let bytes = URL_SAFE_NO_PAD.decode(parts.next()?).ok()?;
        serde_json::from_slice(&bytes).ok()
    };
    let (header, claims) = (read()?, read()?);
    let signature = parts.next()?;
    (!signature.is_empty() && parts.next().is_none()).then_some((header, claims))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_with_its_escapes() {
        let fields = form("a=b+c%2Fd&empty=&lone&a=last%zz");
        assert_eq!(fields["a"], "last%zz");
        assert_eq!(
            (fields["empty"].as_str(), fields["lone"].as_str()),
            ("", "")
        );
        assert_eq!(form("x=b+c%2Fd")["x"], "b c/d");
        assert_eq!(decode_percent("%"), "%");
        assert_eq!(decode_percent("%2"), "%2");
        assert_eq!(decode_percent("%+1"), "%+1");
    }

    #[test]
    fn credentials_and_tokens_that_are_none_are_refused() {
        assert_eq!(basic("Basic YTpiOmM="), Some(("a".into(), "b:c".into())));
        for header in ["", "Basic", "Basic !", "Bearer YTpi", "Basic YQ=="] {
            assert_eq!(basic(header), None, "{header}");
        }
        for text in ["", "a.b.c", "e30.e30", "e30.e30.", "e30.e30.x.y"] {
            assert!(jwt(text).is_none(), "{text}");
        }
        assert!(jwt("e30.e30.x").is_some());
    }
}
