//! The form of the files: `NAME=value`, a line each.

use std::collections::BTreeMap;
use std::fmt;

use molecule_hooks::{EnvError, MAX_ENV_VALUE_BYTES, Secret, check_foreign_env_name};

/// The longest file that is read, in bytes.
pub(crate) const MAX_FILE_BYTES: usize = 256 * 1024;
const MAX_VARIABLES: usize = 1000;

/// What a file says. An empty value in quotes is a `None`: it takes back what an
/// earlier file set.
pub(crate) type Lines = BTreeMap<String, Option<Secret>>;

/// Why a file was refused, without anything of what stands in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ParseError {
    NotText,
    TooMany,
    Line(usize, &'static str),
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotText => f.write_str("it is not UTF-8 text"),
            Self::TooMany => write!(f, "it has more than {MAX_VARIABLES} variables"),
            Self::Line(number, what) => write!(f, "line {number} {what}"),
        }
    }
}

/// Reads a file: lines of `NAME=value` or `export NAME=value`, blank lines and
/// comments that start with `#`. White space around name and value does not count;
/// one pair of quotes around a value is taken off. There are no escapes, no
/// interpolation and no values of several lines. Of one name the last line counts,
/// and `NAME=` says nothing.
pub(crate) fn parse(bytes: &[u8]) -> Result<Lines, ParseError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ParseError::NotText)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = Lines::new();
    for (index, line) in text.split('\n').enumerate() {
        let wrong = |what| ParseError::Line(index + 1, what);
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = match line.strip_prefix("export") {
            Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
            _ => line,
        };
        let (name, value) = line.split_once('=').ok_or_else(|| wrong("has no ="))?;
        let name = name.trim();
        check_name(name).map_err(wrong)?;
        if let Some(value) = read_value(value.trim()).map_err(wrong)? {
            lines.insert(name.to_owned(), value);
        }
        if lines.len() > MAX_VARIABLES {
            return Err(ParseError::TooMany);
        }
    }
    Ok(lines)
}

fn check_name(name: &str) -> Result<(), &'static str> {
    check_foreign_env_name(name).map_err(|error| match error {
        EnvError::Reserved(_) => "sets a variable that is reserved for the platform or the image",
        _ => "does not start with the name of a variable",
    })
}

/// None for a line that says nothing.
fn read_value(text: &str) -> Result<Option<Option<Secret>>, &'static str> {
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err("has a control character in its value");
    }
    let (value, quoted) = match text.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let inner = text[1..].strip_suffix(quote);
            (inner.ok_or("has a quote that is not closed")?, true)
        }
        _ => (text, false),
    };
    if value.len() > MAX_ENV_VALUE_BYTES {
        return Err("has a value that is too long");
    }
    Ok(match (value.is_empty(), quoted) {
        (true, false) => None,
        (true, true) => Some(None),
        (false, _) => Some(Some(Secret::new(value))),
    })
}

/// True for a file that `sops` wrote: it says so itself, or one of its values is
/// encrypted.
pub(crate) fn is_encrypted(bytes: &[u8]) -> bool {
    let lines = bytes.split(|&byte| byte == b'\n');
    lines.map(<[u8]>::trim_ascii).any(|line| {
        if line.starts_with(b"#") {
            return false;
        }
        let value = line.iter().position(|&byte| byte == b'=');
        let value = value.map_or(&b""[..], |at| line[at + 1..].trim_ascii());
        line.starts_with(b"sops_mac=")
            || line.starts_with(b"sops_version=")
            || value
                .strip_prefix(b"\"")
                .unwrap_or(value)
                .starts_with(b"ENC[AES256_GCM,")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(text: &str) -> Option<String> {
        let lines = parse(text.as_bytes()).unwrap();
        let value = lines.get("A").expect("A is set");
        value.as_ref().map(|value| value.expose().to_owned())
    }

    #[test]
    fn a_line_sets_a_variable() {
        for (text, expected) in [
            ("A=b", "b"),
            ("  A = b c  \r\n", "b c"),
            ("\u{feff}A=b", "b"),
            ("export A=b", "b"),
            ("export\tA=b", "b"),
            ("# A=x\n\nA=b", "b"),
            ("A=x\nA=b", "b"),
            ("A=b=c", "b=c"),
            ("A=b # c", "b # c"),
            ("A=$B ${C} \\n", "$B ${C} \\n"),
            ("A='b'", "b"),
            ("A=\" b \"", " b "),
            ("A=\"it's\"", "it's"),
            ("A=\"a\"b\"", "a\"b"),
            ("A=b'", "b'"),
            ("A=b\nA=", "b"),
            ("A=\tb\tc", "b\tc"),
        ] {
            assert_eq!(value(text).as_deref(), Some(expected), "{text:?}");
        }
        assert_eq!(value("A=b\nA=\"\""), None);
        assert!(parse(b"A=\n\n#x").unwrap().is_empty());
    }

    #[test]
    fn a_line_that_is_none_is_refused_with_its_number() {
        for (text, number, what) in [
            ("hello", 1, "has no ="),
            ("A=b\nexport", 2, "has no ="),
            ("=b", 1, "does not start with the name"),
            ("1A=b", 1, "does not start with the name"),
            ("A B=c", 1, "does not start with the name"),
            ("export A B=c", 1, "does not start with the name"),
            ("A-B=c", 1, "does not start with the name"),
            ("é=c", 1, "does not start with the name"),
            ("WORKSPACE_ID=x", 1, "reserved for the platform"),
            ("ADMIN_TOKEN=x", 1, "reserved for the platform"),
            ("PATH=x", 1, "or the image"),
            ("LD_PRELOAD=x", 1, "or the image"),
            ("A=b\n\nB='c", 3, "a quote that is not closed"),
            ("A=\"", 1, "a quote that is not closed"),
            ("A='b\"", 1, "a quote that is not closed"),
            ("A=b\0c", 1, "control character"),
            ("A=b\rc", 1, "control character"),
            (
                &format!("A={}", "x".repeat(MAX_ENV_VALUE_BYTES + 1)),
                1,
                "too long",
            ),
        ] {
            match parse(text.as_bytes()) {
                Err(ParseError::Line(at, why)) => {
                    assert_eq!(at, number, "{text:?}");
                    assert!(why.contains(what), "{text:?}: {why}");
                }
                other => panic!("{text:?}: {other:?}"),
            }
        }
        assert_eq!(parse(b"A=\xff"), Err(ParseError::NotText));
        let many: String = (0..=MAX_VARIABLES).map(|n| format!("A{n}=x\n")).collect();
        assert_eq!(parse(many.as_bytes()), Err(ParseError::TooMany));
    }

    #[test]
    fn what_sops_wrote_is_recognised() {
        let value = "ENC[AES256_GCM,data:p673w7RT,iv:x,tag:y,type:str]";
        for text in [
            format!("A={value}\nsops_version=3.9.4"),
            format!("A=b\nsops_mac={value}"),
            format!("#x\nA=\"{value}\""),
            format!("A = {value}\r\n"),
        ] {
            assert!(is_encrypted(text.as_bytes()), "{text}");
        }
        for text in [
            "",
            "A=b",
            "A=ENC",
            "# sops_version=3",
            "A=x ENC[AES256_GCM,data",
            "NOTE=sops_version=3",
        ] {
            assert!(!is_encrypted(text.as_bytes()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_bring_it_down_and_no_error_shows_them(
            bytes in prop::collection::vec(any::<u8>(), 0..400)
        ) {
            let _ = is_encrypted(&bytes);
            if let Ok(lines) = parse(&bytes) {
                for (name, value) in lines {
                    prop_assert!(check_name(&name).is_ok());
                    prop_assert!(value.is_none_or(|value| !value.expose().contains('\0')));
                }
            }
        }

        #[test]
        fn an_error_holds_nothing_of_the_file(text in "[a-zA-Z=\"' \n]{0,60}") {
            if let Err(error) = parse(format!("{text}\nplanted7f3a91c2").as_bytes()) {
                prop_assert!(!error.to_string().contains("planted"));
            }
        }

        #[test]
        fn what_is_written_is_read(
            name in "[A-Z][A-Z0-9_]{0,20}",
            value in "[^\\p{Cc}]{1,60}",
        ) {
            prop_assume!(check_name(&name).is_ok());
            let lines = parse(format!("{name}=\"{value}\"").as_bytes()).unwrap();
            prop_assert_eq!(lines[&name].as_ref().map(Secret::expose), Some(value.as_str()));
        }
    }
}
