//! What client and server say about a terminal, in text messages beside the bytes.

use serde::{Deserialize, Serialize};

use crate::backend::TerminalSize;

/// Most characters in a direction.
const MOST: u16 = 1000;
const USUAL: TerminalSize = TerminalSize { cols: 80, rows: 24 };

/// What a client may ask for.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Asked {
    Resize { cols: u16, rows: u16 },
}

/// What the server tells.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Told {
    /// The shell ended; without a code when nobody knows it.
    Exit { code: Option<i64> },
    /// Something that the client asked for was not done.
    Error { message: &'static str },
}

impl Told {
    pub(super) fn to_json(&self) -> String {
        // Nothing in it can fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The size that a text message asks for.
///
/// # Errors
/// What to tell the client.
pub(super) fn resize(text: &str) -> Result<TerminalSize, &'static str> {
    match serde_json::from_str(text) {
        Ok(Asked::Resize { cols, rows }) => size(cols, rows).ok_or("invalid terminal size"),
        Err(_) => Err("invalid control message"),
    }
}

/// The size in a query; what is left out is as usual.
pub(super) fn wanted(cols: Option<&str>, rows: Option<&str>) -> Option<TerminalSize> {
    let number = |text: Option<&str>, usual| match text {
        None => Some(usual),
        Some(text) => text.parse().ok(),
    };
    size(number(cols, USUAL.cols)?, number(rows, USUAL.rows)?)
}

fn size(cols: u16, rows: u16) -> Option<TerminalSize> {
    let fits = |number| (1..=MOST).contains(&number);
    (fits(cols) && fits(rows)).then_some(TerminalSize { cols, rows })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_size_is_read_or_refused() {
        let asked = r#"{"type":"resize","cols":120,"rows":40}"#;
        let size = TerminalSize {
            cols: 120,
            rows: 40,
        };
        assert_eq!(resize(asked), Ok(size));
        for bad in ["0", "1001"] {
            let asked = asked.replace("120", bad);
            assert_eq!(resize(&asked), Err("invalid terminal size"), "{asked}");
        }
        for garbage in [
            "",
            "ls",
            "{}",
            "[]",
            "null",
            r#"{"type":"exit"}"#,
            r#"{"type":"resize"}"#,
            r#"{"type":"resize","cols":-1,"rows":1}"#,
            r#"{"type":"resize","cols":70000,"rows":1}"#,
            r#"{"type":"resize","cols":1.5,"rows":1}"#,
            r#"{"type":"resize","cols":"1","rows":1}"#,
        ] {
            assert_eq!(resize(garbage), Err("invalid control message"), "{garbage}");
        }
    }

    #[test]
    fn a_query_names_both_numbers_one_or_none() {
        assert_eq!(wanted(None, None), Some(USUAL));
        assert_eq!(
            wanted(Some("100"), None),
            Some(TerminalSize { cols: 100, ..USUAL })
        );
        assert_eq!(
            wanted(None, Some("50")),
            Some(TerminalSize { rows: 50, ..USUAL })
        );
        for bad in ["", "0", "1001", "-1", "x", "65536"] {
            assert_eq!(wanted(Some(bad), None), None, "{bad:?}");
            assert_eq!(wanted(None, Some(bad)), None, "{bad:?}");
        }
    }

    #[test]
    fn messages_are_as_documented() {
        for (told, text) in [
            (Told::Exit { code: Some(7) }, r#"{"type":"exit","code":7}"#),
            (Told::Exit { code: None }, r#"{"type":"exit","code":null}"#),
            (
                Told::Error { message: "no" },
                r#"{"type":"error","message":"no"}"#,
            ),
        ] {
            assert_eq!(told.to_json(), text);
        }
    }

    proptest! {
        #[test]
        fn no_text_is_a_size_out_of_bounds(text in "\\PC{0,60}", cols: i64, rows: i64) {
            let asked = format!(r#"{{"type":"resize","cols":{cols},"rows":{rows}}}"#);
            for text in [text, asked] {
                if let Ok(size) = resize(&text) {
                    prop_assert!((1..=MOST).contains(&size.cols) && (1..=MOST).contains(&size.rows));
                }
            }
        }
    }
}
