//! The cookie by which the canvas of this server is known: signed, so that
//! nobody else can make one, and only sent by pages of this site.

use std::time::Duration;

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use http::HeaderMap;
use molecule_hooks::Secret;

use super::headers::cookies;

/// Name of the cookie.
pub(super) const NAME: &str = "molecule_canvas";
/// How long it counts. The signature covers its end, so a browser cannot keep it
/// longer.
pub(super) const LIFETIME: Duration = Duration::from_secs(8 * 60 * 60);
/// What is signed begins with this, so that no other signature made with the key
/// can ever be one of these.
const PURPOSE: &[u8] = b"molecule canvas cookie v1\0";

/// Makes and checks the cookie. A new administrator token ends every one.
pub(super) struct CanvasCookie(hmac::Key);

impl CanvasCookie {
    pub(super) fn new(admin_token: &Secret) -> Self {
        Self(hmac::Key::new(HMAC_SHA256, admin_token.expose().as_bytes()))
    }

    /// A value that counts from now on: its end as Unix time, and the signature.
    pub(super) fn seal(&self, now: DateTime<Utc>) -> Secret {
        let lifetime = TimeDelta::from_std(LIFETIME).unwrap_or_default();
        let expires = (now + lifetime).timestamp().to_string();
        let tag = hmac::sign(&self.0, &signed(&expires));
        Secret::new(format!("{expires}.{}", URL_SAFE_NO_PAD.encode(tag)))
    }

    /// True when the request carries a cookie that counts.
    pub(super) fn is_in(&self, headers: &HeaderMap, now: DateTime<Utc>) -> bool {
        cookies(headers).any(|(name, value)| name == NAME && self.counts(value, now))
    }

    fn counts(&self, value: &str, now: DateTime<Utc>) -> bool {
        let Some((expires, tag)) = value.split_once('.') else {
            return false;
        };
        let Ok(tag) = URL_SAFE_NO_PAD.decode(tag) else {
            return false;
        };
        hmac::verify(&self.0, &signed(expires), &tag).is_ok()
            && expires
                .parse::<i64>()
                .is_ok_and(|expires| now.timestamp() < expires)
    }
}

fn signed(expires: &str) -> Vec<u8> {
    [PURPOSE, expires.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::COOKIE;
    use proptest::prelude::*;

    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    #[test]
    fn a_sealed_value_counts_for_eight_hours_with_its_own_key_only() {
        let cookie = CanvasCookie::new(&"an administrator".into());
        let value = cookie.seal(now());
        let after = |secs| now() + TimeDelta::seconds(secs);
        assert!(cookie.counts(value.expose(), now()));
        assert!(cookie.counts(value.expose(), after(8 * 3600 - 1)));
        assert!(!cookie.counts(value.expose(), after(8 * 3600)));
        let other = CanvasCookie::new(&"another administrator".into());
        assert!(!other.counts(value.expose(), now()));
    }

    #[test]
    fn no_part_of_a_value_can_be_changed() {
        let cookie = CanvasCookie::new(&"an administrator".into());
        let value = cookie.seal(now()).expose().to_owned();
        for at in 0..value.len() {
            let mut bytes = value.clone().into_bytes();
            bytes[at] = if bytes[at] == b'1' { b'2' } else { b'1' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(!cookie.counts(&changed, now()), "{changed}");
        }
        let (expires, tag) = value.split_once('.').unwrap();
        for forged in [
            String::new(),
            ".".to_owned(),
            tag.to_owned(),
            format!("{expires}."),
            format!("0{expires}.{tag}"),
            format!("{expires}.{}", &tag[..20]),
            format!("99999999999.{tag}"),
        ] {
            assert!(!cookie.counts(&forged, now()), "{forged}");
        }
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let cookie = CanvasCookie::new(&"an administrator".into());
        let value = cookie.seal(now());
        let found = |text: String| {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, HeaderValue::from_str(&text).unwrap());
            cookie.is_in(&headers, now())
        };
        let value = value.expose();
        assert!(found(format!("{NAME}={value}")));
        assert!(found(format!("a=b; {NAME}={value} ;c")));
        assert!(found(format!("{NAME}=stale; {NAME}={value}")));
        assert!(!found(format!("x{NAME}={value}")));
        assert!(!found(value.to_owned()));
    }

    proptest! {
        #[test]
        fn nothing_but_a_sealed_value_counts(text in ".{0,80}") {
            let cookie = CanvasCookie::new(&"an administrator".into());
            prop_assert!(!cookie.counts(&text, now()));
        }
    }
}
