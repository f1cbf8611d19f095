//! The three scalars the agent wants from `config.yaml`.
//!
//! This is a line reader, not a YAML parser. It understands `key: value` at
//! column zero with a plain, single-quoted or double-quoted scalar on the same
//! line. Everything else (nesting, lists, block scalars, anchors, tags, flow
//! collections, values over several lines) is skipped without an error; the
//! platform writes these three keys in the form it understands.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::log;

const MAX_FILE_BYTES: u64 = 1 << 20;

/// What was found; every field may be missing.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ConfigFile {
    pub(crate) name: Option<String>,
    pub(crate) runtime: Option<String>,
    pub(crate) model: Option<String>,
}

/// Reads `config.yaml` in the folder. A missing file is logged, not fatal.
pub(crate) fn load(dir: &Path) -> ConfigFile {
    let mut bytes = Vec::new();
    let read = File::open(dir.join("config.yaml"))
        .and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes));
    if let Err(error) = read {
        log::line(&format!("cannot read config.yaml: {}", error.kind()));
    }
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> ConfigFile {
    let text = String::from_utf8_lossy(bytes);
    let mut config = ConfigFile::default();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let Some((key, rest)) = line.split_once(':') else {
            continue;
        };
        let slot = match key.trim_end() {
            "name" => &mut config.name,
            "runtime" => &mut config.runtime,
            "model" => &mut config.model,
            _ => continue,
        };
        // YAML wants a blank after the colon: `name:x` is one plain scalar.
        let separated = rest.is_empty() || rest.starts_with([' ', '\t']);
        if separated && slot.is_none() {
            *slot = scalar(rest.trim()).filter(|value| !value.is_empty());
        }
    }
    config
}

/// The scalar of one key at column zero, as above.
pub(crate) fn field(bytes: &[u8], key: &str) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_start_matches('\u{feff}');
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let mut values = lines.filter(|(found, _)| found.trim_end() == key);
    let (_, rest) = values.find(|(_, rest)| rest.is_empty() || rest.starts_with([' ', '\t']))?;
    scalar(rest.trim()).filter(|value| !value.is_empty())
}

/// Decodes one scalar; `None` for forms this reader does not know.
fn scalar(text: &str) -> Option<String> {
    match text.chars().next()? {
        '"' => double_quoted(&text[1..]),
        '\'' => single_quoted(&text[1..]),
        '#' | '|' | '>' | '&' | '*' | '!' | '[' | '{' | '%' | '@' | '`' => None,
        _ => plain(text),
    }
}

fn plain(text: &str) -> Option<String> {
    let end = text
        .char_indices()
        .find(|(at, c)| *c == '#' && text[..*at].ends_with([' ', '\t']))
        .map_or(text.len(), |(at, _)| at);
    let value = text[..end].trim_end();
    // An unquoted `a: b` on one line is a nested mapping, not text.
    let nested = value.contains(": ") || value.ends_with(':');
    let null = matches!(value, "~" | "null" | "Null" | "NULL");
    (!nested && !null).then(|| value.to_owned())
}

fn single_quoted(body: &str) -> Option<String> {
    let mut value = String::new();
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        if c != '\'' {
            value.push(c);
        } else if chars.as_str().starts_with('\'') {
            chars.next();
            value.push('\'');
        } else {
            return only_comment_after(chars.as_str()).then_some(value);
        }
    }
    None
}

fn double_quoted(body: &str) -> Option<String> {
    let mut value = String::new();
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => return only_comment_after(chars.as_str()).then_some(value),
            '\\' => value.push(escape(&mut chars)?),
            _ => value.push(c),
        }
    }
    None
}

fn escape(chars: &mut std::str::Chars<'_>) -> Option<char> {
    Some(match chars.next()? {
        '0' => '\0',
        'a' => '\u{7}',
        'b' => '\u{8}',
        't' | '\t' => '\t',
        'n' => '\n',
        'v' => '\u{b}',
        'f' => '\u{c}',
        'r' => '\r',
        'e' => '\u{1b}',
        ' ' => ' ',
        '"' => '"',
        '/' => '/',
        '\\' => '\\',
        'N' => '\u{85}',
        '_' => '\u{a0}',
        'L' => '\u{2028}',
        'P' => '\u{2029}',
        'x' => hex(chars, 2)?,
        'u' => hex(chars, 4)?,
        'U' => hex(chars, 8)?,
        _ => return None,
    })
}

fn hex(chars: &mut std::str::Chars<'_>, digits: usize) -> Option<char> {
    let mut code = 0_u32;
    for _ in 0..digits {
        code = code.checked_mul(16)? + chars.next()?.to_digit(16)?;
    }
    char::from_u32(code)
}

fn only_comment_after(rest: &str) -> bool {
    let trimmed = rest.trim_start();
    trimmed.is_empty() || (trimmed.len() < rest.len() && trimmed.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(line: &str) -> Option<String> {
        parse(line.as_bytes()).name
    }

    #[test]
    fn the_generated_file_is_understood() {
        let config = parse(
            b"name: \"Research \\\"lead\\\"\"\ndescription: \"writer: of things\"\n\
              version: 1.0.0\ntier: 2\nruntime: \"langgraph\"\nmodel: \"anthropic:claude-opus-4-7\"\n\
              runtime_config:\n  timeout: 0\n  model: \"nested\"\n",
        );
        assert_eq!(config.name.as_deref(), Some("Research \"lead\""));
        assert_eq!(config.runtime.as_deref(), Some("langgraph"));
        assert_eq!(config.model.as_deref(), Some("anthropic:claude-opus-4-7"));
    }

    #[test]
    fn scalars_decode_as_yaml_says() {
        for (line, expected) in [
            ("name: plain words", Some("plain words")),
            ("name: plain # comment", Some("plain")),
            ("name: a#b", Some("a#b")),
            ("name: anthropic:opus", Some("anthropic:opus")),
            ("name : spaced", Some("spaced")),
            ("name:\ttabbed", Some("tabbed")),
            ("\u{feff}name: bom", Some("bom")),
            ("name: crlf\r\n", Some("crlf")),
            ("name: 'it''s'", Some("it's")),
            ("name: 'x' # why", Some("x")),
            (r#"name: "tab\there\\""#, Some("tab\there\\")),
            (r#"name: "\x41\u00e9\U0001F600""#, Some("A\u{e9}\u{1F600}")),
            ("name: \"# not a comment\"", Some("# not a comment")),
            ("name: first\nname: second", Some("first")),
            ("---\n# c\nname: after", Some("after")),
        ] {
            assert_eq!(name_of(line).as_deref(), expected, "{line:?}");
        }
    }

    #[test]
    fn unknown_forms_are_skipped() {
        for line in [
            "",
            "name",
            "name:",
            "name:x",
            "name: ~",
            "name: null",
            "name: \"\"",
            "name: \"open",
            "name: 'open",
            "name: \"a\" b",
            "name: \"a\"# glued",
            r#"name: "\q""#,
            r#"name: "\ud800""#,
            r#"name: "\U99999999""#,
            r#"name: "\uffff"#, // ends before the quote
            "name: |\n  block",
            "name: >-\n  folded",
            "name: &anchor x",
            "name: *alias",
            "name: !tag x",
            "name: [a]",
            "name: {a: b}",
            "name: a: b",
            "  name: nested",
            "# name: comment",
            "\"name\": quoted key",
        ] {
            assert_eq!(name_of(line), None, "{line:?}");
        }
    }

    #[test]
    fn hostile_bytes_never_panic() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let alphabet = b"name: \"'\\xuU#|\n\r\t\0\xff\xc3\xa90aF{}";
        for _ in 0..20_000 {
            let mut line = b"name: ".to_vec();
            for _ in 0..24 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                line.push(alphabet[(state % alphabet.len() as u64) as usize]);
            }
            let _ = parse(&line);
        }
    }

    #[test]
    fn a_missing_file_gives_defaults() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()), ConfigFile::default());
    }
}
