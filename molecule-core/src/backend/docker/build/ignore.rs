//! `.dockerignore`, as the Docker client reads it.
//!
//! One pattern per line; `*` and `?` stay within a part of a path, `**` does not,
//! `[a-z]` is a class, `\` takes the meaning of the next character. A pattern also
//! covers what is below. `!` brings back; the last match counts.

/// Longest file that is read.
pub(super) const MAX_BYTES: u64 = 64 * 1024;
/// Most patterns.
const MAX_PATTERNS: usize = 1000;

/// What is left out of a build.
#[derive(Debug, Default)]
pub(super) struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    parts: Vec<String>,
    brings_back: bool,
}

impl Ignore {
    /// Reads the file; none when it has more patterns than anybody needs.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut patterns = Vec::new();
        for line in text.trim_start_matches('\u{feff}').lines() {
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (brings_back, path) = match line.strip_prefix('!') {
                Some(path) => (true, path.trim()),
                None => (false, line),
            };
            let parts = clean(path);
            if parts.is_empty() {
                continue;
            }
            patterns.push(Pattern { parts, brings_back });
            if patterns.len() > MAX_PATTERNS {
                return None;
            }
        }
        Some(Self { patterns })
    }

    /// Whether a path, relative to the root, is left out.
    pub(super) fn covers(&self, path: &str) -> bool {
        let path: Vec<&str> = path.split('/').collect();
        let mut covered = false;
        for pattern in &self.patterns {
            // Only a change of mind is worth looking.
            if pattern.brings_back == covered && pattern.matches_or_holds(&path) {
                covered = !pattern.brings_back;
            }
        }
        covered
    }

    /// Whether something below a folder that is left out may still be wanted.
    pub(super) fn brings_back(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.brings_back)
    }
}

impl Pattern {
    /// Whether the path or a folder above it matches.
    fn matches_or_holds(&self, path: &[&str]) -> bool {
        (1..=path.len()).any(|end| matches_parts(&self.parts, &path[..end]))
    }
}

/// The parts of a pattern without empty ones, `.` and `..`.
fn clean(path: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part.to_owned()),
        }
    }
    parts
}

/// `**` is any number of parts. Only the last one needs another try: what an earlier
/// one could give up, the last can take.
fn matches_parts(pattern: &[String], path: &[&str]) -> bool {
    wildcard(
        pattern.len(),
        path.len(),
        |p| pattern[p] == "**",
        |p, at| matches_part(&pattern[p], path[at]),
    )
}

/// `*` is any number of characters.
fn matches_part(pattern: &str, text: &str) -> bool {
    let pattern = tokens(pattern);
    let text: Vec<char> = text.chars().collect();
    wildcard(
        pattern.len(),
        text.len(),
        |p| matches!(pattern[p], Token::Any),
        |p, at| pattern[p].takes(text[at]),
    )
}

/// The two levels work alike: some items of a pattern take one item each, the
/// others any number.
fn wildcard(
    pattern: usize,
    text: usize,
    is_star: impl Fn(usize) -> bool,
    takes: impl Fn(usize, usize) -> bool,
) -> bool {
    let (mut p, mut at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at < text {
        if p < pattern && is_star(p) {
            star = Some((p, at));
            p += 1;
        } else if p < pattern && takes(p, at) {
            p += 1;
            at += 1;
        } else if let Some((star_p, star_at)) = star {
            p = star_p + 1;
            at = star_at + 1;
            star = Some((star_p, at));
        } else {
            return false;
        }
    }
    (p..pattern).all(is_star)
}

enum Token {
    Any,
    One,
    Char(char),
    Class(Vec<(char, char)>, bool),
}

impl Token {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Any => false,
            Self::One => true,
            Self::Char(own) => *own == c,
            Self::Class(ranges, negated) => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *negated
            }
        }
    }
}

fn tokens(pattern: &str) -> Vec<Token> {
    let chars: Vec<char> = pattern.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = chars.get(at) {
        at += 1;
        found.push(match c {
            '*' => Token::Any,
            '?' => Token::One,
            '\\' => {
                let escaped = chars.get(at).copied().unwrap_or('\\');
                at += 1;
                Token::Char(escaped)
            }
            '[' => match class(&chars[at..]) {
                Some((class, length)) => {
                    at += length;
                    class
                }
                None => Token::Char('['),
            },
            c => Token::Char(*c),
        });
    }
    found
}

/// A class without its opening bracket, and its length; none if it does not end.
fn class(chars: &[char]) -> Option<(Token, usize)> {
    let negated = matches!(chars.first(), Some('^' | '!'));
    let mut at = usize::from(negated);
    let mut ranges = Vec::new();
    let item = |at: &mut usize| {
        if chars.get(*at) == Some(&'\\') {
            *at += 1;
        }
        let c = chars.get(*at).copied();
        *at += 1;
        c
    };
    loop {
        if chars.get(at) == Some(&']') && !ranges.is_empty() {
            return Some((Token::Class(ranges, negated), at + 1));
        }
        let from = item(&mut at)?;
        let to = if chars.get(at) == Some(&'-') && chars.get(at + 1) != Some(&']') {
            at += 1;
            item(&mut at)?
        } else {
            from
        };
        ranges.push((from, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn covered(file: &str, path: &str) -> bool {
        Ignore::parse(file).unwrap().covers(path)
    }

    #[test]
    fn patterns_mean_what_they_mean_to_the_docker_client() {
        for (file, path, expected) in [
            ("node_modules", "node_modules", true),
            ("node_modules", "node_modules/a/b.js", true),
            ("node_modules", "src/node_modules", false),
            ("**/node_modules", "node_modules/a", true),
            ("**/node_modules", "src/x/node_modules/a", true),
            ("/dist/", "dist/a", true),
            ("./dist/../out", "out", true),
            ("*.md", "a.md", true),
            ("*.md", "docs/a.md", false),
            ("**/*.md", "docs/x/a.md", true),
            ("*/temp*", "some/temporary/x", true),
            ("*/temp*", "temp", false),
            ("temp?", "tempa", true),
            ("temp?", "temp", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            (r"a\*", "a*", true),
            (r"a\*", "ab", false),
            ("*\n!keep", "keep", false),
            ("*\n!keep", "keep/a", false),
            ("*\n!keep\nkeep/b", "keep/b", true),
            ("*\n!a/b", "a/c", true),
            ("# a\n\n   \n!x", "a", false),
            ("a/**", "a/b/c", true),
            ("a/**/c", "a/c", true),
            ("a/**/c", "a/x/y/c", true),
            ("\u{feff}a", "a", true),
            ("a\r\nb\r", "b", true),
            ("..", "a", false),
            ("[", "[", true),
        ] {
            assert_eq!(covered(file, path), expected, "{file:?} {path:?}");
        }
    }

    #[test]
    fn more_patterns_than_anybody_needs_are_refused() {
        assert!(Ignore::parse(&"a\n".repeat(MAX_PATTERNS)).is_some());
        assert!(Ignore::parse(&"a\n".repeat(MAX_PATTERNS + 1)).is_none());
    }

    proptest! {
        #[test]
        fn any_pattern_and_any_path_have_an_answer(file in ".{0,80}", path in "[a-z/*.\\[\\]]{0,40}") {
            if let Some(ignore) = Ignore::parse(&file) {
                let _ = ignore.covers(&path);
            }
        }

        #[test]
        fn a_name_without_wildcards_covers_itself_and_what_is_below(
            name in "[a-z]{1,8}", below in "[a-z]{1,8}",
        ) {
            prop_assert!(covered(&name, &name));
            let longer = format!("{name}/{below}");
            prop_assert!(covered(&name, &longer));
            let back = format!("{name}\n!{name}");
            prop_assert!(!covered(&back, &longer));
        }

        #[test]
        fn many_stars_do_not_take_long(stars in 1usize..40) {
            let pattern = format!("{}b", "*a".repeat(stars));
            prop_assert!(!covered(&pattern, &"a".repeat(200)));
            let pattern = format!("{}b", "**/a/".repeat(stars));
            let path = vec!["a"; 60].join("/");
            prop_assert!(!covered(&pattern, &path));
        }
    }
}
