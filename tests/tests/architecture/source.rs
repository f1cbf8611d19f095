//! The files of the repository, and Rust text without comments and literals.

use std::fs;
use std::path::{Path, PathBuf};

/// A file; paths are relative to the repository and use `/`.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    /// The text with comments and literals blanked out, line for line.
    pub(crate) fn code(&self) -> String {
        blank(&self.text, Literals::Blank)
    }

    /// The text with comments blanked out, line for line.
    pub(crate) fn code_and_literals(&self) -> String {
        blank(&self.text, Literals::Keep)
    }

    /// Whether the file holds tests only; tests at the end of a file count as code.
    pub(crate) fn is_test(&self) -> bool {
        self.file_name().ends_with("tests.rs") || self.path.contains("/tests/")
    }

    pub(crate) fn is_in(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| self.path.starts_with(folder))
    }

    pub(crate) fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every text file with one of the extensions; `""` stands for none.
pub(crate) fn files(extensions: &[&str]) -> Vec<Source> {
    let root = repository();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).expect("a folder of the repository can be listed");
        for entry in entries {
            let path = entry.expect("a folder entry can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // Nothing in there is ours: build output, history, a data folder.
            if name.starts_with(".git") || name == "target" || name == "data" {
                continue;
            }
            let extension = path.extension().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                folders.push(path);
            } else if extensions.contains(&extension.as_ref())
                && let Ok(text) = fs::read_to_string(&path)
            {
                let path = path.strip_prefix(&root).unwrap_or(&path);
                let path = path.to_string_lossy().replace('\\', "/");
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The Rust files below the folders.
pub(crate) fn rust_in(folders: &[&str]) -> Vec<Source> {
    let found: Vec<_> = files(&["rs"])
        .into_iter()
        .filter(|file| file.is_in(folders))
        .collect();
    assert!(!found.is_empty(), "no Rust file below {folders:?}");
    found
}

/// Whether `word` stands in `line` on its own, not inside a longer name.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_name) && !line[at + word.len()..].starts_with(is_name)
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Literals {
    Blank,
    Keep,
}

/// A small scanner instead of a parser: enough to tell code from text.
fn blank(text: &str, literals: Literals) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        let in_a_name = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
        let (length, is_literal) = if rest.starts_with(&['/', '/']) {
            (line_comment(rest), false)
        } else if rest.starts_with(&['/', '*']) {
            (block_comment(rest), false)
        } else if let Some(length) = raw_string(rest).filter(|_| !in_a_name) {
            (length, true)
        } else if rest[0] == '"' {
            (quoted(rest, '"'), true)
        } else if rest[0] == '\'' && (rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'')) {
            (quoted(rest, '\''), true)
        } else {
            out.push(rest[0]);
            at += 1;
            continue;
        };
        let keep = is_literal && literals == Literals::Keep;
        let part = rest.iter().take(length);
        out.extend(part.map(|&c| if keep || c == '\n' { c } else { ' ' }));
        at += length;
    }
    out
}

fn line_comment(rest: &[char]) -> usize {
    rest.iter().position(|&c| c == '\n').unwrap_or(rest.len())
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(&['/', '*']) {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(&['*', '/']) {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// `r"…"`, `r#"…"#` and their byte and C forms.
fn raw_string(rest: &[char]) -> Option<usize> {
    let prefix = usize::from(matches!(rest.first(), Some('b' | 'c')));
    if rest.get(prefix) != Some(&'r') {
        return None;
    }
    let start = prefix + 1;
    let hashes = rest[start..].iter().take_while(|&&c| c == '#').count();
    if rest.get(start + hashes) != Some(&'"') {
        return None;
    }
    let mut end = vec!['"'];
    end.extend(std::iter::repeat_n('#', hashes));
    let body = start + hashes + 1;
    let length = rest[body..].windows(end.len()).position(|part| part == end);
    Some(length.map_or(rest.len(), |length| body + length + end.len()))
}

#[test]
fn comments_and_literals_are_not_code() {
    let source = Source {
        path: "a.rs".to_owned(),
        text: [
            r##"let a = "sqlx // \" no"; // axum"##,
            r###"let b = r#"bollard " 'x"#; /* a /* b */ c */ let c = '"';"###,
            r"fn d<'a>(e: &'a str) -> r#type { '\'' }",
        ]
        .join("\n"),
    };
    let code = source.code();
    let lines: Vec<String> = code
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        lines,
        [
            "let a = ;",
            "let b = ; let c = ;",
            "fn d<'a>(e: &'a str) -> r#type { }"
        ]
    );
    let kept = source.code_and_literals();
    assert!(kept.contains("sqlx // ") && kept.contains("bollard") && !kept.contains("axum"));
}

#[test]
fn words_are_whole_names() {
    assert!(has_word("use axum::Router;", "axum"));
    assert!(!has_word("use utoipa_axum::Router;", "axum"));
    assert!(!has_word("let println = 1;", "println!"));
}
